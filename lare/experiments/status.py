"""Where a grid stands: what is done, running and missing, minutes spent, and an estimate of the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lare.experiments.order import Choice, Job, chosen_rate, jobs
from lare.experiments.plan import Plan, Run
from lare.experiments.record import declared_at, finished
from lare.experiments.runner import locked
from lare.experiments.store import Slot, done
from lare.experiments.work import Settings

__all__ = ["status"]


def status(plan: Plan, choice: Choice, settings: Settings, at_once: int = 1) -> str:
    """A text for a terminal.

    Args:
        plan: The grid.
        choice: The part of it.
        settings: Settings of the run; the split counts.
        at_once: Processes side by side, for the estimate.
    """
    left = jobs(plan, choice, settings)
    missing = {job.run.name: job for job in left}
    lines = [f"{plan.grid.name}: {plan.grid.title}".rstrip(": "), *_primary(plan), "", f"{settings.split} rows:"]
    for name, start in plan.starts.items():
        lines.append(f"  start {name:<12} {_state(start, plan.trained(start), missing)}")
    rows: list[dict[str, Any]] = []
    for arm in choice.of(plan):
        made, wanted, running = [], 0, 0
        for run, asks in _wanted(plan, choice, settings, arm):
            found = [done(plan, Slot(run, ask, settings.split)) for ask in asks]
            made += [row for row in found if row is not None]
            wanted += len(found)
            running += locked(run.place.with_name(f"{run.place.name}.lock"))
        rows += made
        lines.append(
            f"  {arm:<18} {len(made)} of {wanted} done{f', {running} running' * bool(running)}{_rate(plan, arm)}"
        )
    lines += ["", *_minutes(plan, rows, left, at_once)]
    return "\n".join(lines)


def _primary(plan: Plan) -> Iterator[str]:
    primary = plan.grid.primary
    if primary is None:
        yield "primary contrast: none is declared (primary: {arm: ..., minus: ...})"
        return
    commit = declared_at(plan.file, primary)
    where = f"declared in commit {commit[:12]}" if commit else "NOT committed: nothing is declared beforehand yet"
    without = [*primary.exclude_families, *primary.exclude_tasks]
    yield (
        f"primary contrast: {primary.arm} minus {primary.minus}, {primary.measure} on {primary.split} questions"
        + (f", without {', '.join(without)}" if without else "")
        + f" [{primary.hash()}, {where}]"
    )


def _state(run: Run, trained: bool, missing: dict[str, Job]) -> str:
    if trained:
        return "trained"
    if locked(run.place.with_name(f"{run.place.name}.lock")):
        return f"running{_progress(run.place)}"
    return "missing" if run.name in missing else "not needed"


def _progress(folder: Path) -> str:
    """How far a training is, from the newest line of its logs."""
    logs = sorted(folder.glob("*/log.jsonl"), key=lambda path: path.stat().st_mtime)
    try:
        line = json.loads(logs[-1].read_text("utf-8").splitlines()[-1])
        return f", stage {logs[-1].parent.name}, update {line['step']}"
    except (IndexError, OSError, ValueError, KeyError):
        return ""


def _wanted(plan: Plan, choice: Choice, settings: Settings, arm: str) -> Iterator[tuple[Run, Sequence[str]]]:
    """Runs of an arm and how each is asked, tuning included."""
    rate, asks = chosen_rate(plan, arm), choice.asked(plan, arm)
    if settings.split == "validation":
        for one, runs in plan.tuning_runs(arm).items():
            yield from ((run, (plan.grid.arms[arm].own,)) for run in runs if one != rate and choice.takes(run))
    runs = plan.arm_runs(arm, rate or 1.0)
    yield from ((run, asks) for run in runs if choice.takes(run))


def _rate(plan: Plan, arm: str) -> str:
    tried = len(plan.tried)
    if tried == 1:
        return ""
    rate = chosen_rate(plan, arm)
    return f"; rates x {rate:g} of {tried} tried" if rate is not None else "; rates not chosen yet"


def _minutes(plan: Plan, rows: Sequence[dict[str, Any]], left: Sequence[Job], at_once: int) -> Iterator[str]:
    """Spent and estimated; a training that was never seen to end counts as the mean of those that were."""
    training = {(row["arm"], row["start"], row["seed"], row["rate"]): float(row["seconds"]) for row in rows}
    asking = [float(row["asking_seconds"]) for row in rows]
    begun = [finished(one.place, one.last)["seconds"] for one in plan.starts.values() if plan.trained(one)]
    spent = sum(training.values()) + sum(asking) + sum(begun)
    slots = sum(len(job.slots) for job in left)
    trainings = [job for job in left if not plan.trained(job.run)]
    starts = sum(job.run.arm is None for job in trainings)
    yield f"spent: {spent / 60:.0f} minutes; missing: {starts} starts, {len(trainings) - starts} arms, {slots} rows"
    if not left:
        return
    if not training or (starts and not begun):
        yield "no estimate of the rest before one of each has ended"
        return
    rest = starts * float(np.mean(begun or [0])) + (len(trainings) - starts) * float(np.mean([*training.values()]))
    rest += slots * float(np.mean(asking))
    yield f"estimate of the rest: {rest / 60 / at_once:.0f} minutes, {at_once} at once"
