"""The latent loop once more, slow and plain: no cache, no batch, no padding, no masks, one sample at a time.

Every iteration runs the decoder over the whole sequence [before, V, after, <|latent_start|>, z_1 .. z_t] by
transformers' own eager attention, whose full maps and layer outputs give saliency and H_t; windows are found by loops
over cells, the Extractor is written out as matrix products, and a generated token costs a run over all before it.
It shares nothing with the model but its parameters, so gradients of a loss made here land in the same tensors.

Shapes: S positions, L layers, H heads, d width, N_v and N_f visual tokens of the decoder and of the Extractor, m
latents per iteration, E Extractor width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from transformers import AutoModelForCausalLM

from lare.model import LareForConditionalGeneration

from .tiny import EOS, Sample


@dataclass
class Pass:
    """What one run over a whole sequence shows."""

    layers: Tensor  # (L, S, d), before the final norm
    final: Tensor  # (S, d), after it
    logits: Tensor  # (S, V)
    attention: Tensor  # (L, H, S, S)


class EagerDecoder:
    """The model's decoder by transformers' eager attention, on the model's own parameters."""

    def __init__(self, model: LareForConditionalGeneration) -> None:
        self.owner = model.language_model
        config = copy.deepcopy(model.config.text_config)
        config._attn_implementation = "eager"
        shell = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        self.shell = shell.to(next(self.owner.parameters()).dtype).eval()
        self.seen: list[Tensor] = []
        self.outputs: list[Tensor] = []
        for layer in self.shell.model.layers:
            layer.register_forward_hook(lambda module, args, output: self.seen.append(output))
        self.shell.model.norm.register_forward_hook(lambda module, args, output: self.outputs.append(output))

    def __call__(self, embeds: Tensor) -> Pass:
        """Run (S, d)."""
        self.seen.clear()
        self.outputs.clear()
        keywords = dict(inputs_embeds=embeds[None], output_attentions=True, output_hidden_states=True, use_cache=False)
        out = functional_call(self.shell, dict(self.owner.named_parameters()), args=(), kwargs=keywords)
        for own, theirs in zip(self.seen[:-1], out.hidden_states[1:-1], strict=True):
            assert torch.equal(own, theirs)
        layers = torch.stack([hidden[0] for hidden in self.seen])
        attention = torch.stack([layer[0] for layer in out.attentions])
        return Pass(layers, self.outputs[0][0], out.logits[0], attention)


@dataclass
class Visual:
    """Visual tokens for the decoder (N_v, d) and for the Extractor (N_f, d)."""

    lm: Tensor
    refocus: Tensor


@dataclass
class Thinking:
    """The latents of one sample and all that led to them."""

    embeds: Tensor  # the whole sequence so far, (S, d)
    latents: list[Tensor] = field(default_factory=list)  # (m, d) each
    corners: list[tuple[int, int]] = field(default_factory=list)
    saliency: list[Tensor] = field(default_factory=list)  # (N_v,) each
    looks: list[Tensor] = field(default_factory=list)  # cross-attention (n,) each
    masses: list[float] = field(default_factory=list)
    reason: str = "fixed"

    def stacked(self) -> Tensor:
        """All latents in a row, (K * m, d)."""
        return torch.cat(self.latents) if self.latents else self.embeds[:0]


def linear(x: Tensor, layer: torch.nn.Linear) -> Tensor:
    """x W^T + b."""
    return x @ layer.weight.T + layer.bias


