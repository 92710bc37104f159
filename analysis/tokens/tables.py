"""Tables and figures of the cost report (paper, Table 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.shared.cells import series
from analysis.shared.effects import cluster_contrast, ratio_of_means
from analysis.shared.report.document import Column, Figure, Table
from analysis.shared.stats import Result, cluster_difference
from analysis.shared.traces import short
from analysis.tokens.paper_table1 import CLAIM, DEFINITIONS, TABLE1, Gain, gains, reported

__all__ = ["ALL", "COUNTINGS", "QUANTITIES", "Cost", "by_task", "claim", "costs", "figures", "overall", "whole"]

ALL = "all questions"
COUNTINGS = ("own right", "both right", "all")
QUANTITIES = ("text tokens", "latent steps", "text + latent", "milliseconds")


@dataclass(frozen=True)
class Cost:
    """One quantity, counted one way, of the judged setting against another.

    Attributes:
        other: The other setting.
        task: Task, or `ALL`.
        counting: One of `COUNTINGS`.
        quantity: One of `QUANTITIES`.
        n_judged: Answers counted of the judged setting.
        n_other: Answers counted of the other.
        judged: Mean of the judged setting.
        reference: Mean of the other.
        gap: Difference, judged - other.
        change: Ratio of the means less 1; None where the other's mean is 0.
    """

    other: str
    task: str
    counting: str
    quantity: str
    n_judged: int
    n_other: int
    judged: float
    reference: float
    gap: Result
    change: Result | None


def costs(pairs: Mapping[str, pd.DataFrame], judged: str, seed: int = 0) -> list[Cost]:
    """Every quantity, counting and task against every other setting; what has no answers to count is left out."""
    found = []
    for other, items in pairs.items():
        for task, rows in [(ALL, items), *((str(task), rows) for task, rows in items.groupby("task"))]:
            found += _counts(other, task, rows, seed)
    return found


def whole(other: str, items: pd.DataFrame, seed: int = 0) -> list[Cost]:
    """Every quantity and counting over all questions of one pair of settings."""
    return _counts(other, ALL, items, seed)


def _counts(other: str, task: str, rows: pd.DataFrame, seed: int) -> list[Cost]:
    found = []
    for counting in COUNTINGS:
        left, right = _counted(rows, counting)
        if left.any() and right.any():
            found += [_cost(other, task, counting, quantity, rows, left, right, seed) for quantity in QUANTITIES]
    return found


def _counted(rows: pd.DataFrame, counting: str) -> tuple[pd.Series, pd.Series]:
    """Which answers of the judged setting and of the other are counted."""
    judged, other = rows["score_b"] >= 1, rows["score_a"] >= 1
    if counting == "own right":
        return judged, other
    both = judged & other if counting == "both right" else judged | True
    return both, both


def _values(rows: pd.DataFrame, mark: str, quantity: str) -> pd.Series:
    if quantity == "text + latent":
        return rows[f"output_tokens_{mark}"] + rows[f"latent_steps_{mark}"]
    if quantity == "milliseconds":
        return 1000 * rows[f"seconds_{mark}"]
    column = {"text tokens": "output_tokens", "latent steps": "latent_steps"}[quantity]
    return rows[f"{column}_{mark}"]


def _cost(
    other: str,
    task: str,
    counting: str,
    quantity: str,
    rows: pd.DataFrame,
    left: pd.Series,
    right: pd.Series,
    seed: int,
) -> Cost:
    b, a = _values(rows, "b", quantity)[left], _values(rows, "a", quantity)[right]
    clusters = rows["cluster"][left], rows["cluster"][right]
    same = counting != "own right" and len(b) > 1
    gap = cluster_difference(b, a, clusters[0]) if same else cluster_contrast(b, a, *clusters)
    change = ratio_of_means(b, a, *clusters, seed) if a.mean() > 0 else None
    return Cost(other, task, counting, quantity, len(b), len(a), float(b.mean()), float(a.mean()), gap, change)


def overall(rows: Sequence[Cost], judged: str) -> Table:
    """Costs over all questions."""
    chosen = tuple(_row(one) for one in rows if one.task == ALL and one.quantity != "latent steps")
    note = "'Own right' is the paper's counting; 'both right' compares the same questions."
    caption = f"Costs of an answer of {judged} against the other settings, all tasks."
    return Table("costs", caption, _columns(judged, False), chosen, note, main=True)


def by_task(rows: Sequence[Cost], judged: str) -> Table:
    """Costs task by task, with the latent steps."""
    chosen = tuple(_row(one) for one in rows)
    return Table("tasks", "The same by task, with the latent steps.", _columns(judged, True), chosen)


def _columns(judged: str, tasks: bool) -> tuple[Column, ...]:
    return (
        Column("other", "against"),
        *((Column("task", "task"),) if tasks else ()),
        Column("counting", "counted"),
        Column("quantity", "quantity"),
        Column("n_judged", f"answers, {judged}", "count"),
        Column("n_other", "answers, other", "count"),
        Column("judged", judged, "number", 2),
        Column("reference", "other", "number", 2),
        Column("gap", "difference", "number", 2),
        Column("interval", "95 % interval", "interval", 2),
        Column("p", "p", "p"),
        Column("change", "change", "percent", 1),
        Column("change_interval", "95 % interval (%)", "interval", 1),
    )


def _row(one: Cost) -> dict[str, Any]:
    change = one.change
    ends = (change.low, change.high) if change is not None and math.isfinite(change.low) else None
    return {
        "other": one.other,
        "task": one.task,
        "counting": one.counting,
        "quantity": one.quantity,
        "n_judged": one.n_judged,
        "n_other": one.n_other,
        "judged": one.judged,
        "reference": one.reference,
        "gap": one.gap.estimate,
        "interval": (one.gap.low, one.gap.high) if math.isfinite(one.gap.low) else None,
        "p": one.gap.p,
        "change": None if change is None else 100 * change.estimate,
        "change_interval": None if ends is None else (100 * ends[0], 100 * ends[1]),
    }


def claim(settings: Mapping[str, pd.DataFrame], judged: str, text: str) -> Table:
    """Readings of "+9.4 % accuracy, -16.5 % tokens", on the paper's Table 1 and on the settings here."""
    sources: dict[str, Sequence[Gain | None]] = {
        backbone: gains(reported(backbone), "LaRe", "Standard CoT") for backbone in TABLE1
    }
    for kind, latent in (("text", False), ("text + latent", True)):
        own = {name: _macro(one, latent) for name, one in settings.items()}
        sources[kind] = gains(own, judged, text)
    keys = {name: f"c{place}" for place, name in enumerate(sources)}
    rows = []
    for place, definition in enumerate(DEFINITIONS):
        row: dict[str, Any] = {"definition": definition.name}
        for name, found in sources.items():
            gain = found[place]
            row[f"{keys[name]}a"] = None if gain is None else gain.accuracy
            row[f"{keys[name]}t"] = None if gain is None else gain.tokens
        paper = [sources[backbone][place] for backbone in TABLE1]
        both = [one for one in paper if one is not None]
        row["mean_a"] = float(np.mean([one.accuracy for one in both]))
        row["mean_t"] = float(np.mean([one.tokens for one in both]))
        rows.append(row)
    columns = [Column("definition", "reading")]
    for name in sources:
        source = f"paper, {name}" if name in TABLE1 else f"here, {name} tokens"
        columns.append(Column(f"{keys[name]}a", f"{source}: accuracy", "number", 1))
        columns.append(Column(f"{keys[name]}t", f"{source}: tokens (%)", "number", 1))
    columns[5:5] = [
        Column("mean_a", "paper, mean of both: accuracy", "number", 1),
        Column("mean_t", "paper, mean of both: tokens (%)", "number", 1),
    ]
    note = (
        f"As claimed: accuracy {CLAIM[0]:+.1f} %, tokens {CLAIM[1]:+.1f} %. Tokens are of each one's own right "
        f"answers, means over tasks. Baselines here: {', '.join(name for name in settings if name != judged)}; they "
        "are settings of one set of weights, so their mean is no counterpart of the paper's seven methods."
    )
    return Table("claim", "What the abstract's two numbers may mean.", tuple(columns), tuple(rows), note)


def _macro(table: pd.DataFrame, latent: bool) -> tuple[float, float]:
    """Accuracy in percent and tokens of right answers, means over tasks; a task without right answers has no tokens."""
    tokens = table["output_tokens"] + (table["latent_steps"] if latent else 0)
    accuracy = (table["score"] >= 1).groupby(table["task"]).mean().mean()
    right = tokens[table["score"] >= 1].groupby(table["task"]).mean()
    return 100 * float(accuracy), float(right.mean())


def figures(rows: Sequence[Cost], judged: str) -> tuple[Figure, ...]:
    """Differences by task, and how the counting changes them."""
    found = []
    for other in dict.fromkeys(one.other for one in rows):
        text = [one for one in rows if (one.other, one.quantity) == (other, "text tokens")]
        curves = []
        for counting in COUNTINGS:
            chosen = [one for one in text if one.counting == counting]
            curves.append(series(counting, [short(one.task) for one in chosen], [one.gap for one in chosen]))
        words = f"Text tokens of {judged} less those of {other}, by task and way of counting, with 95 % intervals."
        title = f"Text tokens, {judged} - {other}"
        found.append(Figure(f"gap-{other}", title, words, "intervals", tuple(curves), "tokens", "", 0.0))
    return tuple(found)
