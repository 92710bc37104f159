"""A claim about trained systems, held against rows of independent starts (`lare.experiments`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from analysis.claims.judge import ALPHA, HOLDS, LEAST_STARTS, UNDECIDED, Finding, decide, over_starts
from analysis.shared.stats import holm
from lare.errors import LareError
from lare.experiments.compare import Mask, contrast
from lare.experiments.gather import Entry, gather
from lare.experiments.plan import Plan
from lare.experiments.table import mask_of

__all__ = ["Compared", "Grids", "adjusted", "compared"]

DECIDES, EXPLORES = "test", "validation"
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Compared:
    """Two arms of a grid, or one against what chance gives.

    Attributes:
        arm: ``arm`` or ``arm/ask``.
        minus: The other; empty for a measure that has its own comparison (`hits`).
        says: What the claim says of arm minus the other: ``more``, ``less`` or ``same``.
        measure: ``accuracy`` (mean over tasks), ``tokens`` (text and latent steps of right answers), ``text_tokens``,
            or ``hits`` (windows that hold what is needed, minus the share by chance).
        part: What is compared, in words; the arms' titles where it is empty.
        grid: Name of the grid; empty for any that declares both arms.
        primary: The grid's primary contrast: its questions count, every declared start is needed, and its p is not
            adjusted.
        least_hops: Questions of fewer hops are left out of an accuracy that is not the primary contrast's.
    """

    arm: str
    minus: str = ""
    says: str = "more"
    measure: str = "accuracy"
    part: str = ""
    grid: str = ""
    primary: bool = False
    least_hops: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The arms."""
        return (self.arm, self.minus) if self.minus else (self.arm,)

    @property
    def unit(self) -> str:
        """Unit of its effect."""
        return "tokens" if "tokens" in self.measure else "points"


@dataclass
class Grids:
    """Declared grids and their committed rows; each split is gathered once.

    Attributes:
        plans: The grids, in the order given.
    """

    plans: Sequence[Plan]
    _found: dict[tuple[str, str], dict[str, Entry]] = field(default_factory=dict)

    @classmethod
    def read(cls, files: Sequence[Path], reports: Path) -> Grids:
        """Read the grids.

        Args:
            files: Their YAML files.
            reports: Folder of all experiments' rows.

        Raises:
            LareError: If one is impossible.
        """
        # Weights that happen to lie on this machine must not change what committed rows say: no folder of runs.
        return cls([Plan(file, reports / "no-runs", reports) for file in files])

    def entries(self, plan: Plan, split: str) -> dict[str, Entry]:
        """Entries of a split by the name of their arm, and by ``arm/ask``."""
        key = (str(plan.file), split)
        if key not in self._found:
            named: dict[str, Entry] = {}
            for one in gather(plan, split) if split in plan.grid.tasks else []:
                named[one.name] = one
                if "/" not in one.name:
                    named[f"{one.name}/{plan.grid.arms[one.name].own}"] = one
            self._found[key] = named
        return self._found[key]

    def of(self, asked: Compared) -> tuple[Plan, ...] | None:
        """The grid of each arm: one grid where it can be, else those that share most starts, then most rows.

        Nothing here looks at what came out. None where an arm is declared nowhere.
        """
        each = [[one for one in self.plans if asked.grid in ("", one.grid.name) and _declares(one, name)]
                for name in asked.names]  # fmt: skip
        return max(product(*each), key=lambda plans: self._worth(plans, asked), default=None)

    def _worth(self, plans: Sequence[Plan], asked: Compared) -> tuple[int, ...]:
        rows = []
        for split in (DECIDES, EXPLORES):
            found = [self.entries(plan, split).get(name) for plan, name in zip(plans, asked.names, strict=True)]
            rows.append(min(0 if one is None else len(one.asked.starts) for one in found))
        return (len(_starts(plans)), *rows, int(len(set(map(id, plans))) == 1))


def _starts(plans: Sequence[Plan]) -> set[str]:
    """Names of the starts that all of them declare."""
    return set.intersection(*(set(one.starts) for one in plans))


