"""Tasks apart: whether one moves against the rest, so that an average over tasks speaks of that task alone.

An average over tasks is read as what happens to each of them. One task that jumps where the others stay, or that goes
the other way, breaks that reading. Such a task is set aside: verdicts are drawn from the tasks that remain, with the
whole average beside them. The rule knows directions only relative to the rest and not which of them is welcome.

Shapes: N questions, S settings, M moves from one setting to another, C contrasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

from analysis.shared.cells import ends, with_interval
from analysis.shared.report.document import Column, Table
from analysis.shared.stats import LEVEL, Groups, codes_of
from analysis.shared.traces import short
from lare.errors import LareError

__all__ = ["BOUND", "METHOD", "Apart", "Move", "Moves", "apart_table", "find_apart", "neighbours"]

BOUND = 10.0
"""Points by which a task must move otherwise than the rest. With five tasks it moves their average by two points, as
much as the gaps between stop rules, or between many settings, that verdicts are about."""

Array = npt.NDArray[np.float64]

METHOD = (
    f"Tasks apart: a task moves against the rest if one of two things is shown. Between two settings its accuracy goes "
    f"one way and the mean of the other tasks the other way, and the two changes are more than {BOUND:g} points apart. "
    f"Or, along a row of settings, it falls behind the rest by more than {BOUND:g} points at one place and gains more "
    "than that at another, so that it turns back and forth while they do not. Shown means by intervals that hold for "
    "all tasks and places at once (95 %, t, cluster-robust over scenes, Bonferroni). The one furthest off is set aside "
    "first and the others are looked at again; a majority must remain. Ten points of one task in five are two points "
    "of their average, which is the size of what verdicts are about."
)


@dataclass(frozen=True)
class Move:
    """How a task's values change from one setting to the next, beside the mean of the other tasks.

    Attributes:
        name: Name of the move, such as "3 to 4 steps".
        own: (estimate, low, high) of the task's mean change, in points.
        rest: The same of the mean over the other tasks that remain, each counting alike.
        gap: The same of the difference of the two.
    """

    name: str
    own: tuple[float, float, float]
    rest: tuple[float, float, float]
    gap: tuple[float, float, float]

    def opposite(self, bound: float) -> float:
        """By how many points beyond the bound the task goes the other way; at most 0 where that is not shown."""
        other = (self.own[2] < 0 < self.rest[1]) or (self.rest[2] < 0 < self.own[1])
        return max(self.fall(bound), self.rise(bound)) if other else 0.0

    def fall(self, bound: float) -> float:
        """Points beyond the bound by which the task is shown to fall behind the rest; above 0 where it is."""
        return -bound - self.gap[2]

    def rise(self, bound: float) -> float:
        """Points beyond the bound by which it is shown to gain on the rest; above 0 where it is."""
        return self.gap[1] - bound


@dataclass(frozen=True)
class Moves:
    """All moves of one task, and whether they go against the rest.

    Attributes:
        task: Its name.
        moves: All its moves, in the order asked.
        ordered: Whether the settings are a row, along which a task can turn back and forth.
        bound: By how much a task has to move otherwise than the rest, in `unit`.
        unit: Unit of the changes.
    """

    task: str
    moves: tuple[Move, ...]
    ordered: bool
    bound: float
    unit: str = "points"

    @property
    def excess(self) -> float:
        """Points beyond the bound of what is shown; above 0 where the task moves against the rest."""
        return max(max(one.opposite(self.bound) for one in self.moves), self._turn)

    @property
    def _turn(self) -> float:
        falls, rises = (max(getattr(one, way)(self.bound) for one in self.moves) for way in ("fall", "rise"))
        return min(falls, rises) if self.ordered else 0.0

    @property
    def lowest(self) -> Move:
        """Where it falls furthest behind the rest."""
        return min(self.moves, key=lambda one: one.gap[0])

    @property
    def highest(self) -> Move:
        """Where it gains most on the rest."""
        return max(self.moves, key=lambda one: one.gap[0])

    @property
    def words(self) -> str:
        """What it does, with intervals."""
        if self._turn > 0:
            return (
                f"{short(self.task)} turns back and forth while the others do not: {_told(self.lowest, self.unit)} and "
                f"{_told(self.highest, self.unit)} against them"
            )
        one = max(self.moves, key=lambda move: move.opposite(self.bound))
        return (
            f"{short(self.task)} goes the other way ({one.name}): {one.own[0]:+.1f} {self.unit} "
            f"[{one.own[1]:.1f}, {one.own[2]:.1f}], the others {one.rest[0]:+.1f} "
            f"[{one.rest[1]:.1f}, {one.rest[2]:.1f}]"
        )


def _told(one: Move, unit: str) -> str:
    return f"{one.gap[0]:+.1f} {unit} [{one.gap[1]:.1f}, {one.gap[2]:.1f}] ({one.name})"


@dataclass(frozen=True)
class Apart:
    """Tasks that move with one another, and those set aside.

    Attributes:
        every: All tasks' moves against the rest as it was when each was last looked at, by name.
        aside: Names of those set aside, the furthest off first.
        contested: Names of those that move against the rest too but stay, since no majority would remain.
    """

    every: tuple[Moves, ...]
    aside: tuple[str, ...]
    contested: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the tasks that remain."""
        return tuple(one.task for one in self.every if one.task not in self.aside)

    def of(self, tasks: Sequence[str] | npt.NDArray[np.str_]) -> npt.NDArray[np.bool_]:
        """(N,) whether each question's task remains."""
        return ~np.isin(np.asarray(tasks, dtype=str), self.aside)

    @property
    def without(self) -> str:
        """For a verdict: "without pope"; empty where nothing is set aside."""
        return f"without {', '.join(map(short, self.aside))}" if self.aside else ""

    @property
    def reasons(self) -> str:
        """For a verdict: what each task that is set aside does."""
        told = {one.task: one.words for one in self.every}
        return "; ".join(told[task] for task in self.aside)

    def verdict(self, kept: str, whole: str) -> str:
        """A verdict over the tasks that remain, with the one over all tasks after it where one is set aside."""
        if not self.aside:
            return kept
        return (
            f"On {len(self.kept)} tasks, {self.without}: {kept} Set aside: {self.reasons}. Over all {len(self.every)} "
            f"tasks: {whole}"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know."""
        told = {one.task: one.words for one in self.every}
        found = [
            f"{told[task]}. An average over tasks would speak of it alone: it is set aside, the verdict is of the "
            f"{len(self.kept)} other tasks, and the whole average stands beside it"
            for task in self.aside
        ]
        found += [
            f"{told[task]}. It is not set aside, since too few tasks would remain to tell which is the rest: read the "
            "tasks apart, their average says little"
            for task in self.contested
        ]
        return tuple(found)


def neighbours(settings: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Moves from each of a row of settings to the next."""
    return tuple((place, place + 1) for place in range(len(settings) - 1))


def find_apart(
    values: npt.ArrayLike, tasks: Sequence[str] | npt.NDArray[np.str_], scenes: Groups, settings: Sequence[str],
    moves: Sequence[tuple[int, int]] | None = None, bound: float = BOUND, unit: str = "points",
) -> Apart:  # fmt: skip
    """Find tasks that move against the rest; see `METHOD`.

    Args:
        values: (N, S) of the same questions under each setting: with points shares of right from 0 to 1, else what
            the unit says.
        tasks: (N,) names.
        scenes: (N,) clusters; they may run through several tasks.
        settings: S names.
        moves: Pairs of columns; None for neighbours along a row of settings.
        bound: By how much a task has to move otherwise than the rest, in `unit`.
        unit: "points", or the values' own.

    Raises:
        LareError: If shapes don't fit, or there are fewer than two settings.
    """
    table, names = np.asarray(values, dtype=np.float64), np.asarray(tasks, dtype=str)
    if table.ndim != 2 or table.shape != (len(names), len(settings)) or len(settings) < 2 or not len(names):
        raise LareError(f"tasks apart need a value a question and setting, at least two settings, got {table.shape}")
    ordered, pairs = moves is None, neighbours(settings) if moves is None else tuple(moves)
    changes = (100 if unit == "points" else 1) * np.stack([table[:, b] - table[:, a] for a, b in pairs], 1)
    codes = codes_of(scenes, len(names))
    told = [f"{settings[a]} to {settings[b]}" for a, b in pairs]
    left, aside, every = sorted(set(names.tolist())), list[str](), dict[str, Moves]()
    most = (len(left) - 1) // 2  # a majority remains
    while True:
        found = [replace(one, unit=unit) for one in _moves(changes, names, codes, left, told, ordered, bound)]
        every |= {one.task: one for one in found}
        off = sorted((one for one in found if one.excess > 0), key=lambda one: -one.excess)
        if not off or len(aside) >= most:
            break
        aside.append(off[0].task)
        left.remove(off[0].task)
    return Apart(tuple(every[task] for task in sorted(every)), tuple(aside), tuple(one.task for one in off))


def _moves(
    changes: Array, names: npt.NDArray[np.str_], codes: npt.NDArray[np.int64], left: Sequence[str],
    told: Sequence[str], ordered: bool, bound: float,
) -> list[Moves]:  # fmt: skip
    inside = np.stack([(names == task) / max((names == task).sum(), 1) for task in left], 1)  # (N, tasks)
    residuals = changes - _means_inside(inside, changes)
    clusters = min(len(set(codes[names == task].tolist())) for task in left)
    level = (1 - LEVEL) / 2 / (len(left) * changes.shape[1])
    width = float(scipy_stats.t.ppf(1 - level, clusters - 1)) if clusters > 1 else np.inf
    found = []
    for place, task in enumerate(left):
        own = inside[:, place]
        rest = np.delete(inside, place, 1).mean(1) if len(left) > 1 else np.zeros_like(own)
        ends = [_interval(changes, residuals, weights, codes, width) for weights in (own, rest, own - rest)]
        moves = tuple(
            Move(name, *(tuple(map(float, one[:, m])) for one in ends))  # type: ignore[arg-type]
            for m, name in enumerate(told)
        )
        found.append(Moves(task, moves, ordered, bound if len(left) > 1 else np.inf))
    return found


def _means_inside(inside: Array, changes: Array) -> Array:
    """(N, M) the mean change of each question's own task; 0 for questions of tasks that are out."""
    return np.asarray((inside > 0).astype(np.float64) @ (inside.T @ changes))


def _interval(changes: Array, residuals: Array, weights: Array, codes: npt.NDArray[np.int64], width: float) -> Array:
    """(3, M) estimate, low and high of a weighted sum over questions, cluster-robust as `analysis.shared.stats`."""
    estimate = weights @ changes
    count = int(codes.max()) + 1
    sums = np.stack([np.bincount(codes, weights * column, count) for column in residuals.T], 1)
    used = len(set(codes[weights != 0].tolist()))
    error = np.sqrt((sums**2).sum(0) * used / max(used - 1, 1))
    with np.errstate(invalid="ignore"):
        half = np.where(error > 0, width * error, 0.0 if np.isfinite(width) else np.inf)
    return np.stack([estimate, estimate - half, estimate + half])


def apart_table(apart: Apart, source: str = "") -> Table:
    """Each task's furthest moves against the rest, and what was done about it.

    Args:
        apart: What was found.
        source: What the questions are, for the caption, such as "validation questions".
    """
    rows = []
    for one in apart.every:
        row: dict[str, object] = {"task": short(one.task)}
        for key, move in (("low", one.lowest), ("high", one.highest)):
            row |= {key: move.gap[0], f"{key}_interval": ends(*move.gap[1:]), f"{key}_at": move.name}
        row["fate"] = (
            "set aside" if one.task in apart.aside else "stays, disputed" if one.task in apart.contested else ""
        )
        rows.append(row)
    bound, unit = apart.every[0].bound, apart.every[0].unit
    gap, over = (
        f"{unit}: the task's change less the mean change of the rest",
        "cluster-robust, over all tasks and places",
    )
    columns = (
        Column("task", "Task"),
        *with_interval("low", "Lowest to the rest", 1, gap, over, "95 %, all at once"),
        Column("low_at", "Where"),
        *with_interval("high", "Highest to the rest", 1, gap, over, "95 %, all at once"),
        Column("high_at", "Where"),
        Column("fate", "Verdict"),
    )
    caption = "Does a task move against the rest?" + (f" ({source})" if source else "")
    note = (
        f"The rest are the tasks that remain. A task set aside moves beyond {bound:g} {unit}: see Methods."
        if np.isfinite(bound)
        else "There is one task, so there is no rest."
    )
    return Table("apart", caption, columns, tuple(rows), note)
