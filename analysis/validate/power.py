"""How often the suite is right about planted models: ``python -m analysis.validate.power``.

For each kind and number of questions, over seeds: how many verdicts are right, how many wrong, and how many leave the
right one open (`analysis.validate.judge.OPEN`; "undecided" leaves all open). Each seed is a new model, new questions
and new draws; smaller numbers take the first questions of the same run. The file that it writes is what the
documentation shows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.validate.judge import OPEN, judge
from analysis.validate.planted import ALSO, PLANTED, Planted, planted_questions
from analysis.validate.suite import Asking, run_suite
from lare.commands import command
from lare.errors import require
from lare.files import save_text
from lare.intervals import wilson

__all__ = ["SIZES", "error_rates", "main", "scored"]

_NAME = "python -m analysis.validate.power"

SIZES = (50, 100, 200, 300, 500)
"""Numbers of questions."""


def error_rates(sizes: Sequence[int] = SIZES, seeds: Sequence[int] = range(20)) -> list[dict[str, Any]]:
    """Verdicts by kind and number of questions.

    Args:
        sizes: Numbers of questions.
        seeds: Seeds of models, questions and draws.

    Returns:
        Rows with ``kind``, ``truth``, ``questions``, ``runs``, ``right``, ``wrong``, ``undecided``.
    """
    rows = {
        (kind, size): {
            "kind": kind,
            "truth": truth,
            "questions": size,
            "runs": 0,
            "right": 0,
            "wrong": 0,
            "undecided": 0,
        }
        for kind, truth in PLANTED.items()
        for size in sizes
    }
    for seed in seeds:
        questions = planted_questions(max(sizes), seed)
        for kind in PLANTED:
            outcomes = run_suite(Planted(kind, seed), questions, Asking(batch=len(questions), seed=seed, quiet=True))
            for size in sizes:
                verdict = judge(outcomes.take(np.arange(size))).verdict
                row: dict[str, Any] = rows[kind, size]
                row["runs"] += 1
                row[scored(kind, verdict)] += 1
    return list(rows.values())


def scored(kind: str, verdict: str) -> str:
    """Whether a verdict on a kind is "right", "undecided" or "wrong"."""
    truth = PLANTED[kind]
    if verdict == truth:
        return "right"
    return "undecided" if truth in OPEN.get(verdict, ()) or verdict in ALSO.get(kind, ()) else "wrong"


@command(_NAME)
def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=_NAME, description=__doc__.split("\n\n")[1] if __doc__ else None,
        epilog="example: python -m analysis.validate.power --seeds 20 --out reports/validate/power.json",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="models of each kind (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("reports/validate/power.json"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    require(options.seeds >= 1, f"--seeds is {options.seeds}; give at least 1")
    rows = error_rates(seeds=range(options.seeds))
    for row in rows:
        row["wrong_high"] = round(wilson(row["wrong"], row["runs"])[1], 4)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_text(options.out, json.dumps({"form": "lare-validate-power/1", "rows": rows}, indent=1) + "\n")
    for row in rows:
        counts = ", ".join(f"{row[name]} {name}" for name in ("right", "wrong", "undecided"))
        print(f"{row['kind']:8} n = {row['questions']:3}: {counts} of {row['runs']}")
    print(options.out)


if __name__ == "__main__":
    sys.exit(main())
