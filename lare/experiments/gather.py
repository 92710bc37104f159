"""Rows of a grid, brought together: each arm, asked in one way, over starts and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lare.errors import LareError
from lare.experiments.compare import Asked
from lare.experiments.order import chosen_rate
from lare.experiments.plan import Plan
from lare.experiments.store import Slot, done, read_questions, read_row, rows_of, unpack

__all__ = ["Entry", "entry", "gather", "left_out"]


@dataclass(frozen=True)
class Entry:
    """One line of a table.

    Attributes:
        asked: Its right and wrong answers.
        title: Its title in tables.
        rows: Its rows.
        tuned: Whether its learning rate was chosen among several.
        rates: How many it was chosen among, or was to be when the first row was written.
    """

    asked: Asked
    title: str
    rows: tuple[Mapping[str, Any], ...]
    tuned: bool
    rates: int

    @property
    def name(self) -> str:
        """``arm`` or ``arm/ask``."""
        return self.asked.name

    def mean(self, *path: str) -> float | None:
        """Mean over rows of a number inside them; None where a row lacks it."""
        values: list[Any] = list(self.rows)
        for step in path:
            values = [one.get(step) if isinstance(one, Mapping) else None for one in values]
        return None if any(one is None for one in values) else float(np.mean(values))


def gather(plan: Plan, split: str) -> list[Entry]:
    """Every arm and way of asking that has rows, in the grid's order, at the learning rate that was chosen.

    Raises:
        LareError: If a row is damaged, or one arm's rows were asked different questions.
    """
    found, times = [], read_row(plan.out / "times.json") or {}
    for arm, about in plan.grid.arms.items():
        rate = chosen_rate(plan, arm)
        runs = plan.arm_runs(arm, 1.0 if rate is None else rate)
        for ask in about.asks:
            rows = [row for run in runs if (row := done(plan, Slot(run, ask, split))) is not None]
            if rows:
                name, title = (arm, about.title or arm) if ask == about.own else (f"{arm}/{ask}", "")
                title = title or f"{about.title or arm} ({ask})"
                tuned = rate is not None and len(plan.tried) > 1
                timed = [{**row, "ms": times.get(name)} for row in rows]
                rates = len(plan.tried) if tuned else len(rows[0]["tried"])
                found.append(Entry(_asked(plan, name, rows), title, tuple(timed), tuned, rates))
    return found


def _asked(plan: Plan, name: str, rows: Sequence[Mapping[str, Any]]) -> Asked:
    digests = {str(row["questions"]) for row in rows}
    if len(digests) > 1:
        raise LareError(f"rows of {name} were asked different questions; delete the older ones and ask anew")
    questions = read_questions(plan.out / "questions", digests.pop())
    # Without starts every seed is one of its own.
    labels = [str(row["start_hash"] or f"seed {row['seed']}") for row in rows]
    starts = tuple(dict.fromkeys(labels))
    bits = [
        np.concatenate([unpack(row["right"][task], int((questions.task == task).sum())) for task in questions.tasks])
        for row in rows
    ]
    values = [np.mean([bit for bit, label in zip(bits, labels, strict=True) if label == one], axis=0) for one in starts]
    return Asked(name, starts, np.stack(values), questions)


def entry(entries: Sequence[Entry], plan: Plan, name: str) -> Entry:
    """The entry of ``arm`` or ``arm/ask``.

    Raises:
        LareError: If the grid has none, or it has no rows yet.
    """
    arm, ask = plan.grid.row_of(name)
    full = arm if ask == plan.grid.arms[arm].own else f"{arm}/{ask}"
    for one in entries:
        if one.name == full:
            return one
    raise LareError(f"{name} has no rows yet; see lare experiments status {plan.file}")


def left_out(plan: Plan, split: str, entries: Sequence[Entry]) -> int:
    """Rows in the experiment's folder that stand in no entry and tune nothing: of other settings or earlier arms."""
    used = {(row["arm"], row["start"], row["seed"], row["rate"], row["ask"]) for one in entries for row in one.rows}
    tuning = {
        (arm, run.start, run.seed, run.rate, about.own)
        for arm, about in plan.grid.arms.items()
        for runs in plan.tuning_runs(arm).values()
        for run in runs
    }
    every = [(row["arm"], row["start"], row["seed"], row["rate"], row["ask"]) for row in rows_of(plan, split)]
    return sum(one not in used | tuning for one in every)
