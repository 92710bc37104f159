"""Thinking: K times choose a window, make latent tokens from it, feed them back (paper, section 3).

Shapes as in `lare.model.loop`; R x C is the decoder's grid, or the canvas on which the grids of several images lie.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lare.errors import LareError
from lare.model.compaction import Working, can_compact
from lare.model.halting import Halter, Seen, StopRule, parse_stop
from lare.model.loop import LoopState, extend
from lare.model.reasoner import Reasoner
from lare.model.refocusing import (
    LatentOverride,
    Look,
    choose_look,
    fed_back,
    fetched,
    looks_closer,
    make_latents,
    override_latents,
    rms_normalise,
)
from lare.window_modes import check_window_mode

__all__ = ["Thoughts", "first_token", "rms_normalise", "think"]


@dataclass
class Thoughts:
    """What happened while thinking; K is the most iterations that any row took.

    Attributes:
        latents: (B, K, m, d), with gradient when it is on; zeros after a row stopped.
        steps: (B,) iterations that each row took.
        windows: (B, K, 2) top left cell of each window on the fine grid; -1 after a row stopped, and 0 without window.
        saliency: (B, K, R, C) attention that chose the window; zeros after a row stopped.
        cross_attention: (B, K, n) the Extractor's attention inside the window, row by row (n = w * w), or over all
            fine tokens without one; zeros without an Extractor.
        window_masses: (B, K) share of the saliency inside the window (1 without window).
        stop_reason: Per row "fixed", "converged" or "max_iterations".
        state: The state after the last latent.
    """

    latents: Tensor
    steps: Tensor
    windows: Tensor
    saliency: Tensor
    cross_attention: Tensor
    window_masses: Tensor
    stop_reason: list[str]
    state: LoopState


def think(
    model: Reasoner,
    state: LoopState,
    iterations: int | None = None,
    stop: str | None = None,
    window_mode: str = "saliency",
    latent_override: LatentOverride = None,
    generator: torch.Generator | None = None,
    fetch: Tensor | None = None,
    refocus: bool = True,
    step_limits: Tensor | None = None,
    compact: bool = True,
) -> Thoughts:
    """Run the latent loop from a prefilled state whose last position is <|latent_start|>.

    Args:
        model: The model.
        state: The prefilled state; it is spent.
        iterations: K; None takes the configuration's (for an adaptive rule, its `max_iterations`).
        stop: Stop rule; None takes the configuration's.
        window_mode: "saliency", the controls "random" and "full", or "soft:T", a mixture of windows for training (see
            `lare.model.window.soft_window`).
        latent_override: Feed something else: "zeros"; "noise" (of each latent's norm); a tensor that broadcasts to
            (B, K, m, d); or a function from a step's latents (B, m, d) and its number to what is fed.
        generator: Source of random windows and noise.
        fetch: (B, K) fine tokens to feed, scaled as latents are, instead of making any (m = 1).
        refocus: False looks nowhere: whatever modules the model has, the last hidden state is fed back.
        step_limits: (B,) iterations that each row takes at most.
        compact: Let rows that have stopped leave the batch (without gradients); False only masks them. The numbers are
            the same up to rounding.

    Returns:
        The thoughts; gradients are kept when they are enabled.

    Raises:
        LareError: If an option is unknown or impossible, or the rule is learned and the checkpoint has no head for it.
    """
    rule = parse_stop(model.config.stop if stop is None else stop)
    limit = _limit(model, rule, iterations)
    _check_options(model, state, limit, window_mode, latent_override)
    # What is drawn, or told by row, belongs to the whole batch.
    by_row = latent_override is not None or fetch is not None or window_mode not in ("saliency", "full")
    remember = fetch is None and refocus and not looks_closer(model, window_mode)
    loop = _Loop(model, state, rule, limit, compact and not by_row, remember)
    for step in range(limit):
        if step_limits is not None and not loop.stop(loop.of(step_limits) <= step):
            break
        state = loop.work.state
        look = choose_look(model, state, window_mode if refocus else "full", generator)
        if fetch is None:
            made = loop.made(look) if refocus else fed_back(model, state, loop.scale)
            latents = override_latents(made, latent_override, step, generator)
        else:
            latents = fetched(state, fetch[:, step], loop.scale)
        if not loop.take(step, look, latents):
            break
    return loop.thoughts(uneven=rule.adaptive or step_limits is not None)


class _Loop:
    """The loop over one batch: rows at work, what decides when they stop, and the record.

    Attributes:
        work: The rows at work.
        active: (b,) which of them still think.
        scale: Length of token embeddings, to which latents are scaled; None leaves them alone.
    """

    def __init__(
        self, model: Reasoner, state: LoopState, rule: StopRule, limit: int, compact: bool, remember: bool
    ) -> None:
        batch, device = state.attention_mask.shape[0], state.attention_mask.device
        self.model, self.rule, self.limit = model, rule, limit
        self.compact = compact and can_compact(state)
        self.scale = model.embedding_rms() if limit and model.config.rms_scale else None
        memory = model.remember(state.visual) if limit and remember else None
        self.work = Working(model, state, memory, limit * model.config.latents_per_iteration)
        self.halter = Halter(rule, model.stop_heads, batch, device)
        self.record = _Record(model, state)
        self.active = torch.ones(batch, dtype=torch.bool, device=device)
        self._batch = batch
        self._previous: Tensor | None = None
        self._some_rest = False

    def of(self, values: Tensor) -> Tensor:
        """Values (B, ...) of the rows at work."""
        return values if self.work.rows is None else values[self.work.rows]

    def made(self, look: Look) -> Tensor:
        """The model's own latents (b, m, d)."""
        return make_latents(self.model, self.work.state, look, self.work.memory, self.scale)

    def take(self, step: int, look: Look, latents: Tensor) -> bool:
        """Feed latents (b, m, d) and ask the rule; whether any row thinks on."""
        work, before = self.work, self.work.state
        work.state = _feed(self.model, before, latents, self.active if self._some_rest else None)
        self.record.add(before.saliency, look, latents, self.active, work.rows)
        if not self.rule.adaptive:
            return True
        seen = Seen(step + 1, latents, self._previous, work.state.last_hidden, before.last_hidden)
        self._previous = latents
        if self.halter.looks_ahead and step + 1 < self.limit:
            seen.first = first_token(self.model, work.state)
        if self.halter.looks_ahead and seen.first is None:
            return True
        return self.stop(self.halter.stopped(seen))

    def stop(self, rows: Tensor) -> bool:
        """Rows (b,) stop; whether any row thinks on."""
        self.active = self.active & ~rows
        going = int(self.active.sum())
        self._some_rest = going < len(self.active)
        stay = self.work.leave(self.active) if self.compact and self._some_rest else None
        if stay is not None:
            self.active, self._some_rest = self.active[stay], False
            self._previous = None if self._previous is None else self._previous[stay]
            self.halter.keep(stay)
        return going > 0

    def thoughts(self, uneven: bool) -> Thoughts:
        """What happened; `uneven` says that rows may have taken different numbers of steps."""
        active = self.active
        if self.work.rows is not None:
            active = active.new_zeros(self._batch).index_copy(0, self.work.rows, active)
        return self.record.thoughts(self.work.whole(), self.rule, active, uneven)


def first_token(model: Reasoner, state: LoopState) -> Tensor:
    """Logits (B, V) of the text's first token if thinking ended here; the state stays as it is.

    One decoder pass of <|latent_end|>, which is taken back from the cache.
    """
    end = model.embed_token(model.config.latent_end_id, state.attention_mask.shape[0])
    hidden, _ = extend(model, state, end)
    state.cache.crop(-1)
    return model.lm_head(hidden[:, -1])


def _limit(model: Reasoner, rule: StopRule, iterations: int | None) -> int:
    if iterations is not None:
        if iterations < 0:
            raise LareError(f"iterations is {iterations}; give 0 or more.")
        return iterations
    most = int(model.config.max_iterations if rule.adaptive else model.config.iterations)
    # A learned rule saves steps; it is held against the best fixed number and never takes more.
    return min(most, model.stop_heads.steps) if rule.learned and model.stop_heads is not None else most


def _check_options(model: Reasoner, state: LoopState, limit: int, window_mode: str, override: LatentOverride) -> None:
    check_window_mode(window_mode)
    if isinstance(override, str) and override not in ("zeros", "noise"):
        raise LareError(f'latent_override is {override!r}; give None, "zeros", "noise" or a tensor (B, K, m, d).')
    if isinstance(override, Tensor):
        batch, latents = state.attention_mask.shape[0], model.config.latents_per_iteration
        shape = (batch, limit, latents, state.last_hidden.shape[-1])
        fits = override.dim() <= 4 and all(
            have in (1, want) for have, want in zip(reversed(override.shape), reversed(shape), strict=False)
        )
        if not fits:
            raise LareError(f"latent_override has shape {tuple(override.shape)}; give one that broadcasts to {shape}.")


def _feed(model: Reasoner, state: LoopState, latents: Tensor, active: Tensor | None) -> LoopState:
    """Feed latents; rows that are not active get masked slots and keep what their last position saw."""
    if active is None or bool(active.all()):
        return extend(model, state, latents, capture=True)[1]
    mask = active[:, None].expand(-1, latents.shape[1])
    fed = extend(model, state, latents, mask, capture=True)[1]
    return replace(
        fed,
        layer_hidden=torch.where(active[:, None, None], fed.layer_hidden, state.layer_hidden),
        last_hidden=torch.where(active[:, None], fed.last_hidden, state.last_hidden),
        saliency=torch.where(active[:, None], fed.saliency, state.saliency),
    )


class _Record:
    """Gathers one entry per iteration and lays them out as `Thoughts`."""

    def __init__(self, model: Reasoner, state: LoopState) -> None:
        self.shape = state.visual.lm_shape
        self.latents: list[Tensor] = []
        self._rest: list[tuple[Tensor, ...]] = []
        config, batch = model.config, state.attention_mask.shape[0]
        cells = config.window**2 if config.use_window else state.visual.refocus.shape[1]
        like = state.last_hidden
        self._empty_latents = like.new_zeros(batch, 0, config.latents_per_iteration, like.shape[-1])
        self._empty = (
            torch.zeros(batch, 0, 2, dtype=torch.long, device=like.device),
            like.new_zeros(batch, 0, *self.shape, dtype=torch.float32),
            like.new_zeros(batch, 0, cells, dtype=torch.float32),
            like.new_zeros(batch, 0, dtype=torch.float32),
        )
        self._active: list[Tensor] = []

    def add(self, saliency: Tensor, look: Look, latents: Tensor, active: Tensor, rows: Tensor | None = None) -> None:
        """Note one iteration of the rows (b,) at work (None: of all); `active` tells which of them really took it."""
        self.latents.append(self._spread(latents, rows))
        self._active.append(self._spread(active, rows))
        entries = (
            look.corner.masked_fill(~active[:, None], -1),
            saliency.reshape(-1, *self.shape) * active[:, None, None],
            look.attention * active[:, None],
            look.mass * active,
        )
        corner, *others = (self._spread(entry, rows) for entry in entries)
        if rows is not None:
            corner = corner.masked_fill(~self._active[-1][:, None], -1)
        self._rest.append((corner, *others))

    def _spread(self, values: Tensor, rows: Tensor | None) -> Tensor:
        """Values (b, ...) of some rows as those of all, (B, ...), zeros for the others."""
        if rows is None:
            return values
        return values.new_zeros(len(self._empty_latents), *values.shape[1:]).index_copy(0, rows, values)

    def thoughts(self, state: LoopState, rule: StopRule, active: Tensor, uneven: bool) -> Thoughts:
        """Stack the entries; `uneven` says that rows may have taken different numbers of steps."""
        rest = [torch.stack(entries, dim=1) for entries in zip(*self._rest, strict=True)] or list(self._empty)
        latents, steps = self._empty_latents, torch.zeros_like(state.next_position)
        if self.latents:
            latents = torch.stack(self.latents, dim=1)
            taken = torch.stack(self._active, dim=1)
            steps = taken.sum(1)
            if uneven:
                latents = latents * taken[:, :, None, None]
        reasons = ["fixed"] * active.shape[0]
        if rule.adaptive:
            reasons = ["max_iterations" if still else "converged" for still in active.tolist()]
        return Thoughts(latents, steps, rest[0], rest[1], rest[2], rest[3], reasons, state)
