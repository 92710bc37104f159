"""Rows of a batch that have stopped thinking leave it, so that steps which are not taken cost nothing.

A row that has stopped would otherwise be computed to the end, with its latents masked. Here, once a quarter of the rows
at work have stopped, the others go on as a smaller batch with a cache of their own; when all have ended, what each has
fed is written back into the whole batch's cache, masked where a row took fewer steps than the longest. That gives the
state that masking gives, and the text is decoded in one batch again. A cut copies the remaining rows' cache once, which
costs about what one step reads of it.

Shapes: B rows of the batch, b rows at work, S cached positions, d width, I images.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lare.model.cache import RoomyCache
from lare.model.loop import LoopState
from lare.model.reasoner import Reasoner

__all__ = ["Working", "can_compact"]

_STAY = 0.75
"""Largest share of the rows at work that still think when the others leave."""
_SEEN = ("next_position", "layer_hidden", "last_hidden", "saliency")


class _Left(NamedTuple):
    """Rows that have left: their numbers in the batch, their state, and what they fed since the first cut."""

    rows: Tensor
    state: LoopState
    tail: list[tuple[Tensor, Tensor]]


def can_compact(state: LoopState) -> bool:
    """Whether rows can leave: not where autograd needs the cache's history."""
    return isinstance(state.cache, RoomyCache) and state.rows is None


class Working:
    """The rows of a batch that are still computed.

    Args:
        model: The model.
        state: The prefilled state of the whole batch.
        memory: What the model has computed of the images once (`Reasoner.remember`).
        room: Positions that the rows may still feed.

    Attributes:
        rows: (b,) numbers of the rows at work in the batch; None while that is all of them.
        state: Their state.
        memory: Of their images.
    """

    def __init__(self, model: Reasoner, state: LoopState, memory: Any, room: int) -> None:
        self.model, self.state, self.memory = model, state, memory
        self.rows: Tensor | None = None
        self._whole = state
        self._end = state.attention_mask.shape[1] + room
        self._left: list[_Left] = []

    def leave(self, active: Tensor) -> Tensor | None:
        """Let the rows that have stopped leave, if it pays.

        Args:
            active: (b,) booleans, which rows at work still think.

        Returns:
            (b',) places of those that stay among the rows at work; None if nobody leaves.
        """
        staying = active.nonzero().squeeze(1)
        if not 0 < len(staying) <= _STAY * len(active):
            return None
        self._set_aside((~active).nonzero().squeeze(1))
        state, images = self.state, staying // self.state.questions_per_image
        room = self._end - state.attention_mask.shape[1]
        assert isinstance(state.cache, RoomyCache)
        self.rows = staying if self.rows is None else self.rows[staying]
        self.memory = self._memory_of(state, images)
        self.state = replace(_rows_of(state, staying, images), cache=state.cache.taken(staying, room))
        return staying

    def _set_aside(self, places: Tensor) -> None:
        """Note the state of rows (n,) at work that leave. The first to leave are whole in the batch's own cache."""
        if self.rows is None:
            self._whole = self.state
            return
        cache, start = self.state.cache, self._whole.attention_mask.shape[1]
        assert isinstance(cache, RoomyCache)
        self._left.append(_Left(self.rows[places], _seen_of(self.state, places), cache.tail(start, places)))

    def _memory_of(self, state: LoopState, images: Tensor) -> Any:
        if self.memory is None:
            return None
        if self.model.latent_maker is None:
            return [(keys[images], values[images]) for keys, values in self.memory]
        visual = state.visual
        sizes = None if visual.sizes is None else visual.sizes[images]
        return self.model.remember(replace(visual, lm=visual.lm[images], refocus=visual.refocus[images], sizes=sizes))

    def whole(self) -> LoopState:
        """The state of the whole batch, once no row thinks any more."""
        if self.rows is None:
            return self.state
        self._set_aside(torch.arange(len(self.rows), device=self.rows.device))
        whole, cache = self._whole, self._whole.cache
        start, length = whole.attention_mask.shape[1], self.state.attention_mask.shape[1]
        assert isinstance(cache, RoomyCache)
        cache.lengthen(length)
        mask = torch.nn.functional.pad(whole.attention_mask, (0, length - start), value=False)
        seen = {name: getattr(whole, name).clone() for name in _SEEN}
        for one in self._left:
            cache.put(one.rows, start, one.tail)
            mask[one.rows, : one.state.attention_mask.shape[1]] = one.state.attention_mask
            for name, values in seen.items():
                values[one.rows] = getattr(one.state, name)
        return replace(whole, attention_mask=mask, padded=not bool(mask.all()), **seen)


def _seen_of(state: LoopState, rows: Tensor) -> LoopState:
    """What some rows' last position saw, without cache."""
    kept = {name: getattr(state, name)[rows] for name in (*_SEEN, "attention_mask")}
    return replace(state, **kept)


def _rows_of(state: LoopState, rows: Tensor, images: Tensor) -> LoopState:
    """The state of some rows, each with its image for itself; the cache is the caller's."""
    visual = state.visual
    sizes = None if visual.sizes is None else visual.sizes[images]
    pictures = None if visual.pictures is None else visual.pictures.taken(images)
    own = replace(visual, refocus=visual.refocus[images], sizes=sizes, pictures=pictures)
    seen = _seen_of(state, rows)
    cells = None if state.cells is None else state.cells[rows]
    padded = state.padded and not bool(seen.attention_mask.all())
    slots = state.visual_slots[rows]
    return replace(seen, visual=own, visual_slots=slots, cells=cells, padded=padded, questions_per_image=1)
