"""LLaVA-1.5 and its relatives with one grid a picture, and LLaVA-OneVision with a grid of tiles.

LLaVA-1.5 reads a square of patches of the middle of a picture, as its own image processor cuts it out. OneVision reads
the whole picture small, and then in tiles at a higher resolution: its prompt holds the tokens of the first, then the
tiles' rows, each closed by a newline token. The grid is that of the tiles; the tokens of the small picture and the
newlines are read by the decoder alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from lare.errors import LareError
from lare.model.backbone import VisionLanguage, canvas, on_grid
from lare.model.families import check_family
from lare.model.vision import Shape, VisualTokens

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.model.processing_lare import LareProcessor

__all__ = ["LLAVA", "LLAVA_ONEVISION", "Llava", "LlavaOneVision"]


class Llava(VisionLanguage):
    """LLaVA-1.5."""

    tower = "model.vision_tower"
    connector = ("model.multi_modal_projector",)
    token = "<image>"

    def check(self, config: PreTrainedConfig) -> None:
        """See `VisionLanguage`."""
        check_family(config.text_config)
        self.nominal(config)

    def nominal(self, config: PreTrainedConfig) -> tuple[int, int]:
        """See `VisionLanguage`."""
        vision: Any = config.vision_config
        side, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
        if not isinstance(side, int) or not isinstance(patch, int):
            raise LareError(f"the encoder of type {vision.model_type!r} has no square patches; use a ViT such as CLIP")
        return side, side // patch

    def settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        """See `VisionLanguage`."""
        return {"patch_size": int(config.vision_config.patch_size)}

    def see(self, model: Any, pixel_values: Tensor, extra: Mapping[str, Tensor], lm_grid: int | None) -> VisualTokens:
        """See `Backbone`."""
        patch = int(model.config.vision_config.patch_size)
        rows, columns = (int(side) // patch for side in pixel_values.shape[-2:])
        found = model.language_model.model.get_image_features(pixel_values, return_dict=True).pooler_output
        if any(len(one) != rows * columns for one in found):
            raise LareError(
                f"the encoder gives {len(found[0])} tokens for {rows} x {columns} patches; its "
                "vision_feature_select_strategy must leave the patches alone"
            )
        return on_grid(list(found), [(rows, columns)] * len(found), model.config.window, {})

    def pictures(
        self, processor: LareProcessor, images: Sequence[Image], **options: Any
    ) -> tuple[dict[str, Tensor], list[Any]]:
        """See `Backbone`."""
        made = processor.image_processor(images, **{"return_tensors": "pt", **options})
        patch = int(processor.backbone_settings["patch_size"])
        rows, columns = (int(side) // patch for side in made["pixel_values"].shape[-2:])
        return {"pixel_values": made["pixel_values"]}, [(rows, columns)] * len(images)

    def region(self, eyes: Any, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """See `Backbone`; what the image processor leaves of a picture."""
        own, (width, height) = eyes.image_processor, size
        if not own.do_center_crop:
            return super().region(eyes, size)
        wanted, crop = dict(own.size), dict(own.crop_size)
        edge = wanted.get("shortest_edge")
        scale = edge / min(size) if edge else None
        wide = min(width, width * crop["width"] / (width * scale if scale else wanted["width"]))
        tall = min(height, height * crop["height"] / (height * scale if scale else wanted["height"]))
        left, top = (width - wide) / 2, (height - tall) / 2
        return left, top, left + wide, top + tall


class LlavaOneVision(Llava):
    """LLaVA-OneVision."""

    image_inputs = ("image_sizes",)

    def settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        """See `VisionLanguage`."""
        side, grid = self.nominal(config)
        return {
            "side": side,
            "grid": grid,
            "pinpoints": [list(one) for one in config.image_grid_pinpoints],
            "most": int(str(config.vision_aspect_ratio).removeprefix("anyres_max_")),
        }

    def see(self, model: Any, pixel_values: Tensor, extra: Mapping[str, Tensor], lm_grid: int | None) -> VisualTokens:
        """See `Backbone`."""
        own, sizes = model.config.backbone_config, extra["image_sizes"]
        output = model.language_model.model.get_image_features(pixel_values, sizes, return_dict=True)
        settings = self.settings(own)
        shapes = [tile_grid((int(size[0]), int(size[1])), settings) for size in sizes.tolist()]
        base = settings["grid"] ** 2
        places = []
        for rows, columns in shapes:
            lines = torch.arange(rows)[:, None] * (columns + 1) + torch.arange(columns)
            places.append(base + lines)
        tokens = output.pooler_output
        if isinstance(tokens, Tensor):
            tokens = tokens.split([_count(base, shape) for shape in shapes])
        return canvas(list(tokens), places, model.config.window, {})

    def pictures(
        self, processor: LareProcessor, images: Sequence[Image], **options: Any
    ) -> tuple[dict[str, Tensor], list[Any]]:
        """See `Backbone`."""
        made = processor.image_processor(images, **{"return_tensors": "pt", **options})
        sizes = torch.as_tensor(made["image_sizes"])
        grids = [tile_grid((int(size[0]), int(size[1])), processor.backbone_settings) for size in sizes.tolist()]
        return {"pixel_values": made["pixel_values"], "image_sizes": sizes}, grids

    def region(self, eyes: Any, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """See `Backbone`; all of it."""
        return VisionLanguage.region(self, eyes, size)

    def crops(self, eyes: Any, crops: Sequence[Image], cells: Sequence[Shape]) -> dict[str, Tensor]:
        """See `Backbone`; enlarged, so that the image processor gives it ``finer`` times as many tokens, or more."""
        settings = eyes.backbone_settings
        side = int(settings["side"]) / int(settings["grid"]) * int(settings["finer"])
        sized = [
            crop.resize(
                (max(1, round(columns * side)), max(1, round(rows * side))), resample=eyes.image_processor.resample
            )
            for crop, (rows, columns) in zip(crops, cells, strict=True)
        ]
        return dict(self.pictures(eyes, sized)[0])

    def image_text(self, processor: LareProcessor, grid: Any) -> str:
        """See `Backbone`."""
        return self.image_token(processor) * _count(int(processor.backbone_settings["grid"]) ** 2, grid)


def _count(base: int, shape: Shape) -> int:
    """Tokens of a picture: the small one, and rows of tiles with a newline each."""
    return base + shape[0] * (shape[1] + 1)


def tile_grid(size: Shape, settings: Mapping[str, Any]) -> Shape:
    """Rows and columns of a picture's tile tokens, without padding, scaled down to the most that the model takes.

    Args:
        size: Height and width of the picture.
        settings: ``side`` of a tile in pixels, its ``grid``, ``pinpoints`` and ``most`` tiles of the model.
    """
    from transformers.image_processing_utils import select_best_resolution

    side, grid = int(settings["side"]), int(settings["grid"])
    best = select_best_resolution(size, [tuple(one) for one in settings["pinpoints"]])
    rows, columns = best[0] // side * grid, best[1] // side * grid
    height, width = size
    if width / height > columns / rows:
        rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
    else:
        columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
    ratio = math.sqrt(rows * columns / (int(settings["most"]) * grid**2))
    return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)


LLAVA = Llava()
LLAVA_ONEVISION = LlavaOneVision()
