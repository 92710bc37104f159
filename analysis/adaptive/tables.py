"""Tables, figures and samples of `analysis.adaptive.page`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

from analysis.adaptive.stopping import (
    LEARNED,
    RULES,
    Prefixes,
    Steps,
    at_stop,
    rule_label,
    shuffled_right,
    stop_steps,
    thresholds,
)
from analysis.shared.cells import cells, interval, only, question_sample, series, with_interval
from analysis.shared.questions import Question
from analysis.shared.report.document import Column, Figure, Sample, Series, Step, Table, View
from analysis.shared.stats import Result, cluster_difference, cluster_mean, holm, mcnemar
from analysis.shared.tasks import Apart

__all__ = ["PAPER", "Judged", "figures", "judge", "rules_table", "samples", "tables"]

Array = npt.NDArray[np.float64]

PAPER = (
    ("LaRe", 4.0, 42.7, 269.2),
    ("+ Adaptive (Cosine)", 5.9, 42.6, 265.1),
    ("+ Adaptive (L1 Distance)", 2.8, 42.0, 279.8),
    ("+ Adaptive (L2 Distance)", 2.9, 42.5, 270.5),
)
"""Table 4 of the paper as it stands: name, average steps, accuracy, tokens."""

CHANCE_NOTE = (
    "The paper's models, data and scale are others, and what its average is over is not said; nothing here can be "
    "compared with these numbers but their order."
)


@dataclass(frozen=True)
class Judged:
    """A rule with its stops on the test questions.

    Attributes:
        rule: Its name.
        aim: What its threshold was chosen for.
        steps: (N,) where it stopped.
        threshold: None for a bound.
        planned: Mean steps on validation questions; None for a bound.
        accuracy: Share of right answers, with its interval over scenes.
        against_usual: Paired difference to the checkpoint's usual fixed steps.
        test: McNemar of the same, exact.
        against_shuffled: Paired difference to the expectation over shuffled stops.
        line: Accuracy of fixed steps at the same mean steps, by interpolation.
        tokens: Mean text tokens.
        flipped: Share of answers that more steps would have changed.
    """

    rule: str
    aim: str
    steps: Steps
    threshold: float | None
    planned: float | None
    accuracy: Result
    against_usual: Result
    test: Result
    against_shuffled: Result
    line: float
    tokens: float
    flipped: float


def judge(
    made: Prefixes, rule: str, aim: str, stops: Steps, usual: int, threshold: float | None = None,
    planned: float | None = None,
) -> Judged:  # fmt: skip
    """Judge where a rule stopped; see `Judged`."""
    right = at_stop(made.right, stops).astype(float)
    shuffled = shuffled_right(made, stops)
    fixed = made.right[:, usual].astype(float)
    return Judged(
        rule=rule,
        aim=aim,
        steps=stops,
        threshold=threshold,
        planned=planned,
        accuracy=cluster_mean(right, made.scene),
        against_usual=cluster_difference(right, fixed, made.scene),
        test=mcnemar(right, fixed),
        against_shuffled=cluster_difference(right, shuffled, made.scene),
        line=float(np.interp(stops.mean(), np.arange(made.most + 1), made.right.mean(0))),
        tokens=float(at_stop(made.tokens, stops).mean()),
        flipped=float((at_stop(made.replies, stops) != made.replies[:, -1]).mean()),
    )


def tables(
    made: Prefixes, values: Mapping[str, Array], judged: Sequence[Judged], usual: int, apart: Apart | None = None
) -> tuple[Table, ...]:
    """Tables over the tasks that remain, the main one first."""
    main, more = _main(made, judged, usual)
    if apart is not None and apart.aside:
        main = replace(main, caption=f"{main.caption}, {apart.without}")
    return (
        main,
        more,
        _paper(),
        _fixed(made, usual),
        _area(made, values),
        _movement(made, values),
        _difficulty(made, judged),
    )


def _main(made: Prefixes, judged: Sequence[Judged], usual: int) -> tuple[Table, Table]:
    fair = [one for one in judged if one.threshold is not None]
    adjusted = dict(zip(map(id, fair), holm([one.test.p for one in fair]), strict=True))
    start = cluster_mean(made.right[:, usual].astype(float), made.scene)
    rows: list[dict[str, Any]] = [
        {"rule": f"fixed, {usual} steps", "aim": "the checkpoint's own", "steps": float(usual)}
        | {"accuracy": 100 * start.estimate, "interval": interval(start, 100), "tokens": made.tokens[:, usual].mean()}
        | {"flipped": 100 * (made.replies[:, usual] != made.replies[:, -1]).mean()}
    ]
    for one in judged:
        rows.append(
            {
                "rule": rule_label(one.rule),
                "aim": one.aim,
                "threshold": _threshold(one.threshold),
                "planned": one.planned,
                "steps": float(one.steps.mean()),
                "accuracy": 100 * one.accuracy.estimate,
                "interval": interval(one.accuracy, 100),
                **cells("gap", one.against_usual, 100),
                "holm": adjusted.get(id(one)),
                **cells("shuffled", one.against_shuffled, 100),
                "line": 100 * (one.accuracy.estimate - one.line),
                "tokens": one.tokens,
                "flipped": 100 * one.flipped,
            }
        )
    main = (
        Column("rule", "Rule"),
        Column("aim", "Threshold chosen for"),
        Column("steps", "Mean steps", "number", 2),
        Column("accuracy", "Right, %", "number", 1),
        *with_interval("gap", f"To {usual} fixed", 1, f"points, paired difference to {usual} fixed steps"),
        Column("holm", "p (Holm)", "p", help="McNemar, exact, adjusted over all rules of this table"),
        *with_interval("shuffled", "To shuffled", 1, "points, to the same stops dealt at random; above 0 it adapts"),
    )
    more = (
        *main[:4],
        Column("interval", "95 %", "interval", 1, "of the accuracy, cluster-robust over scenes"),
        Column("threshold", "Threshold", help="stop below it; a bound has none"),
        Column("planned", "Mean steps, validation", "number", 2),
        Column("line", "To the fixed line", "number", 1, "points, to fixed steps at the same mean"),
        Column("tokens", "Text tokens", "number", 1),
        Column("flipped", "Flips later, %", "number", 1, f"answers that differ from those after {made.most} steps"),
    )
    note = "Bounds know the answers and are no rules. Steps of the bounds count from 1."
    parts = only(main, rows), only(more, rows)
    return (
        Table("rules", "Stop rules on test questions", main, parts[0], note, main=True),
        Table("rules-more", "Stop rules: thresholds and what they cost", more, parts[1], note),
    )


def rules_table(made: Prefixes, judged: Sequence[Judged], usual: int) -> Table:
    """The main table again for other questions: of all tasks, where one was set aside."""
    return replace(_main(made, judged, usual)[0], id="rules-all", caption="The same stops over all tasks", main=False)


def _threshold(value: float | None) -> str | None:
    if value is None or np.isfinite(value):
        return None if value is None else f"{value:.3g}"
    return "never" if value < 0 else "at once"


def _paper() -> Table:
    columns = (
        Column("name", "Method"),
        Column("steps", "Average steps", "number", 1),
        Column("accuracy", "Acc.", "number", 1),
        Column("tokens", "# Tokens", "number", 1),
    )
    rows = tuple(dict(zip(("name", "steps", "accuracy", "tokens"), row, strict=True)) for row in PAPER)
    return Table("paper", "As reported in the paper (Table 4)", columns, rows, CHANCE_NOTE)


def _fixed(made: Prefixes, usual: int) -> Table:
    rows = []
    for step in range(made.most + 1):
        mean = cluster_mean(made.right[:, step].astype(float), made.scene)
        gap = cluster_difference(made.right[:, step].astype(float), made.right[:, usual].astype(float), made.scene)
        rows.append(
            {
                "step": step,
                "accuracy": 100 * mean.estimate,
                "interval": interval(mean, 100),
                **cells("gap", gap, 100),
                "tokens": made.tokens[:, step].mean(),
                "flipped": 100 * (made.replies[:, step] != made.replies[:, -1]).mean(),
            }
        )
    columns = (
        Column("step", "Steps", "count"),
        Column("accuracy", "Right, %", "number", 1),
        Column("interval", "95 % (scenes)", "interval", 1),
        *with_interval("gap", f"To {usual} steps, points", 1, "paired difference", "", "95 % (scenes)"),
        Column("tokens", "Text tokens", "number", 1),
        Column("flipped", "Flips later, %", "number", 1),
    )
    return Table("fixed", "The same number of steps for every question (Fig. 5)", columns, tuple(rows))


def _curve(made: Prefixes, values: Array, rule: str) -> tuple[Array, Array]:
    """Mean steps and accuracy of a rule over its thresholds, by ascending steps."""
    stops = [stop_steps(values, float(threshold)) for threshold in thresholds(values, rule)]
    points = sorted({(float(one.mean()), float(at_stop(made.right, one).mean())) for one in stops})
    return np.array([x for x, _ in points]), np.array([y for _, y in points])


def _area(made: Prefixes, values: Mapping[str, Array]) -> Table:
    rows = []
    for rule, found in values.items():
        steps, accuracy = _curve(made, found, rule)
        grid = np.linspace(steps[0], steps[-1], 201)
        fixed = np.interp(grid, np.arange(made.most + 1), made.right.mean(0))
        gap = np.interp(grid, steps, accuracy) - fixed
        area = float(np.trapezoid(gap, grid) / (grid[-1] - grid[0])) if grid[-1] > grid[0] else 0.0
        rows.append({"rule": (RULES | LEARNED)[rule], "low": steps[0], "high": steps[-1], "area": 100 * area})
    columns = (
        Column("rule", "Rule"),
        Column("low", "From mean steps", "number", 2),
        Column("high", "To mean steps", "number", 2),
        Column("area", "Mean height above fixed steps, points", "number", 2),
    )
    note = "Over all thresholds, on test questions: none is chosen, so there is nothing to overfit but the rule itself."
    return Table("area", "Area between a rule's curve and the line of fixed steps", columns, tuple(rows), note)


def _movement(made: Prefixes, values: Mapping[str, Array]) -> Table:
    """How distances fall from step to step: shares of samples, not the mean curve."""
    rows = []
    for rule, found in values.items():
        if rule == "patience":
            continue
        steps = found[:, ~np.isnan(found).any(0)]
        falls = np.diff(steps, axis=1) <= 0
        row: dict[str, Any] = {
            "rule": (RULES | LEARNED)[rule],
            "all": 100 * falls.all(1).mean(),
            "each": 100 * falls.mean(),
        }
        row |= {f"t{t}": None if np.isnan(found[:, t]).any() else found[:, t].mean() for t in range(1, made.most + 1)}
        rows.append(row)
    columns = (
        Column("rule", "Distance"),
        Column("all", "Questions that fall throughout, %", "number", 1, "from the first to the last step"),
        Column("each", "Steps that fall, %", "number", 1),
        *(Column(f"t{t}", f"Mean at step {t}", "number", 3) for t in range(1, made.most + 1)),
    )
    note = "The paper says that distances fall monotonically; a mean curve may fall while few questions do."
    return Table("movement", "Do distances fall with every step?", columns, tuple(rows), note)


def _difficulty(made: Prefixes, judged: Sequence[Judged]) -> Table:
    rows = []
    for one in judged:
        if len(set(one.steps.tolist())) < 2 or len(set(made.hops.tolist())) < 2:
            tau, p = None, None
        else:
            found = scipy_stats.kendalltau(one.steps, made.hops)
            tau, p = float(found.statistic), float(found.pvalue)
        right = at_stop(made.right, one.steps).astype(bool)
        row: dict[str, Any] = {"rule": rule_label(one.rule), "aim": one.aim, "tau": tau, "p": p}
        for name, chosen in (("right", right), ("wrong", ~right)):
            row[name] = float(one.steps[chosen].mean()) if chosen.any() else None
        rows.append(row)
    columns = (
        Column("rule", "Rule"),
        Column("aim", "Threshold chosen for"),
        Column("tau", "Kendall tau with hops", "number", 3, "above 0: more steps for questions that join more facts"),
        Column("p", "p", "p", help="questions taken as independent, not adjusted"),
        Column("right", "Mean steps where right", "number", 2),
        Column("wrong", "Mean steps where wrong", "number", 2),
    )
    return Table("difficulty", "Do harder questions get more steps?", columns, tuple(rows))


# Figures and samples ------------------------------------------------------------------------------------------------


def figures(made: Prefixes, values: Mapping[str, Array], judged: Sequence[Judged]) -> tuple[Figure, ...]:
    """Accuracy against steps, where runs stop, distances by step."""
    means = [cluster_mean(made.right[:, t].astype(float), made.scene) for t in range(made.most + 1)]
    fixed = series("fixed steps", [float(t) for t in range(made.most + 1)], means, 100)
    curves = []
    for rule, found in values.items():
        steps, accuracy = _curve(made, found, rule)
        curves.append(Series(rule, tuple(steps.tolist()), tuple((100 * accuracy).tolist())))
    budget = [one for one in judged if one.aim.endswith("on average")]
    shown = next(one for one in budget if one.rule == "cosine")
    labels = tuple(str(t) for t in range(1, made.most + 1))
    right = at_stop(made.right, shown.steps).astype(bool)
    groups = {task.removeprefix("lare_mini_"): made.task == task for task in sorted(set(made.task.tolist()))}
    groups |= {"right": right, "wrong": ~right}
    bars = []
    for name, chosen in groups.items():
        counts = np.bincount(shown.steps[chosen], minlength=made.most + 1)[1:]
        bars.append(Series(name, labels, tuple((100 * counts / max(chosen.sum(), 1)).tolist())))
    return (
        Figure(
            "curve",
            "Accuracy against mean steps",
            "Each rule over all its thresholds, and fixed steps with 95 % intervals over scenes. A rule that adapts "
            "lies above the fixed line at the same mean steps.",
            "lines",
            (fixed, *curves),
            x_label="mean steps",
            y_label="right, %",
        ),
        Figure(
            "stops",
            "Where runs stop (cosine, at the budget)",
            "Share of questions by the step they stop at, for each task, and for right and wrong answers.",
            "bars",
            tuple(bars),
            x_label="step",
            y_label="questions, %",
        ),
        Figure(
            "distances",
            "Distance to the step before",
            "Mean over questions, with the 10 % and 90 % quantiles.",
            "lines",
            tuple(_spread(rule, values[rule]) for rule in ("cosine", "l2", "kl")),
            x_label="step",
            y_label="distance",
        ),
    )


def _spread(name: str, values: Array) -> Series:
    steps = [t for t in range(values.shape[1]) if not np.isnan(values[:, t]).any()]
    quantiles = np.quantile(values[:, steps], (0.1, 0.9), axis=0)
    return Series(
        name, tuple(float(t) for t in steps), tuple(values[:, steps].mean(0).tolist()),
        tuple(quantiles[0].tolist()), tuple(quantiles[1].tolist()),
    )  # fmt: skip


def samples(
    questions: Sequence[Question], made: Prefixes, values: Mapping[str, Array], judged: Sequence[Judged], count: int,
    seed: int,
) -> tuple[Sample, ...]:  # fmt: skip
    """Questions with their answer after every step, the distances there, and where each rule stopped."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(questions))[:count])
    budget = [one for one in judged if one.aim.endswith("on average")]
    found = []
    for row in chosen.tolist():
        one = questions[row]
        steps = []
        for t in range(made.most + 1):
            numbers = {rule: float(v[row, t]) for rule, v in values.items() if np.isfinite(v[row, t])}
            stopped = ", ".join(rule.rule for rule in budget if rule.steps[row] == t)
            mark = "right" if made.right[row, t] else "wrong"
            text = f"{made.texts[row, t]} ({mark})" + (f" - stopped here: {stopped}" if stopped else "")
            steps.append(Step(f"after {t} of {made.most} steps", text=text, numbers=numbers))
        view = View(
            f"{made.most} steps",
            str(made.replies[row, -1]),
            bool(made.right[row, -1]),
            str(made.texts[row, -1]),
            tuple(steps),
            facts={f"{rule.rule} stops at": int(rule.steps[row]) for rule in budget},
        )
        found.append(question_sample(row, one, [view], "random"))
    return tuple(found)
