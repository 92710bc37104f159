"""Tables, figures and sentences of what asking again gave; see `analysis.attention.again`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.attention.again import Live
from analysis.attention.measure import HEADLINE, ROWS, Compared, Values
from analysis.attention.tables import first_class
from analysis.shared.cells import interval, series
from analysis.shared.effects import cohen_d_paired
from analysis.shared.report.document import Column, Figure, Table
from analysis.shared.stats import Result, cluster_difference, cluster_mean, holm

__all__ = ["find_sinks", "live_arrays", "live_figures", "live_sentences", "live_tables", "visual_share"]

SHOWN = 40
"""Visual tokens that the figure of positions shows at most: those with the most mass."""

FEW = 6
"""Visual tokens up to which that figure has a bar for each."""


def find_sinks(visual: Values, count: int) -> npt.NDArray[np.int64]:
    """The positions that take the most mass over all items: places of the `count` largest means, largest first.

    Args:
        visual: (n, rows, L, V) attention to each visual token.
        count: How many.
    """
    mean = visual[:, HEADLINE].mean((0, 1))
    return np.asarray(np.argsort(-mean, kind="stable")[:count], dtype=np.int64)


def visual_share(visual: Values, bos: Values, sinks: Sequence[int] | npt.NDArray[np.int64], first: bool) -> Values:
    """Share of attention on visual tokens in percent, (n, rows), with the sinks and the first token left out.

    What is left out is left out of the whole as well, in each layer: the rest is made to add up to 1 again.

    Args:
        visual: (n, rows, L, V).
        bos: (n, rows, L) on the sequence's first token.
        sinks: Visual positions to leave out.
        first: Whether the first token is left out.
    """
    gone = visual[..., list(sinks)].sum(-1)
    whole = 1 - gone - (bos if first else 0)
    kept = visual.sum(-1) - gone
    return np.asarray(100 * (kept / np.maximum(whole, 1e-12)).mean(-1))


@dataclass(frozen=True)
class _Kind:
    """A way to leave positions out: its name, how many visual sinks, and whether the first token."""

    name: str
    sinks: int
    first: bool


def _kinds(live: Live, counts: Sequence[int]) -> list[_Kind]:
    most = min(rows.visual.shape[-1] for rows in live.rows)
    kinds = [_Kind("nothing", 0, False), _Kind("first token", 0, True)]
    return kinds + [
        _Kind(f"first token, {count} visual sink{'s' if count > 1 else ''}", count, True)
        for count in sorted(set(counts))
        if 0 < count < most
    ]


def _without(live: Live, kind: _Kind) -> tuple[Values, Values]:
    """(n, rows) of both sides; each side's sinks are its own."""
    made = [visual_share(one.visual, one.bos, find_sinks(one.visual, kind.sinks), kind.first) for one in live.rows]
    return made[0], made[1]


def _sinks(live: Live, compared: Compared, counts: Sequence[int]) -> Table:
    a, b = compared.names
    rows = []
    for row in (HEADLINE, 1 - HEADLINE):
        for kind in _kinds(live, counts):
            left, right = (values[:, row] for values in _without(live, kind))
            rows.append({"row": ROWS[row], "left_out": kind.name, **_cells(left, right, live.items["cluster"])})
    columns = (
        Column("row", "row of attention"),
        Column("left_out", "left out"),
        *_columns(a, b),
    )
    most = max([kind.sinks for kind in _kinds(live, counts)])
    places = [_places(live, side, most) for side in (0, 1)]
    note = (
        f"{len(live.items)} questions asked again; largest difference of a question's share from the traces': "
        f"{live.gap:.1e} points. Visual sinks, largest first (row, column of the decoder's "
        f"grid, share of the mass on visual tokens): {a}: {places[0]}; {b}: {places[1]}. With few visual tokens, one "
        "left out is much of the picture."
    )
    return Table(
        "sinks", "Attention to the image without the positions that take the most.", columns, tuple(rows), note
    )


