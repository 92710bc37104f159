"""Frozen linear layers under adapters are cast once.

Autocast casts a float32 weight to bf16 or fp16 each time that it is used, and keeps the result for weights that train
only. Under adapters nearly all weights are frozen, and LaRe uses each several times in a step: for the prompt, for each
latent, for the text, for eq. 8. While a stage trains, such a layer computes with a copy that was cast before; the
products are the same bit by bit. It takes half as much memory again as these weights do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from lare.training.precision import AUTOCAST

__all__ = ["cast_once"]


@contextmanager
def cast_once(model: nn.Module, precision: str) -> Iterator[int]:
    """Let frozen float32 linear layers compute with weights that are cast already, wherever autocast is on.

    Args:
        model: A model whose frozen weights do not change meanwhile.
        precision: The run's; one without autocast changes nothing.

    Yields:
        How many layers do so.
    """
    kind, changed = AUTOCAST.get(precision), list[nn.Linear]()
    for module in model.modules() if kind is not None else ():
        if type(module) is nn.Linear and not module.weight.requires_grad and module.weight.dtype == torch.float32:
            bias = None if module.bias is None else module.bias.detach().to(kind)
            vars(module)["forward"] = partial(_linear, module, module.weight.detach().to(kind), bias)
            changed.append(module)
    try:
        yield len(changed)
    finally:
        for module in changed:
            del vars(module)["forward"]  # the class's own again


def _linear(module: nn.Linear, weight: Tensor, bias: Tensor | None, given: Tensor) -> Tensor:
    kind = given.device.type
    if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == weight.dtype:
        return linear(given, weight, bias)
    return nn.Linear.forward(module, given)
