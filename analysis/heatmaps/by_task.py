"""How much of the attention lies on the things asked about, with the tasks apart."""

from __future__ import annotations

import numpy as np

from analysis.heatmaps.numbers import ratio_of_sums
from analysis.heatmaps.tables import EVEN, OWN, Measured, lift
from analysis.shared.cells import with_interval
from analysis.shared.report.document import Column, Table
from analysis.shared.tasks import Apart, find_apart
from analysis.shared.traces import short

__all__ = ["by_task", "moves_by_source"]


def moves_by_source(measured: Measured) -> Apart:
    """Which tasks move against the rest from a baseline's maps to the own, in attention on the things."""
    sources = [OWN, *(one for one in measured.shares if one != OWN)]
    mass = np.stack([measured.shares[source].mass.mean(1) for source in sources], 1)
    moves = [(place, 0) for place in range(1, len(sources))]
    return find_apart(mass, measured.maps.table["task"].to_numpy(str), measured.clusters, sources, moves)


def by_task(measured: Measured, apart: Apart) -> Table:
    """The share on the things and its lift, a row a task, mean over steps."""
    tasks = measured.maps.table["task"].to_numpy(str)
    own = measured.shares[OWN]
    gap = 100 * (own.mass - measured.shares[EVEN].mass).mean(1)
    rows = []
    for task in sorted(set(tasks.tolist())):
        chosen = tasks == task
        clusters = [one for one, taken in zip(measured.clusters, chosen, strict=True) if taken]
        columns = np.stack([100 * own.mass.mean(1), gap], 1)[chosen]
        mean, low, high = ratio_of_sums(columns, None, clusters, measured.seed)
        lifts = [float(values[-1]) for values in lift(measured, OWN, chosen)]
        name = short(task) + (" (set aside)" if task in apart.aside else "")
        row: dict[str, object] = {"task": name, "n": int(chosen.sum()), "scenes": len(set(clusters))}
        row |= {"mass": float(mean[0]), "mass_interval": (float(low[0]), float(high[0]))}
        row |= {"area": 100 * float(own.area[chosen].mean())}
        row |= {"lift": lifts[0], "lift_interval": (lifts[1], lifts[2])}
        row |= {"even": float(mean[1]), "even_interval": (float(low[1]), float(high[1]))}
        rows.append(row)
    interval, chance = "bootstrap over scenes", "Share on the things by their share of the picture; 1 is chance"
    return Table(
        "tasks",
        "How much of the Extractor's attention lies on the things, by task, mean over steps.",
        (
            Column("task", "Task"),
            *with_interval("mass", "On the things (%)", 1, "", interval, "95 % interval"),
            Column("area", "Their share of the picture (%)", "number", 1),
            *with_interval("lift", "Lift", 2, chance, interval, "95 % interval"),
            *with_interval("even", f"Above: {EVEN} (points)", 1, "", interval, "95 % interval"),
            Column("n", "n", "count"),
            Column("scenes", "Scenes", "count"),
        ),
        tuple(rows),
    )
