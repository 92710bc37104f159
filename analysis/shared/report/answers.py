"""The answer that stands first in a report: one plain sentence, a short verdict, and the paper's claim beside it.

An analysis says it from the tables of its report, so the same function answers a report that was just computed and one
that is read from JSON, also of before reports had answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from analysis.shared.report.document import Claim, Document

__all__ = ["MOST_NUMBERS", "MOST_WORDS", "Answer", "answered", "aside", "columns", "numbers", "row", "span"]

MOST_WORDS, MOST_NUMBERS = 40, 3
"""What a verdict may have."""

_NUMBER = re.compile(r"(?<![A-Za-z0-9.])[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?![A-Za-z])")


@dataclass(frozen=True)
class Answer:
    """What a report says first.

    Attributes:
        question: What is asked, in common words.
        answer: One plain sentence.
        verdict: At most `MOST_WORDS` words and `MOST_NUMBERS` numbers.
        claim: The paper's; None where it has none.
        figure: Id of the figure that shows it, which then stands first; empty leaves their order.
    """

    question: str
    answer: str
    verdict: str
    claim: Claim | None = None
    figure: str = ""


def answered(document: Document, answer: Callable[[Document], Answer]) -> Document:
    """Give a report its answer; what was its verdict is kept among its details.

    Args:
        document: The report; one that has an answer stays as it is.
        answer: Says it from the report's tables, and raises LookupError where they don't hold what it needs: the
            report then stays without one.
    """
    if document.answer:
        return document
    try:
        found = answer(document)
    except LookupError:
        return document
    details = (*((document.verdict,) if document.verdict else ()), *document.details)
    first = {"question": found.question, "answer": found.answer, "verdict": found.verdict, "claim": found.claim}
    figures = (
        tuple(sorted(document.figures, key=lambda one: one.id != found.figure)) if found.figure else document.figures
    )
    return replace(document, details=details, figures=figures, **first)  # type: ignore[arg-type]


def row(document: Document, table: str, **values: Any) -> Mapping[str, Any]:
    """The first row of a table whose columns have these values.

    Raises:
        LookupError: If there is none.
    """
    for one in document.tables:
        if one.id == table:
            for line in one.rows:
                if all(line.get(key) == value for key, value in values.items()):
                    return line
    raise LookupError(f"table {table!r} has no row {values}")


def columns(document: Document, table: str) -> Mapping[str, str]:
    """Key to label of a table's columns.

    Raises:
        LookupError: If there is no such table.
    """
    for one in document.tables:
        if one.id == table:
            return {column.key: column.label for column in one.columns}
    raise LookupError(f"there is no table {table!r}")


def aside(document: Document, table: str = "apart") -> str:
    """A closing sentence where a task that moves against the rest is set aside, or disputed; empty where none is.

    The change with that task stands in the details.

    Args:
        document: The report.
        table: Id of the table that says so.
    """
    rows = [line for one in document.tables if one.id == table for line in one.rows]
    names = [str(line["task"]) for line in rows if line.get("fate") == "set aside"]
    if names:
        return f"Set aside: {', '.join(names)}, against the rest."
    return "One task moves otherwise: see the warnings." if any(line.get("fate") for line in rows) else ""


def span(interval: Any) -> tuple[float, float]:
    """Both ends of an interval in a table.

    Raises:
        LookupError: If one is missing.
    """
    if interval is None or len(interval) != 2 or None in tuple(interval):
        raise LookupError("an interval is missing")
    return float(interval[0]), float(interval[1])


def numbers(text: str) -> list[str]:
    """Numbers in a sentence; digits within a name (K4, L2) are none."""
    return _NUMBER.findall(text)
