"""Boxes of what a question is about, as a task's rows and traces hold them."""

from __future__ import annotations

import json
from typing import Any

from lare.errors import LareError

__all__ = ["box_shares"]


def box_shares(value: Any, size: tuple[float, float], where: str) -> tuple[tuple[float, ...], ...]:
    """Boxes (left, top, right, bottom) as shares of the picture.

    Args:
        value: A list of boxes in pixels, or its JSON text; None for none.
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
        return tuple((float(a) / width, float(b) / height, float(c) / width, float(d) / height) for a, b, c, d in found)
    except (ValueError, TypeError):
        raise LareError(f"{where} has unreadable boxes ({value!r}); write [[left, top, right, bottom]]") from None
