"""What every data source is turned into, and what is said of a row that can't be."""

from __future__ import annotations

from dataclasses import dataclass

from lare.errors import LareError

__all__ = ["BadRow", "Problem", "Sample"]


@dataclass(frozen=True)
class Sample:
    """One question about one image, or about none.

    Attributes:
        id: The row's own id, or its number; turns of one conversation share it up to a "#turn" ending.
        question: The question's text, without image tokens.
        answer: The answer's text, without a rationale.
        rationale: What is thought before the answer; "" where the source has none.
        image: Name of the image inside the source's image folder, its encoded bytes, or None.
        history: Earlier (question, answer) pairs of the same conversation.
        system: The conversation's system prompt, or "".
        where: File and row, for messages.
    """

    id: str
    question: str
    answer: str
    rationale: str = ""
    image: str | bytes | None = None
    history: tuple[tuple[str, str], ...] = ()
    system: str = ""
    where: str = ""


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
