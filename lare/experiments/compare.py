"""Accuracy of arms and paired contrasts between them, over independent starts and over scenes.

Starts and scenes are crossed: every start answers the same questions. Intervals are those of a two-level bootstrap that
draws starts and, within each task, whole scenes, independently of each other (Owen 2007, "The pigeonhole bootstrap").
It assumes no distribution of either effect and treats a pair of pictures of one scene as what it is; a logistic mixed
model with crossed effects would need both to be normal, and statsmodels fits it only by a variational approximation.
With few starts a bootstrap over them is too narrow, so a contrast's test is a t test over starts, each counted once:
n is the number of starts, whatever the number of questions.

Shapes: S starts, n questions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lare.errors import LareError
from lare.experiments.store import Questions

__all__ = [
    "DRAWS", "Asked", "Contrast", "Mask", "contrast", "contrast_by_hops", "drawn_means", "interval", "mean_by_start",
]  # fmt: skip

DRAWS = 4000
"""Bootstrap samples."""
LEVEL = 0.95

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """One arm, asked in one way, over all starts.

    Attributes:
        name: ``arm`` or ``arm/ask``.
        starts: S names of independent starts.
        values: Share of the start's seeds that are right, (S, n).
        questions: The n questions.
    """

    name: str
    starts: tuple[str, ...]
    values: Array
    questions: Questions


@dataclass(frozen=True)
class Mask:
    """Which questions count.

    Attributes:
        without_families: Question families that are left out.
        without_tasks: Tasks that are left out.
        least_hops: Fewest hops of a question that counts.
        hops: Hops of the questions that count; None is any.
    """

    without_families: tuple[str, ...] = ()
    without_tasks: tuple[str, ...] = ()
    least_hops: int = 0
    hops: int | None = None

    def of(self, questions: Questions) -> npt.NDArray[np.bool_]:
        """(n,) which of the questions count.

        Raises:
            LareError: If a name is unknown, or none is left.
        """
        for given, known in ((self.without_families, questions.family), (self.without_tasks, questions.task)):
            unknown = sorted(set(given) - set(known.tolist()))
            if unknown:
                raise LareError(f"no question is of {unknown[0]!r}; known are {', '.join(sorted(set(known.tolist())))}")
        kept = ~np.isin(questions.family, self.without_families) & ~np.isin(questions.task, self.without_tasks)
        if self.least_hops:
            kept &= questions.hops >= self.least_hops
        if self.hops is not None:
            kept &= questions.hops == self.hops
        if not kept.any():
            raise LareError("no question is left; exclude fewer families and tasks")
        return np.asarray(kept, bool)


@dataclass(frozen=True)
class Contrast:
    """One arm minus another, paired by start and question.

    Attributes:
        arm: Name of the one.
        minus: Name of the other, which is subtracted.
        starts: Names of the paired starts.
        questions: Questions that count.
        by_start: Difference of each start.
        estimate: Their mean.
        low: Lower end of the 95 % two-level bootstrap interval.
        high: Upper end.
        t_low: Lower end of the t interval over starts; NaN with one.
        t_high: Upper end.
        effect: Mean over standard deviation of the starts' differences (Cohen's d_z); NaN with one start.
        p: Two-sided, t over starts; NaN with one.
    """

    arm: str
    minus: str
    starts: tuple[str, ...]
    questions: int
    by_start: tuple[float, ...]
    estimate: float
    low: float
    high: float
    t_low: float
    t_high: float
    effect: float
    p: float


def mean_by_start(values: Array, task: npt.NDArray[np.str_]) -> Array:
    """(S,) means over tasks of each task's mean; `values` (S, n), `task` (n,)."""
    found: Array = np.mean([values[:, task == one].mean(1) for one in np.unique(task)], axis=0)
    return found


