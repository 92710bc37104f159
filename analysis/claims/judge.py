"""How a number becomes a verdict: holds, fails, or undecided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

from analysis.shared.stats import LEVEL

__all__ = [
    "ALPHA", "FAILS", "HOLDS", "LEAST_STARTS", "SAME", "SMALLEST", "UNDECIDED", "VERDICTS", "Finding", "combine",
    "decide", "lead", "over_starts",
]  # fmt: skip

HOLDS, FAILS, UNDECIDED = VERDICTS = ("holds", "fails", "undecided")

LEAST_STARTS = 4
"""Independent starts that a comparison of trained systems needs."""
ALPHA = 0.05
"""Level of a comparison's p-value, Holm-adjusted over the comparisons of the ledger that can be tested."""
SMALLEST = {"points": 1.0, "tokens": 1.0}
"""Smallest effect by unit: one that is shown to be smaller than this does not bear a claim out, whatever its sign."""
SAME = 3.0
"""Points within which two accuracies count as the same, where a claim says that more changes nothing."""


@dataclass(frozen=True)
class Finding:
    """What is measured for one part of a claim.

    Attributes:
        part: What is compared, in words.
        says: What the claim says of the effect: ``more``, ``less`` or ``same``.
        verdict: One of `VERDICTS`.
        reason: Why, in a phrase.
        file: Where the numbers stand; empty where there are none.
        kind: ``test``, ``validation`` (exploratory), ``one checkpoint``, or empty.
        unit: Unit of effect and interval.
        effect: Estimate; None where there is none.
        low: Lower end of its 95 % interval.
        high: Upper end.
        null: What it is held against.
        p: Two-sided; None without a test.
        holm: Adjusted over the ledger's comparisons.
        n: Questions.
        starts: Independent starts that both arms have; None for one checkpoint.
        declared: Starts that the grid declares.
        told: Supervision of both arms, where there is any.
        command: Makes what is missing; empty where nothing is.
        open: A comparison on test questions with enough starts, decided once its p is adjusted.
        alone: Declared beforehand, so its p is not adjusted.
    """

    part: str
    says: str
    verdict: str = UNDECIDED
    reason: str = ""
    file: str = ""
    kind: str = ""
    unit: str = "points"
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    null: float = 0.0
    p: float | None = None
    holm: float | None = None
    n: int | None = None
    starts: int | None = None
    declared: int | None = None
    told: str = ""
    command: str = ""
    open: bool = False
    alone: bool = False


def over_starts(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Mean over starts, ends of its 95 % t interval and two-sided p.

    All but the mean are NaN with one start, or with two whose values happen to be equal: they tell no spread.
    """
    each = np.asarray(values, dtype=np.float64)
    mean = float(each.mean())
    if each.size < 2 or (each.size == 2 and each[0] == each[1] != 0):
        return mean, math.nan, math.nan, math.nan
    deviation = float(each.std(ddof=1))
    if deviation == 0:
        return mean, mean, mean, 0.0 if mean else 1.0
    error = deviation / math.sqrt(each.size)
    half = float(scipy_stats.t.ppf(0.5 + LEVEL / 2, each.size - 1)) * error
    return mean, mean - half, mean + half, float(2 * scipy_stats.t.sf(abs(mean) / error, each.size - 1))


def decide(low: float | None, high: float | None, says: str, unit: str, null: float = 0.0) -> tuple[str, str]:
    """Verdict and reason from a 95 % interval.

    Args:
        low: Its lower end; None or NaN where there is none.
        high: Its upper end.
        says: ``more``, ``less`` or ``same``.
        unit: Decides which effect is too small to count.
        null: What the value is held against.
    """
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return UNDECIDED, "there is no interval"
    low, high = low - null, high - null
    if says == "same":
        if low > -SAME and high < SAME:
            return HOLDS, f"the interval lies within {SAME:g} {unit} of no change"
        if low > SAME or high < -SAME:
            return FAILS, f"the change is more than {SAME:g} {unit}"
        return UNDECIDED, f"the interval reaches across {SAME:g} {unit}"
    if says == "less":
        low, high = -high, -low
    if high < 0:
        return FAILS, "the interval lies on the other side"
    if high < SMALLEST.get(unit, 0.0):
        return FAILS, f"the effect is smaller than {SMALLEST[unit]:g} {unit.removesuffix('s')}"
    if low > 0:
        return HOLDS, "the interval lies on the claimed side"
    return UNDECIDED, "the interval holds no effect"


def lead(findings: Sequence[Finding]) -> Finding:
    """The part on which a claim's verdict rests: the first that fails, else the first undecided, else the weakest."""
    for verdict in (FAILS, UNDECIDED):
        for one in findings:
            if one.verdict == verdict:
                return one
    return min(findings, key=_margin)


def _margin(one: Finding) -> float:
    """Distance of a finding that holds from what it is held against, in half-widths of its interval."""
    if one.effect is None or one.low is None or one.high is None or one.high <= one.low:
        return math.inf
    return abs(one.effect - one.null) / (one.high - one.low)


def combine(findings: Sequence[Finding]) -> str:
    """Verdict of a claim: it holds where every part does and fails where one part fails."""
    return lead(findings).verdict
