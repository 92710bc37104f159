"""Tables and figures of the heat maps' report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.heatmaps.measure import Maps
from analysis.heatmaps.numbers import Shares, mean_of_others, nss, on_things, ratio_of_sums, shape_of_maps
from analysis.heatmaps.overlap import TOP, Agreement, agreement
from analysis.shared.cells import only, with_interval
from analysis.shared.report.document import Column, Figure, Series, Table

__all__ = [
    "Measured",
    "average_figure",
    "boxes_table",
    "curves",
    "hops_table",
    "measure",
    "measures_table",
    "shape_table",
    "steps_table",
    "thing_grids",
]

Values = npt.NDArray[np.float64]
Bands = tuple[Values, Values, Values]
"""Estimates, and the ends of their intervals."""

OWN, EVEN, MEAN, RANDOM = "Extractor", "even over the window", "data set's mean map", "random windows"


@dataclass(frozen=True)
class Measured:
    """Everything that is counted, for the answers whose question needs something that has a box.

    Attributes:
        maps: Those answers.
        covered: `cover` of their things, (n, g, g).
        shares: For each source (`OWN`; `EVEN`, its windows without a choice within them; `MEAN`; and `RANDOM` where
            there are such traces), (n, K) inside.
        score: NSS by source, (n, K); none for `EVEN`.
        seen: Share of the things that lies in the window, by source (`OWN`, `RANDOM`), (n, K).
        boxes: AUC-Judd and IoU with the true boxes over the whole picture, by source, (n, K) inside.
        clusters: (n,) scenes.
        seed: Seed of the bootstrap.
    """

    maps: Maps
    covered: Values
    shares: Mapping[str, Shares]
    score: Mapping[str, Values]
    seen: Mapping[str, Values]
    boxes: Mapping[str, Agreement]
    clusters: Sequence[object]
    seed: int

    def take(self, rows: npt.NDArray[np.bool_]) -> Measured:
        """The same of some answers: (n,) which."""

        def part(one: Shares | Agreement) -> Any:
            return type(one)(**{name.name: getattr(one, name.name)[rows] for name in fields(one)})

        return Measured(
            self.maps.take(np.flatnonzero(rows)),
            self.covered[rows],
            {source: part(one) for source, one in self.shares.items()},
            {source: values[rows] for source, values in self.score.items()},
            {source: values[rows] for source, values in self.seen.items()},
            {source: part(one) for source, one in self.boxes.items()},
            [one for one, kept in zip(self.clusters, rows, strict=True) if kept],
            self.seed,
        )

    @property
    def labels(self) -> list[str]:
        """Names of the rows: steps, then all of them."""
        return [f"step {k + 1}" for k in range(self.maps.steps)] + ["all steps"]


def measure(maps: Maps, random: Maps | None, seed: int) -> Measured | None:
    """Count where maps lie; None where no question has a box of what it needs.

    Args:
        maps: All thinking answers; those without boxes count for the mean map alone, which is for each answer that of
            the other scenes.
        random: The same with random windows, in the same order.
        seed: Seed of the bootstrap.
    """
    rows = np.flatnonzero([bool(boxes) for boxes in maps.boxes])
    if not rows.size:
        return None
    boxed = maps.take(rows)
    covered = boxed.covered()
    area = covered.sum((-2, -1))[:, None]
    average = mean_of_others(maps.extractor, list(maps.table["cluster"]))[rows]
    sources = {OWN: boxed.extractor, EVEN: boxed.evenly, MEAN: average}
    inside = {OWN: boxed.inside}
    if random is not None:
        part = random.take(rows)
        sources[RANDOM], inside[RANDOM] = part.extractor, part.inside
    return Measured(
        boxed,
        covered,
        {source: on_things(maps, covered) for source, maps in sources.items()},
        {
            source: nss(maps, inside.get(source, boxed.inside), covered)
            for source, maps in sources.items()
            if source != EVEN
        },
        {source: (covered[:, None] * windows).sum((-2, -1)) / area for source, windows in inside.items()},
        {source: agreement(maps, covered) for source, maps in sources.items()},
        list(boxed.table["cluster"]),
        seed,
    )


def with_all(values: Values) -> Values:
    """(n, K + 1): the values (n, K), then their mean over steps; missing steps are left out of the mean."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(1, keepdims=True)
    count = known.sum(1, keepdims=True)
    return np.concatenate([values, np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)], 1)


