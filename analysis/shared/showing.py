"""Pictures as reports hold them: a JPEG or PNG in base64."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from analysis.shared.report.document import Picture

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["picture"]


def picture(image: Image, alt: str = "The picture that the question is about", quality: int = 80) -> Picture:
    """A picture for a `Sample`, as JPEG.

    Args:
        image: RGB.
        alt: What it shows.
        quality: JPEG quality, 1 to 95.
    """
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return Picture(alt, base64.b64encode(buffer.getvalue()).decode("ascii"))
