"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: native resolution, positions of three axes, and Qwen3-VL's deepstack features.

A picture keeps its proportions: the tower makes one visual token of each 2 x 2 patches, rows by columns as the picture
is. Its tokens share one position in time and count their rows and columns in the other two axes (M-RoPE, Qwen2-VL,
section 2.1); what follows goes on after the longer side. So only a prompt has positions (3, B, S), and whatever comes
after it, latents included, counts on in all axes alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from lare.errors import LareError
from lare.model.backbone import VisionLanguage, on_grid, read_prompt
from lare.model.reading import Reading
from lare.model.vision import Shape, VisualTokens

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.model.processing_lare import LareProcessor

__all__ = ["QWEN2_VL", "QWEN3_VL", "Qwen3VL", "QwenVL", "rope_positions"]

_USUAL_CELLS = 16  # a side of the picture that estimates count with: 448 pixels at 28 a token
_MOST_RATIO = 200  # of a picture's sides; the image processor takes no more


def rope_positions(image: Tensor, mask: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of prompts with one picture each.

    Args:
        image: (B, S) booleans, True at the picture's tokens, which stand next to one another.
        mask: (B, S) booleans, False at padding.
        sizes: (B, 2) rows and columns of each picture.

    Returns:
        (3, B, S) positions in time, rows and columns (0 at padding), and (B,) the position of what follows.
    """
    rank = mask.long().cumsum(1) - 1
    inside = (image.long().cumsum(1) - 1).clamp_min(0)
    count, longest = image.sum(1, keepdim=True), sizes.amax(1, keepdim=True)
    first = rank.gather(1, image.long().argmax(1, keepdim=True))
    after = (rank > first) & ~image
    text = rank + after * (longest - count)
    columns = sizes[:, 1, None]
    axes = (first, first + inside // columns, first + inside % columns)
    positions = torch.stack([torch.where(image, axis.expand_as(text), text) for axis in axes])
    return positions.clamp_min(0), mask.sum(1) + (longest - count).squeeze(1)


class QwenVL(VisionLanguage):
    """Qwen2-VL and Qwen2.5-VL."""

    image_inputs = ("image_grid_thw",)
    tower = "model.visual"
    connector: ClassVar[tuple[str, ...]] = ("model.visual.merger",)
    token = "<|image_pad|>"

    def nominal(self, config: PreTrainedConfig) -> tuple[int, int]:
        """See `VisionLanguage`."""
        vision: Any = config.vision_config
        return _USUAL_CELLS * int(vision.patch_size) * int(vision.spatial_merge_size), _USUAL_CELLS

    def see(self, model: Any, pixel_values: Tensor, extra: Mapping[str, Tensor], lm_grid: int | None) -> VisualTokens:
        """See `Backbone`; `pixel_values` are patches, (patches of all images, values of one)."""
        grids = extra["image_grid_thw"]
        sizes = self._sizes(model, grids)
        output = model.language_model.model.get_image_features(pixel_values, grids, return_dict=True)
        found = {"rows_columns": torch.tensor(sizes, device=pixel_values.device)} | self._more(output)
        return on_grid(output.pooler_output, sizes, model.config.window, found)

    def _sizes(self, model: Any, grids: Tensor) -> list[Shape]:
        merge = int(model.config.vision_config.spatial_merge_size)
        if bool((grids[:, 0] != 1).any()):
            raise LareError("image_grid_thw tells of a video; LaRe takes one picture for each prompt.")
        return [(rows // merge, columns // merge) for _, rows, columns in grids.tolist()]

    def _more(self, output: Any) -> dict[str, Any]:
        """Further outputs of the tower that the prefill reads; none here."""
        return {}

    def read(self, model: Any, input_ids: Tensor, mask: Tensor | None, visual: VisualTokens) -> Reading:
        """See `Backbone`."""
        reading = read_prompt(model, input_ids, visual)
        image = input_ids == model.config.image_token_id
        real = torch.ones_like(image) if mask is None else mask
        reading.positions, reading.next_position = rope_positions(image, real, visual.extra["rows_columns"])
        return reading

    # The processor's half --------------------------------------------------------------------------------------

    def pictures(
        self, processor: LareProcessor, images: Sequence[Image], **options: Any
    ) -> tuple[dict[str, Tensor], list[Shape]]:
        """See `Backbone`.

        Raises:
            LareError: If a picture is too long for its width.
        """
        for number, image in enumerate(images):
            width, height = getattr(image, "size", (1, 1)) if not hasattr(image, "ndim") else (1, 1)
            if max(width, height) > _MOST_RATIO * min(width, height):
                raise LareError(
                    f"Picture {number} is {width} x {height}; this model takes sides up to {_MOST_RATIO} : 1, so crop "
                    "it."
                )
        made = processor.image_processor(images, **{"return_tensors": "pt", **options})
        merge = int(processor.image_processor.merge_size)
        grids = [(int(rows) // merge, int(columns) // merge) for _, rows, columns in made["image_grid_thw"].tolist()]
        return {name: made[name] for name in ("pixel_values", "image_grid_thw")}, grids

    def crops(self, eyes: Any, crops: Sequence[Image], cells: Sequence[Shape]) -> dict[str, Tensor]:
        """See `Backbone`; a crop gets exactly ``finer`` times as many tokens a side as cells."""
        own = eyes.image_processor
        side = int(own.patch_size) * int(own.merge_size) * int(eyes.backbone_settings["finer"])
        sized = [
            crop.resize((columns * side, rows * side), resample=own.resample)
            for crop, (rows, columns) in zip(crops, cells, strict=True)
        ]
        return dict(self.pictures(eyes, sized, do_resize=False)[0])


class Qwen3VL(QwenVL):
    """Qwen3-VL: features of further layers of the tower are added to the first decoder layers' outputs (DeepStack)."""

    connector = ("model.visual.merger", "model.visual.deepstack_merger_list")

    def _more(self, output: Any) -> dict[str, Any]:
        levels = [torch.nn.utils.rnn.pad_sequence(list(level), True) for level in output.deepstack_features]
        return {"deepstack": levels}

    def read(self, model: Any, input_ids: Tensor, mask: Tensor | None, visual: VisualTokens) -> Reading:
        """See `Backbone`."""
        reading = super().read(model, input_ids, mask, visual)
        image = input_ids == model.config.image_token_id
        held = torch.ones(visual.lm.shape[:2], dtype=torch.bool, device=image.device)
        if visual.counts is not None:
            held = torch.arange(held.shape[1], device=image.device) < visual.counts[:, None]
        reading.keywords = {
            "visual_pos_masks": image,
            "deepstack_visual_embeds": [level[held] for level in visual.extra["deepstack"]],
        }
        return reading


QWEN2_VL = QwenVL()
QWEN3_VL = Qwen3VL()
