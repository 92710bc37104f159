"""DAQUAR: human questions about indoor photographs (Malinowski and Fritz 2014).

A row is ``{"image", "question", "answer"}``; an answer is a word, a number, or a list divided by commas, and joins the
words of a name with underscores. The file is read from a folder that the user names and is no part of this project.
"""

from __future__ import annotations

import re
from typing import Any

from lare.data.fields import image_field, text_field
from lare.data.sample import Sample

__all__ = ["DAQUAR_FAMILIES", "parse_daquar"]

DAQUAR_FAMILIES = ("number", "colour", "thing")
"""Question families, told by the question alone."""

_COLOUR = re.compile(r"\bcolou?rs?\b")
_HINT = "Answer with a word, a number, or a list."


def parse_daquar(row: Any) -> list[Sample]:
    """Turn a DAQUAR row into a sample.

    Raises:
        BadRow: If a field is missing.
    """
    question, answer, image = text_field(row, "question"), text_field(row, "answer"), image_field(row)
    answer = ", ".join(one.strip().replace("_", " ") for one in answer.split(",") if one.strip())
    return [Sample("", f"{question}\n{_HINT}", answer, image=image, family=_family(question.lower()), hops=1)]


def _family(question: str) -> str:
    if question.startswith("how many"):
        return "number"
    return "colour" if _COLOUR.search(question) else "thing"