def _declares(plan: Plan, name: str) -> bool:
    try:
        plan.grid.row_of(name)
    except LareError:
        return False
    return True


def compared(asked: Compared, grids: Grids) -> Finding:
    """What the rows say of a comparison, and whether they can decide it.

    Raises:
        LareError: If a row is damaged.
    """
    base = Finding(asked.part or " minus ".join(asked.names), asked.says, unit=asked.unit, alone=asked.primary)
    plans = grids.of(asked)
    if plans is None:
        names = " and ".join(asked.names)
        command = "declare the arms in a grid under lare/configs/experiments, then lare experiments run GRID --test"
        return replace(base, reason=f"no grid declares {names}", command=command)
    base = replace(base, declared=len(_starts(plans)))
    for split in (DECIDES, EXPLORES):
        found = [grids.entries(plan, split).get(name) for plan, name in zip(plans, asked.names, strict=True)]
        there = [one for one in found if one is not None]
        if len(there) == len(asked.names):
            return _judged(_measured(base, asked, plans, split, there), asked, plans, split, there)
    files = " and ".join(dict.fromkeys(plan.file.name for plan in plans))
    lacking = f"no rows of {' and '.join(asked.names)} yet ({files})"
    return replace(base, reason=lacking, command=_command(plans, asked))


def _shown(path: Path) -> str:
    """A path from the repository, where it lies in it."""
    return str(path.resolve().relative_to(_ROOT)) if path.resolve().is_relative_to(_ROOT) else str(path)


def _command(plans: Sequence[Plan], asked: Compared) -> str:
    """Makes the rows that decide."""
    arms: dict[str, list[str]] = {}
    for plan, name in zip(plans, asked.names, strict=True):
        arms.setdefault(_shown(plan.file), []).append(name.partition("/")[0])
    return "; ".join(f"lare experiments run {file} --test --arms {' '.join(dict.fromkeys(names))}"
                     for file, names in arms.items())  # fmt: skip


def _files(plans: Sequence[Plan], there: Sequence[Entry], split: str) -> str:
    """Folders and names of the rows; spaces let a long one break in a table."""
    names: dict[str, list[str]] = {}
    for plan, one in zip(plans, there, strict=True):
        arm, _, ask = one.name.partition("/")
        name = f"{arm}__*__{ask or plan.grid.arms[arm].own}.{split}.json"
        names.setdefault(_shown(plan.out / "rows"), []).append(name)
    return "; ".join(f"{folder}: {', '.join(each)}" for folder, each in names.items())


def _measured(base: Finding, asked: Compared, plans: Sequence[Plan], split: str, there: Sequence[Entry]) -> Finding:
    """Effect, interval, p, questions and starts."""
    told = [" and ".join(dict.fromkeys(str(row.get("supervision") or "none") for row in one.rows)) for one in there]
    base = replace(base, file=_files(plans, there, split), kind=split, told=" against ".join(dict.fromkeys(told)))
    shared = [start for start in there[0].asked.starts if all(start in one.asked.starts for one in there)]
    if not shared or len({one.asked.questions.hash for one in there}) > 1:
        return replace(base, starts=0)
    scenes: tuple[float | None, float | None] = (None, None)
    if asked.measure == "accuracy":
        primary = plans[0].grid.primary
        mask = mask_of(primary) if asked.primary and primary else Mask(least_hops=asked.least_hops)
        found = contrast(there[0].asked, there[1].asked, mask)
        values, n = [100 * one for one in found.by_start], found.questions
        scenes = (100 * found.low, 100 * found.high)
    else:
        each = [_BY_START[asked.measure](one) for one in there]
        common = [start for start in shared if all(start in one for one in each)]
        if not common:
            return replace(base, starts=0)
        values = [each[0][start] - (each[1][start] if len(each) > 1 else 0.0) for start in common]
        n = len(there[0].asked.questions.task)
    mean, low, high, p = over_starts(values)
    known = math.isfinite(low)
    ends = (low, high) if known else scenes
    return replace(base, effect=mean, low=ends[0], high=ends[1], p=p if known else None, n=n, starts=len(values))