def _places(live: Live, side: int, count: int) -> str:
    mean = live.rows[side].visual[:, HEADLINE].mean((0, 1))
    width = live.side[side]
    told = [
        f"({place // width + 1}, {place % width + 1}) {100 * mean[place] / mean.sum():.0f} %"
        for place in find_sinks(live.rows[side].visual, count).tolist()
    ]
    return ", ".join(told) or "none"


def _told(result: Result) -> dict[str, Any]:
    return {"gap": result.estimate, "interval": interval(result)}


def _cells(left: Values, right: Values, clusters: pd.Series) -> dict[str, Any]:
    """Both sides' means and their paired difference, with its effect size."""
    gap, size = cluster_difference(right, left, clusters), cohen_d_paired(right, left).estimate
    found = {"a": left.mean(), "b": right.mean(), **_told(gap)}
    return found | {"size": float(size) if np.isfinite(size) else None, "p": gap.p}


def _columns(a: str, b: str) -> tuple[Column, ...]:
    """Columns of `_cells` for sides of these names."""
    return (
        Column("a", f"{a} (%)", "number"),
        Column("b", f"{b} (%)", "number"),
        Column("gap", f"{b} - {a} (points)", "number"),
        Column("interval", "95 % interval", "interval", 2, "Cluster-robust by scene."),
        Column("size", "d_z", "number"),
        Column("p", "p", "p", 2, "Cluster-robust t."),
    )


def _share(rows: Any) -> Values:
    """(n,) visual share of the first token's own row, percent."""
    return np.asarray(100 * rows.shares[:, HEADLINE, ..., 2].mean((1, 2)))


def _forced_values(live: Live, compared: Compared) -> dict[str, tuple[Values, Values, npt.NDArray[np.bool_]]]:
    """For each kind of first token both sides' shares, and which items count."""
    a, b = compared.names
    own_a, own_b, given_a, given_b = map(_share, (*live.rows, *live.forced))
    everyone = np.ones(len(own_a), dtype=bool)
    kinds = [[first_class(str(text)) for text in live.items[f"text_{mark}"]] for mark in "ab"]
    equal = np.array([left == right for left, right in zip(*kinds, strict=True)], dtype=bool)
    return {
        "each its own": (own_a, own_b, everyone),
        f"{a}'s, in both": (own_a, given_b, everyone),
        f"{b}'s, in both": (given_a, own_b, everyone),
        "each its own, of one kind": (own_a, own_b, equal),
    }


def _forced(live: Live, compared: Compared) -> Table:
    a, b = compared.names
    rows = []
    for name, (left, right, counts) in _forced_values(live, compared).items():
        line: dict[str, Any] = {"first": name, "n": int(counts.sum())}
        if counts.sum() > 1:
            line |= _cells(left[counts], right[counts], live.items["cluster"][counts])
        rows.append(line)
    columns = (
        Column("first", "first token"),
        *_columns(a, b),
        Column("n", "n", "count"),
    )
    kinds = _class_counts(live, compared)
    note = (
        f"Attention of the first token's own row to all visual tokens. {kinds}. The row that predicts the first token "
        "stands before it and does not change with it. Kinds: answer mark, option letter, yes or no, another word."
    )
    return Table("forced", "The same first token in both settings.", columns, tuple(rows), note)


def _class_counts(live: Live, compared: Compared) -> str:
    told = []
    for name, mark in zip(compared.names, "ab", strict=True):
        kinds = [first_class(str(text)) for text in live.items[f"text_{mark}"]]
        counts = ", ".join(f"{kind} {kinds.count(kind)}" for kind in sorted(set(kinds)))
        told.append(f"{name} begins with: {counts}")
    return "; ".join(told)


_SAID = ("everything written", "the answer's words")


def _contrasts(live: Live) -> list[dict[str, Any]]:
    """One row a setting, map, text and comparison; Holm over all of them."""
    rows: list[dict[str, Any]] = []
    for place, said in enumerate(_SAID):
        for one in live.masked:
            losses = (one.effects.whole, one.effects.words)[place]
            most = losses["most attended"]
            for against in ("random", "least attended", "another question's"):
                gap = cluster_difference(most, losses[against], live.items["cluster"])
                rows.append(
                    {"setting": one.setting, "map": one.map, "said": said, "against": against, "most": most.mean(),
                     "other": losses[against].mean(), **_told(gap), "p": gap.p}
                )  # fmt: skip
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["holm"] = adjusted
    return rows


