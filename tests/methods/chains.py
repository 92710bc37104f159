"""A task on which one look is not enough: chains through a table that only the picture shows.

Each visual token holds a node and the node it points to; a question names a node, and the answer is what is reached
after some steps. A layer of the decoder can take one step, so one of few layers can't answer at once. With one layer
that is strict: what a position reads of the picture has not read anything itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lare.losses.batch import Draws, MicroBatch
from lare.methods import get_method
from lare.methods.layout import Row
from lare.model import LareConfig, LareForConditionalGeneration
from lare.training.feeding.rows import encode_rows, special_ids, step_boxes, targets_of
from lare.training.model import TrainingModel
from lare.training.step import fill_gradients, run_step
from tests.model.tiny import clip_vision, text_config

SIDE = 3
NODES = SIDE**2
PAD, BOS, EOS, FIRST = 0, 1, 2, 3
SPARE = FIRST + NODES
VOCABULARY = SPARE + 4


def chain_model(
    layers: int, seed: int = 0, width: int = 64, tied: bool = False, **changes: Any
) -> LareForConditionalGeneration:
    """A decoder in which queries and keys begin alike, as in the embedded model."""
    torch.manual_seed(seed)
    text = text_config(
        "llama", vocab_size=VOCABULARY, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=2, initializer_range=0.1, tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6 if tied else 1e4},
    )  # fmt: skip
    config = LareConfig(
        text_config=text, vision_config=clip_vision(hidden_size=2 * NODES, image_size=8 * SIDE), image_size=8 * SIDE,
        grid=SIDE, window=1, extractor_dim=8, extractor_heads=1, iterations=1, initializer_range=0.1, **changes,
    )  # fmt: skip
    model = LareForConditionalGeneration(config)
    with torch.no_grad():
        for layer in model.decoder.layers:  # type: ignore[union-attr]
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
    return model


def aligned_model(layers: int, seed: int = 0, start: int | None = None, **changes: Any) -> LareForConditionalGeneration:
    """A chain model whose words and pictures begin in one space, as after a projector's own training.

    A cell's token is its node's word, turned, plus the next node's word, and keys are turned alike, so that a word
    looks for its node's cell from the first update on; what is read there has still to be learnt. Words are tied to the
    head, as in the embedded model, so a state that predicts a node is close to the node's word.

    Args:
        layers: Of the decoder.
        seed: Of the weights.
        start: Where all questions begin; <|latent_start|> begins as that node's word, else as <|latent_end|>'s.
        **changes: Of the model's configuration.
    """
    model = chain_model(layers, seed, tied=True, **changes)
    config, width = model.config, int(model.config.text_config.hidden_size)
    with torch.no_grad():
        words = model.get_input_embeddings().weight.normal_(0, 0.35)  # type: ignore[union-attr, operator]
        words[config.latent_start_id] = words[config.latent_end_id if start is None else FIRST + start]
        turn, nodes = torch.linalg.qr(torch.randn(width, width))[0], words[FIRST : FIRST + NODES]
        first, second = (getattr(model.projector, name).weight for name in ("linear_1", "linear_2"))
        first.zero_()[: 2 * NODES] = torch.eye(2 * NODES)
        second.zero_()[:, : 2 * NODES] = torch.cat((nodes @ turn, nodes)).T / NODES**0.5
        for layer in model.decoder.layers:  # type: ignore[union-attr]
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight @ turn)
        if config.latent_maker == "mcout":
            own = model.latent_maker.layers  # type: ignore[union-attr]
            own["key"].weight.copy_(own["query"].weight @ turn)
            for name in ("project", "project_back"):
                own[name].weight.copy_(torch.eye(width))
    return model


@dataclass
class Chains:
    """Questions about tables.

    Attributes:
        features: (B, NODES, 2 * NODES).
        nodes: (B, steps + 1) the start and all that is reached.
        cells: (B, steps + 1) where these nodes lie.
    """

    features: Tensor
    nodes: Tensor
    cells: Tensor


def draw(rows: int, steps: int, generator: torch.Generator, start: int | None = None) -> Chains:
    """New tables, places and starts, or one start for all."""
    table = torch.rand(rows, NODES, generator=generator).argsort(1)
    places = torch.rand(rows, NODES, generator=generator).argsort(1)  # cell -> node
    one_hot = torch.eye(NODES)
    features = torch.cat((one_hot[places], one_hot[table.gather(1, places)]), -1) * NODES**0.5
    nodes = [torch.randint(NODES, (rows, 1), generator=generator)]
    if start is not None:
        nodes[0].fill_(start)
    for _ in range(steps):
        nodes.append(table.gather(1, nodes[-1]))
    reached = torch.cat(nodes, 1)
    return Chains(features, reached, places.argsort(1).gather(1, reached))


def rows_of(chains: Chains, config: LareConfig) -> list[Row]:
    """The questions as rows: each node on the way is a step of the rationale, and its cell the step's box.

    The first token of a prompt tells how many steps are asked for: one, two, or more.
    """
    found = []
    for nodes, cells in zip(chains.nodes.tolist(), chains.cells.tolist(), strict=True):
        ids = [FIRST + node for node in nodes]
        boxes = [((c % SIDE) / SIDE, (c // SIDE) / SIDE, (c % SIDE + 1) / SIDE, (c // SIDE + 1) / SIDE) for c in cells]
        steps = (BOS, PAD, EOS, SPARE)[min(len(nodes), 4) - 1]
        prompt = [steps, *[config.image_token_id] * config.lm_grid**2, ids[0]]
        between, special = ids[1:-1], special_ids(config)
        found.append(Row(prompt, between, [ids[-1], EOS], boxes[:-1], range(1, len(between) + 1), special=special))
    return found


@dataclass
class _Stage:
    """What a method's layout reads of a stage."""

    stage: str = "IV"
    iterations: int | None = None
    window: str = "saliency"
    replaced: int | None = 0
    lm_grid: int | None = None