def _judged(found: Finding, asked: Compared, plans: Sequence[Plan], split: str, there: Sequence[Entry]) -> Finding:
    """Undecided with the reason, or open for a decision."""
    primary = plans[0].grid.primary
    needed = max(LEAST_STARTS, len(plans[0].starts)) if asked.primary else LEAST_STARTS
    rows = [row for one in there for row in one.rows]
    again = _command(plans, asked)
    if split != DECIDES:
        return replace(found, reason="validation rows explore and can't decide", command=again)
    if not found.starts:
        return replace(found, reason="the rows share no start and questions, or lack that measure", command=again)
    if any(_goes_on(row) for row in rows):
        return replace(found, reason="all rows share one start: their starts go on from one checkpoint")
    if found.starts < needed:
        starts = f"{found.starts} independent start{'s' if found.starts > 1 else ''}"
        return replace(found, reason=f"rows of {starts}, {needed} are needed", command=again)
    if len({(row.get("samples"), row.get("updates"), row.get("start_samples")) for row in rows}) > 1:
        return replace(found, reason="the arms were trained on different numbers of samples or updates")
    if asked.primary and primary and any((row.get("primary") or {}).get("hash") != primary.hash() for row in rows):
        return replace(found, reason="the contrast was declared otherwise when the rows were made")
    return replace(found, open=True)


def _goes_on(row: Mapping[str, Any]) -> bool:
    """Whether a row's start began with a trained checkpoint, so that it shares it with every other."""
    settings = row.get("start_settings") or row.get("settings") or {}
    return bool((settings.get("model") or {}).get("checkpoint"))


def adjusted(findings: Sequence[Finding]) -> list[Finding]:
    """Decide the open ones: p-values are Holm's over all of them but the primary contrast, which stands alone."""
    family = [one.p if one.open and not one.alone and one.says != "same" else None for one in findings]
    return [_settled(one, p) if one.open else one for one, p in zip(findings, holm(family), strict=True)]


def _settled(one: Finding, p: float | None) -> Finding:
    verdict, reason = decide(one.low, one.high, one.says, one.unit)
    tested = one.p if p is None else p
    if verdict == HOLDS and one.says != "same" and (tested is None or tested >= ALPHA):
        verdict, reason = UNDECIDED, "not shown once p is adjusted for the number of comparisons"
    return replace(one, verdict=verdict, reason=reason, holm=p)


# Measures by start -------------------------------------------------------------------------------------------------


def _by_start(one: Entry, value: Callable[[Mapping[str, Any]], float | None]) -> dict[str, float]:
    """Mean over a start's rows, in the entry's own names of starts; starts that lack it are left out."""
    found: dict[str, list[float | None]] = {}
    for row in one.rows:
        found.setdefault(str(row["start_hash"] or f"seed {row['seed']}"), []).append(value(row))
    whole = {start: [one for one in values if one is not None] for start, values in found.items()}
    return {start: float(np.mean(values)) for start, values in whole.items() if len(values) == len(found[start])}


def _tokens(row: Mapping[str, Any], counted: Sequence[str]) -> float | None:
    """Mean over tasks of the tokens of right answers; None where a task has none."""
    each = [[one.get(name) for name in counted] for one in row["tokens"].values()]
    if not each or any(value is None for values in each for value in values):
        return None
    return float(np.mean([sum(values) for values in each]))


def _hits(row: Mapping[str, Any]) -> float | None:
    """Share of steps whose window holds what is needed, minus that of windows at random places, in points."""
    rate, chance = (row["costs"].get(name) for name in ("hit_rate", "hit_chance"))
    return None if rate is None or chance is None else 100 * float(rate - chance)


_BY_START: Mapping[str, Callable[[Entry], dict[str, float]]] = {
    "tokens": lambda one: _by_start(one, lambda row: _tokens(row, ("text_tokens_right", "latent_steps_right"))),
    "text_tokens": lambda one: _by_start(one, lambda row: _tokens(row, ("text_tokens_right",))),
    "hits": lambda one: _by_start(one, _hits),
}
