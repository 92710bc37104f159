"""Multiply-adds of one row of a training step, counted from the model's shapes.

A row is one question about one image (questions that share a picture are counted as if each had its own). It runs the
encoder and projectors once, the decoder over the prompt, over each iteration's latents and over the target (all over
one cache), over the latents and the rationale's first tokens for the text reconstruction (eq. 8), and over the
rationale alone for the alignment (eq. 6); the LM head at label positions only; the Extractor K times; the U-Net (eq. 7)
on the share of rows that carry that loss.

Backward costs once the forward for weights that train and once for inputs that carry gradient, so a part that trains in
the middle of the network costs 2 forwards, a frozen one that gradient passes through 1, and one before all that trains
0. Where nothing reads the last layer's outputs at the prompt (text follows <|latent_end|>, and no latents were made),
its backward pass covers the projections to keys and values only. Attention counts all pairs of queries and keys, as is
usual; a causal kernel may skip half. Norms, activations and optimiser are left out; they are below 1 %.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lare.model import LareForConditionalGeneration

__all__ = [
    "ENCODER",
    "Call",
    "Gradients",
    "Row",
    "Work",
    "answer_work",
    "decoder_calls",
    "encoder_cost",
    "gradients",
    "layer_weights",
    "measured",
    "row_work",
    "without_encoder",
]

ENCODER = "vision_encoder"
"""The part that is counted apart: every method needs it for a picture, and cached features leave it out."""


@dataclass(frozen=True)
class Row:
    """Lengths of one row in tokens.

    Attributes:
        prompt: S, with image tokens and <|latent_start|>.
        target: T.
        iterations: K.
        prefix: P; 0 without text reconstruction.
        rationale: R, read alone for the alignment; 0 without.
        delimiters: Whether <|latent_end|> precedes the target.
        image_share: Share of rows with image reconstruction; 0 without.
        again: Whether the alignment's vectors are made in a pass of their own first (several micro-batches).
        lm_grid: Side of the decoder's visual grid; None is the model's.
        fetch: Whether visual tokens stand in place of the latents, so that the Extractor does nothing.
        look: Whether box supervision is on, whose gradient goes through the attention that chooses the windows.
    """

    prompt: int
    target: int
    iterations: int = 0
    prefix: int = 0
    rationale: int = 0
    delimiters: bool = True
    image_share: float = 0.0
    again: bool = False
    lm_grid: int | None = None
    fetch: bool = False
    look: bool = False


@dataclass(frozen=True)
class Gradients:
    """Where gradient flows.

    Attributes:
        parts: Parts that train.
        prompt: Whether gradient flows into the decoder's prompt.
        latents: Whether it flows into the latents.
    """

    parts: frozenset[str]
    prompt: bool
    latents: bool

    @property
    def decoder(self) -> bool:
        """Whether the decoder's weights train."""
        return "language_model" in self.parts


@dataclass(frozen=True)
class Call:
    """One run of the decoder.

    Attributes:
        name: What it is for.
        tokens: New positions.
        keys: Positions that they attend to.
        gradient: Whether gradient flows into it.
        read: Whether anything reads its output, not only its keys and values.
    """

    name: str
    tokens: int
    keys: int
    gradient: bool
    read: bool = True


@dataclass
class Work:
    """Multiply-adds by part."""

    forward: dict[str, float] = field(default_factory=dict)
    backward: dict[str, float] = field(default_factory=dict)

    def linear(self, part: str, count: float, weights: bool, inputs: bool) -> None:
        """Add `count` multiply-adds with weights; `weights` and `inputs` say which of the two take gradient."""
        self._add(part, count, count * (int(weights) + int(inputs)))

    def attention(self, part: str, count: float, gradient: bool) -> None:
        """Add `count` multiply-adds of two activations; with `gradient` both take it."""
        self._add(part, count, 2 * count * int(gradient))

    def _add(self, part: str, forward: float, backward: float) -> None:
        self.forward[part] = self.forward.get(part, 0) + forward
        self.backward[part] = self.backward.get(part, 0) + backward


def gradients(
    model: LareForConditionalGeneration, parts: Collection[str], iterations: int, fetch: bool = False
) -> Gradients:
    """Where gradient flows.

    Args:
        model: The model.
        parts: Parts that train.
        iterations: K.
        fetch: Whether teacher latents stand in place of the Extractor's.
    """
    prompt = "language_model" in parts or "projector" in parts
    seen = "refocus_projector" in parts and getattr(model, "refocus_projector", None) is not None
    made = "extractor" in parts and not fetch
    return Gradients(frozenset(parts), prompt, bool(iterations) and (prompt or seen or made))


