"""The world's questions as samples, for methods that make their own examples from samples."""

from __future__ import annotations

from typing import NamedTuple

from lare.data.sample import Box, Sample
from lare.embedded.world.items import Item
from lare.embedded.world.scene import SIDE

__all__ = ["Asked", "boxes_of", "sample_of"]


class Asked(NamedTuple):
    """The texts of a question.

    Attributes:
        question: The question.
        rationale: Its rationale.
        answer: Its answer.
        boxes: Box that each step of the rationale needs; None for a step that needs none.
    """

    question: str
    rationale: str
    answer: str
    boxes: tuple[Box | None, ...]


def boxes_of(item: Item) -> tuple[Box | None, ...]:
    """The cell that each step needs, as left, top, right and bottom in shares of the picture."""
    found = []
    for cell in item.question.cells:
        top, left = divmod(cell, SIDE)
        found.append((left / SIDE, top / SIDE, (left + 1) / SIDE, (top + 1) / SIDE))
    return tuple(found)


def sample_of(item: Item) -> Sample:
    """A question as a sample."""
    rationale = " ".join(item.question.rationale)
    return Sample("", item.prompt, item.final, rationale, boxes=boxes_of(item), scene_graph=item.scene_graph())
