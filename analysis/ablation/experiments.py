"""Rows of ``lare experiments`` in the form of a file of rows: scores by question, scenes, costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lare.errors import LareError
from lare.experiments.store import read_questions, read_row, unpack

__all__ = ["experiment_rows"]


def experiment_rows(folder: Path, split: str = "validation") -> list[dict[str, Any]]:
    """Rows of an experiment's folder, seeds of several starts side by side as if they were seeds.

    Args:
        folder: ``reports/experiments/NAME``.
        split: ``validation`` or ``test``.

    Raises:
        LareError: If it holds no row of the split, or one is damaged.
    """
    paths = sorted((folder / "rows").glob(f"*.{split}.json"))
    rows = [row for path in paths if (row := read_row(path)) is not None]
    if not rows:
        raise LareError(f"{str(folder)!r} holds no {split} row; see lare experiments status, or give another --split")
    starts = sorted({str(row["start_hash"]) for row in rows})
    return [_row(row, folder, 1000 * starts.index(str(row["start_hash"])), _named(row, rows)) for row in rows]


def _named(row: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    """The arm, with the way of asking and the rate where there are several."""
    mine = [one for one in rows if one["arm"] == row["arm"]]
    name = str(row["arm"])
    if len({one["ask"] for one in mine}) > 1:
        name += f"/{row['ask']}"
    return name + (f" x{row['rate']:g}" if len({one["rate"] for one in mine}) > 1 else "")


def _row(row: Mapping[str, Any], folder: Path, first: int, name: str) -> dict[str, Any]:
    questions = read_questions(folder / "questions", str(row["questions"]))
    scores, scenes = {}, {}
    for task in questions.tasks:
        own = questions.task == task
        numbers = [str(one) for one in questions.doc[own]]
        bits = unpack(row["right"][task], int(np.sum(own)))
        scores[task] = dict(zip(numbers, bits.tolist(), strict=True))
        scenes[task] = dict(zip(numbers, questions.scene[own].tolist(), strict=True))
    further = name.removeprefix(str(row["arm"])).strip("/ ")
    return {
        "name": name,
        "title": f"{row['title']} ({further})" if further else row["title"],
        "seed": first + int(row["seed"]),
        "start": str(row["start_hash"] or f"seed {row['seed']}"),
        "claim": True,
        "fingerprint": row["fingerprint"],
        "scores": scores,
        "scenes": scenes,
        "costs": row["costs"],
        "asked": row["asked"],
    }