def _cells(key: str, found: Bands, row: int) -> dict[str, object]:
    estimate, low, high = found
    return {key: float(estimate[row]), f"{key}_interval": (float(low[row]), float(high[row]))}


def _mean(values: Values, measured: Measured, factor: float = 1.0) -> Bands:
    return ratio_of_sums(factor * with_all(values), None, measured.clusters, measured.seed)


def lift(measured: Measured, source: str, rows: npt.NDArray[np.bool_] | None = None) -> Bands:
    """Share on the things by the things' share of the image, for each step and all of them."""
    shares = measured.shares[source]
    chosen = np.ones(len(shares.area), bool) if rows is None else rows
    clusters = [one for one, take in zip(measured.clusters, chosen, strict=True) if take]
    return ratio_of_sums(with_all(shares.mass)[chosen], shares.area[chosen, None], clusters, measured.seed)


def _columns(key: str, label: str, digits: int, help_text: str = "") -> tuple[Column, Column]:
    """A number's column and its interval's."""
    return with_interval(key, label, digits, help_text, "", "95 % interval")


def _by_step(
    labels: Sequence[str], facts: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Bands]]
) -> tuple[dict[str, Any], ...]:
    """A row a step and source: what is known of the source, and its estimates at that step.

    Args:
        labels: Names of the steps.
        facts: Cells that a source has at every step.
        found: Source to key of a column to its estimates by step.
    """
    return tuple(
        {"step": label, "source": source, **facts[source]}
        | {name: cell for key, values in parts.items() for name, cell in _cells(key, values, i).items()}
        for i, label in enumerate(labels)
        for source, parts in found.items()
    )


def steps_table(measured: Measured) -> Table:
    """Share of the Extractor's attention on the things, by step, beside the baselines."""
    columns = [
        Column("step", "Latent step"),
        *_columns("mass", "On the things (%)", 1, "Share of the Extractor's attention on what the question needs"),
        Column("area", "Their share of the picture (%)", "number", 1),
        *_columns("lift", "Lift", 2, "Share on the things by their share of the picture; 1 is chance"),
    ]
    found = {"mass": _mean(measured.shares[OWN].mass, measured, 100), "lift": lift(measured, OWN)}
    for key, source in (("even", EVEN), ("mean", MEAN), ("random", RANDOM)):
        if source in measured.shares:
            gap = measured.shares[OWN].mass - measured.shares[source].mass
            found[key] = _mean(gap, measured, 100)
            columns += _columns(key, f"Above: {source} (points)", 1, f"Share on the things less that of: {source}")
    columns.append(Column("n", "n", "count"))
    area = 100 * float(measured.shares[OWN].area.mean())
    rows = _by_step(measured.labels, {OWN: {"area": area, "n": len(measured.clusters)}}, {OWN: found})
    scenes = len(set(measured.clusters))
    note = f"Intervals: 1,000 draws of a bootstrap over {scenes:,} scenes; several questions can share a scene."
    caption = "How much of the Extractor's attention lies on the things that a question needs."
    return Table("steps", caption, tuple(columns), only(columns, rows), note, main=True)


def hops_table(measured: Measured) -> Table:
    """The same by the number of hops, over all steps."""
    hops = measured.maps.hops
    columns = (
        Column("hops", "Hops", "count", help="How many things a question leads through"),
        Column("source", "Map"),
        *_columns("mass", "On the things (%)", 1),
        Column("area", "Their share of the picture (%)", "number", 1),
        *_columns("lift", "Lift", 2),
        Column("n", "n", "count"),
        Column("scenes", "Scenes", "count"),
    )
    rows: list[dict[str, object]] = []
    for hop in sorted(set(hops.tolist())):
        chosen = hops == hop
        clusters = [one for one, take in zip(measured.clusters, chosen, strict=True) if take]
        for source, shares in measured.shares.items():
            mass = ratio_of_sums(100 * with_all(shares.mass)[chosen], None, clusters, measured.seed)
            row: dict[str, object] = {"hops": hop, "source": source, "area": 100 * float(shares.area[chosen].mean())}
            row |= _cells("mass", mass, -1) | _cells("lift", lift(measured, source, chosen), -1)
            rows.append(row | {"n": int(chosen.sum()), "scenes": len(set(clusters))})
    return Table("hops", "The same by hops, mean over steps.", columns, tuple(rows))


