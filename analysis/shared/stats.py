"""Tests, intervals and effect sizes: thin typed calls of scipy and statsmodels, all returning one kind of result.

B is judged against A everywhere: differences are B - A, and an effect above 0 means that B is larger. Items are the
unit; heads, layers and tokens are averaged before they come here. Formulas of our own stand only where neither library
has one: tail probabilities below what floats hold, and mid-p. Effect sizes stand in `analysis.shared.effects`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats as scipy_stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.nonparametric import rank_compare_2indep
from statsmodels.stats.power import TTestPower

from analysis.shared.pvalues import format_p, log10_of, log10_p_t, log10_p_z
from lare.errors import LareError
from lare.intervals import wilson

__all__ = [
    "FEW_CLUSTERS",
    "LEVEL",
    "Result",
    "brunner_munzel",
    "cluster_difference",
    "cluster_mean",
    "codes_of",
    "finite",
    "format_p",
    "holm",
    "mann_whitney",
    "mcnemar",
    "minimum_detectable",
    "paired",
    "paired_t",
    "standard_error",
    "student",
    "superiority",
    "welch",
    "wilcoxon",
    "wilson",
]

LEVEL = 0.95
"""Confidence level of all intervals."""

FEW_CLUSTERS = 30
"""Below this many clusters a report says so: intervals then lean on a t distribution with few degrees of freedom."""

Z = float(scipy_stats.norm.ppf(0.5 + LEVEL / 2))

Values = npt.NDArray[np.float64]
Groups = Sequence[Hashable] | npt.NDArray[Any] | pd.Series


@dataclass(frozen=True)
class Result:
    """An estimate with its interval and, where there is one, its test.

    Attributes:
        test: Name of the test or of the effect size.
        estimate: What was estimated.
        low: Lower end of the 95 % interval; NaN where none exists.
        high: Upper end.
        n: Items: pairs where paired, else those of both groups.
        clusters: Independent groups of items; equal to the items where they are taken as independent.
        statistic: Value of the test statistic.
        df: Degrees of freedom.
        log10_p: Decimal logarithm of the two-sided p-value; None without a test.
        note: What the test says or takes for granted.
    """

    test: str
    estimate: float
    low: float
    high: float
    n: int
    clusters: int
    statistic: float | None = None
    df: float | None = None
    log10_p: float | None = None
    note: str = ""

    @property
    def p(self) -> float | None:
        """Two-sided p-value; 0.0 where it is too small for a float, see `log10_p`."""
        return None if self.log10_p is None else float(10.0**self.log10_p)


def student(b: npt.ArrayLike, a: npt.ArrayLike) -> Result:
    """Student's T (the paper's, Table 5): difference of means, independent items, equal variances."""
    return _independent_t("Student T", b, a, True, "independent items of equal variance; the paper's test")


def welch(b: npt.ArrayLike, a: npt.ArrayLike) -> Result:
    """Welch's T: difference of means, independent items, any variances."""
    return _independent_t("Welch T", b, a, False, "independent items")


def _independent_t(name: str, b: npt.ArrayLike, a: npt.ArrayLike, equal: bool, note: str) -> Result:
    left, right = finite(b, name, 2), finite(a, name, 2)
    found = scipy_stats.ttest_ind(left, right, equal_var=equal)
    interval = found.confidence_interval(LEVEL)
    size = left.size + right.size
    return _with_t(name, float(left.mean() - right.mean()), interval, size, found, note)


def paired_t(b: npt.ArrayLike, a: npt.ArrayLike) -> Result:
    """Paired t: mean of the items' differences."""
    left, right = paired(b, a, "paired t")
    found = scipy_stats.ttest_rel(left, right)
    interval = found.confidence_interval(LEVEL)
    return _with_t("paired t", float((left - right).mean()), interval, left.size, found, "same items in both")


def _with_t(name: str, estimate: float, interval: Any, n: int, found: Any, note: str) -> Result:
    statistic, df = float(found.statistic), float(found.df)
    low, high = float(interval.low), float(interval.high)
    return Result(name, estimate, low, high, n, n, statistic, df, log10_p_t(statistic, df, float(found.pvalue)), note)


def wilcoxon(b: npt.ArrayLike, a: npt.ArrayLike) -> Result:
    """Wilcoxon's signed ranks (Pratt); the estimate is the median of the items' differences.

    Its interval is that of the median by order statistics (binomial), which the test itself does not use.
    """
    left, right = paired(b, a, "Wilcoxon")
    gaps = left - right
    note = "same items; takes differences to be symmetric"
    low, high = _median_interval(gaps)
    base = Result("Wilcoxon signed rank", float(np.median(gaps)), low, high, gaps.size, gaps.size, note=note)
    if not np.any(gaps):
        return replace(base, note="no item differs")
    found = scipy_stats.wilcoxon(gaps, zero_method="pratt")
    log10_p = log10_of(float(found.pvalue))
    if log10_p is None:  # beyond floats: scipy then used its normal approximation
        z = scipy_stats.wilcoxon(gaps, zero_method="pratt", method="asymptotic").zstatistic
        log10_p = log10_p_z(float(z))
    return replace(base, statistic=float(found.statistic), log10_p=log10_p)


