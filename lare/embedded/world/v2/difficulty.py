"""How hard a question is: how many looks it takes, whether near misses stand by, whether it needs fine detail."""

from __future__ import annotations

from lare.embedded.world.concepts import SIZES
from lare.embedded.world.wording import Question

__all__ = ["LEVELS", "difficulty", "points"]

LEVELS = ("easy", "medium", "hard")
_UP_TO = (2, 4)
"""Most points of an easy and of a medium question."""
_FINE = ("digit", "size", "chain_digit", "chain_size", "larger_digit")


def points(question: Question) -> int:
    """Looks that depend on one another, or half of all looks if that is more; one more each for near misses and detail.

    Detail is a digit or a size, asked for or named; four visual tokens averaged into one hardly carry it.
    """
    looks = max(question.hops, (len(question.cells) + 1) // 2)
    words = question.stem.replace("?", " ").split()
    fine = question.family in _FINE or any(size in words for size in SIZES)
    return looks + bool(question.near) + fine


def difficulty(question: Question) -> str:
    """`easy` (up to 2 points), `medium` (3 or 4) or `hard`."""
    found = points(question)
    return LEVELS[sum(found > most for most in _UP_TO)]
