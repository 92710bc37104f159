"""Idefics3 and SmolVLM: a picture as tiles of one size, each with a grid of its own, then the whole picture made small.

The prompt names each tile by its row and column and holds its tokens; the small picture's come last. The grid is that
of the tiles side by side, or of the small picture where there are none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from lare.model.backbone import VisionLanguage, canvas
from lare.model.families import check_family
from lare.model.vision import Shape, VisualTokens

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.model.processing_lare import LareProcessor

__all__ = ["IDEFICS3", "Idefics3", "places_of"]

_IMAGE, _AROUND, _WHOLE = "<image>", "<fake_token_around_image>", "<global-img>"


def places_of(tiles: Shape, side: int) -> Tensor:
    """Which token of a picture stands in a cell, (rows, columns), for `tiles` rows and columns of tiles."""
    rows, columns = tiles
    if not rows or not columns:
        return torch.arange(side * side).reshape(side, side)
    inside = torch.arange(side * side).reshape(1, side, 1, side)
    tile = torch.arange(rows * columns).reshape(rows, 1, columns, 1)
    return (tile * side * side + inside).reshape(rows * side, columns * side)


class Idefics3(VisionLanguage):
    """Idefics3 and SmolVLM."""

    image_inputs = ("pixel_attention_mask", "tiles")
    tower = "model.vision_model"
    connector = ("model.connector",)
    text = "model.text_model"
    token = _IMAGE

    def check(self, config: PreTrainedConfig) -> None:
        """See `VisionLanguage`."""
        check_family(config.text_config)

    def nominal(self, config: PreTrainedConfig) -> tuple[int, int]:
        """See `VisionLanguage`."""
        vision: Any = config.vision_config
        return int(vision.image_size), self._side(config)

    def _side(self, config: PreTrainedConfig) -> int:
        vision: Any = config.vision_config
        return int(vision.image_size) // int(vision.patch_size) // int(config.scale_factor)

    def settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        """See `VisionLanguage`."""
        return {"grid": self._side(config)}

    def see(self, model: Any, pixel_values: Tensor, extra: Mapping[str, Tensor], lm_grid: int | None) -> VisualTokens:
        """See `Backbone`."""
        mask, side = extra["pixel_attention_mask"], self._side(model.config.backbone_config)
        output = model.language_model.model.get_image_features(pixel_values, mask, return_dict=True)
        places = [places_of((int(rows), int(columns)), side) for rows, columns in extra["tiles"].tolist()]
        return canvas(list(output.pooler_output), places, model.config.window, {})

    def pictures(
        self, processor: LareProcessor, images: Sequence[Image], **options: Any
    ) -> tuple[dict[str, Tensor], list[Shape]]:
        """See `Backbone`."""
        how = {"return_tensors": "pt", **options, "return_row_col_info": True}
        made = processor.image_processor([[image] for image in images], **how)
        grids = [(int(rows[0]), int(columns[0])) for rows, columns in zip(made["rows"], made["cols"], strict=True)]
        seen = {name: made[name] for name in ("pixel_values", "pixel_attention_mask")}
        return seen | {"tiles": torch.tensor(grids)}, grids

    def crops(self, eyes: Any, crops: Sequence[Image], cells: Sequence[Shape]) -> dict[str, Tensor]:
        """See `Backbone`; as few tiles as give ``finer`` times as many tokens as cells, or more."""
        own, side = eyes.image_processor, int(eyes.backbone_settings["grid"])
        sized = []
        for crop, shown in zip(crops, cells, strict=True):
            tiles = math.ceil(max(shown) * int(eyes.backbone_settings["finer"]) / side)
            scale = tiles * int(own.max_image_size["longest_edge"]) / max(crop.size)
            width, height = (max(1, round(edge * scale)) for edge in crop.size)
            sized.append(crop.resize((width, height), resample=own.resample))
        return dict(self.pictures(eyes, sized, do_resize=False, do_image_splitting=True)[0])

    def image_text(self, processor: LareProcessor, grid: Any) -> str:
        """See `Backbone`."""
        tokens = _IMAGE * int(processor.backbone_settings["grid"]) ** 2
        whole = f"{_AROUND}{_WHOLE}{tokens}{_AROUND}"
        rows, columns = grid
        if not rows or not columns:
            return whole
        lines = [
            "".join(f"{_AROUND}<row_{row + 1}_col_{column + 1}>{tokens}" for column in range(columns)) + "\n"
            for row in range(rows)
        ]
        return f"{''.join(lines)}\n{whole}"


IDEFICS3 = Idefics3()