def layer_norm(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    """Zero mean, unit variance, gain, bias."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def gelu(x: Tensor) -> Tensor:
    """x Phi(x)."""
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def rms_one(x: Tensor) -> Tensor:
    """Each vector divided by its root mean square."""
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def project(projector: torch.nn.Module, features: Tensor) -> Tensor:
    """Two-layer MLP."""
    return linear(gelu(linear(features, projector.linear_1)), projector.linear_2)


def visual_tokens(model: LareForConditionalGeneration, features: Tensor) -> Visual:
    """Features (N_f, d_vis), row by row, to both sorts of visual tokens."""
    config = model.config
    if config.refocus_source == "lm":
        tokens = project(model.projector, features)
        return Visual(tokens, tokens)
    step = config.grid // config.lm_grid
    pooled = []
    for row in range(config.lm_grid):
        for column in range(config.lm_grid):
            inside = [
                features[(row * step + i) * config.grid + column * step + j] for i in range(step) for j in range(step)
            ]
            pooled.append(sum(inside) / len(inside))
    return Visual(project(model.projector, torch.stack(pooled)), project(model.refocus_projector, features))


def fine_saliency(saliency: Sequence[float], lm_grid: int, grid: int) -> list[list[float]]:
    """Saliency of coarse cells spread over the fine grid by nearest neighbour."""
    step = grid // lm_grid
    return [[saliency[(i // step) * lm_grid + j // step] for j in range(grid)] for i in range(grid)]


def best_window(saliency: list[list[float]], size: int) -> tuple[tuple[int, int], float]:
    """Corner and sum of the first window with the greatest sum."""
    places = range(len(saliency) - size + 1)
    best, corner = float("-inf"), (0, 0)
    for row in places:
        for column in places:
            total = sum(saliency[row + i][column + j] for i in range(size) for j in range(size))
            if total > best:
                best, corner = total, (row, column)
    return corner, best


def window_tokens(tokens: Tensor, corner: tuple[int, int], size: int, grid: int) -> Tensor:
    """Tokens of the window, row by row."""
    picked = [tokens[(corner[0] + i) * grid + corner[1] + j] for i in range(size) for j in range(size)]
    return torch.stack(picked)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Multi-head attention (T, E), (n, E), (n, E) -> (T, E) and the weights (heads, T, n)."""
    width = query.shape[1] // heads
    mixed, weights = [], []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[:, part] @ key[:, part].T / width**0.5
        weights.append(torch.exp(scores) / torch.exp(scores).sum(-1, keepdim=True))
        mixed.append(weights[-1] @ value[:, part])
    return torch.cat(mixed, dim=1), torch.stack(weights)


def hybrid_pool(states: Tensor, tokens: int) -> Tensor:
    """Mean of average and maximum over `tokens` runs of layers, the first runs longer where it does not divide."""
    count, pooled, start = states.shape[0], [], 0
    for index in range(tokens):
        end = start + count // tokens + (1 if index < count % tokens else 0)
        part = states[start:end]
        pooled.append((part.mean(0) + part.max(0).values) / 2)
        start = end
    return torch.stack(pooled)


def extract(extractor: Any, states: Tensor, visual: Tensor, heads: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Eqs. 3-5: layer states (L, d) and visual tokens (n, d) -> (m, d), and the cross-attention (n,)."""
    hidden = linear(layer_norm(states, extractor.state_norm), extractor.state_proj) + extractor.layer_embedding
    visual = layer_norm(visual, extractor.visual_norm)
    looks = []
    for own, cross in zip(extractor.self_attention, extractor.cross_attention, strict=True):
        query, key, value = linear(layer_norm(hidden, own.norm), own.qkv).split(hidden.shape[1], dim=1)
        hidden = hidden + linear(attend(query, key, value, heads)[0], own.output)
        query = linear(layer_norm(hidden, cross.norm), cross.query)
        key, value = linear(visual, cross.key_value).split(hidden.shape[1], dim=1)
        mixed, weights = attend(query, key, value, heads)
        hidden = hidden + linear(mixed, cross.output)
        looks.append(weights.mean((0, 1)))
    half = hidden.shape[1]
    gated = linear(layer_norm(hidden, extractor.ffn_norm), extractor.gate)
    gated = gated[:, :half] / (1 + torch.exp(-gated[:, half:]))
    hidden = hidden + linear(gelu(linear(gated, extractor.ffn[0])), extractor.ffn[2])
    return linear(hybrid_pool(hidden, tokens), extractor.output_proj), sum(looks) / len(looks)


def latent(model: LareForConditionalGeneration, states: Tensor, last: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """z_t (m, d) from H_t (L, d), the last hidden state (d,) and the visual tokens looked at (n, d)."""
    config = model.config
    norm: Callable[[Tensor], Tensor] = rms_one if config.rms_scale else lambda x: x
    back = norm(last)[None]
    look = torch.zeros(seen.shape[0])
    if config.use_extractor:
        tokens = config.latents_per_iteration
        z, look = extract(model.extractor, states, seen, config.extractor_heads, tokens)
        z = z + back if config.residual_feedback else z
    else:
        z = (back + norm(seen.mean(0))[None]) / 2 if config.use_window else back
        z = z.repeat(config.latents_per_iteration, 1)
    if config.rms_scale:
        table = model.get_input_embeddings().weight.detach()
        z = rms_one(z) * table.square().mean().sqrt()
    return z, look


def settled(kind: str, threshold: float, new: Tensor, old: Tensor) -> bool:
    """Whether two iterations' latents are as close as the rule wants."""
    a, b = new.detach().flatten(), old.detach().flatten()
    if kind == "cosine":
        return bool(a @ b / (a.norm() * b.norm()) > threshold)
    gap = a - b
    return bool((gap.abs().sum() if kind == "l1" else gap.square().sum().sqrt()) < threshold)


def think(
    model: LareForConditionalGeneration,
    sample: Sample,
    iterations: int,
    stop: str = "fixed",
    corners: Sequence[Sequence[int]] | None = None,
    override: Tensor | None = None,
) -> Thinking:
    """Run the loop; `corners` (K, 2) forces windows, `override` (K, m, d) replaces what is fed."""
    config, decoder = model.config, EagerDecoder(model)
    visual = visual_tokens(model, sample.features)
    embed = model.get_input_embeddings()
    before, after = (embed(torch.tensor(ids, dtype=torch.long)) for ids in (sample.before, sample.after))
    thinking = Thinking(torch.cat((before, visual.lm, after)))
    image = slice(len(sample.before), len(sample.before) + visual.lm.shape[0])
    kind, _, threshold = stop.partition(":")
    for step in range(iterations):
        run = decoder(thinking.embeds)
        saliency = run.attention[:, :, -1, image].mean((0, 1))
        seen = visual.refocus
        corner, mass = (0, 0), 1.0
        if config.use_window:
            fine = fine_saliency(saliency.tolist(), config.lm_grid, config.grid)
            corner, mass = best_window(fine, config.window)
            mass = mass / sum(map(sum, fine))
            corner = corner if corners is None else (int(corners[step][0]), int(corners[step][1]))
            seen = window_tokens(visual.refocus, corner, config.window, config.grid)
        z, look = latent(model, run.layers[:, -1], run.final[-1], seen)
        z = z if override is None else override[step]
        thinking.embeds = torch.cat((thinking.embeds, z))
        thinking.latents.append(z)
        thinking.corners.append(corner)
        thinking.saliency.append(saliency)
        thinking.looks.append(look)
        thinking.masses.append(mass)
        if kind != "fixed" and step and settled(kind, float(threshold), z, thinking.latents[-2]):
            thinking.reason = "converged"
            return thinking
    thinking.reason = "fixed" if kind == "fixed" else "max_iterations"
    return thinking


def opening(model: LareForConditionalGeneration, thinking: Thinking, delimiters: bool) -> Tensor:
    """The sequence from which the answer is written, (S, d)."""
    if not delimiters:
        return thinking.embeds
    return torch.cat((thinking.embeds, model.get_input_embeddings()(torch.tensor([model.config.latent_end_id]))))


def teacher_forced(model: LareForConditionalGeneration, embeds: Tensor, ids: Sequence[int]) -> Tensor:
    """Summed cross-entropy of `ids` behind a sequence (S, d)."""
    tokens = torch.tensor(list(ids))
    run = EagerDecoder(model)(torch.cat((embeds, model.get_input_embeddings()(tokens))))
    log_probs = run.logits.log_softmax(-1)
    start = embeds.shape[0] - 1
    return -torch.stack([log_probs[start + i, token] for i, token in enumerate(ids)]).sum()


def lm_loss(model: LareForConditionalGeneration, sample: Sample, thinking: Thinking, delimiters: bool = True) -> Tensor:
    """L_lm of the target behind the latents."""
    return teacher_forced(model, opening(model, thinking, delimiters), sample.target)


def prefix_loss(model: LareForConditionalGeneration, sample: Sample, thinking: Thinking) -> Tensor:
    """Eq. 8: the prefix from [<|latent_start|>, z_1 .. z_K, <|latent_end|>] alone."""
    ends = model.get_input_embeddings()(torch.tensor([model.config.latent_start_id, model.config.latent_end_id]))
    return teacher_forced(model, torch.cat((ends[:1], thinking.stacked(), ends[1:])), sample.prefix)


@torch.no_grad()
def greedy(
    model: LareForConditionalGeneration,
    sample: Sample,
    thinking: Thinking,
    tokens: int,
    delimiters: bool = True,
    eos: Sequence[int] = (EOS,),
) -> list[int]:
    """The likeliest next token again and again, each from a run over everything so far; EOS is left out."""
    decoder, embeds = EagerDecoder(model), opening(model, thinking, delimiters)
    written: list[int] = []
    while len(written) < tokens:
        token = int(decoder(embeds).logits[-1].argmax())
        if token in eos:
            break
        written.append(token)
        embeds = torch.cat((embeds, model.get_input_embeddings()(torch.tensor([token]))))
    return written


@torch.no_grad()
def attention_shares(
    model: LareForConditionalGeneration, sample: Sample, thinking: Thinking, token: int | None = None
) -> Tensor:
    """(L, H, 4): the newest position's attention to the first token, text, image and latents.

    The newest position is <|latent_end|>, or `token` behind it.
    """
    embeds = opening(model, thinking, True)
    if token is not None:
        embeds = torch.cat((embeds, model.get_input_embeddings()(torch.tensor([token]))))
    rows = EagerDecoder(model)(embeds).attention[:, :, -1]
    image = range(len(sample.before), len(sample.before) + sample.slots)
    latents = range(len(sample.prompt), len(sample.prompt) + len(thinking.stacked()))
    shares = [torch.zeros(rows.shape[:2]) for _ in range(4)]
    for column in range(rows.shape[2]):
        sort = 0 if column == 0 else 2 if column in image else 3 if column in latents else 1
        shares[sort] = shares[sort] + rows[:, :, column]
    return torch.stack(shares, dim=-1)
