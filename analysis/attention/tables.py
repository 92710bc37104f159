"""Tables and figures of the attention report (paper, Table 5)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.attention.measure import HEADLINE, ROWS, Compared, Values, measures
from analysis.shared.effects import (
    cohen_d_average,
    cohen_d_paired,
    hedges_g,
    hodges_lehmann,
    quantile_difference,
)
from analysis.shared.report.document import Column, Figure, Series, Table
from analysis.shared.stats import (
    Result,
    brunner_munzel,
    cluster_difference,
    holm,
    mann_whitney,
    paired_t,
    student,
    superiority,
    welch,
    wilcoxon,
)
from lare.trace import SHARES

__all__ = [
    "PAPER", "battery", "effect", "figures", "first_class", "first_classes", "measured", "settings", "split", "table5",
    "tests",
]  # fmt: skip

PAPER: Mapping[str, tuple[float, float]] = {
    "mean": (4.47, 10.84),
    "25 %": (4.03, 9.96),
    "50 % (median)": (4.44, 10.76),
    "75 %": (4.87, 11.67),
    "95 %": (5.54, 13.03),
}
"""Table 5 as reported: (LLaVA, LaRe), MMStar, in a unit whose scale the paper's text has lost."""

_SHARES = {"25 %": 0.25, "50 % (median)": 0.5, "75 %": 0.75, "95 %": 0.95}

_TESTED = ("visual", "visual without first", "visual + latent", "lift")
"""Measures that are tested; the mean per token is the sum by a constant, so its tests are the sum's."""


def battery(b: Values, a: Values, clusters: pd.Series | None = None) -> list[Result]:
    """Every test and effect size on one measure, (n,) values of the same items; B is judged against A."""
    return [
        cluster_difference(b, a, clusters),
        paired_t(b, a),
        welch(b, a),
        student(b, a),
        wilcoxon(b, a),
        mann_whitney(b, a),
        brunner_munzel(b, a),
        hodges_lehmann(b, a),
        hedges_g(b, a),
        cohen_d_paired(b, a),
        cohen_d_average(b, a),
    ]


effect: Callable[[Values, Values], Result] = cohen_d_paired
"""The effect size of the headline."""


def table5(compared: Compared, numbers: Mapping[str, Values]) -> Table:
    """The paper's table beside ours: mean and quantiles, both rows, sums in percent."""
    a, b = compared.names
    rows = []
    for row in (HEADLINE, 1 - HEADLINE):
        left, right = numbers["visual"][:, :, row]
        per_token = numbers["per token"][:, :, row]
        for name, (reported_a, reported_b) in PAPER.items():
            gap, values = _statistic(name, right, left, compared.items["cluster"])
            rows.append(
                {
                    "row": ROWS[row],
                    "statistic": name,
                    "a": values[0],
                    "b": values[1],
                    "gap": gap.estimate,
                    "interval": _interval(gap),
                    "ratio": values[1] / values[0] if values[0] else None,
                    "token_a": 1e4 * _of(name, per_token[0]),
                    "token_b": 1e4 * _of(name, per_token[1]),
                    "paper_a": reported_a,
                    "paper_b": reported_b,
                    "paper_ratio": reported_b / reported_a,
                }
            )
    columns = (
        Column("row", "row of attention"),
        Column("statistic", "statistic"),
        Column("a", f"{a} (%)", "number", 2, "Sum over all visual tokens, mean over layers and heads."),
        Column("b", f"{b} (%)", "number", 2),
        Column("gap", f"{b} - {a} (points)", "number", 2),
        Column("interval", "95 % interval", "interval", 2, "Cluster-robust for the mean, bootstrap over scenes else."),
        Column("ratio", f"{b} / {a}", "number", 2),
        Column("token_a", f"{a}, per token (x 10^-4)", "number", 1),
        Column("token_b", f"{b}, per token (x 10^-4)", "number", 1),
        Column("paper_a", "paper: LLaVA", "number", 2, "As reported; scale lost."),
        Column("paper_b", "paper: LaRe", "number", 2, "As reported; scale lost."),
        Column("paper_ratio", "paper: ratio", "number", 2, "Free of the scale."),
    )
    note = (
        f"{len(rows and compared.items)} items. The paper's columns are of other models on another data set and in an "
        "unknown unit: only their ratio can be set beside ours, and nothing here confirms or refutes it."
    )
    caption = "Attention to all visual tokens around the first generated token (the paper's Table 5)."
    return Table("table5", caption, columns, tuple(rows), note, main=True)


def _of(name: str, values: Values) -> float:
    return float(values.mean() if name == "mean" else np.quantile(values, _SHARES[name]))


def _statistic(name: str, b: Values, a: Values, clusters: pd.Series) -> tuple[Result, tuple[float, float]]:
    gap = cluster_difference(b, a, clusters) if name == "mean" else quantile_difference(b, a, _SHARES[name], clusters)
    return gap, (_of(name, a), _of(name, b))


