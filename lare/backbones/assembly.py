"""LaRe's own assembly as a backbone: a frozen encoder, a projector, and a causal decoder (the paper's CLIP and LM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lare.model.backbone import Backbone
from lare.model.families import attention_of, own_logits
from lare.model.processing_lare import IMAGE_PLACEHOLDER, IMAGE_TOKEN
from lare.model.vision import Projector, VisionTower, VisualTokens

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.model.configuration_lare import LareConfig
    from lare.model.processing_lare import LareProcessor

__all__ = ["ASSEMBLY", "Assembly"]


class Assembly(Backbone):
    """Square pictures on a square grid, which all images share; positions simply count on."""

    encoder = ("vision_tower.",)
    projector = ("projector.",)

    def parts(self, config: LareConfig) -> dict[str, nn.Module | None]:
        """See `Backbone`."""
        text, hidden = config.text_config, int(config.text_config.hidden_size)
        visual, own = VisionTower.width(config.vision_config), config.refocus_source == "fine"
        tower, projector = VisionTower(config), Projector(visual, hidden, config.projector_dim)
        refocus = Projector(visual, hidden, config.projector_dim) if own and not config.shared_projector else None
        attention = attention_of(text, config._attn_implementation)
        decoder = AutoModelForCausalLM.from_config(text, attn_implementation=attention)
        return {
            "vision_tower": tower,
            "projector": projector,
            "refocus_projector": refocus,
            "language_model": decoder,
        }

    def decoder(self, model: Any) -> nn.Module:
        """See `Backbone`."""
        return cast(nn.Module, model.language_model.get_decoder())

    def logits(self, model: Any, hidden: Tensor) -> Tensor:
        """By the language model's own head with all its factors."""
        return own_logits(model.language_model, model._decoder_path, hidden)

    def see(self, model: Any, pixel_values: Tensor, extra: Mapping[str, Tensor], lm_grid: int | None) -> VisualTokens:
        """See `Backbone`."""
        return cast(VisualTokens, model.encode_features(model.vision_tower(pixel_values), lm_grid))

    def image_token(self, processor: LareProcessor) -> str:
        """See `Backbone`."""
        return IMAGE_TOKEN

    def around(self, processor: LareProcessor) -> tuple[str, str, str]:
        """See `Backbone`."""
        return IMAGE_PLACEHOLDER, "", ""

    def pictures(
        self, processor: LareProcessor, images: Sequence[Image], **options: Any
    ) -> tuple[dict[str, Tensor], list[Any]]:
        """See `Backbone`."""
        made = processor.image_processor(images, **{"return_tensors": "pt", **options})
        return {"pixel_values": made["pixel_values"]}, [processor.lm_grid] * len(images)

    def image_text(self, processor: LareProcessor, grid: Any) -> str:
        """See `Backbone`."""
        return IMAGE_TOKEN * int(grid) ** 2


ASSEMBLY = Assembly()
