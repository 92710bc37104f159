"""What is left to do in a grid, in which order, and what has to wait: starts before arms, tuning before the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lare.errors import LareError
from lare.experiments.plan import Plan, Run
from lare.experiments.store import Slot, done
from lare.experiments.work import Settings, missing

__all__ = ["Choice", "Job", "chosen_rate", "jobs"]


@dataclass(frozen=True)
class Choice:
    """Which part of a grid is wanted.

    Attributes:
        arms: Names of arms; empty is all.
        starts: Names of starts; empty is all.
        asks: Names of ways of asking; empty is all.
        seeds: Seeds of arms; empty is all.
        rates: Factors on the learning rates that are tried; empty is all.
        only_starts: Starts and no arms.
    """

    arms: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    only_starts: bool = False

    def check(self, plan: Plan) -> None:
        """Refuse names that the grid does not have.

        Raises:
            LareError: With those that it has.
        """
        asks = list(dict.fromkeys(ask for arm in plan.grid.arms.values() for ask in arm.asks))
        for what, given, known in (
            ("arm", self.arms, list(plan.grid.arms)),
            ("start", self.starts, list(plan.starts)),
            ("ask", self.asks, asks),
        ):
            unknown = [one for one in given if one not in known]
            if unknown:
                raise LareError(f"there is no {what} {unknown[0]!r}; choose from {', '.join(known)}")

    def of(self, plan: Plan) -> list[str]:
        """The wanted arms, in the grid's order."""
        return [arm for arm in plan.grid.arms if not self.arms or arm in self.arms]

    def takes(self, run: Run) -> bool:
        """Whether an arm's run is of a wanted start, seed and rate."""
        return (
            (not self.starts or run.start in self.starts)
            and (not self.seeds or run.seed in self.seeds)
            and (not self.rates or run.rate in self.rates)
        )

    def asked(self, plan: Plan, arm: str) -> list[str]:
        """The wanted ways of asking an arm."""
        return [ask for ask in plan.grid.arms[arm].asks if not self.asks or ask in self.asks]


@dataclass(frozen=True)
class Job:
    """A run with work left.

    Attributes:
        run: The run.
        asks: Ways of asking it.
        ready: Whether nothing that it needs is missing.
        slots: Rows that it will make.
    """

    run: Run
    asks: tuple[str, ...]
    ready: bool
    slots: tuple[Slot, ...] = ()


def chosen_rate(plan: Plan, arm: str) -> float | None:
    """The factor on the learning rates with the best validation accuracy; None while it is not known.

    Where the grid names another for it, that one's choice.

    Accuracy is the mean over tasks and over the starts on which rates are tried, of the arm's own way of asking; of
    equal ones the first counts.
    """
    if plan.tuned_by is not None:
        return chosen_rate(plan.tuned_by, arm)
    runs = plan.tuning_runs(arm)
    if not runs:
        return plan.grid.tuning.rates[0]
    own = plan.grid.arms[arm].own
    means = {}
    for rate, tried in runs.items():
        rows = [done(plan, Slot(run, own, "validation")) for run in tried]
        if any(row is None for row in rows):
            return None
        means[rate] = float(np.mean([np.mean(list(row["scores"].values())) for row in rows if row is not None]))
    return max(means, key=lambda rate: means[rate])


def jobs(plan: Plan, choice: Choice, settings: Settings) -> list[Job]:
    """Everything that is left to do, start by start, so that whole starts are complete early."""
    if choice.only_starts:
        wanted = [start for name, start in plan.starts.items() if not choice.starts or name in choice.starts]
        return [Job(start, (), True) for start in wanted if not plan.trained(start)]
    found = list(_arm_jobs(plan, choice, settings))
    needed = dict.fromkeys(job.run.start for job in found if not plan.trained(job.run))
    order: list[Job] = []
    for name, start in [(None, None), *plan.starts.items()]:
        if start is not None and name in needed and not plan.trained(start):
            order.append(Job(start, (), True))
        order += [job for job in found if job.run.start == name]
    return order


def _arm_jobs(plan: Plan, choice: Choice, settings: Settings) -> Iterator[Job]:
    for arm in choice.of(plan):
        asks = choice.asked(plan, arm)
        rate = chosen_rate(plan, arm)
        if settings.split == "validation":
            own = (plan.grid.arms[arm].own,)
            tuning = [run for runs in plan.tuning_runs(arm).values() for run in runs]
            yield from _left(plan, choice, settings, [run for run in tuning if run.rate != rate], own)
        runs = plan.arm_runs(arm, 1.0 if rate is None else rate)
        yield from _left(plan, choice, settings, runs, asks, rate is not None)


def _left(
    plan: Plan, choice: Choice, settings: Settings, runs: Sequence[Run], asks: Sequence[str], known: bool = True
) -> Iterator[Job]:
    for run in runs:
        if not choice.takes(run):
            continue
        slots = missing(plan, run, asks, settings)
        if slots:
            begun = run.start is None or plan.trained(plan.starts[run.start])
            yield Job(run, tuple(slot.ask for slot in slots), known and begun, tuple(slots))
