"""Boxes of what a question is about, as a task's rows and traces hold them."""

from __future__ import annotations

import json
from typing import Any

from lare.errors import LareError

__all__ = ["box_shares"]


def box_shares(value: Any, size: tuple[float, float], where: str) -> tuple[tuple[float, ...], ...]:
    """Boxes (left, top, right, bottom) as shares of the picture.

    Args:
        value: A list of boxes, or its JSON text; None for none. A box is in pixels, or in shares where no number
            is above 1; a step that needs none has null and is left out.
        size: Width and height of the picture in pixels.
        where: For the message.

    Raises:
        LareError: If it is no list of boxes.
    """
    if value is None:
        return ()
    try:
        found = json.loads(value) if isinstance(value, str) else value
        width, height = size
        boxes = [(float(a), float(b), float(c), float(d)) for a, b, c, d in (one for one in found if one is not None)]
        return tuple(
            one if max(one) <= 1 else (one[0] / width, one[1] / height, one[2] / width, one[3] / height)
            for one in boxes
        )
    except (ValueError, TypeError):
        raise LareError(f"{where} has unreadable boxes ({value!r}); write [[left, top, right, bottom]]") from None
