"""Effect sizes, differences of quantiles and contrasts of means, in the form of `analysis.shared.stats.Result`.

Hedges' g is statsmodels'. Hodges-Lehmann, d_z, d_av and the linearised quantiles have no library function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats as scipy_stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.meta_analysis import effectsize_smd

from analysis.shared.pvalues import log10_p_t, log10_p_z
from analysis.shared.stats import (
    LEVEL,
    Groups,
    Result,
    Values,
    Z,
    cluster_mean,
    codes_of,
    finite,
    paired,
    paired_t,
    standard_error,
)
from lare.errors import LareError

__all__ = [
    "cluster_contrast",
    "cohen_d_average",
    "cohen_d_paired",
    "combine",
    "hedges_g",
    "hodges_lehmann",
    "quantile_difference",
    "ratio_of_means",
]

BOOTSTRAP_ROWS = 20_000
"""Above this many items quantile differences get a linearised interval: resampling 10^6 rows takes minutes."""


def hedges_g(b: npt.ArrayLike, a: npt.ArrayLike) -> Result:
    """Hedges' g of independent groups with its large-sample interval (statsmodels' `effectsize_smd`)."""
    left, right = finite(b, "Hedges g", 2), finite(a, "Hedges g", 2)
    n = left.size + right.size
    if left.std(ddof=1) == right.std(ddof=1) == 0:
        return Result("Hedges g", math.nan, math.nan, math.nan, n, n, note="no spread")
    effect, variance = effectsize_smd(
        left.mean(), left.std(ddof=1), left.size, right.mean(), right.std(ddof=1), right.size
    )
    half = Z * math.sqrt(variance)
    return Result("Hedges g", float(effect), float(effect - half), float(effect + half), n, n)


def cohen_d_paired(b: npt.ArrayLike, a: npt.ArrayLike) -> Result:
    """d_z: mean of the differences by their standard deviation; large-sample interval."""
    left, right = paired(b, a, "d_z")
    gaps = left - right
    spread = float(gaps.std(ddof=1))
    if spread == 0:
        return Result("d_z", math.nan, math.nan, math.nan, gaps.size, gaps.size, note="no spread of differences")
    effect = float(gaps.mean()) / spread
    half = Z * math.sqrt(1 / gaps.size + effect**2 / (2 * gaps.size))
    return Result("d_z", effect, effect - half, effect + half, gaps.size, gaps.size, note="by the differences' spread")


def cohen_d_average(b: npt.ArrayLike, a: npt.ArrayLike) -> Result:
    """d_av: mean of the differences by the mean of both standard deviations; the paired t interval, so scaled."""
    left, right = paired(b, a, "d_av")
    spread = float(left.std(ddof=1) + right.std(ddof=1)) / 2
    if spread == 0:
        return Result("d_av", math.nan, math.nan, math.nan, left.size, left.size, note="no spread")
    mean = paired_t(left, right)
    values = (mean.estimate / spread, mean.low / spread, mean.high / spread)
    return Result("d_av", *values, left.size, left.size, note="by the settings' mean spread, itself taken as known")


def hodges_lehmann(b: npt.ArrayLike, a: npt.ArrayLike) -> Result:
    """Median of all differences B_i - A_j with its distribution-free interval (the U test turned round).

    The differences are never stored: their quantiles are found by counting, O(n log n) a step.
    """
    left, right = np.sort(finite(b, "Hodges-Lehmann", 1)), np.sort(finite(a, "Hodges-Lehmann", 1))
    pairs = left.size * right.size
    spread = math.sqrt(pairs * (left.size + right.size + 1) / 12)
    cut = max(int(math.floor(pairs / 2 - Z * spread)), 1)
    middle = [(pairs + 1) // 2, pairs // 2 + 1]
    estimate = sum(_ranked_difference(left, right, rank) for rank in sorted(set(middle))) / len(set(middle))
    low, high = (_ranked_difference(left, right, rank) for rank in (cut, pairs - cut + 1))
    n = left.size + right.size
    return Result("Hodges-Lehmann", estimate, low, high, n, n, note="median of all differences")


def _ranked_difference(left: Values, right: Values, rank: int) -> float:
    """The rank-th smallest (from 1) of left_i - right_j, to 1e-9 of their range."""
    low, high = float(left[0] - right[-1]), float(left[-1] - right[0])
    tolerance = 1e-9 * (high - low)
    while high - low > tolerance:
        middle = (low + high) / 2
        if int(np.searchsorted(left, right + middle, side="right").sum()) >= rank:
            high = middle
        else:
            low = middle
    return high


def quantile_difference(b: npt.ArrayLike, a: npt.ArrayLike, share: float, groups: Groups | None = None) -> Result:
    """Difference of a quantile, same items in both; whole clusters are drawn.

    Up to `BOOTSTRAP_ROWS` items: percentile bootstrap (scipy, 2,000 draws). Above: linearised, the density at the
    quantile by a kernel.

    Args:
        b: (n,) values.
        a: (n,) values of the same items.
        share: Which quantile, in (0, 1).
        groups: (n,) cluster of each item; None takes each item for itself.
    """
    name = f"difference of the {100 * share:g} % quantiles"
    left, right = paired(b, a, name)
    codes = codes_of(groups, left.size)
    estimate = float(np.quantile(left, share) - np.quantile(right, share))
    clusters = int(codes.max()) + 1
    if clusters < 2:
        return Result(name, estimate, math.nan, math.nan, left.size, clusters, note="one cluster: no interval")
    if left.size > BOOTSTRAP_ROWS:
        mean = cluster_mean(_influence(left, share) - _influence(right, share), codes)
        half = (mean.high - mean.low) / 2
        return Result(name, estimate, estimate - half, estimate + half, left.size, clusters, note="linearised")
    sizes = np.bincount(codes)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])
    even = bool((sizes == sizes[0]).all())  # then whole batches of draws are one look-up
    table = np.stack(members) if even else None

    def statistic(drawn: npt.NDArray[np.int64], axis: int = -1) -> npt.NDArray[np.float64]:
        """Difference of the quantile over drawn clusters (..., clusters)."""
        rows = np.concatenate([members[one] for one in drawn]) if table is None else table[drawn]
        rows = rows.reshape(*drawn.shape[:-1], -1)
        gap = np.quantile(left[rows], share, axis=axis) - np.quantile(right[rows], share, axis=axis)
        return np.asarray(gap, dtype=np.float64)

    found = scipy_stats.bootstrap(
        (np.arange(clusters),), statistic, vectorized=even, n_resamples=2000, batch=100,
        method="percentile", confidence_level=LEVEL, rng=np.random.default_rng(0),
    )  # fmt: skip
    low, high = float(found.confidence_interval.low), float(found.confidence_interval.high)
    return Result(name, estimate, low, high, left.size, clusters, note="bootstrap over clusters")


def _influence(values: Values, share: float) -> Values:
    """How far each value moves its sample's quantile."""
    place = float(np.quantile(values, share))
    width = 1.06 * float(values.std()) * values.size ** (-1 / 5)
    if width == 0:
        return np.zeros_like(values)
    near = np.abs(values - place) < width
    density = max(float(near.mean()) / (2 * width), 1e-300)
    return np.asarray((share - (values <= place)) / density, dtype=np.float64)