def decoder_calls(row: Row, grad: Gradients, latents: int) -> Iterator[Call]:
    """The decoder's runs of a row with `latents` tokens an iteration (one where they are fetched)."""
    latents = 1 if row.fetch else latents
    thought = row.iterations * latents
    made = bool(row.iterations) and not row.fetch
    yield Call("prompt", row.prompt, row.prompt, grad.prompt, made or not row.delimiters)
    for step in range(1, row.iterations + 1):
        read = (made and step < row.iterations) or not row.delimiters
        yield Call("latents", latents, row.prompt + step * latents, grad.latents, read)
    fed = row.target if row.delimiters else row.target - 1
    if fed > 0:
        yield Call("target", fed, row.prompt + thought + fed, grad.prompt or grad.latents)
    if row.prefix:
        alone = thought + row.prefix + 1
        yield Call("prefix", alone, alone, grad.latents or grad.decoder)
    if row.rationale:
        yield Call("rationale", row.rationale, row.rationale, grad.decoder)


def layer_weights(module: nn.Module) -> int:
    """Entries of the weight matrices of all linear layers inside."""
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))


def row_work(
    model: LareForConditionalGeneration,
    row: Row,
    grad: Gradients,
    others: Mapping[str, float] | None = None,
) -> Work:
    """Count a row.

    Args:
        model: The model; its weights may be on the meta device.
        row: Lengths.
        grad: Where gradient flows.
        others: Forward multiply-adds of a row by ``vision_encoder``, ``unet`` and ``image_tokenizer`` (see `measured`).
    """
    work, costs = Work(), dict(others or {})
    _vision(work, model, row, grad, costs)
    _decoder(work, model, row, grad)
    if row.iterations and not row.fetch and model.extractor is not None:
        _extractor(work, model, row, grad)
    if row.image_share:
        unet = row.image_share * costs.get("unet", 0)
        work.linear("unet", unet, "unet" in grad.parts, grad.latents or "unet" in grad.parts)
        work.linear("image_tokenizer", row.image_share * costs.get("image_tokenizer", 0), False, False)
    if row.again and row.rationale:
        _first_pass(work, model, row, costs)
    return work


def _vision(
    work: Work, model: LareForConditionalGeneration, row: Row, grad: Gradients, costs: Mapping[str, float]
) -> None:
    config = model.config
    # Windows that are encoded anew count as a usual picture each (`lare.model.closer`).
    pictures = 1 + (row.iterations if config.looks_closer else 0)
    work.linear(ENCODER, pictures * costs.get(ENCODER, 0), False, False)
    # A shared projector sees the fine grid, whose tokens are pooled after it.
    side = config.grid if config.shared_projector else row.lm_grid or config.lm_grid
    if config.backbone_config is not None:
        inside = dict(model.named_modules())
        weights = sum(layer_weights(inside[path.removesuffix(".")]) for path in model.backbone.projector)
        work.linear("projector", pictures * side**2 * weights, "projector" in grad.parts, False)
        return
    for part, cells in (("projector", side**2), ("refocus_projector", config.grid**2)):
        projector = getattr(model, part)
        if projector is not None:
            # Without latents nothing comes back to the projector of what they look at.
            trains = part in grad.parts and (part == "projector" or grad.latents)
            work.linear(part, cells * projector.linear_1.weight.numel(), trains, False)
            work.linear(part, cells * projector.linear_2.weight.numel(), trains, trains)


def _decoder(work: Work, model: LareForConditionalGeneration, row: Row, grad: Gradients) -> None:
    text = model.config.text_config
    head = int(text.vocab_size) * int(text.hidden_size)
    layers, weights = model.num_layers, layer_weights(model.decoder)
    heads = int(text.num_attention_heads)
    pair = layers * heads * int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    calls = list(decoder_calls(row, grad, model.config.latents_per_iteration))
    # The saliency after the last latents chooses no window, so box supervision does not reach it.
    thoughts = [call for call in calls if call.name == "latents"]
    for call in calls:
        pulled = row.look and bool(thoughts) and call is not thoughts[-1]
        idle = 0 if call.read else _idle_weights(model, pulled)
        work.linear("language_model", call.tokens * (weights - idle), grad.decoder, call.gradient)
        work.linear("language_model", call.tokens * idle, False, False)
        products = 2 * call.tokens * call.keys * pair
        unread = 0 if call.read else products / layers
        if pulled and call.tokens == 1:  # its row is the captured one: a loss pulls at the scores, half of the products
            unread /= 2
        work.attention("language_model", products - unread, call.gradient)
        work.attention("language_model", unread, False)
        if call.name == "prompt" or (call.name == "latents" and call.tokens > 1):
            work.attention("language_model", call.keys * pair, pulled and call.gradient)  # the captured last row
    for labels, flows in ((row.target, grad.prompt or grad.latents), (row.prefix, grad.latents or grad.decoder)):
        work.linear("lm_head", labels * head, grad.decoder, flows)


