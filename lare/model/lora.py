"""Low-rank adapters (Hu et al. 2022, by peft) on the linear layers of the decoder, or of its last layers.

They are part of the model that the configuration describes (`LareConfig.lora`), so a checkpoint holds the base weights
as they were and the adapters beside them, and loads as any other. `merge_lora` adds them up for use elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from lare.errors import LareError

__all__ = ["LORA_MARK", "add_lora", "check_lora", "merge_lora"]

LORA_MARK = ".lora_"
"""What the name of every adapter's weight holds."""
_DEFAULTS: dict[str, Any] = {"rank": 16, "alpha": 32, "dropout": 0.0, "layers": None}
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def check_lora(settings: Mapping[str, Any]) -> None:
    """Refuse impossible settings.

    Raises:
        LareError: If a key is unknown or a value impossible.
    """
    unknown = sorted(set(settings) - set(_DEFAULTS))
    if unknown:
        raise LareError(f"lora has no setting {unknown[0]!r}; known: {', '.join(_DEFAULTS)}")
    values = _DEFAULTS | dict(settings)
    if not isinstance(values["rank"], int) or values["rank"] < 1:
        raise LareError(f"lora.rank is {values['rank']!r}; give a whole number of at least 1")
    if not values["alpha"] > 0 or not 0 <= values["dropout"] < 1:
        raise LareError(f"lora has alpha {values['alpha']} and dropout {values['dropout']}; give alpha > 0, 0 <= p < 1")
    layers = values["layers"]
    if layers is not None and (not isinstance(layers, int) or isinstance(layers, bool) or layers < 1):
        raise LareError(f"lora.layers is {layers!r}; give how many of the last layers have adapters, or leave it out")


def add_lora(language_model: nn.Module, decoder: nn.Module, settings: Mapping[str, Any]) -> None:
    """Put adapters on the decoder's linear layers, in place; they start at zero, so nothing changes yet.

    Args:
        language_model: The language model that holds the decoder.
        decoder: The decoder, without its LM head.
        settings: `LareConfig.lora`.

    Raises:
        LareError: If peft is missing.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError:
        raise LareError("lora needs the package peft; install it with pip install 'lare[train]'") from None
    values = _DEFAULTS | dict(settings)
    path = next(name for name, module in language_model.named_modules() if module is decoder)
    inner = _chosen(
        [name for name, module in decoder.named_modules() if isinstance(module, nn.Linear)], values["layers"]
    )
    config = LoraConfig(
        r=int(values["rank"]),
        lora_alpha=values["alpha"],
        lora_dropout=values["dropout"],
        target_modules=[f"{path}.{name}" for name in inner],
    )
    trains = {name: parameter.requires_grad for name, parameter in language_model.named_parameters()}
    inject_adapter_in_model(config, language_model)
    for name, parameter in language_model.named_parameters():  # peft freezes all but its own
        parameter.requires_grad_(trains.get(name.replace(".base_layer.", "."), True))


def _chosen(names: list[str], layers: int | None) -> list[str]:
    """Names of the linear layers that get adapters: all, or those inside the last decoder layers.

    Raises:
        LareError: If the decoder has fewer.
    """
    if layers is None:
        return names
    inside = {name: int(found[1]) for name in names if (found := _LAYER.search(name))}
    count = max(inside.values(), default=-1) + 1
    if layers > count:
        raise LareError(f"lora.layers is {layers}, and the decoder has {count} layers; give at most that")
    return [name for name, layer in inside.items() if layer >= count - layers]


def merge_lora(model: Any) -> None:
    """Add the adapters to the weights they stand beside, and take them away; the model computes what it did.

    Args:
        model: A LaRe model with adapters.

    Raises:
        LareError: If it has none.
    """
    if not model.config.lora:
        raise LareError("the model has no adapters to merge")
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [(name, one) for name, one in model.language_model.named_modules() if isinstance(one, BaseTunerLayer)]
    for name, layer in layers:
        cast(Any, layer).merge()
        parent, _, last = name.rpartition(".")
        setattr(model.language_model.get_submodule(parent), last, cast(Any, layer).get_base_layer())
    model.config.lora = None
    model.base = None  # the merged weights are no longer the base's