def tests(compared: Compared, numbers: Mapping[str, Values]) -> Table:
    """All tests and effect sizes on every measure and row, with Holm over measures and rows."""
    found: list[tuple[str, int, list[Result]]] = []
    for measure in _TESTED:
        for row in (HEADLINE, 1 - HEADLINE):
            left, right = numbers[measure][:, :, row]
            found.append((measure, row, battery(right, left, compared.items["cluster"])))
    adjusted = [holm([results[place].p for _, _, results in found]) for place in range(len(found[0][2]))]
    rows = [
        {
            "measure": measure,
            "row": ROWS[row],
            **_row(result),
            "holm": adjusted[place][index],
        }
        for index, (measure, row, results) in enumerate(found)
        for place, result in enumerate(results)
    ]
    columns = (
        Column("measure", "measure", "text", 2, "In percent; lift is a factor."),
        Column("row", "row of attention"),
        Column("test", "test or effect size"),
        Column("estimate", "estimate", "number", 3, f"{compared.names[1]} against {compared.names[0]}"),
        Column("interval", "95 % interval", "interval", 3),
        Column("n", "values", "count", 0, "Pairs for paired tests, answers of both settings else."),
        Column("clusters", "clusters", "count"),
        Column("statistic", "statistic", "number", 2),
        Column("df", "degrees of freedom", "number", 1),
        Column("p", "p", "p"),
        Column("log10_p", "log10 p", "number", 1, "Where p is too small for a float."),
        Column("holm", "p, Holm", "p", 2, "Over all measures and rows of the same test."),
        Column("note", "what it says"),
    )
    note = "The cluster-robust paired difference is the one to read: same items, scenes as clusters."
    return Table("tests", "Tests and effect sizes.", columns, tuple(rows), note)


def _row(result: Result) -> dict[str, Any]:
    return {
        "test": result.test,
        "estimate": _number(result.estimate),
        "interval": _interval(result),
        "n": result.n,
        "clusters": result.clusters,
        "statistic": _number(result.statistic),
        "df": result.df,
        "p": result.p,
        "log10_p": result.log10_p,
        "note": result.note,
    }


