"""Boxes as text: ``[left top right bottom]`` in percent of the picture. This module needs no torch."""

from __future__ import annotations

import re

from lare.methods.layout import Box

__all__ = ["WHOLE", "box_asked", "enlarged", "read_box", "words_of"]

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
"""The whole picture."""
_BRACKETS = re.compile(r"\[([^\[\]]*)\][^\]]*$")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def words_of(box: Box) -> str:
    """A box as the model writes it."""
    return f" [{' '.join(str(round(100 * side)) for side in box)}]"


def read_box(inside: str) -> Box | None:
    """The box that stands between brackets; None if it is none."""
    sides = [float(one) / 100 for one in _NUMBER.findall(inside)[:5]]
    if len(sides) != 4 or not (0 <= sides[0] < sides[2] <= 1 and 0 <= sides[1] < sides[3] <= 1):
        return None
    return sides[0], sides[1], sides[2], sides[3]


def enlarged(box: Box, factor: float) -> Box:
    """A box of so many times the width and height around the same centre, inside the picture."""
    left, top, right, bottom = box
    across, down = (right - left) * (factor - 1) / 2, (bottom - top) * (factor - 1) / 2
    return max(0.0, left - across), max(0.0, top - down), min(1.0, right + across), min(1.0, bottom + down)


def box_asked(text: str) -> str | None:
    """What stands between the brackets that a text ends in; None without them, and in the answer itself."""
    found = None if "Answer:" in text else _BRACKETS.search(text)
    return None if found is None else found[1]
