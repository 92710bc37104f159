"""Learning curves of a grid's runs: how soon each arm's text is learnt, from the logs of the runs that lie here.

Two arms that end alike may have needed very different numbers of samples, and an arm that ends behind may only be late.
So the loss of the text (eq. 5) in the last stage is kept beside the rows, as means over equal parts of the stage. Arms
that write the same text can be compared by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lare.embedded.card import read_log
from lare.errors import LareError
from lare.experiments.order import Choice, chosen_rate
from lare.experiments.plan import Plan
from lare.files import save_text

__all__ = ["PARTS", "learning_curves", "reached", "write_learning"]

PARTS = 28
"""Means of a curve."""
_KEYS = ("arm", "start", "seed", "rate")


def learning_curves(plan: Plan, choice: Choice, parts: int = PARTS) -> Iterator[dict[str, Any]]:
    """The curves of the chosen arms' finished runs, at the rate that counts.

    Args:
        plan: The grid.
        choice: Arms and starts.
        parts: Equal parts of the last stage; fewer where its log has fewer lines.

    Yields:
        ``arm``, ``start``, ``seed``, ``rate``, ``stage``, and of each part ``samples`` (of the stage, at its end) and
        ``loss`` (nats a token, weighted by tokens).

    Raises:
        LareError: If a finished run has no log.
    """
    for arm in choice.of(plan):
        rate = chosen_rate(plan, arm) or 1.0
        for run in plan.arm_runs(arm, rate):
            folder = plan.folder(run)
            if not choice.takes(run) or folder is None or not plan.trained(run):
                continue
            lines = [line for line in read_log(folder / run.last) if "lm" in line.get("losses", {})]
            if lines:
                ends = np.linspace(0, len(lines), min(parts, len(lines)) + 1).astype(int)
                found = [_mean(lines[first:last]) for first, last in pairwise(ends)]
                told = {"arm": arm, "start": run.start, "seed": run.seed, "rate": run.rate, "stage": run.last}
                yield {**told, "samples": [one[0] for one in found], "loss": [one[1] for one in found]}


def _mean(lines: Sequence[dict[str, Any]]) -> tuple[int, float]:
    weights = [line.get("counts", {}).get("lm", 1) or 1 for line in lines]
    values = [line["losses"]["lm"] for line in lines]
    return int(lines[-1]["samples"]), round(float(np.average(values, weights=weights)), 5)


def reached(curve: dict[str, Any], level: float) -> int | None:
    """Samples at the end of the first part from which on the loss stays below a level (nats a token); None if never."""
    above = [number for number, loss in enumerate(curve["loss"]) if loss >= level]
    first = above[-1] + 1 if above else 0
    return int(curve["samples"][first]) if first < len(curve["loss"]) else None


def write_learning(plan: Plan, choice: Choice) -> tuple[Path, list[dict[str, Any]]]:
    """Write the curves into ``learning.json`` beside the rows; what earlier calls found elsewhere is kept.

    Raises:
        LareError: If nothing that was chosen is trained here.
    """
    found = list(learning_curves(plan, choice))
    if not found:
        raise LareError(f"no chosen run is trained here; run lare experiments run {plan.file}")
    path = plan.out / "learning.json"
    before = json.loads(path.read_text("utf8"))["curves"] if path.is_file() else []
    ours = {tuple(one[key] for key in _KEYS) for one in found}
    kept = [one for one in before if tuple(one[key] for key in _KEYS) not in ours]
    # By name where the grid no longer has an arm.
    order = {name: number for number, name in enumerate(plan.grid.arms)}
    place = {name: order.get(name, len(order)) for name in (one["arm"] for one in kept + found)}
    whole = sorted(kept + found, key=lambda one: (place[one["arm"]], *(str(one[key]) for key in _KEYS)))
    lines = ",\n".join(json.dumps(one) for one in whole)
    save_text(path, f'{{"curves": [\n{lines}\n]}}')
    return path, found
