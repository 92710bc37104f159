"""The world's questions as samples: what a method that makes its own examples gets to see of them."""

from __future__ import annotations

from typing import NamedTuple

from lare.data.sample import Box, Sample
from lare.embedded.world.items import Item
from lare.embedded.world.scene import SIDE

__all__ = ["Asked", "boxes_of", "sample_of"]


class Asked(NamedTuple):
    """The texts of a question.

    Attributes:
        question: What is asked.
        rationale: Its rationale.
        answer: Its answer.
        boxes: What each step of the rationale needs.
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