def _idle_weights(model: LareForConditionalGeneration, pulled: bool) -> int:
    """Weights of the last layer whose output nothing reads: all but keys and values, and supervised queries."""
    used = ("k_proj", "v_proj", "q_proj") if pulled else ("k_proj", "v_proj")
    linear = [(n, m) for n, m in cast(Any, model.decoder).layers[-1].named_modules() if isinstance(m, nn.Linear)]
    return sum(layer.weight.numel() for name, layer in linear if not name.endswith(used))


def _extractor(work: Work, model: LareForConditionalGeneration, row: Row, grad: Gradients) -> None:
    config, layers = model.config, model.num_layers
    extractor = cast(nn.Module, model.extractor)
    trains, cells, width = "extractor" in grad.parts, config.grid**2, config.extractor_dim
    own = getattr(model, "refocus_projector", None) is not None
    memory = "refocus_projector" in grad.parts if own else "projector" in grad.parts
    for name, layer in extractor.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        count = layer.weight.numel()
        if name.endswith("key_value"):  # once an image
            work.linear("extractor", cells * count, trains, memory)
        else:
            times = config.latents_per_iteration if name == "output_proj" else layers
            work.linear("extractor", row.iterations * times * count, trains, grad.latents)
    pairs = row.iterations * config.extractor_layers * 2 * layers * (layers + cells) * width
    work.attention("extractor", pairs, grad.latents)


def _first_pass(work: Work, model: LareForConditionalGeneration, row: Row, costs: Mapping[str, float]) -> None:
    """The pass without gradient that makes the alignment's vectors: everything up to the latents, and the rationale."""
    nothing = Gradients(frozenset(), False, False)
    part = Row(row.prompt, 0, row.iterations, 0, row.rationale, lm_grid=row.lm_grid)
    vision = {name: count for name, count in costs.items() if name == ENCODER}
    for name, count in row_work(model, part, nothing, vision).forward.items():
        work.linear(name, count, False, False)


def answer_work(
    model: LareForConditionalGeneration, prompt: int, written: int, iterations: int, delimiters: bool = True
) -> dict[str, float]:
    """Multiply-adds by part of one answer that is asked alone, vision encoder and all.

    Args:
        model: The model.
        prompt: Tokens of the prompt, visual ones included.
        written: Text tokens written, without the end token, which is one more step of the decoder.
        iterations: Latent steps K.
        delimiters: Whether latent delimiters stand in the prompt.
    """
    row = Row(prompt, written + 1, iterations, delimiters=delimiters)
    nothing = Gradients(frozenset(), False, False)
    return row_work(model, row, nothing, {ENCODER: encoder_cost(model)}).forward


def without_encoder(parts: Mapping[str, float]) -> float:
    """Sum over parts but the vision encoder."""
    return sum(count for name, count in parts.items() if name != ENCODER)


def encoder_cost(model: LareForConditionalGeneration) -> float:
    """Multiply-adds of the vision encoder on one picture.

    A vision-language model's encoder is counted by its weights alone: each is used once for every patch of a usual
    picture. The products of attention are left out.
    """
    if model.config.backbone_config is not None:
        backbone, vision = model.backbone, model.config.vision_config
        own = [p for n, p in model.named_parameters() if n.startswith(backbone.encoder) and p.dim() == 2]
        patches = (model.config.image_size // int(vision.patch_size)) ** 2
        return float(patches * sum(weight.numel() for weight in own))
    side = model.config.image_size
    weight = next(model.vision_tower.parameters())
    return measured(model.vision_tower, torch.zeros(1, 3, side, side, device=weight.device, dtype=weight.dtype))


def measured(model: nn.Module, *inputs: Any, **keywords: Any) -> float:
    """Forward multiply-adds of a module, counted by torch as it runs (on the meta device: without computing)."""
    counter: Any = FlopCounterMode(display=False)
    # The counter does not know every attention kernel; it does know the products that this one is made of.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(*inputs, **keywords)
    return float(counter.get_total_flops()) / 2