def _masking(live: Live) -> Table:
    columns = (
        Column("setting", "setting"),
        Column("map", "patches chosen by"),
        Column("said", "log-probability of", help="The answer's words are scored after the own rationale."),
        Column("against", "against"),
        Column("most", "lost, most attended (nats)", "number", 3),
        Column("other", "lost, the other (nats)", "number", 3),
        Column("gap", "difference (nats)", "number", 3),
        Column("interval", "95 % interval", "interval", 3, "Paired by question, cluster-robust by scene."),
        Column("p", "p", "p", 2, "Cluster-robust t."),
        Column("holm", "p (Holm)", "p", 2, "Over all rows of this table."),
    )
    told = [
        f"{one.setting}, {one.map}: {one.effects.count} of {one.effects.cells} patches covered "
        f"({100 * one.effects.count / one.effects.cells:.0f} % of the picture), "
        f"{one.effects.entire.mean():.2f} nats lost with all of it covered"
        for one in live.masked
    ]
    fill = "the picture's mean colour" if live.fill == "mean" else "middle grey"
    note = f"{len(live.items)} questions; covered with {fill}; random: mean of {live.draws} draws. {'. '.join(told)}."
    caption = "What the own answer loses when a tenth of the patches (at least one) is covered."
    return Table("masking", caption, columns, tuple(_contrasts(live)), note)


def live_tables(live: Live, compared: Compared, counts: Sequence[int]) -> tuple[Table, ...]:
    """Covered patches, sinks, forced first tokens.

    Args:
        live: What asking again gave.
        compared: Both sides' traces.
        counts: Numbers of visual sinks to leave out.
    """
    return _masking(live), _sinks(live, compared, counts), _forced(live, compared)


def live_figures(live: Live, compared: Compared, counts: Sequence[int]) -> tuple[Figure, ...]:
    """Losses under covered patches, mass by visual position, and layers without sinks."""
    return _losses(live), _positions(live, compared), _layers_without(live, compared, counts)


def _losses(live: Live) -> Figure:
    labels = tuple(f"{one.setting}, {one.map}" for one in live.masked)
    curves = []
    for condition in live.masked[0].effects.whole:
        found = [cluster_mean(one.effects.whole[condition], live.items["cluster"]) for one in live.masked]
        curves.append(series(condition, labels, found))
    words = (
        "Log-probability that everything written lost when patches were covered, by which patches; 95 % intervals over "
        "scenes. Attention that says what the answer rests on puts the first mark to the right of the others."
    )
    return Figure("covered", "Loss under covered patches", words, "intervals", tuple(curves), "nats lost", "", 0.0)


def _positions(live: Live, compared: Compared) -> Figure:
    few = max(rows.visual.shape[-1] for rows in live.rows) <= FEW
    curves = []
    for name, rows, side in zip(compared.names, live.rows, live.side, strict=True):
        values = 100 * rows.visual[:, HEADLINE].mean(1)
        order = np.sort(find_sinks(rows.visual, SHOWN))
        found = [cluster_mean(values[:, place], live.items["cluster"]) for place in order]
        labels = [f"row {place // side + 1}, column {place % side + 1}" for place in order.tolist()]
        curves.append(series(name, labels if few else [float(place + 1) for place in order], found))
    words = (
        "Attention of the first token's own row to each visual token of the decoder's grid, mean over heads, layers "
        f"and questions; 95 % intervals over scenes. At most the {SHOWN} positions with the most mass. "
        "A position high above the others in every picture is a sink."
    )
    title, kind = "Attention by visual position", "bars" if few else "lines"
    label = "" if few else "visual token, row by row"
    return Figure("positions", title, words, kind, tuple(curves), label, "attention (%)")