def batch_of(chains: Chains, config: LareConfig, method: str, options: Mapping[str, Any]) -> MicroBatch:
    """The questions as a method's training lays them out."""
    kind = get_method(method).training
    assert kind is not None
    training = kind(kind.options_type.read(method, options))
    layout, rows = training.layout(_Stage(), config), rows_of(chains, config)
    segments = [training.segments(row, layout) for row in rows]
    targets = targets_of(segments, rows, layout, config) if training.own_segments else None
    parts = ([r.prompt for r in rows], [r.rationale for r in rows], [r.answer for r in rows])
    inputs, rationale, mask = encode_rows(*parts, layout, config, PAD, own=targets)
    inputs.pop("crops", None)
    inputs["visual_features"] = chains.features
    boxes = step_boxes([row.boxes for row in rows], layout.iterations)
    return MicroBatch(inputs, rationale, mask, boxes=boxes, where=["chain"] * len(rows), losses=dict(training.losses()))


Phase = tuple[str, Mapping[str, Any], int]
"""Method, its options, and updates."""


def train(
    model: LareForConditionalGeneration,
    phases: Sequence[Phase],
    steps: Sequence[int],
    seed: int = 0,
    rows: int = 64,
    rate: float = 3e-3,
    watch: Callable[[int, Any], None] | None = None,
    start: int | None = None,
) -> None:
    """Train phase after phase, update after update on questions of `steps` in turn; every sample is new.

    Whatever the method, one seed gives the same questions in the same order.
    """
    generator, whole = torch.Generator().manual_seed(seed), TrainingModel(model, 0)
    total = sum(updates for _, _, updates in phases)
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], rate, (0.9, 0.95), weight_decay=0.0
    )
    numbers = torch.zeros(rows)
    step = 0
    for method, options, updates in phases:
        for _ in range(updates):
            for group in optimiser.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / 50, 2 * (1 - step / total) + 0.02)
            optimiser.zero_grad()
            batch = batch_of(draw(rows, steps[step % len(steps)], generator, start), model.config, method, options)
            result = run_step(whole, [batch], {}, [Draws(numbers.bool(), numbers)], 0.07)
            fill_gradients(whole)
            torch.nn.utils.clip_grad_norm_(whole.parameters(), 1.0)
            optimiser.step()
            if watch is not None:
                watch(step, result)
            step += 1


@torch.no_grad()
def accuracy(
    model: LareForConditionalGeneration,
    method: str,
    steps: int,
    rows: int = 256,
    tokens: int = 1,
    start: int | None = None,
    **options: Any,
) -> float:
    """Share of new questions whose node is right: the last that is written before the end."""
    chains = draw(rows, steps, torch.Generator().manual_seed(12345), start)
    shell = get_method(method).__new__(get_method(method))
    shell.model, shell.processor = model.eval(), SimpleNamespace(lm_grid=model.config.lm_grid)  # type: ignore[assignment]
    shell.options = shell.options_type.read(method, options)
    prompts = torch.tensor([row.prompt for row in rows_of(chains, model.config)])
    with shell.configured():  # type: ignore[attr-defined]
        arguments = shell.arguments_of_generate()  # type: ignore[attr-defined]
        made = model.generate(prompts, visual_features=chains.features, max_new_tokens=tokens + 1, **arguments)
    last = (made.lengths - 1).clamp_min(0)
    said = made.sequences.gather(1, last[:, None])[:, 0]
    return float((said == FIRST + chains.nodes[:, -1]).float().mean())


@torch.no_grad()
def answered(model: LareForConditionalGeneration, method: str, steps: int, rows: int = 256, start: int = 0) -> float:
    """Share of new questions whose node is predicted where the method's target stands before it."""
    chains = draw(rows, steps, torch.Generator().manual_seed(12345), start)
    batch = batch_of(chains, model.config, method, {})
    out = model.eval()(**batch.inputs)
    last = batch.inputs["target_mask"].sum(1) - 2  # before the end token
    said = model.lm_head(out.target_hidden[torch.arange(rows), last]).argmax(-1)
    return float((said == FIRST + chains.nodes[:, -1]).float().mean())