def measures_table(measured: Measured) -> Table:
    """Pointing game, NSS, and what the windows hold, by step and source."""
    columns = (
        Column("step", "Latent step"),
        Column("source", "Map"),
        *_columns("hit", "Strongest cell on a thing (%)", 1, "Pointing game: the strongest cell touches a box"),
        *_columns("near", "Within one cell (%)", 1, "The same with a tolerance of one cell"),
        *_columns("nss", "NSS in the window", 2, "Mean of the window's cells at 0, spread 1; 0 is chance"),
        Column("n_nss", "n with a thing in the window", "count"),
        *_columns("seen", "Things inside the window (%)", 1, "Share of the boxes' area"),
    )
    rows: list[dict[str, object]] = []
    table = {}
    for source, shares in measured.shares.items():
        if source == EVEN:
            continue  # no strongest cell, no spread
        table[source] = {
            "hit": _mean(shares.pointing, measured, 100),
            "near": _mean(shares.near, measured, 100),
            "nss": _mean(measured.score[source], measured),
        }
        if source in measured.seen:
            table[source]["seen"] = _mean(measured.seen[source], measured, 100)
    for i, label in enumerate(measured.labels):
        for source, found in table.items():
            row: dict[str, object] = {"step": label, "source": source}
            row["n_nss"] = int(np.isfinite(with_all(measured.score[source])[:, i]).sum())
            for key, values in found.items():
                row |= _cells(key, values, i)
            rows.append(row)
    note = "The mean map is judged inside the answers' own windows, so that only the choice within the window counts."
    return Table("measures", "Pointing game, NSS and what the windows hold.", columns, tuple(rows), note)


def boxes_table(measured: Measured) -> Table:
    """AUC-Judd and best-threshold IoU by step and source, and what the Extractor has above each baseline."""
    judd = "How often a point on the things has more attention than one beside them; 0.5 is chance"
    columns = (
        Column("step", "Latent step"),
        Column("source", "Map"),
        *_columns("auc", "AUC-Judd", 3, judd),
        *_columns("auc_gap", "Extractor above it", 3, "Difference of the two AUC on the same questions"),
        *_columns("iou", "Best IoU (%)", 1, "Overlap by union of the things and the map cut at its best threshold"),
        *_columns("iou_gap", "Extractor above it (points)", 1, "Difference of the two IoU on the same questions"),
        Column("n", "n", "count"),
    )
    own = measured.boxes[OWN]
    found = {}
    for source, one in measured.boxes.items():
        found[source] = {"auc": _mean(one.auc, measured), "iou": _mean(one.iou, measured, 100)}
        if source != OWN:
            found[source]["auc_gap"] = _mean(own.auc - one.auc, measured)
            found[source]["iou_gap"] = _mean(own.iou - one.iou, measured, 100)
    rows = _by_step(measured.labels, dict.fromkeys(found, {"n": len(measured.clusters)}), found)
    note = (
        "Over the whole picture; cells outside a window tie as the lowest. The threshold of the IoU is chosen for each "
        "map with the truth in view, for the baselines as well: an upper bound."
    )
    return Table("boxes", "Agreement of whole maps with the true boxes.", columns, rows, note)


def shape_table(maps: Maps, random: Maps | None, seed: int) -> Table:
    """Spread and travel of all answers' maps, by step."""
    columns, bits = [Column("step", "Latent step"), Column("source", "Map")], float(np.log2(maps.window**2))
    for key, label, help_text in (
        ("entropy", "Entropy (bits)", f"Even over a {maps.window} x {maps.window} window: {bits:.1f}"),
        ("effective", "Effective cells", "2 to the power of the entropy"),
        ("top", "In the strongest tenth", _tenth(maps)),
        ("travel", "Travel (cells)", "Of the centre of mass since the step before"),
        ("divergence", "Change (bits)", "Jensen-Shannon divergence from the step before; 1: no shared cell"),
        ("spearman", "Rank correlation", "Spearman, with the step before, over all cells; those without a value tie"),
    ):
        columns += _columns(key, label, 2, help_text)
    keys = [column.key for column in columns if column.kind == "number"]
    columns.append(Column("n", "n", "count"))
    rows: list[dict[str, object]] = []
    for source, one in ((OWN, maps), (RANDOM, random)):
        if one is None:
            continue
        clusters = list(one.table["cluster"])
        shapes = shape_of_maps(one.extractor)
        found = {key: ratio_of_sums(shapes[key], None, clusters, seed) for key in keys}
        labels = [f"step {k + 1}" for k in range(one.steps)]
        rows += _by_step(labels, {source: {"n": len(clusters)}}, {source: found})
    return Table("shape", "How spread the maps are and how they move, over all answers.", tuple(columns), tuple(rows))