def _layers_without(live: Live, compared: Compared, counts: Sequence[int]) -> Figure:
    a, b = compared.names
    curves = []
    for kind in _kinds(live, counts):
        by_layer = []
        for rows in live.rows:
            sinks, layers = find_sinks(rows.visual, kind.sinks), range(rows.visual.shape[2])
            parts = [slice(layer, layer + 1) for layer in layers]
            each = [visual_share(rows.visual[:, :, p], rows.bos[:, :, p], sinks, kind.first) for p in parts]
            by_layer.append(np.stack([one[:, HEADLINE] for one in each]))
        found = [cluster_difference(right, left, live.items["cluster"]) for left, right in zip(*by_layer, strict=True)]
        name = "all positions" if kind.name == "nothing" else f"without {kind.name}"
        curves.append(series(name, [float(i + 1) for i in range(len(found))], found))
    words = (
        f"Points of attention to the image that {b} has over {a} in each layer (first token's own row), with nothing, "
        "the first token, and visual sinks left out and the rest made to add up to 1; 95 % bands over scenes."
    )
    title = f"{b} - {a} by layer, without sinks"
    return Figure("layers-sinks", title, words, "lines", tuple(curves), "layer", "difference (points)", 0.0)


def live_sentences(live: Live, compared: Compared, counts: Sequence[int]) -> str:
    """For the verdict: covered patches, sinks and forced first tokens, each with its interval."""
    rows = [row for row in _contrasts(live) if row["said"] == _SAID[0] and row["against"] == "random"]
    parts = [
        f"{row['most']:.2f} against {row['other']:.2f} nats for {row['setting']} by its {row['map']} "
        f"({one.effects.count} of {one.effects.cells} patches; {_apart(row['gap'], row['interval'])})"
        for row, one in zip(rows, live.masked, strict=True)
    ]
    told = [
        f"Asked again on {len(live.items)} of the questions with the most attended patches of the picture covered, or "
        f"as many random ones, the own text loses {', '.join(parts)}."
    ]
    kind = _kinds(live, counts)[-1]
    left, right = (values[:, HEADLINE] for values in _without(live, kind))
    gap = cluster_difference(right, left, live.items["cluster"])
    left_out = kind.name.replace(", ", " and ").replace("first", "the first")
    told.append(f"Without {left_out}, the difference in attention to the image is {_points(gap)}.")
    return f"{' '.join(told)} {_forced_sentence(live, compared)}"


def _forced_sentence(live: Live, compared: Compared) -> str:
    values = _forced_values(live, compared)
    parts = []
    for name in list(values)[1:3]:
        left, right, _ = values[name]
        gap = cluster_difference(right, left, live.items["cluster"])
        parts.append(f"{_points(gap)} with {name.replace(', in both', '')}")
    return f"With the same first token in both settings it is {' and '.join(parts)}."


def _apart(gap: float, interval: Sequence[float | None]) -> str:
    low, high = interval
    if low is None or high is None:
        return f"{gap:+.2f}, no interval"
    return f"{gap:+.2f}, 95 % interval {low:+.2f} to {high:+.2f}"


def _points(result: Result) -> str:
    return f"{result.estimate:+.2f} points ({result.low:+.2f} to {result.high:+.2f})"


def live_arrays(live: Live) -> Mapping[str, npt.NDArray[Any]]:
    """The arrays that the tables are made from, for the npz."""
    arrays: dict[str, npt.NDArray[Any]] = {"live_doc_id": live.items["doc_id"].to_numpy()}
    for mark, rows, forced in zip("ab", live.rows, live.forced, strict=True):
        arrays[f"live_visual_{mark}"] = rows.visual.mean(2).astype(np.float16)
        arrays[f"live_forced_{mark}"] = _share(forced)
    for place, one in enumerate(live.masked):
        for condition, losses in one.effects.whole.items():
            name = condition.replace(" ", "_").replace("'", "")
            arrays[f"live_lost_{place}_{name}"] = losses.astype(np.float32)
    return arrays
