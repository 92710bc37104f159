"""Tables and figures of the comparison of two evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.shared.cells import series
from analysis.shared.effects import combine
from analysis.shared.report.document import Column, Figure, Series, Table
from analysis.shared.stats import (
    Result,
    cluster_difference,
    cluster_mean,
    holm,
    mcnemar,
    minimum_detectable,
    standard_error,
    wilson,
)
from analysis.shared.traces import short

__all__ = ["MACRO_ALL", "accuracies", "by_category", "by_hops", "cells", "figures", "five_points", "macro", "tests"]

ALL, MACRO, MACRO_ALL = "all questions", "mean of tasks", "mean of all tasks"


def _tasks(items: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for task, rows in items.groupby("task", sort=True):
        yield str(task), rows


def _difference(rows: pd.DataFrame) -> Result:
    return cluster_difference(rows["score_b"], rows["score_a"], rows["cluster"])


def macro(items: pd.DataFrame) -> Result:
    """Difference as the mean over tasks, each task counting alike."""
    return combine([_difference(rows) for _, rows in _tasks(items)])


def _binary(rows: pd.DataFrame) -> bool:
    return bool(rows[["score_a", "score_b"]].isin([0, 1]).all(axis=None))


def _by_task(items: pd.DataFrame, aside: Sequence[str] = ()) -> tuple[dict[str, Any], ...]:
    """Accuracies, paired differences and tests: a row a task, then all questions and the mean of tasks that remain."""
    parts = list(_tasks(items))
    gaps = [_difference(rows) for _, rows in parts]
    exact = [mcnemar(rows["score_b"], rows["score_a"]).p if _binary(rows) else None for _, rows in parts]
    middle = [mcnemar(rows["score_b"], rows["score_a"], mid=True).p if _binary(rows) else None for _, rows in parts]
    adjusted = holm([gap.p for gap in gaps])
    rows = [
        {**_accuracy(task, part, gap), "mcnemar": exact[place], "mid": middle[place], "holm": adjusted[place]}
        for place, ((task, part), gap) in enumerate(zip(parts, gaps, strict=True))
    ]
    if len(parts) > 1:
        whole = _difference(items)
        rows.append(_accuracy(ALL, items, whole))
        kept = [part for part in zip(parts, gaps, strict=True) if part[0][0] not in aside]
        rows.append(_mean_of_tasks(MACRO, [part for (_, part), _ in kept], [gap for _, gap in kept]))
        if aside:
            rows.append(_mean_of_tasks(MACRO_ALL, [part for _, part in parts], gaps))
    return tuple(rows)


def _mean_of_tasks(name: str, parts: Sequence[pd.DataFrame], gaps: Sequence[Result]) -> dict[str, Any]:
    mean = combine(gaps)
    shares = {f"share_{mark}": 100 * float(np.mean([part[f"score_{mark}"].mean() for part in parts])) for mark in "ab"}
    return {"task": name, "n": mean.n, "clusters": mean.clusters, **shares, **_gap(mean)}


def accuracies(items: pd.DataFrame, names: tuple[str, str], aside: Sequence[str] = ()) -> Table:
    """Accuracy of both and the paired difference, for every task."""
    columns = _accuracy_columns(names, "task", "text")
    return Table(
        "accuracy",
        "Accuracy and paired difference by task.",
        columns,
        _whole(columns, _by_task(items, aside)),
        main=True,
    )


def tests(items: pd.DataFrame, names: tuple[str, str], aside: Sequence[str] = ()) -> Table:
    """Tests of the difference, what could have been seen, and answers that could not be read, for every task."""
    columns = (
        Column("task", "task"),
        Column("gap", f"{names[1]} - {names[0]} (points)", "number", 1),
        Column("p", "p", "p", 2, "Cluster-robust t of the paired difference."),
        Column("holm", "p, Holm", "p", 2, "Over the tasks."),
        Column("mcnemar", "McNemar exact", "p", 2, "Questions as independent."),
        Column("mid", "McNemar mid-p", "p"),
        Column("detectable", "smallest difference seen (points)", "number", 1, "80 % power at 5 %."),
        Column("unread_a", f"not readable, {names[0]}", "percent", 1),
        Column("unread_b", f"not readable, {names[1]}", "percent", 1),
    )
    return Table("tests", "Tests of the difference.", columns, _whole(columns, _by_task(items, aside)))


def _whole(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Rows with None where a column has no value."""
    return tuple({column.key: row.get(column.key) for column in columns} for row in rows)