def _median_interval(values: Values) -> tuple[float, float]:
    ordered = np.sort(values)
    rank = int(scipy_stats.binom.ppf((1 - LEVEL) / 2, values.size, 0.5))
    rank = max(rank - 1, 0)
    return float(ordered[rank]), float(ordered[values.size - 1 - rank])


def mann_whitney(b: npt.ArrayLike, a: npt.ArrayLike) -> Result:
    """Mann-Whitney U (the paper's "medians", Table 5), with Cliff's delta.

    U asks whether one group tends to be larger (stochastic order); it does not compare medians. The interval of
    Cliff's delta is that of P(B > A) by statsmodels' `rank_compare_2indep`, which allows unequal spread.
    """
    left, right = finite(b, "Mann-Whitney U", 2), finite(a, "Mann-Whitney U", 2)
    found = scipy_stats.mannwhitneyu(left, right, method="auto")
    statistic, pairs = float(found.statistic), float(left.size) * right.size
    log10_p = log10_of(float(found.pvalue))
    if log10_p is None:
        ties = scipy_stats.tiecorrect(scipy_stats.rankdata(np.concatenate([left, right])))
        spread = math.sqrt(pairs * (left.size + right.size + 1) / 12 * float(ties))
        log10_p = log10_p_z((abs(statistic - pairs / 2) - 0.5) / spread)
    order = superiority(left, right)
    return Result(
        "Mann-Whitney U",
        2 * statistic / pairs - 1,
        2 * order.low - 1,
        2 * order.high - 1,
        order.n,
        order.n,
        statistic,
        None,
        log10_p,
        "stochastic order, not medians; Cliff's delta",
    )


def superiority(b: npt.ArrayLike, a: npt.ArrayLike) -> Result:
    """P(B > A) + P(B = A) / 2 with its interval and the Brunner-Munzel test (statsmodels' `rank_compare_2indep`)."""
    left, right = finite(b, "P(B > A)", 2), finite(a, "P(B > A)", 2)
    n = left.size + right.size
    with np.errstate(divide="ignore", invalid="ignore"):
        found = rank_compare_2indep(left, right, use_t=True)
        low, high = (float(end) for end in found.conf_int(alpha=1 - LEVEL))
    estimate = float(found.prob1)
    if not math.isfinite(low):  # no variance: the groups do not overlap, or every value is the same
        return Result("P(B > A)", estimate, estimate, estimate, n, n, note="no overlap: no variance to estimate")
    statistic, df = float(found.statistic), float(found.df)
    log10_p = log10_p_t(statistic, df, float(found.pvalue))
    note = "unequal spread allowed"
    return Result("P(B > A)", estimate, max(low, 0.0), min(high, 1.0), n, n, statistic, df, log10_p, note)


def brunner_munzel(b: npt.ArrayLike, a: npt.ArrayLike) -> Result:
    """Brunner-Munzel: as Mann-Whitney's, valid under unequal spread; the estimate is P(B > A)."""
    return replace(superiority(b, a), test="Brunner-Munzel")


def cluster_mean(values: npt.ArrayLike, groups: Groups | None = None) -> Result:
    """Mean with a cluster-robust interval and the test of 0 (statsmodels OLS, t with clusters - 1 degrees).

    Args:
        values: (n,) values, such as paired differences.
        groups: (n,) cluster of each; None takes each item for itself.
    """
    array = finite(values, "mean", 1)
    codes = codes_of(groups, array.size)
    clusters = int(codes.max()) + 1
    base = Result("mean, cluster-robust", float(array.mean()), math.nan, math.nan, array.size, clusters)
    if clusters < 2:
        return replace(base, note="one cluster: no interval")
    with np.errstate(divide="ignore", invalid="ignore"):
        fit = OLS(array, np.ones_like(array)).fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)
        low, high = fit.conf_int(alpha=1 - LEVEL)[0]
        statistic, df = float(fit.tvalues[0]), float(clusters - 1)
    base = replace(base, low=float(low), high=float(high), df=df)
    if not math.isfinite(statistic) or float(fit.bse[0]) <= 1e-9 * abs(base.estimate):
        return replace(base, note="no spread between clusters: no test")
    log10_p = log10_p_t(statistic, df, float(fit.pvalues[0]))
    note = f"only {clusters} clusters" if clusters < FEW_CLUSTERS else ""
    return replace(base, statistic=statistic, log10_p=log10_p, note=note)


