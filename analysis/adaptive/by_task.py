"""Adaptive stopping with the tasks apart: the K curve and every rule by task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.adaptive.stopping import Prefixes, at_stop, rule_label
from analysis.adaptive.tables import Judged
from analysis.shared.cells import interval, series
from analysis.shared.report.document import Column, Figure, Table
from analysis.shared.stats import cluster_difference, cluster_mean
from analysis.shared.tasks import Apart, find_apart
from analysis.shared.traces import short

__all__ = ["curve_by_task", "curve_figure", "moves_by_steps", "rules_by_task"]

Rows = npt.NDArray[np.bool_]


def moves_by_steps(made: Prefixes) -> Apart:
    """Which tasks move against the rest along the number of steps."""
    return find_apart(made.right, made.task, made.scene, [f"{t} steps" for t in range(made.most + 1)])


def _groups(made: Prefixes, apart: Apart) -> list[tuple[str, Rows]]:
    tasks = sorted(set(made.task.tolist()))
    found = [(short(task) + (" (set aside)" if task in apart.aside else ""), made.task == task) for task in tasks]
    if apart.aside:
        found.append((f"all {apart.without}", apart.of(made.task)))
    return [*found, ("all tasks", np.ones(len(made.task), dtype=bool))]


def curve_by_task(made: Prefixes, apart: Apart) -> Table:
    """Accuracy after every number of steps, a row a task, then what remains and all."""
    lines = []
    for name, rows in _groups(made, apart):
        line: dict[str, Any] = {"task": name, "n": int(rows.sum())}
        for step in range(made.most + 1):
            line[f"t{step}"] = 100 * made.right[rows, step].mean()
        lines.append(line)
    steps = (Column(f"t{t}", f"K = {t}", "number", 1, "right, %") for t in range(made.most + 1))
    columns = (Column("task", "Task"), Column("n", "Questions", "count"), *steps)
    note = "Intervals are in the figure by task and its numbers."
    return Table("fixed-tasks", "Right, %, by task and fixed number of steps", columns, tuple(lines), note, main=True)


def curve_figure(made: Prefixes, apart: Apart) -> Figure:
    """The same as curves."""
    curves = []
    for name, rows in _groups(made, apart)[: None if apart.aside else -1]:
        if not rows.any():
            continue
        right = [made.right[rows, step].astype(float) for step in range(made.most + 1)]
        means = [cluster_mean(one, made.scene[rows]) for one in right]
        curves.append(series(name, [float(t) for t in range(made.most + 1)], means, 100))
    words = "Fixed steps, with 95 % intervals over scenes. An average is worth what its tasks have in common."
    return Figure("by-task", "Accuracy by task", words, "lines", tuple(curves), x_label="steps", y_label="right, %")


def rules_by_task(made: Prefixes, judged: Sequence[Judged], usual: int, apart: Apart) -> Table:
    """What each rule gains or loses to the usual steps, by task.

    Args:
        made: All test questions.
        judged: Rules judged on all of them.
        usual: K of the checkpoint.
        apart: Tasks set aside.
    """
    groups = [one for one in _groups(made, apart) if one[1].any()]
    lines = []
    for one in judged:
        right = at_stop(made.right, one.steps).astype(float)
        line: dict[str, Any] = {"rule": rule_label(one.rule), "aim": one.aim}
        for place, (_, rows) in enumerate(groups):
            fixed = made.right[rows, usual].astype(float)
            gap = cluster_difference(right[rows], fixed, made.scene[rows]) if rows.sum() > 1 else None
            if gap is not None:
                line |= {f"g{place}": 100 * gap.estimate, f"i{place}": interval(gap, 100)}
        lines.append(line)
    columns = [Column("rule", "Rule"), Column("aim", "Threshold chosen for")]
    for place, (name, _) in enumerate(groups):
        columns.append(Column(f"g{place}", name, "number", 1, f"points to {usual} fixed steps, paired"))
        columns.append(Column(f"i{place}", "95 %", "interval", 1, "cluster-robust over scenes"))
    caption = f"Stop rules by task: points to {usual} fixed steps"
    return Table("rules-tasks", caption, tuple(columns), tuple(lines))
