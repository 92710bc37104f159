"""Gradient checkpointing under the latent loop: each decoder layer's inner activations are made again in backward.

transformers' own checkpointing drops the key-value cache, through which LaRe trains. Here a layer's call over the cache
is made a function of its input and of the keys and values so far, with its output, its new keys and values and (where
they were asked for) its last attention row as results. Such a function can be run again without a trace: the cache
grows once, outside of it. What is kept between the passes is one hidden state and the keys and values a layer, instead
of everything inside.

Shapes: B rows, T new positions, S cached ones, H key heads, D head width, d width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lare.model.attention import CAPTURE_KEYWORD, LastQueryCapture

__all__ = ["checkpoint_layers", "is_checkpointed", "plain_layers"]

_CACHES = ("cache", "past_key_values")  # transformers renamed it while 5.x lasted


class _LayerCache:
    """Stands in for the cache inside one layer's call: what came before, and what the call adds."""

    def __init__(self, before: tuple[Tensor, Tensor] | None) -> None:
        self.before = before
        self.new: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """See transformers' `Cache.update`."""
        self.new = (key_states, value_states)
        if self.before is None:
            return self.new
        keys, values = self.before
        return torch.cat((keys, key_states), dim=-2), torch.cat((values, value_states), dim=-2)


def checkpoint_layers(layers: nn.ModuleList) -> None:
    """Let every layer's activations be made again in the backward pass."""
    for number, layer in enumerate(layers):
        if not is_checkpointed(layer):
            cast(Any, layer).forward = partial(_call, layer.forward, number)


def plain_layers(layers: nn.ModuleList) -> None:
    """Undo `checkpoint_layers`."""
    for layer in layers:
        layer.__dict__.pop("forward", None)


def is_checkpointed(layer: nn.Module) -> bool:
    """Whether `checkpoint_layers` was called on a layer."""
    forward = layer.__dict__.get("forward")
    return isinstance(forward, partial) and forward.func is _call


def _call(forward: Callable[..., Any], number: int, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
    """One layer's forward; checkpointed where a gradient is wanted.

    Args:
        forward: The layer's own.
        number: The layer's, in the cache.
        hidden: (B, T, d).
        *args: Further arguments of the layer.
        **kwargs: Keyword arguments, the cache and the capture of the last position among them.
    """
    if not torch.is_grad_enabled():
        return forward(hidden, *args, **kwargs)
    name = next((one for one in _CACHES if kwargs.get(one) is not None), None)
    cache, capture = None if name is None else kwargs.pop(name), kwargs.pop(CAPTURE_KEYWORD, None)
    before = _held(cache, number)

    def run(states: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        own: dict[str, Any] = dict(kwargs)
        inner = _LayerCache((past[0], past[1]) if past else None)
        if name is not None:
            own[name] = inner
        watcher = None if capture is None else LastQueryCapture(capture.gradient)
        if watcher is not None:
            own |= watcher.keywords()
        output = forward(states, *args, **own)
        found = [output[0] if isinstance(output, tuple) else output, *(inner.new or ())]
        return (*found, *(watcher.rows if watcher is not None else ()))

    made = list(checkpoint(run, hidden, *(before or ()), use_reentrant=False))
    output = made.pop(0)
    if cache is not None:
        cache.update(made.pop(0), made.pop(0), number)
    if capture is not None:
        capture.rows += [row if capture.gradient else row.detach() for row in made]
    return output


def _held(cache: Any, number: int) -> tuple[Tensor, Tensor] | None:
    """Keys and values (B, H, S, D) of a layer so far."""
    if cache is None or len(cache.layers) <= number or not cache.layers[number].get_seq_length():
        return None
    return cache.layers[number].keys, cache.layers[number].values