def cluster_difference(b: npt.ArrayLike, a: npt.ArrayLike, groups: Groups | None = None) -> Result:
    """Mean paired difference with a cluster-robust interval."""
    left, right = paired(b, a, "cluster difference")
    return replace(cluster_mean(left - right, groups), test="paired difference, cluster-robust")


def standard_error(result: Result) -> float:
    """Standard error of a cluster-robust estimate, from its interval; NaN with fewer than two clusters."""
    if result.clusters < 2:
        return math.nan
    return (result.high - result.low) / 2 / float(scipy_stats.t.ppf(0.5 + LEVEL / 2, result.clusters - 1))


def mcnemar(b: npt.ArrayLike, a: npt.ArrayLike, mid: bool = False) -> Result:
    """McNemar's test of right/wrong on the same items, exact (statsmodels) or mid-p; takes items as independent.

    The estimate is the difference of the shares; its interval is `cluster_difference`'s without clusters.

    Raises:
        LareError: If values are neither 0 nor 1.
    """
    left, right = paired(b, a, "McNemar")
    if not np.all(np.isin(left, (0, 1)) & np.isin(right, (0, 1))):
        raise LareError("McNemar's test needs right (1) or wrong (0) for every item; use the paired difference instead")
    gained, lost = int(((left == 1) & (right == 0)).sum()), int(((left == 0) & (right == 1)).sum())
    table = [[int(((left == 1) & (right == 1)).sum()), gained], [lost, int(((left == 0) & (right == 0)).sum())]]
    p = min(float(statsmodels_mcnemar(table, exact=True).pvalue), 1.0) if gained + lost else 1.0
    if mid and gained + lost:
        # Half of what lies on the observed count is not counted twice.
        p = min(1.0, p - float(scipy_stats.binom.pmf(min(gained, lost), gained + lost, 0.5)))
        p = 1.0 if gained == lost else p
    mean = cluster_mean(left - right)
    name = "McNemar mid-p" if mid else "McNemar exact"
    note = f"{gained} gained, {lost} lost"
    return Result(
        name,
        mean.estimate,
        mean.low,
        mean.high,
        left.size,
        left.size,
        float(min(gained, lost)),
        None,
        log10_of(p),
        note,
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values over one family (statsmodels); None stays None and does not count."""
    known = [p for p in p_values if p is not None]
    adjusted = iter(multipletests(known, method="holm")[1].tolist() if known else [])
    return [None if p is None else float(next(adjusted)) for p in p_values]


def minimum_detectable(result: Result) -> float:
    """Smallest true difference that a test like this finds with 80 % power, at 5 %, by its interval's width.

    Args:
        result: What comes from `cluster_mean` or `cluster_difference`.
    """
    error = standard_error(result)
    if not error > 0:
        return error
    # Beyond 10,000 clusters the non-central t is normal to four digits, and scipy's is slow there.
    count = min(result.clusters, 10_000)
    effect = TTestPower().solve_power(nobs=count, alpha=1 - LEVEL, power=0.8, alternative="two-sided")
    return float(effect) * math.sqrt(count) * error


def finite(values: npt.ArrayLike, name: str, least: int) -> Values:
    """Values as (n,) numbers.

    Raises:
        LareError: If there are fewer than `least`, or some are NaN or infinite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size < least:
        raise LareError(f"{name} needs at least {least} values in one row, got shape {array.shape}; give more items")
    if not np.isfinite(array).all():
        raise LareError(
            f"{name}: {int((~np.isfinite(array)).sum())} of {array.size} values are no numbers; mend those items first"
        )
    return array


def paired(b: npt.ArrayLike, a: npt.ArrayLike, name: str) -> tuple[Values, Values]:
    """Both sides' values of the same items.

    Raises:
        LareError: If they are not as many, or not finite.
    """
    left, right = finite(b, name, 2), finite(a, name, 2)
    if left.size != right.size:
        raise LareError(f"{name} needs the same items on both sides, got {left.size} and {right.size}; pair them first")
    return left, right


def codes_of(groups: Groups | None, n: int) -> npt.NDArray[np.int64]:
    """Cluster numbers from 0.

    Raises:
        LareError: If there are not n of them, or one is missing: missing ones would all fall into one cluster.
    """
    if groups is None:
        return np.arange(n)
    codes, _ = pd.factorize(np.asarray(groups, dtype=object if not isinstance(groups, np.ndarray) else None))
    if codes.size != n or (codes < 0).any():
        raise LareError(
            f"{n} items need a cluster each, {int((codes >= 0).sum())} have one; name the cluster of every item"
        )
    return np.asarray(codes, dtype=np.int64)