def interval(
    values: Array, task: npt.NDArray[np.str_], scene: npt.NDArray[np.str_], draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """95 % two-level bootstrap interval of the mean over tasks; with one start over scenes alone.

    Args:
        values: (S, n).
        task: (n,) tasks.
        scene: (n,) scenes.
        draws: Bootstrap samples.
        seed: Seed of the bootstrap.
    """
    parts = [(values[:, task == one], scene[task == one]) for one in np.unique(task)]
    low, high = np.quantile(drawn_means(parts, draws, seed), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def drawn_means(
    parts: Sequence[tuple[Array, Sequence[str] | npt.NDArray[np.str_]]], draws: int = DRAWS, seed: int = 0
) -> Array:
    """(draws,) means over tasks, with starts and, within each task, whole scenes drawn with replacement.

    Args:
        parts: Each task's values (S, n) and scenes (n,).
        draws: Bootstrap samples.
        seed: Seed of the bootstrap.
    """
    count = len(parts[0][0])
    coded = [np.unique(np.asarray(scene), return_inverse=True)[1] for _, scene in parts]
    drawn, state = _drawn_scenes(tuple(int(codes.max()) + 1 for codes in coded), draws, seed)
    means = np.zeros((draws, count))
    for (values, _), codes, times in zip(parts, coded, drawn, strict=True):
        means += _scene_means(values, codes, times) / len(parts)
    rng = np.random.default_rng()
    rng.bit_generator.state = state
    shares = rng.multinomial(count, np.full(count, 1 / count), draws) / count
    found: Array = (means * shares).sum(1)
    return found


@lru_cache(maxsize=8)
def _drawn_scenes(
    counts: tuple[int, ...], draws: int, seed: int
) -> tuple[list[npt.NDArray[np.uint16]], Mapping[str, Any]]:
    """How often each scene is drawn, (draws, scenes) a task, and the generator's state after it.

    Kept, since every arm of a table is drawn alike and drawing is most of an interval's work.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for count in counts:
        each = np.full(count, 1 / count)
        parts = [rng.multinomial(count, each, min(1000, draws - first)) for first in range(0, draws, 1000)]
        drawn.append(np.concatenate(parts).astype(np.uint16))
    return drawn, rng.bit_generator.state


def _scene_means(values: Array, codes: npt.NDArray[np.int64], times: npt.NDArray[np.uint16]) -> Array:
    """(draws, S) means of (S, n) values over scenes drawn `times` (draws, scenes)."""
    sizes = np.bincount(codes).astype(float)
    sums = np.stack([np.bincount(codes, weights=one) for one in values])
    found = np.empty((len(times), len(values)))
    for first in range(0, len(times), 1000):  # a thousand at a time, to keep the weights small
        weights = times[first : first + 1000].astype(float)
        found[first : first + len(weights)] = (weights @ sums.T) / (weights @ sizes)[:, None]
    return found


def contrast(arm: Asked, minus: Asked, mask: Mask | None = None, pooled: bool = False, seed: int = 0) -> Contrast:
    """Compare two arms on the starts that both have.

    Args:
        arm: The one.
        minus: The other, which is subtracted.
        mask: Which questions count; None is all.
        pooled: Every question counts alike, whatever its task; else the mean over tasks.
        seed: Seed of the bootstrap.

    Raises:
        LareError: If they share no start or were asked different questions.
    """
    if arm.questions.hash != minus.questions.hash:
        raise LareError(f"{arm.name} and {minus.name} were asked different questions; ask both anew")
    common = [one for one in arm.starts if one in minus.starts]
    if not common:
        raise LareError(f"{arm.name} and {minus.name} share no start; differences are paired by start")
    kept = (mask or Mask()).of(arm.questions)
    mine, other = ([one.starts.index(start) for start in common] for one in (arm, minus))
    gaps = arm.values[mine][:, kept] - minus.values[other][:, kept]
    task = np.zeros(kept.sum(), "<U1") if pooled else arm.questions.task[kept]
    each = mean_by_start(gaps, task)
    low, high = interval(gaps, task, arm.questions.scene[kept], seed=seed)
    t_low, t_high, effect, p = _t_test(each)
    return Contrast(
        arm.name, minus.name, tuple(common), int(kept.sum()), tuple(each.tolist()), float(each.mean()), low, high,
        t_low, t_high, effect, p,
    )  # fmt: skip


def contrast_by_hops(arm: Asked, minus: Asked, mask: Mask) -> dict[int, Contrast]:
    """The contrast at each number of hops, over questions alike; empty where questions tell no hops."""
    hops = np.unique(arm.questions.hops[mask.of(arm.questions)])
    found = (int(one) for one in hops if one >= 0)
    return {one: contrast(arm, minus, replace(mask, hops=one), pooled=True) for one in found}


def _t_test(each: Sequence[float] | Array) -> tuple[float, float, float, float]:
    """Ends of the 95 % t interval, effect size and two-sided p; NaN with one value, or two that happen to be equal."""
    values = np.asarray(each, float)
    if len(values) < 2 or (len(values) == 2 and values[0] == values[1] != 0):
        return math.nan, math.nan, math.nan, math.nan
    try:
        from scipy import stats
    except ImportError:
        raise LareError("contrasts need scipy; install lare[analysis]") from None
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    error = deviation / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    if deviation == 0:
        return mean, mean, math.inf if mean else 0.0, 0.0 if mean else 1.0
    return mean - half, mean + half, mean / deviation, float(2 * stats.t.sf(abs(mean / error), len(values) - 1))
