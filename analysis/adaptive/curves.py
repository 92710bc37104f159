"""Accuracy against mean steps over a rule's whole range, beside its own stops dealt out at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.adaptive.stopping import Prefixes, at_stop, rule_label, shuffled_right, stop_steps, thresholds
from analysis.shared.cells import cells, with_interval
from analysis.shared.report.document import Column, Figure, Series, Table
from analysis.shared.stats import cluster_difference

__all__ = ["shuffled_figure", "shuffled_table"]

_POINTS = 9  # thresholds of a rule that are tabled

Array = npt.NDArray[np.float64]


def shuffled_table(made: Prefixes, values: Mapping[str, Array]) -> Table:
    """Every rule at several thresholds: accuracy, that of its shuffled stops, and of fixed steps at the same mean."""
    rows: list[dict[str, Any]] = []
    fixed = made.right.mean(0)
    for rule, found in values.items():
        for stops in _spread(found, rule):
            right, dealt = at_stop(made.right, stops).astype(float), shuffled_right(made, stops)
            gap, mean = cluster_difference(right, dealt, made.scene), float(stops.mean())
            line = float(np.interp(mean, np.arange(made.most + 1), fixed))
            rows.append(
                {"rule": rule_label(rule), "steps": mean, "accuracy": 100 * right.mean(), "dealt": 100 * dealt.mean()}
                | {"line": 100 * line, **cells("gap", gap, 100)}
            )
    columns = (
        Column("rule", "Rule"),
        Column("steps", "Mean steps", "number", 2),
        Column("accuracy", "Right, %", "number", 1),
        Column("dealt", "Shuffled stops, %", "number", 1, "the same stops dealt out at random, in expectation"),
        Column("line", "Fixed steps, %", "number", 1, "at the same mean, by interpolation"),
        *with_interval("gap", "To shuffled", 1, "points; above 0 the rule adapts"),
    )
    note = "Thresholds are spread over each rule's range; none is chosen, so none is to be picked here."
    return Table("curves", "Accuracy against mean steps, with shuffled stops", columns, tuple(rows), note)


def _spread(values: Array, rule: str) -> list[npt.NDArray[np.int64]]:
    """Stops of a rule at thresholds whose mean steps are spread over its range."""
    stops = [stop_steps(values, float(one)) for one in thresholds(values, rule)]
    means = np.array([one.mean() for one in stops])
    wanted = np.linspace(means.min(), means.max(), _POINTS)
    places = sorted({int(np.abs(means - one).argmin()) for one in wanted}, key=lambda place: float(means[place]))
    return [stops[place] for place in places]


def shuffled_figure(made: Prefixes, values: Mapping[str, Array]) -> Figure:
    """How far each rule lies above its own shuffled stops, along its mean steps."""
    curves = []
    for rule, found in values.items():
        points = sorted(
            (float(stops.mean()), 100 * float((at_stop(made.right, stops) - shuffled_right(made, stops)).mean()))
            for stops in _spread(found, rule)
        )
        curves.append(Series(rule, tuple(x for x, _ in points), tuple(y for _, y in points)))
    words = "Accuracy minus that of the same stops dealt out at random. A rule that merely stops early lies at 0."
    return Figure(
        "shuffled", "Above shuffled stops", words, "lines", tuple(curves), x_label="mean steps", y_label="points"
    )
