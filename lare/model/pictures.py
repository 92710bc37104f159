"""Pictures as they came, beside their pixels: for a model that cuts windows out of them (`lare.model.closer`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FINER", "PICTURES", "Eyes", "Pictures"]

PICTURES = "pictures"
"""Name of the input that holds them, beside ``pixel_values``."""
FINER = "finer"
"""Name of the factor in `LareProcessor.backbone_settings`; where it stands, the processor hands the pictures over."""


@dataclass(frozen=True)
class Eyes:
    """What a backbone's processor half needs to make pixels; a processor without its tokenizer, so that it is light.

    Attributes:
        image_processor: The family's own.
        backbone_settings: As `LareProcessor` has them.
    """

    image_processor: Any
    backbone_settings: Mapping[str, Any]


@dataclass(frozen=True)
class Pictures:
    """I pictures as they came, and what makes pixels of a part of one.

    Attributes:
        images: RGB pictures.
        eyes: Makes pixels.
    """

    images: Sequence[Image]
    eyes: Eyes

    def taken(self, rows: Tensor) -> Pictures:
        """Those of some images, by number."""
        return Pictures([self.images[row] for row in rows.tolist()], self.eyes)
