"""``lare compare JUDGED OTHER``: the report of `analysis.compare`, with the two runs as plain words."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from analysis.compare.page import main as report
from lare.errors import LareError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lare compare``; every option of ``python analysis/compare.py`` may follow the two runs.

    Raises:
        LareError: If there is one run, or more than two.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    count = next((place for place, word in enumerate(words) if word.startswith("-")), len(words))
    if count not in (0, 2):
        raise LareError(f"lare compare takes two runs, got {count}; give the judged one, then the other")
    return report(["--runs", *words] if count else words)
