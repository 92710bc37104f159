"""What an encoder gives for a picture: how wide its features are, on which grid they lie, and what stands before them.

Every encoder here writes its patches row by row, after the tokens that are no patches (class, distillation and register
tokens). That order is why a list is kept: YOLOS puts its own tokens at the end, ViTMAE drops patches by chance
and shuffles the rest, SigLIP 2 packs pictures of any shape. A timm model tells by `num_prefix_tokens` and `output_fmt`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedConfig

from lare.errors import LareError
from lare.registry import MODEL_TYPES

__all__ = ["ENCODERS", "TIMM", "Picture", "own_grid", "picture_of", "width_of"]

ENCODERS = (
    "aimv2_vision_model",
    "beit",
    "clip_vision_model",
    "deit",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "ijepa",
    "siglip_vision_model",
    "vit",
    "vit_msn",
)
"""Types of transformers' vision transformers whose hidden states are prefix tokens and then patches, row by row."""

TIMM = ("timm_wrapper", "timm_backbone")
_ANY_SIZE = ("dinov2", "dinov2_with_registers", "dinov3_vit")  # they interpolate their positions by themselves


@dataclass(frozen=True)
class Picture:
    """What an encoder takes.

    Attributes:
        side: Side of its input in pixels, as it was trained.
        stride: Pixels a side of one cell of its grid.
        any_size: Whether other sides are possible.
    """

    side: int
    stride: int
    any_size: bool


def picture_of(config: PreTrainedConfig) -> Picture:
    """What the encoder of a configuration takes.

    Raises:
        LareError: If it is of a type whose grid is not known.
    """
    if config.model_type in TIMM:
        facts = _timm_facts(config)
        return Picture(facts.side, facts.stride, not facts.tokens)
    if config.model_type in MODEL_TYPES:
        return Picture(int(config.image_size), int(config.image_size) // int(config.grid), False)
    if config.model_type not in ENCODERS:
        raise LareError(
            f"the encoder is of type {config.model_type!r}, whose grid of patches is not known; give one of "
            f"{', '.join(ENCODERS)}, or a timm model"
        )
    side, patch = (_side(getattr(config, name), name) for name in ("image_size", "patch_size"))
    return Picture(side, patch, config.model_type in _ANY_SIZE)


def _side(value: Any, name: str) -> int:
    sides = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(set(sides)) != 1:
        raise LareError(f"the encoder's {name} is {tuple(sides)}; LaRe takes encoders of square pictures and patches")
    return int(sides[0])


def own_grid(config: PreTrainedConfig, image_size: int) -> int | None:
    """Side of the grid on pictures of `image_size` pixels; None for features that are pooled to any grid."""
    if config.model_type in TIMM:
        facts = _timm_facts(config)
        return image_size // facts.stride if facts.tokens else None
    picture = picture_of(config)
    return image_size // picture.stride


def width_of(config: PreTrainedConfig) -> int:
    """d_vis of an encoder's configuration.

    Raises:
        LareError: If the configuration does not tell it.
    """
    if config.model_type in TIMM:
        return _timm_facts(config).width
    width = getattr(config, "hidden_size", None)
    if not isinstance(width, int):
        raise LareError(f"vision_config of type {config.model_type!r} has no hidden_size; use an encoder that has.")
    return width


@dataclass(frozen=True)
class _Timm:
    """Width and stride of a timm model's last features, its side in pixels, and whether they are tokens or a map."""

    width: int
    stride: int
    side: int
    tokens: bool


def _timm_facts(config: PreTrainedConfig) -> _Timm:
    architecture = str(getattr(config, "architecture", None) or getattr(config, "backbone", None))
    if config.model_type == "timm_backbone":
        return _timm_backbone(architecture, tuple(config.out_indices))
    return _timm_model(architecture, json.dumps(getattr(config, "model_args", None) or {}))


@cache
def _timm_backbone(architecture: str, indices: tuple[int, ...]) -> _Timm:
    import timm

    with torch.device("meta"):
        model: Any = timm.create_model(architecture, features_only=True, out_indices=indices)
    info = model.feature_info
    return _Timm(int(info.channels()[-1]), int(info.reduction()[-1]), _timm_side(architecture), False)


@cache
def _timm_model(architecture: str, arguments: str) -> _Timm:
    """Asked of timm on the meta device: no weights are made; `arguments` as JSON, to be remembered by."""
    import timm

    given: dict[str, Any] = json.loads(arguments)
    with torch.device("meta"):
        model: Any = timm.create_model(architecture, pretrained=False, num_classes=0, **given)
    side = _side(given.get("img_size", _timm_side(architecture)), "img_size")
    with torch.no_grad():
        shape = model.eval().forward_features(torch.empty(1, 3, side, side, device="meta")).shape
    if len(shape) == 3 and getattr(model, "num_prefix_tokens", None) is None:
        raise LareError(f"the timm model {architecture!r} does not tell where its patches begin; give another encoder")
    if len(shape) == 3:
        cells = round((shape[1] - int(model.num_prefix_tokens)) ** 0.5)
        return _Timm(int(model.num_features), side // cells, side, True)
    channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
    return _Timm(int(model.num_features), -(-side // int(shape[1 if channels_last else 2])), side, False)


def _timm_side(architecture: str) -> int:
    import timm

    known = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    return int(known.input_size[-1]) if known is not None else 224
