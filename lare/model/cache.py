"""A key-value cache for decoding: room is made once, so that a new token copies only itself.

transformers' dynamic cache concatenates at every token, which copies all keys and values of all layers each time; at
a few hundred positions that copy costs more than the token's own arithmetic. This cache writes into spare room and
hands out views. It keeps no history for autograd, so training uses the dynamic cache itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

__all__ = ["RoomyCache", "new_cache"]


class _RoomyLayer(DynamicLayer):
    """Keys and values (B, H, S, D) of one decoder layer as views of larger buffers."""

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room = room
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, H, T, D) and return all keys and values so far, (B, H, S + T, D)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            self._grow((key_states, value_states), end)
        assert self._buffers is not None
        keys, values = self._buffers
        keys[:, :, start:end].copy_(key_states)
        values[:, :, start:end].copy_(value_states)
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def _grow(self, like: tuple[Tensor, Tensor], needed: int) -> None:
        # Keys and values may differ in heads and width (compressed ones do).
        key, value = (one.new_empty(*one.shape[:2], needed + self.room, one.shape[-1]) for one in like)
        new, length = (key, value), self.get_seq_length()
        if self.keys is not None and self.values is not None and length:
            new[0][:, :, :length].copy_(self.keys)
            new[1][:, :, :length].copy_(self.values)
        self._buffers = new

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row `repeats` times."""
        if self._buffers is not None:
            keys, values = self._buffers
            self._take(keys.repeat_interleave(repeats, dim=0), values.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices`, (B',)."""
        if self._buffers is not None:
            self._take(self._buffers[0][indices], self._buffers[1][indices])

    def _take(self, keys: Tensor, values: Tensor) -> None:
        length = self.get_seq_length()
        self._buffers = (keys, values)
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]

    def taken(self, rows: Tensor, room: int) -> _RoomyLayer:
        """A layer of its own with the keys and values of some rows (B',), and `room` spare positions."""
        made = _RoomyLayer(room)
        if self.keys is not None and self.values is not None and self.is_initialized:
            made.lazy_initialization(self.keys, self.values)
            made.update(self.keys[rows], self.values[rows])
        return made

    def lengthen(self, length: int) -> None:
        """Append zeros up to `length` positions; what was in the spare room may be no number."""
        if self.keys is None or self.values is None or not self.is_initialized:
            return
        shapes = [(*one.shape[:2], length - one.shape[2], one.shape[3]) for one in (self.keys, self.values)]
        self.update(self.keys.new_zeros(shapes[0]), self.values.new_zeros(shapes[1]))

    def put(self, rows: Tensor, start: int, keys: Tensor, values: Tensor) -> None:
        """Write keys and values (B', H, T, D) of rows (B',) from position `start` on."""
        assert self._buffers is not None
        for whole, part in zip(self._buffers, (keys, values), strict=True):
            whole[rows, :, start : start + part.shape[2]] = part


class RoomyCache(DynamicCache):
    """A dynamic cache with spare room, for use without gradients.

    Args:
        num_layers: L, layers of the decoder.
        room: Positions to keep free beyond the first use.
    """

    layers: list[_RoomyLayer]  # type: ignore[assignment]

    def __init__(self, num_layers: int, room: int) -> None:
        super().__init__()
        self.layers = [_RoomyLayer(room) for _ in range(num_layers)]
        self.layer_class_to_replicate = None

    def taken(self, rows: Tensor, room: int) -> RoomyCache:
        """A cache of its own with some rows (B',), and `room` spare positions; this one stays as it is."""
        made = RoomyCache(0, room)
        made.layers = [layer.taken(rows, room) for layer in self.layers]
        return made

    def tail(self, start: int, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of each layer the keys and values of rows (B',) from position `start` on, (B', H, T, D) each; copies."""
        empty = torch.empty(0)
        return [
            (layer.keys[rows, :, start:], layer.values[rows, :, start:])
            if layer.keys is not None and layer.values is not None and layer.is_initialized
            else (empty, empty)
            for layer in self.layers
        ]

    def lengthen(self, length: int) -> None:
        """Append zeros up to `length` positions."""
        for layer in self.layers:
            layer.lengthen(length)

    def put(self, rows: Tensor, start: int, tail: list[tuple[Tensor, Tensor]]) -> None:
        """Write what `tail` has taken of another cache into rows (B',) of this one, from position `start` on."""
        for layer, (keys, values) in zip(self.layers, tail, strict=True):
            if keys.dim() == 4:
                layer.put(rows, start, keys, values)


def new_cache(num_layers: int, room: int) -> DynamicCache:
    """A cache for the decoder: roomy without gradients, transformers' own where autograd needs the history."""
    return DynamicCache() if torch.is_grad_enabled() else RoomyCache(num_layers, room)