def _accuracy(task: str, rows: pd.DataFrame, gap: Result) -> dict[str, Any]:
    found: dict[str, Any] = {"task": task, "n": gap.n, "clusters": gap.clusters}
    for mark in "ab":
        scores = rows[f"score_{mark}"]
        found[f"share_{mark}"] = 100 * float(scores.mean())
        if _binary(rows):
            low, high = wilson(float(scores.sum()), len(scores))
            found[f"interval_{mark}"] = (100 * low, 100 * high)
        found[f"unread_{mark}"] = 100 * float(rows[f"unreadable_{mark}"].mean())
    return {**found, **_gap(gap)}


def _gap(gap: Result) -> dict[str, Any]:
    known = math.isfinite(gap.low)
    return {
        "gap": 100 * gap.estimate,
        "interval": (100 * gap.low, 100 * gap.high) if known else None,
        "p": gap.p,
        "detectable": 100 * minimum_detectable(gap) if known else None,
    }


def _accuracy_columns(names: tuple[str, str], first: str, kind: str) -> tuple[Column, ...]:
    a, b = names
    return (
        Column("task", first, kind),
        Column("n", "questions", "count"),
        Column("clusters", "clusters", "count"),
        Column("share_a", a, "percent", 1),
        Column("interval_a", "95 % (Wilson)", "interval", 1, "In percent; questions as independent."),
        Column("share_b", b, "percent", 1),
        Column("interval_b", "95 % (Wilson)", "interval", 1, "In percent; questions as independent."),
        Column("gap", f"{b} - {a} (points)", "number", 1),
        Column("interval", "95 % interval", "interval", 1, "Cluster-robust, paired."),
    )


def by_hops(items: pd.DataFrame, names: tuple[str, str]) -> Table | None:
    """Accuracy and paired difference by how many steps a question needs; None where nothing says."""
    if "hops" not in items or items["hops"].isna().any():
        return None
    rows = []
    for hops, part in items.groupby("hops", sort=True):
        gap = _difference(part)
        rows.append({**_accuracy(str(hops), part, gap), "task": int(str(hops))})
    columns = _accuracy_columns(names, "steps needed", "count")
    note = "All tasks together; which tasks a row holds differs, so rows mix difficulty and kind of question."
    return Table("hops", "The same by the number of steps that a question needs.", columns, _whole(columns, rows), note)


def by_category(items: pd.DataFrame, names: tuple[str, str]) -> Table | None:
    """Accuracy and paired difference by the benchmarks' own categories; None where nothing says."""
    rows = [
        {**_accuracy(str(category), part, _difference(part)), "benchmark": task, "by": by}
        for (task, by, category), part in _units(items).groupby(["task", "by", "category"], sort=True)
    ]
    if not rows:
        return None
    columns = (
        Column("benchmark", "task"),
        Column("by", "divided by"),
        *_accuracy_columns(names, "category", "text"),
    )
    note = "A pair of MMVP and a circular question of MMBench count once, and are right when all of them is."
    title = "The same by the benchmarks' own categories."
    return Table("categories", title, columns, _whole(columns, rows), note)


def _units(items: pd.DataFrame) -> pd.DataFrame:
    """A row a category and unit (`lare_eval.categories`), with the least score of the unit's questions."""
    placed = items.assign(place=[a or b for a, b in zip(items["places_a"], items["places_b"], strict=True)])
    placed = placed.explode("place").dropna(subset="place")
    for at, name in enumerate(("by", "category", "unit")):
        placed[name] = [place[at] for place in placed["place"]]
    keys = ["task", "by", "category", "unit"]
    least = {f"{name}_{mark}": "min" for name in ("score", "unreadable") for mark in "ab"}
    return placed.groupby(keys, as_index=False).agg(least | {"cluster": "first"})


