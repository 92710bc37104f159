"""What every data source is turned into: samples; and the error of a row that can't be one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from lare.errors import LareError

__all__ = ["TURNS", "BadRow", "Box", "Problem", "Sample", "Turn", "take_turns"]

TURNS = ("all", "last", "each")
"""Ways to use a conversation: one sample that answers every turn, or only the last; or a sample for each turn."""


Box = tuple[float, float, float, float]
"""Left, top, right and bottom as shares of the image."""


class Turn(NamedTuple):
    """A question and its answer.

    Attributes:
        question: The question's text, without image tokens.
        answer: The answer's text, without a rationale.
        rationale: The reasoning before the answer, or "".
    """

    question: str
    answer: str
    rationale: str = ""


@dataclass(frozen=True)
class Sample:
    """One question about one image, or about none, and the turns that follow it.

    Attributes:
        id: The row's own id, or its number; single turns of one conversation share it up to a "#turn" ending.
        question: The question's text, without image tokens.
        answer: The answer's text, without a rationale.
        rationale: The reasoning before the answer; "" where the source has none.
        image: Name of the image inside the source's image folder, its encoded bytes, or None.
        history: Earlier (question, answer) pairs of the same conversation, which are read only.
        later: Turns that follow and are answered too.
        system: The conversation's system prompt, or "".
        where: File and row, for messages.
        boxes: The part of the image that each step of the rationale needs: left, top, right and bottom as shares of the
            image, or None for a step that needs none; empty where the source has no boxes.
        scene_graph: The things in the image and their relations, as text, or "".
        family: Name of the kind of question, where the source tells several apart, or "".
        hops: Number of looks that depend on one another (1 for a plain one); 0 where the source tells nothing.
    """

    id: str
    question: str
    answer: str
    rationale: str = ""
    image: str | bytes | None = None
    history: tuple[tuple[str, str], ...] = ()
    later: tuple[Turn, ...] = ()
    system: str = ""
    where: str = ""
    boxes: tuple[Box | None, ...] = ()
    scene_graph: str = ""
    family: str = ""
    hops: int = 0


def take_turns(sample: Sample, which: str) -> Sequence[Sample]:
    """A conversation as samples; boxes belong to the rationale of its first turn.

    Args:
        sample: A conversation from its first turn on.
        which: One of `TURNS`.
    """
    if which == "all" or not sample.later:
        return [sample]
    turns = [Turn(sample.question, sample.answer, sample.rationale), *sample.later]
    told = [(turn.question, turn.answer) for turn in turns]
    chosen = range(len(turns) - 1 if which == "last" else 0, len(turns))
    return [
        replace(
            sample,
            id=f"{sample.id}#{at}",
            **turns[at]._asdict(),
            history=tuple(told[:at]),
            later=(),
            boxes=() if at else sample.boxes,
        )
        for at in chosen
    ]


class BadRow(LareError):
    """A row that can't become a sample.

    Attributes:
        kind: A short name that counts are kept under, such as ``empty_answer``.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Problem:
    """A bad row as it is counted and listed."""

    where: str
    kind: str
    message: str
