"""Gemma 3: a square picture of 16 x 16 tokens that attend to one another in both directions; pan-and-scan is off."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedConfig

from lare.model.backbone import VisionLanguage, on_grid, read_prompt
from lare.model.families import check_family
from lare.model.reading import Reading
from lare.model.vision import VisualTokens

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.model.processing_lare import LareProcessor

__all__ = ["GEMMA3", "Gemma3"]

_BEGIN, _TOKEN, _END = "<start_of_image>", "<image_soft_token>", "<end_of_image>"


class Gemma3(VisionLanguage):
    """Gemma 3 models that read pictures; the smallest Gemma 3 models are decoders alone."""

    tower = "model.vision_tower"
    connector = ("model.multi_modal_projector",)
    token = _TOKEN

    def check(self, config: PreTrainedConfig) -> None:
        """See `VisionLanguage`."""
        check_family(config.text_config)

    def nominal(self, config: PreTrainedConfig) -> tuple[int, int]:
        """See `VisionLanguage`."""
        return int(config.vision_config.image_size), self._side(config)

    def _side(self, config: PreTrainedConfig) -> int:
        return math.isqrt(int(config.mm_tokens_per_image))

    def settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        """See `VisionLanguage`."""
        return {"grid": self._side(config)}

    def see(self, model: Any, pixel_values: Tensor, extra: Mapping[str, Tensor], lm_grid: int | None) -> VisualTokens:
        """See `Backbone`."""
        side = self._side(model.config.backbone_config)
        found = model.language_model.model.get_image_features(pixel_values, return_dict=True).pooler_output
        return on_grid(list(found), [(side, side)] * len(found), model.config.window, {})

    def read(self, model: Any, input_ids: Tensor, mask: Tensor | None, visual: VisualTokens) -> Reading:
        """See `Backbone`."""
        reading = read_prompt(model, input_ids, visual)
        reading.together = (input_ids == model.config.image_token_id).long()
        return reading

    def around(self, processor: LareProcessor) -> tuple[str, str, str]:
        """See `Backbone`."""
        return self.tokenizer_token(processor, _BEGIN), f"\n\n{_BEGIN}", f"{_END}\n\n"

    def pictures(
        self, processor: LareProcessor, images: Sequence[Image], **options: Any
    ) -> tuple[dict[str, Tensor], list[int]]:
        """See `Backbone`."""
        how = {"return_tensors": "pt", **options, "do_pan_and_scan": False}
        pixels = processor.image_processor(images, **how)["pixel_values"]
        return {"pixel_values": pixels}, [int(processor.backbone_settings["grid"])] * len(images)

    def image_text(self, processor: LareProcessor, grid: Any) -> str:
        """See `Backbone`; the marks around it are written with the chat template's."""
        return self.image_token(processor) * int(grid) ** 2


GEMMA3 = Gemma3()