def _number(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _interval(result: Result) -> tuple[float, float] | None:
    return (result.low, result.high) if np.isfinite([result.low, result.high]).all() else None


def settings(comparisons: Sequence[Compared]) -> Table:
    """The judged setting against every other one, with what each begins its answers with."""
    rows = []
    for compared in comparisons:
        values = measures(compared)
        for measure in ("visual", "visual + latent", "lift"):
            for row in (HEADLINE, 1 - HEADLINE):
                left, right = values[measure][:, :, row]
                gap, size = cluster_difference(right, left, compared.items["cluster"]), effect(right, left)
                begins = first_classes(compared.items["text_a"])
                rows.append(
                    {
                        "other": compared.names[0],
                        "begins": max(begins, key=lambda kind: begins[kind]),
                        "measure": measure,
                        "row": ROWS[row],
                        "a": left.mean(),
                        "b": right.mean(),
                        "gap": gap.estimate,
                        "interval": _interval(gap),
                        "size": _number(size.estimate),
                        "size_interval": _interval(size),
                        "p": gap.p,
                    }
                )
    judged = comparisons[0].names[1]
    kinds = first_classes(comparisons[0].items["text_b"])
    columns = (
        Column("other", "against"),
        Column("begins", "its answers begin with"),
        Column("measure", "measure"),
        Column("row", "row of attention"),
        Column("a", "other", "number", 2),
        Column("b", judged, "number", 2),
        Column("gap", "difference", "number", 2),
        Column("interval", "95 % interval", "interval", 2),
        Column("size", "d_z", "number", 2),
        Column("size_interval", "95 % interval", "interval", 2),
        Column("p", "p", "p", 2, "Cluster-robust t."),
    )
    note = f"{judged} begins with: {', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))}."
    return Table("settings", f"{judged} against each other setting.", columns, tuple(rows), note)


def measured(compared: Compared, numbers: Mapping[str, Values]) -> Table:
    """Every measure's mean in both settings."""
    a, b = compared.names
    rows = []
    for measure, values in numbers.items():
        scale = 1e4 if measure == "per token" else 1.0
        for row in (HEADLINE, 1 - HEADLINE):
            left, right = scale * values[:, :, row]
            gap = cluster_difference(right, left, compared.items["cluster"])
            order = superiority(right, left)
            rows.append(
                {
                    "measure": f"{measure} (x 10^-4)" if measure == "per token" else measure,
                    "row": ROWS[row],
                    "a": left.mean(),
                    "sd_a": left.std(ddof=1),
                    "b": right.mean(),
                    "sd_b": right.std(ddof=1),
                    "gap": gap.estimate,
                    "interval": _interval(gap),
                    "order": order.estimate,
                    "order_interval": _interval(order),
                }
            )
    columns = (
        Column("measure", "measure"),
        Column("row", "row of attention"),
        Column("a", f"mean, {a}", "number", 3),
        Column("sd_a", f"sd, {a}", "number", 3),
        Column("b", f"mean, {b}", "number", 3),
        Column("sd_b", f"sd, {b}", "number", 3),
        Column("gap", f"{b} - {a}", "number", 3),
        Column("interval", "95 % interval", "interval", 3),
        Column("order", f"P({b} > {a})", "number", 3),
        Column("order_interval", "95 % interval", "interval", 3),
    )
    counts = f"{compared.visual[0].mean():.1f} visual tokens for {a}, {compared.visual[1].mean():.1f} for {b}"
    keys = f"{compared.keys[0].mean():.1f} and {compared.keys[1].mean():.1f} positions on average"
    return Table("measures", "Other ways to count the same attention.", columns, tuple(rows), f"{counts}; {keys}.")


def split(compared: Compared) -> Table:
    """Where all of the attention goes, in percent, with and without the first token."""
    rows = []
    for row in (HEADLINE, 1 - HEADLINE):
        for side, name in enumerate(compared.names):
            mean = compared.shares[side, :, row].astype(np.float64).mean((0, 1, 2))
            rest = mean.copy()
            rest[0] = 0.0
            rest /= max(rest.sum(), 1e-12)
            for kind, values in (("all", mean), ("without first token", rest)):
                shown = {group: 100 * float(value) for group, value in zip(SHARES, values, strict=True)}
                rows.append({"row": ROWS[row], "setting": name, "of": kind, **shown, "sum": sum(shown.values())})
    columns = (
        Column("row", "row of attention"),
        Column("setting", "setting"),
        Column("of", "of"),
        Column("bos", "first token (%)", "number"),
        Column("text", "text (%)", "number"),
        Column("visual", "visual (%)", "number"),
        Column("latent", "latent (%)", "number"),
        Column("sum", "sum (%)", "number"),
    )
    note = "Text includes delimiters and, in the own row, the first generated token itself. 'Without' is of the means."
    return Table("split", "Where the attention goes.", columns, tuple(rows), note)


def figures(compared: Compared, numbers: Mapping[str, Values]) -> tuple[Figure, ...]:
    """Distributions, layer x head difference and the split."""
    return (
        _distributions(compared, numbers["visual"]),
        *(_heads(compared, row) for row in (HEADLINE, 1 - HEADLINE)),
        _stacked(compared),
    )


def _distributions(compared: Compared, visual: Values) -> Figure:
    values = visual[:, :, HEADLINE]
    edges = np.histogram_bin_edges(values, bins=30)
    series = tuple(
        Series(name, tuple(edges.tolist()), tuple(np.histogram(values[side], edges)[0].tolist()))
        for side, name in enumerate(compared.names)
    )
    words = f"Histogram of the items' attention to the image, {' and '.join(compared.names)}, {ROWS[HEADLINE]}."
    return Figure(
        "distribution", "Attention of the items", words, "histogram", series, "sum over visual tokens (%)", "items"
    )


def _heads(compared: Compared, row: int) -> Figure:
    mean = 100 * compared.shares[:, :, row, ..., 2].astype(np.float64).mean(1)
    gap = mean[1] - mean[0]
    heads = tuple(f"head {head + 1}" for head in range(gap.shape[1]))
    series = tuple(Series(f"layer {layer + 1}", heads, tuple(values)) for layer, values in enumerate(gap.tolist()))
    a, b = compared.names
    words = f"Points of attention to the image that {b} has over {a}, by layer and head, mean over items, {ROWS[row]}."
    name = "own" if row == HEADLINE else "predicting"
    title = f"{b} - {a} by layer and head, row {ROWS[row]} (points)"
    return Figure(f"heads-{name}", title, words, "grid", series, "head", "layer", 0.0, True)


def _stacked(compared: Compared) -> Figure:
    bars = [(row, side) for row in (HEADLINE, 1 - HEADLINE) for side in (0, 1)]
    labels = tuple(f"{compared.names[side]}, {'own row' if row == HEADLINE else 'predicting'}" for row, side in bars)
    means = [compared.shares[side, :, row].astype(np.float64).mean((0, 1, 2)) for row, side in bars]
    names = {"bos": "first token", "text": "text", "visual": "visual", "latent": "latent"}
    series = tuple(
        Series(names[group], labels, tuple(100 * float(mean[place]) for mean in means))
        for place, group in enumerate(SHARES)
    )
    words = "All of the attention, split over the first token, text, visual tokens and latents; bars add up to 100 %."
    return Figure("split-figure", "Where the attention goes", words, "stacked", series, "", "share (%)")


def first_classes(texts: Iterable[str]) -> dict[str, int]:
    """Counts of what answers begin with: the answer mark, an option letter, yes or no, another word, nothing."""
    return dict(Counter(first_class(str(text)) for text in texts))


def first_class(text: str) -> str:
    """What an answer begins with, see `first_classes`."""
    word = text.split(maxsplit=1)[0] if text.split() else ""
    if not word:
        return "nothing"
    if word.startswith("Answer"):
        return "answer mark"
    if re.fullmatch(r"\(?[A-Za-z]\)?[.:,]?", word):
        return "option letter"
    return "yes or no" if word.lower().strip(".,") in ("yes", "no") else "other word"
