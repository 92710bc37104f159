"""One refocus step: choose each row's window by its saliency, and make the next latents from it (paper, section 3).

Also what may be fed in their place: the last hidden state, teacher latents, and the causal controls. Shapes as in
`lare.model.loop`; R x C is the fine grid, or the canvas on which the grids of several images lie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lare.errors import LareError
from lare.model.closer import look_closer
from lare.model.extractor import VisualMemory
from lare.model.loop import LoopState
from lare.model.reasoner import Reasoner
from lare.model.window import image_cells, saliency_grid, select_window, soft_window, window_cells, window_mask
from lare.window_modes import soft_temperature

__all__ = [
    "LatentOverride",
    "Look",
    "choose_look",
    "fed_back",
    "fetched",
    "looks_closer",
    "make_latents",
    "override_latents",
    "rms_normalise",
]

LatentOverride = str | Tensor | Callable[[Tensor, int], Tensor] | None


@dataclass
class Look:
    """One refocus step of B rows.

    Attributes:
        corner: (B, 2) row and column of the window's top left cell; 0 without a window.
        mass: (B,) share of the saliency inside the window; 1 without a window.
        mask: (B, R * C) which fine tokens the window holds, or the logarithm of how far (a soft window); None for all.
        cells: (B, n) numbers of the window's fine tokens, row by row; None without a window.
        attention: (B, n) the Extractor's attention to these cells, or to all fine tokens; zeros until it has run.
    """

    corner: Tensor
    mass: Tensor
    mask: Tensor | None
    cells: Tensor | None
    attention: Tensor


def rms_normalise(states: Tensor, eps: float = 1e-6) -> Tensor:
    """Divide (..., d) by its root mean square over d, without a learned gain."""
    wide = states.to(torch.promote_types(states.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(states.dtype)


def choose_look(model: Reasoner, state: LoopState, mode: str, generator: torch.Generator | None) -> Look:
    """Pick each row's window from the state's saliency."""
    config, visual = model.config, state.visual
    batch, device = state.saliency.shape[0], state.saliency.device
    sizes = None if visual.sizes is None else visual.sizes.repeat_interleave(state.questions_per_image, 0)
    if mode == "full" or not config.use_window:
        corner = torch.zeros(batch, 2, dtype=torch.long, device=device)
        tokens = visual.refocus.shape[1]
        mask = None if sizes is None else image_cells(sizes, visual.shape)
        return Look(corner, torch.ones(batch, device=device), mask, None, torch.zeros(batch, tokens, device=device))
    temperature = soft_temperature(mode)
    fine = saliency_grid(state.saliency, visual.lm_shape, visual.shape)
    hard = mode if temperature is None else "saliency"
    corner, mass = select_window(fine.detach(), config.window, hard, generator, sizes)
    cells = window_cells(corner, config.window, visual.shape)
    if temperature is None:
        mask = window_mask(corner, config.window, visual.shape, sizes)
    else:
        mask = soft_window(fine, config.window, temperature, sizes)
    return Look(corner, mass, mask, cells, torch.zeros(batch, cells.shape[1], device=device))


def make_latents(
    model: Reasoner,
    state: LoopState,
    look: Look,
    memory: VisualMemory | Any,
    scale: Tensor | None,
) -> Tensor:
    """The next latent tokens (B, m, d); also leaves the Extractor's attention in `look`.

    `memory` is what `Reasoner.remember` has made, or None where no visual tokens are looked at, or crops are instead.

    z = scale(norm(h_last) + Extractor(H, V_t)); `scale` None leaves norms alone. Without the Extractor, the normalised
    last hidden state averaged with the normalised mean of the window's visual tokens, or alone when the window is off
    too. A method's own module makes them in its own way.
    """
    config = model.config
    if model.latent_maker is not None:
        latents = model.latent_maker(state, memory, look.mask)
        return latents if scale is None else rms_normalise(latents) * scale
    last = state.last_hidden if scale is None else rms_normalise(state.last_hidden)
    feedback = last.unsqueeze(1)
    if model.extractor is not None and (memory is not None or config.looks_closer):
        latents = _refocused(model, state, look, memory)
        if config.residual_feedback:
            latents = latents + feedback
    elif config.use_window:
        mean = window_mean(state, look)
        latents = 0.5 * (feedback + (mean if scale is None else rms_normalise(mean)).unsqueeze(1))
        latents = latents.expand(-1, config.latents_per_iteration, -1)
    else:
        latents = feedback.expand(-1, config.latents_per_iteration, -1)
    return latents if scale is None else rms_normalise(latents) * scale


def _refocused(model: Reasoner, state: LoopState, look: Look, memory: VisualMemory | Any) -> Tensor:
    """The Extractor's output (B, m, d) for the window's tokens, or for its crop's; its attention stays in `look`."""
    assert model.extractor is not None
    if memory is None:
        seen = look_closer(model, state.visual, look.corner)
        latents, attention = model.extractor(state.layer_hidden, seen.tokens, seen.mask)
        look.attention = seen.by_cells(attention, model.config.window)
    else:
        latents, attention = model.extractor(state.layer_hidden, memory, look.mask)
        look.attention = attention if look.cells is None else attention.gather(1, look.cells)
    found: Tensor = latents
    return found


