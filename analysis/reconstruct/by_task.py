"""Pictures from latents with the tasks apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.reconstruct.measure import SAMPLED, ByStep, over_steps
from analysis.reconstruct.sampling import TITLES, Scores
from analysis.shared.cells import cells, only, with_interval
from analysis.shared.report.document import Column, Table
from analysis.shared.stats import cluster_difference, cluster_mean
from analysis.shared.tasks import Apart, find_apart
from analysis.shared.traces import short

__all__ = ["by_task", "moves_by_condition", "take"]


def take(scores: ByStep, rows: npt.NDArray[np.bool_]) -> dict[str, list[Scores]]:
    """Scores of some questions: (N,) which."""
    return {
        name: [Scores(**{one.name: getattr(step, one.name)[rows] for one in fields(Scores)}) for step in steps]
        for name, steps in scores.items()
    }


def moves_by_condition(scores: ByStep, tasks: Sequence[str], scenes: Sequence[str]) -> Apart:
    """Which tasks move against the rest from a control's latents to the own, in crops that are identified."""
    found = np.stack([over_steps(scores[name], "found") for name in SAMPLED], 1)
    moves = [(place, 0) for place in range(1, len(SAMPLED))]
    return find_apart(found, tasks, scenes, [TITLES[name].lower() for name in SAMPLED], moves)


def by_task(scores: ByStep, tasks: Sequence[str], scenes: Sequence[str], apart: Apart) -> Table:
    """Own latents by task, beside another picture's."""
    rows = []
    for task in sorted(set(tasks)):
        chosen = np.array([one == task for one in tasks])
        inside = [scene for scene, take_it in zip(scenes, chosen, strict=True) if take_it]
        part = take(scores, chosen)
        row: dict[str, Any] = {"task": short(task) + (" (set aside)" if task in apart.aside else ""), "n": len(inside)}
        for metric, scale in (("found", 100.0), ("psnr", 1.0)):
            own, other = (over_steps(part[name], metric) for name in ("own", "other"))
            row |= {metric: scale * own.mean()}
            if len(inside) > 1:
                mean, gap = cluster_mean(own, inside), cluster_difference(own, other, inside)
                row |= cells(metric, mean, scale) | cells(f"{metric}_gap", gap, scale)
        rows.append(row)
    columns = (
        Column("task", "Task"),
        Column("n", "Questions", "count"),
        *with_interval("found", "Identified, %", 1, "from own latents"),
        *with_interval("found_gap", "Own minus other, points", 1, "another picture's latents, paired"),
        Column("psnr", "PSNR, dB", "number", 2, "from own latents"),
        *with_interval("psnr_gap", "Own minus other, dB", 2, "another picture's latents, paired"),
    )
    return Table("tasks", "Pictures from own latents by task", columns, only(columns, rows))
