"""Seeds put together: mean and spread over seeds, and the comparison of two settings on the same seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

from analysis.shared.stats import LEVEL

__all__ = ["Gap", "Spread", "corrected_gap", "spread"]


@dataclass(frozen=True)
class Spread:
    """Mean over seeds with its t interval.

    Attributes:
        mean: Mean of the seeds' values.
        sd: Their standard deviation; None for one seed.
        low: Lower end of the 95 % interval; None for one seed.
        high: Upper end.
        n: Seeds.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Gap:
    """Difference of two settings, paired by seed.

    Attributes:
        mean: Mean of the seeds' differences.
        low: Lower end of the corrected 95 % interval; None for one seed.
        high: Upper end.
        p: Two-sided, of the corrected resampled t; None where no seed differs from another.
        n: Seeds.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Mean, standard deviation and t interval over seeds. It tells how far seeds differ, all on the same instances."""
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if len(array) < 2:
        return Spread(mean, None, None, None, len(array))
    sd = float(array.std(ddof=1))
    half = float(scipy_stats.t.ppf(0.5 + LEVEL / 2, len(array) - 1)) * sd / len(array) ** 0.5
    return Spread(mean, sd, mean - half, mean + half, len(array))


def corrected_gap(first: Sequence[float], second: Sequence[float], train: int, test: int) -> Gap:
    """First minus second by the corrected resampled t (Nadeau & Bengio 2003).

    Seeds draw from the same instances, so their differences are not independent; the variance of the mean is taken as
    (1 / seeds + test / train) times that of the differences.

    Args:
        first: A value a seed.
        second: Values of the same seeds, in the same order.
        train: Training pairs.
        test: Test pairs.
    """
    gaps = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    count, mean = len(gaps), float(gaps.mean())
    if count < 2:
        return Gap(mean, None, None, None, count)
    error = float(np.sqrt((1 / count + test / train) * gaps.var(ddof=1)))
    half = float(scipy_stats.t.ppf(0.5 + LEVEL / 2, count - 1)) * error
    p = float(2 * scipy_stats.t.sf(abs(mean) / error, count - 1)) if error else None
    return Gap(mean, mean - half, mean + half, p, count)