def looks_closer(model: Reasoner, mode: str) -> bool:
    """Whether windows are encoded anew, under a way of choosing them (`lare.model.closer`).

    Raises:
        LareError: If they are, and the way is a mixture of windows.
    """
    if not model.config.looks_closer or mode == "full":
        return False
    if soft_temperature(mode) is not None:
        raise LareError(
            f"window_mode {mode} weighs all of a picture's tokens, and with refocus_source fine a window is encoded "
            "anew; give saliency, or refocus_source lm"
        )
    return True


def fed_back(model: Reasoner, state: LoopState, scale: Tensor | None) -> Tensor:
    """The last hidden state as latents (B, m, d), scaled as latents are."""
    latents = state.last_hidden.unsqueeze(1).expand(-1, model.config.latents_per_iteration, -1)
    return latents if scale is None else rms_normalise(latents) * scale


def fetched(state: LoopState, tokens: Tensor, scale: Tensor | None) -> Tensor:
    """Fine tokens (B,) of each row's image as latents (B, 1, d)."""
    images = torch.arange(len(tokens), device=tokens.device) // state.questions_per_image
    chosen = state.visual.refocus[images, tokens].unsqueeze(1)
    return chosen if scale is None else rms_normalise(chosen) * scale


def window_mean(state: LoopState, look: Look) -> Tensor:
    """Mean visual token inside each row's window (or of the whole grid), (B, d)."""
    visual = state.visual.refocus
    if look.mask is None:
        return visual.mean(1).repeat_interleave(state.questions_per_image, 0)
    inside = look.mask if look.mask.dtype == torch.bool else look.mask.exp()
    weights = inside.to(visual.dtype)
    weights = (weights / weights.sum(-1, keepdim=True)).reshape(visual.shape[0], -1, visual.shape[1])
    return torch.matmul(weights, visual).flatten(0, 1)


def override_latents(latents: Tensor, override: LatentOverride, step: int, generator: torch.Generator | None) -> Tensor:
    """Replace latents (B, m, d) of iteration `step` for a causal control."""
    if override is None:
        return latents
    if isinstance(override, Tensor):
        full = override.to(latents).reshape((1,) * (4 - override.dim()) + tuple(override.shape))
        chosen = full[:, step if full.shape[1] > 1 else 0]
        return chosen.expand_as(latents)
    if callable(override):
        return override(latents, step)
    if override == "zeros":
        return torch.zeros_like(latents)
    device = generator.device if generator is not None else latents.device
    noise = torch.randn(latents.shape, generator=generator, device=device).to(latents)
    return noise * (latents.square().sum(-1, keepdim=True) / noise.square().sum(-1, keepdim=True)).sqrt()