def cells(items: pd.DataFrame, names: tuple[str, str]) -> Table:
    """The four cells: both right, only one, neither."""
    a, b = names
    rows = []
    for task, part in (*_tasks(items), (ALL, items)):
        left, right = part["score_a"] >= 1, part["score_b"] >= 1
        rows.append(
            {
                "task": task,
                "both": int((left & right).sum()),
                "only_b": int((right & ~left).sum()),
                "only_a": int((left & ~right).sum()),
                "neither": int((~left & ~right).sum()),
                "n": len(part),
            }
        )
    columns = (
        Column("task", "task"),
        Column("both", "both right", "count"),
        Column("only_b", f"only {b}", "count"),
        Column("only_a", f"only {a}", "count"),
        Column("neither", "neither", "count"),
        Column("n", "questions", "count"),
    )
    return Table("cells", "Who was right.", columns, tuple(rows))


def five_points(items: pd.DataFrame, names: tuple[str, str]) -> Table:
    """Miller's five points as rows, tasks as columns; in points."""
    a, b = names
    parts = [*_tasks(items), (ALL, items)]
    found: dict[str, dict[str, Any]] = {}
    for place, (_, rows) in enumerate(parts):
        key = f"t{place}"
        gap, left, right = (_difference(rows), *(cluster_mean(rows[f"score_{m}"], rows["cluster"]) for m in "ab"))
        plain = [cluster_mean(rows[f"score_{mark}"]) for mark in "ab"]
        correlation = _correlation(rows)
        paired = _error(gap)
        told = {
            f"1. standard error of {a}": _error(plain[0]),
            f"1. standard error of {b}": _error(plain[1]),
            f"2. clustered standard error of {a}": _error(left),
            f"2. clustered standard error of {b}": _error(right),
            "3. answers to a question (variance within questions needs 2)": 1.0,
            "4. standard error of the difference, unpaired": math.hypot(_error(left), _error(right)),
            "4. standard error of the difference, paired": paired,
            "4. correlation of the two runs' scores (no unit)": correlation,
            "5. smallest difference seen with 80 % power": 100 * minimum_detectable(gap),
            "5. questions needed to see 1 point (no unit)": _needed(gap),
        }
        for name, value in told.items():
            found.setdefault(name, {"point": name})[key] = value if value is not None and math.isfinite(value) else None
    columns = (
        Column("point", "point (in points of accuracy)"),
        *(Column(f"t{place}", short(task), "number", 2) for place, (task, _) in enumerate(parts)),
    )
    note = "With more than one sampled answer a question, point 3 would cut the variance; greedy answers come once."
    return Table("five", "Five points on error bars (Miller, 2024).", columns, tuple(found.values()), note)


def _error(result: Result) -> float:
    """Standard error in points."""
    return 100 * standard_error(result)


def _correlation(rows: pd.DataFrame) -> float | None:
    left, right = rows["score_a"].to_numpy(float), rows["score_b"].to_numpy(float)
    return float(np.corrcoef(left, right)[0, 1]) if left.std() > 0 and right.std() > 0 else None


def _needed(gap: Result) -> float:
    """Questions at which one point is the smallest difference seen, the clusters' sizes staying as they are."""
    return gap.n * (100 * minimum_detectable(gap)) ** 2


def figures(items: pd.DataFrame, names: tuple[str, str], aside: Sequence[str] = ()) -> tuple[Figure, ...]:
    """Differences and accuracies by task, with intervals."""
    parts = list(_tasks(items))
    gaps = [(short(task), _difference(rows)) for task, rows in parts]
    if len(parts) > 1:
        gaps.append((MACRO, macro(items[~items["task"].isin(list(aside))])))
    difference = series(f"{names[1]} - {names[0]}", [task for task, _ in gaps], [gap for _, gap in gaps], 100)
    bars = []
    for mark, name in zip("ab", names, strict=True):
        ends = [wilson(float(rows[f"score_{mark}"].sum()), len(rows)) for _, rows in parts]
        bars.append(
            Series(
                name,
                tuple(short(task) for task, _ in parts),
                tuple(100 * float(rows[f"score_{mark}"].mean()) for _, rows in parts),
                tuple(100 * low for low, _ in ends),
                tuple(100 * high for _, high in ends),
            )
        )
    words = "Paired difference of accuracy by task with its 95 % cluster-robust interval; 0 means no difference."
    shown = "Accuracy by task with 95 % Wilson intervals."
    title = f"Difference in points, {names[1]} - {names[0]}"
    return (
        Figure("differences", title, words, "intervals", (difference,), "points of accuracy", "", 0.0),
        Figure("accuracies", "Accuracy", shown, "bars", tuple(bars), "", "accuracy (%)"),
    )