def ratio_of_means(b: npt.ArrayLike, a: npt.ArrayLike, groups_b: Groups, groups_a: Groups, seed: int = 0) -> Result:
    """Mean of B by mean of A, less 1; items may differ. Percentile bootstrap (scipy, 2,000 draws) over clusters.

    Args:
        b: (n_b,) values.
        a: (n_a,) values, of positive mean.
        groups_b: (n_b,) clusters, named as in `groups_a`.
        groups_a: (n_a,) clusters.
        seed: Seed of the draws.
    """
    left, right = finite(b, "ratio of means", 1), finite(a, "ratio of means", 1)
    codes = codes_of(
        np.concatenate([np.asarray(groups_b, object), np.asarray(groups_a, object)]), left.size + right.size
    )
    clusters, n = int(codes.max()) + 1, left.size + right.size
    parts = (codes[: left.size], left), (codes[left.size :], right)
    totals: list[Values] = [
        np.bincount(places, weights, clusters).astype(np.float64)
        for places, values in parts
        for weights in (values, np.ones_like(values))
    ]

    def change(
        sums_b: Values, counts_b: Values, sums_a: Values, counts_a: Values, axis: int = -1
    ) -> npt.NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            means = sums_b.sum(axis) / counts_b.sum(axis), sums_a.sum(axis) / counts_a.sum(axis)
            return np.asarray(means[0] / means[1] - 1, dtype=np.float64)

    estimate = float(change(totals[0], totals[1], totals[2], totals[3]))
    if clusters < 2 or not math.isfinite(estimate):
        return Result("change of the mean", estimate, math.nan, math.nan, n, clusters, note="no interval")
    found = scipy_stats.bootstrap(
        tuple(totals), change, paired=True, vectorized=True, n_resamples=2000, batch=200,
        method="percentile", confidence_level=LEVEL, rng=np.random.default_rng(seed),
    )  # fmt: skip
    low, high = (float(end) for end in found.confidence_interval)
    return Result("change of the mean", estimate, low, high, n, clusters, note="bootstrap over clusters")


