"""Attention to the image layer by layer, its spread over heads, and by the kinds of both settings' first tokens.

One mean over layers and heads hides that shallow layers look at everything and that few heads look at the image; these
tables take it apart again. Items stay the unit: an interval is over scenes, never over heads or layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.attention.measure import HEADLINE, ROWS, Compared, Values
from analysis.attention.tables import first_class
from analysis.shared.cells import interval, series
from analysis.shared.report.document import Column, Figure, Table
from analysis.shared.stats import cluster_difference, cluster_mean

__all__ = ["classes", "curve", "layers"]

LEAST = 2
"""Items of a pair of kinds below which no difference is given."""


def _visual(compared: Compared, row: int) -> Values:
    """Percent of attention on the image, (2, n, L, H)."""
    return np.asarray(100 * compared.shares[:, :, row, ..., 2].astype(np.float64))


def layers(compared: Compared) -> Table:
    """Each layer's mean over heads in both settings, its difference, and how far apart its heads are."""
    a, b = compared.names
    rows: list[dict[str, Any]] = []
    halves = []
    for row in (HEADLINE, 1 - HEADLINE):
        values = _visual(compared, row)
        by_layer, by_head = values.mean(3), values.mean(1)
        deep = by_layer.shape[2] // 2
        halves += [float(by_layer[side, :, :deep].sum() / max(by_layer[side].sum(), 1e-12)) for side in (0, 1)]
        for layer in range(by_layer.shape[2]):
            left, right = by_layer[:, :, layer]
            gap = cluster_difference(right, left, compared.items["cluster"])
            rows.append(
                {"row": ROWS[row], "layer": layer + 1, "a": left.mean(), "b": right.mean(), "gap": gap.estimate,
                 "interval": interval(gap), "p": gap.p,
                 **{f"sd_{mark}": values[side, :, layer].std(-1).mean() for side, mark in enumerate("ab")},
                 **{f"heads_{mark}": [by_head[side, layer].min(), by_head[side, layer].max()]
                    for side, mark in enumerate("ab")}}
            )  # fmt: skip
    columns = (
        Column("row", "row of attention"),
        Column("layer", "layer", "count"),
        Column("a", f"{a} (%)", "number"),
        Column("b", f"{b} (%)", "number"),
        Column("gap", f"{b} - {a} (points)", "number"),
        Column("interval", "95 % interval", "interval", 2, "Cluster-robust by scene."),
        Column("p", "p", "p", 2, "Cluster-robust t, not adjusted."),
        Column("sd_a", f"sd over heads, {a}", "number", 2, "Of an item's heads, mean over items."),
        Column("sd_b", f"sd over heads, {b}", "number", 2),
        Column("heads_a", f"least and most of a head, {a}", "interval", 1, "Means over items: a range, no interval."),
        Column("heads_b", f"least and most of a head, {b}", "interval", 1),
    )
    note = (
        f"Share of all layers' attention to the image that the shallower half of the layers has: {a} "
        f"{100 * halves[0]:.0f} % (own row), {100 * halves[2]:.0f} % (predicting); {b} {100 * halves[1]:.0f} % and "
        f"{100 * halves[3]:.0f} %. A mean over layers is a statement on the layers with much of it."
    )
    return Table("layers-table", "Attention to the image by layer, and over heads.", columns, tuple(rows), note)


def curve(compared: Compared) -> Figure:
    """Means by layer with 95 % intervals over scenes."""
    curves = []
    for row in (HEADLINE, 1 - HEADLINE):
        by_layer = _visual(compared, row).mean(3)
        for side, name in enumerate(compared.names):
            found = [cluster_mean(values, compared.items["cluster"]) for values in by_layer[side].T]
            label = f"{name}, {'own row' if row == HEADLINE else 'predicting'}"
            curves.append(series(label, [float(layer + 1) for layer in range(len(found))], found))
    words = "Attention to the image by layer, mean over heads and items; the bands are 95 % intervals over scenes."
    return Figure("layers", "Attention by layer", words, "lines", tuple(curves), "layer", "sum over visual tokens (%)")


def classes(comparisons: Sequence[Compared]) -> Table:
    """The effect within pairs of kinds of first tokens: the fair pairs are those of one kind."""
    rows: list[dict[str, Any]] = []
    for compared in comparisons:
        visual = _visual(compared, HEADLINE).mean((2, 3))
        kinds = [[first_class(str(text)) for text in compared.items[f"text_{mark}"]] for mark in "ab"]
        pairs = list(zip(*kinds, strict=True))
        for pair in sorted(set(pairs), key=lambda one: (-pairs.count(one), one)):
            counts = np.array([one == pair for one in pairs])
            line: dict[str, Any] = {"other": compared.names[0], "kind_a": pair[0], "kind_b": pair[1]}
            line |= {"same": "yes" if pair[0] == pair[1] else "no", "n": int(counts.sum())}
            if counts.sum() >= LEAST:
                left, right = visual[:, counts]
                gap = cluster_difference(right, left, compared.items["cluster"][counts])
                line |= {"a": left.mean(), "b": right.mean(), "gap": gap.estimate, "interval": interval(gap)}
                line |= {"p": gap.p}
            rows.append(line)
    judged = comparisons[0].names[1]
    columns = (
        Column("other", "against"),
        Column("kind_a", "its first token"),
        Column("kind_b", f"{judged}'s first token"),
        Column("same", "one kind"),
        Column("n", "n", "count"),
        Column("a", "other (%)", "number"),
        Column("b", f"{judged} (%)", "number"),
        Column("gap", "difference (points)", "number"),
        Column("interval", "95 % interval", "interval", 2, "Cluster-robust by scene."),
        Column("p", "p", "p", 2, "Cluster-robust t, not adjusted."),
    )
    lacking = [one.names[0] for one in comparisons if not _one_kind(one)]
    note = "Own row, sum over visual tokens."
    if lacking:
        note += f" Against {' and '.join(lacking)} no item has first tokens of one kind: see the forced first tokens."
    return Table("kinds", "The difference by the kinds of the first tokens.", columns, tuple(rows), note)


def _one_kind(compared: Compared) -> bool:
    texts = zip(compared.items["text_a"], compared.items["text_b"], strict=True)
    return any(first_class(str(left)) == first_class(str(right)) for left, right in texts)