def _tenth(maps: Maps) -> str:
    cells = int(np.ceil(TOP * maps.grid**2))
    even = min(1.0, cells / maps.window**2)
    return f"Share of a map in its {cells} strongest cells of {maps.grid**2}; even over the window: {even:.2f}"


def curves(measured: Measured) -> list[Figure]:
    """Share on the things by step for each source, lift by hops, and what the windows hold."""
    steps = tuple(float(k + 1) for k in range(measured.maps.steps))
    count = len(steps)

    def series(name: str, found: Bands) -> Series:
        estimate, low, high = (tuple(float(value) for value in part[:count]) for part in found)
        return Series(name, steps, estimate, low, high)

    lines = [series(source, _mean(shares.mass, measured, 100)) for source, shares in measured.shares.items()]
    area = 100 * float(measured.shares[OWN].area.mean())
    hops = measured.maps.hops
    by_hops = [
        series(f"{hop} hop" if hop == 1 else f"{hop} hops", lift(measured, OWN, hops == hop))
        for hop in sorted(set(hops.tolist()))
        if hop and (hops == hop).sum() >= 20
    ]
    held = [series(source, _mean(seen, measured, 100)) for source, seen in measured.seen.items()]
    return [
        Figure(
            "mass", "Attention on the things, by step",
            "Share of each map on what the question needs, with 95 % bands. The dashed line is the things' share of "
            "the picture: where a map that knows nothing would lie.",
            "lines", tuple(lines), "latent step", "share on the things (%)", area,
        ),
        *([] if not by_hops else [Figure(
            "lift-hops", "Lift by hops", "Share on the things by their share of the picture; 1 is chance. Groups of "
            "fewer than 20 questions are left out here, not in the tables.",
            "lines", tuple(by_hops), "latent step", "lift", 1.0,
        )]),
        Figure(
            "held", "What the windows hold", "Share of the things' area that lies inside the window, with 95 % bands.",
            "lines", tuple(held), "latent step", "of the things inside (%)",
        ),
    ]  # fmt: skip


def thing_grids(measured: Measured, average: Values) -> list[Figure]:
    """Which of a question's things each step lies on, and the data set's mean map."""
    hops = measured.maps.hops
    counts = np.array([len(boxes) for boxes in measured.maps.boxes])
    labels = tuple(measured.labels[:-1])
    figures: list[Figure] = []
    for things in (2, 3):
        rows = np.flatnonzero((hops == things) & (counts == things))
        if len(rows) < 20:
            continue
        part = measured.maps.take(rows)
        series = []
        for thing in range(things):
            shares = on_things(part.extractor, part.covered(thing))
            found = shares.mass.mean(0) / shares.area.mean()
            series.append(Series(f"thing {thing + 1}", labels, tuple(float(value) for value in found)))
        figures.append(
            Figure(
                f"things-{things}", f"Which thing each step lies on, {things} hops",
                f"Lift of each step's map on the first to last thing that the question leads through; {len(rows)} "
                "questions. Were each step a hop, the brightest cells would run down the diagonal.",
                "grid", tuple(series), "", "thing",
            )
        )  # fmt: skip
    return [*figures, average_figure(average)]


def average_figure(average: Values) -> Figure:
    """The data set's mean map."""
    whole = average.mean(0)
    cells = tuple(
        Series(f"row {i + 1}", tuple(str(j + 1) for j in range(len(line))), tuple(100 * float(v) for v in line))
        for i, line in enumerate(whole)
    )
    words = f"Mean of all answers' maps over all steps, in percent; even would be {100 / whole.size:.2f} a cell."
    return Figure("average", "The data set's mean map", words, "grid", cells, "column", "row")