def cluster_contrast(b: npt.ArrayLike, a: npt.ArrayLike, groups_b: Groups, groups_a: Groups) -> Result:
    """Difference of two means over different, overlapping items; clusters run through both sides.

    Args:
        b: (n_b,) values.
        a: (n_a,) values.
        groups_b: (n_b,) clusters, named as in `groups_a`.
        groups_a: (n_a,) clusters.
    """
    left, right = finite(b, "cluster contrast", 1), finite(a, "cluster contrast", 1)
    both = pd.concat([pd.Series(np.asarray(groups_b)), pd.Series(np.asarray(groups_a))])
    codes = codes_of(both, left.size + right.size)
    clusters = int(codes.max()) + 1
    name, gap = "difference, cluster-robust", float(left.mean() - right.mean())
    base = Result(name, gap, math.nan, math.nan, left.size + right.size, clusters, note="different items on each side")
    if clusters < 2:
        return base
    side = np.r_[np.ones(left.size), np.zeros(right.size)]
    design = np.column_stack([np.ones_like(side), side])
    with np.errstate(divide="ignore", invalid="ignore"):
        fit = OLS(np.r_[left, right], design).fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)
        low, high = fit.conf_int(alpha=1 - LEVEL)[1]
    base = replace(base, low=float(low), high=float(high), df=float(clusters - 1))
    if not float(fit.bse[1]) > 1e-9 * abs(gap):
        return replace(base, note="no spread: no test")
    statistic = float(fit.tvalues[1])
    log10_p = log10_p_t(statistic, float(clusters - 1), float(fit.pvalues[1]))
    return replace(base, statistic=statistic, log10_p=log10_p)


def combine(results: Sequence[Result]) -> Result:
    """Mean of independent estimates, each counting alike; normal interval from their standard errors.

    Args:
        results: What comes from `cluster_mean` or `cluster_difference`, one a task.

    Raises:
        LareError: If there is none.
    """
    if not results:
        raise LareError("there is nothing to take the mean of; give at least one task")
    if len(results) == 1:
        return results[0]
    errors = [standard_error(result) for result in results]
    estimate = float(np.mean([result.estimate for result in results]))
    error = math.sqrt(sum(one**2 for one in errors)) / len(results)
    n, clusters = sum(result.n for result in results), sum(result.clusters for result in results)
    base = Result("mean of tasks", estimate, estimate - Z * error, estimate + Z * error, n, clusters)
    if not error > 0:
        return replace(base, note="no spread: no test")
    z = estimate / error
    return replace(base, statistic=z, log10_p=log10_p_z(z), note="tasks count alike and are independent")
