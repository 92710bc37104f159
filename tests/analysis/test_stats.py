"""Every statistic against scipy or statsmodels on the same arrays, and against planted effects."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar
from statsmodels.stats.meta_analysis import effectsize_smd
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.nonparametric import rank_compare_2indep
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

from analysis.shared import effects, pvalues, stats
from lare.errors import LareError


@st.composite
def samples(draw, same_size=False):
    """Two rows of values; coarse rounding brings ties."""
    sizes = draw(st.tuples(st.integers(9, 60), st.integers(9, 60)))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    digits = draw(st.sampled_from([0, 1, 6]))
    b = rng.normal(draw(st.sampled_from([0.0, 0.5, 2.0])), draw(st.sampled_from([0.5, 2.0])), sizes[0])
    a = rng.normal(0, 1, sizes[0] if same_size else sizes[1])
    return np.round(b, digits), np.round(a, digits)


def varied(*rows):
    return all(np.ptp(row) > 0 for row in rows)


@settings(max_examples=25, deadline=None)
@given(samples())
def test_independent_tests_equal_the_libraries(pair):
    b, a = pair
    if not varied(b, a):
        return
    for mine, equal in ((stats.student(b, a), True), (stats.welch(b, a), False)):
        theirs = sps.ttest_ind(b, a, equal_var=equal)
        interval = theirs.confidence_interval(0.95)
        assert (mine.statistic, mine.df) == (theirs.statistic, theirs.df)
        assert mine.p == pytest.approx(theirs.pvalue, rel=1e-9)
        assert (mine.low, mine.high) == (interval.low, interval.high)
        assert mine.estimate == pytest.approx(b.mean() - a.mean())
    u = sps.mannwhitneyu(b, a)
    order = rank_compare_2indep(b, a)
    mine = stats.mann_whitney(b, a)
    assert mine.statistic == u.statistic and mine.p == pytest.approx(u.pvalue, rel=1e-9)
    assert mine.estimate == pytest.approx(np.sign(b[:, None] - a[None]).mean())
    munzel = stats.brunner_munzel(b, a)
    if munzel.statistic is not None:
        theirs = sps.brunnermunzel(a, b)
        assert munzel.statistic == pytest.approx(theirs.statistic, rel=1e-6)
        assert munzel.p == pytest.approx(theirs.pvalue, rel=1e-5)
        low, high = np.clip(order.conf_int(), 0, 1)
        assert (munzel.low, munzel.high) == pytest.approx((low, high))
    g = effects.hedges_g(b, a)
    smd, variance = effectsize_smd(b.mean(), b.std(ddof=1), b.size, a.mean(), a.std(ddof=1), a.size)
    assert g.estimate == pytest.approx(smd) and g.high - g.low == pytest.approx(2 * 1.959964 * math.sqrt(variance))


@settings(max_examples=25, deadline=None)
@given(samples(same_size=True))
def test_paired_tests_equal_the_libraries(pair):
    b, a = pair
    if not varied(b - a):
        return
    theirs = sps.ttest_rel(b, a)
    mine = stats.paired_t(b, a)
    assert (mine.statistic, mine.df) == (theirs.statistic, theirs.df) and mine.p == pytest.approx(theirs.pvalue)
    ranks = sps.wilcoxon(b - a, zero_method="pratt")
    mine = stats.wilcoxon(b, a)
    assert mine.statistic == ranks.statistic and mine.p == pytest.approx(ranks.pvalue)
    assert mine.low <= np.median(b - a) == mine.estimate <= mine.high
    groups = np.arange(b.size) // 2
    fit = sm.OLS(b - a, np.ones(b.size)).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    mine = stats.cluster_difference(b, a, groups)
    if mine.statistic is not None:
        assert (mine.low, mine.high) == pytest.approx(tuple(fit.conf_int()[0]))
        assert mine.statistic == pytest.approx(fit.tvalues[0]) and mine.p == pytest.approx(fit.pvalues[0])
        assert mine.df == len(np.unique(groups)) - 1
    gaps = b - a
    assert effects.cohen_d_paired(b, a).estimate == pytest.approx(gaps.mean() / gaps.std(ddof=1))
    if varied(b, a):
        spread = (b.std(ddof=1) + a.std(ddof=1)) / 2
        assert effects.cohen_d_average(b, a).estimate == pytest.approx(gaps.mean() / spread)


@settings(max_examples=25, deadline=None)
@given(samples())
def test_hodges_lehmann_is_the_median_of_all_differences(pair):
    b, a = pair
    mine = effects.hodges_lehmann(b, a)
    assert mine.estimate == pytest.approx(np.median(b[:, None] - a[None]), abs=1e-6)
    assert mine.low <= mine.estimate <= mine.high


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=80))
def test_mcnemar_exact_and_mid_p(rows):
    b, a = np.array(rows, float).T
    gained, lost = int((b > a).sum()), int((b < a).sum())
    exact, mid = stats.mcnemar(b, a), stats.mcnemar(b, a, mid=True)
    assert exact.p == pytest.approx(min(1, sm_mcnemar([[0, gained], [lost, 0]], exact=True).pvalue))
    assert exact.estimate == pytest.approx(np.mean(b - a))
    if gained + lost and gained != lost:
        # By definition: the exact tail twice, with half of the observed count.
        k, m = min(gained, lost), gained + lost
        tail = sps.binom.cdf(k - 1, m, 0.5) + sps.binom.pmf(k, m, 0.5) / 2
        assert mid.p == pytest.approx(2 * tail) and mid.p < exact.p
    else:
        assert mid.p == 1


def test_mcnemar_of_the_specification_and_of_parts():
    b = np.r_[np.ones(90), np.zeros(55), np.ones(1355)]
    a = np.r_[np.zeros(90), np.ones(55), np.ones(1355)]
    assert stats.mcnemar(b, a).p == pytest.approx(0.0046, abs=2e-4)
    assert "90 gained, 55 lost" in stats.mcnemar(b, a).note
    with pytest.raises(LareError, match="right .1. or wrong"):
        stats.mcnemar([0.5, 1], [0, 1])


def test_wilson_and_holm_are_statsmodels():
    assert stats.wilson(142, 150) == pytest.approx(proportion_confint(142, 150, method="wilson"))
    assert stats.wilson(0, 0) == (0, 1)
    p = [0.01, 0.04, 0.03, 1e-320]
    adjusted = stats.holm([p[0], None, *p[1:]])
    assert adjusted[1] is None
    assert [x for x in adjusted if x is not None] == pytest.approx(multipletests(p, method="holm")[1])
    assert stats.holm([]) == [] and stats.holm([None]) == [None]


def test_p_values_below_floats():
    rng = np.random.default_rng(0)
    a, b = rng.normal(4.47, 0.62, 1500), rng.normal(10.84, 1.3, 1500)
    for mine in (stats.student(b, a), stats.welch(b, a)):
        assert mine.p == 0.0
        x = mine.df / (mine.df + mine.statistic**2)
        with mpmath.workdps(30):
            exact = mpmath.log10(mpmath.betainc(mine.df / 2, 0.5, 0, x, regularized=True))
        assert mine.log10_p == pytest.approx(float(exact), rel=1e-9)
    assert stats.mann_whitney(b, a).log10_p == pytest.approx(-490, abs=1)
    assert stats.format_p(stats.welch(b, a).log10_p).startswith("10^-12")
    assert stats.format_p(None) == "-" and stats.format_p(-1) == "0.1000" and stats.format_p(-16) == "1.0e-16"


def test_the_series_meets_the_float_where_both_hold():
    for t, df in ((20.0, 50.0), (30.0, 500.0), (8.0, 3.0)):
        p = 2 * sps.t.sf(t, df)
        assert pvalues.log10_p_t(t, df, 0.0) == pytest.approx(math.log10(p), rel=1e-9)


def test_the_u_test_compares_no_medians():
    rng = np.random.default_rng(1)
    a = rng.normal(0, 1, 1500)
    b = rng.exponential(1, 1500)
    b, a = b - np.median(b), a - np.median(a)
    assert stats.mann_whitney(b, a).p < 1e-3
    gap = effects.quantile_difference(b, a, 0.5)
    assert gap.low < 0 < gap.high


def test_planted_effects_are_found_at_their_size():
    rng = np.random.default_rng(2)
    a = rng.normal(0, 1, 4000)
    noise = rng.normal(0, 1, 4000)
    b = a + 0.2 + 0.5 * (noise - noise.mean()) / noise.std()
    for result in (
        stats.paired_t(b, a),
        stats.cluster_difference(b, a),
        stats.welch(b, a),
        effects.hodges_lehmann(b, a),
    ):
        assert result.low < 0.2 < result.high and result.low > 0
    d_z = effects.cohen_d_paired(b, a)
    assert d_z.low < 0.4 < d_z.high
    order = stats.superiority(b, a)
    truth = sps.norm.cdf(0.2 / math.sqrt(1 + 1.25))
    assert order.low < truth < order.high


def test_cluster_intervals_cover_and_naive_ones_do_not():
    """20 clusters of 10 items that share a shift: 95 % intervals over 400 draws."""
    rng = np.random.default_rng(3)
    groups, cluster_hits, naive_hits, drawn_hits = np.repeat(np.arange(20), 10), 0, 0, 0
    for draw in range(400):
        gaps = rng.normal(0, 1, 20)[groups] + rng.normal(0, 1, 200)
        robust, naive = stats.cluster_mean(gaps, groups), stats.cluster_mean(gaps)
        cluster_hits += robust.low < 0 < robust.high
        naive_hits += naive.low < 0 < naive.high
        if draw < 40:
            drawn = effects.quantile_difference(gaps, np.zeros(200), 0.5, groups)
            drawn_hits += drawn.low < 0 < drawn.high
    assert 0.91 <= cluster_hits / 400 <= 0.985
    assert naive_hits / 400 < 0.75
    assert drawn_hits >= 33  # of 40; 95 % expected, few clusters


def test_quantile_difference_bootstraps_and_linearises_alike():
    rng = np.random.default_rng(4)
    n = 3000
    a = rng.normal(0, 1, n)
    b = 0.3 + 0.8 * a + rng.normal(0, 0.6, n)
    drawn = effects.quantile_difference(b, a, 0.75)
    mean = stats.cluster_mean(effects._influence(b, 0.75) - effects._influence(a, 0.75))
    assert (mean.high - mean.low) == pytest.approx(drawn.high - drawn.low, rel=0.15)
    assert drawn.low < 0.3 < drawn.high and drawn.note == "bootstrap over clusters"
    assert effects.quantile_difference(b, a, 0.75) == drawn, "same seed, same interval"
    ragged = np.repeat(np.arange(n), rng.integers(1, 4, n))[:n]  # clusters of 1, 2 or 3
    uneven = effects.quantile_difference(b, a, 0.75, ragged)
    assert uneven.high - uneven.low == pytest.approx(drawn.high - drawn.low, rel=0.15)
    other = rng.permutation(n)
    assert effects.quantile_difference(b[other], a[other], 0.75, other // 2).clusters == n // 2


def test_minimum_detectable_difference():
    rng = np.random.default_rng(5)
    gaps = rng.normal(0, 2, 400)
    found = stats.minimum_detectable(stats.cluster_mean(gaps))
    exact = TTestPower().solve_power(nobs=400, alpha=0.05, power=0.8) * gaps.std(ddof=1)
    assert found == pytest.approx(exact, rel=1e-3)
    big = stats.minimum_detectable(stats.cluster_mean(rng.normal(0, 2, 40_000)))
    assert big == pytest.approx((1.959964 + 0.841621) * 2 / 200, rel=0.02)


def test_degenerate_values_end_in_a_note_or_a_message():
    ones, zeros = np.ones(30), np.zeros(30)
    assert stats.cluster_mean(zeros).log10_p is None and "no spread" in stats.cluster_mean(zeros).note
    assert "no spread" in stats.cluster_mean(ones).note
    assert "one cluster" in stats.cluster_mean(ones, ["x"] * 30).note
    assert stats.superiority(ones + np.arange(30) / 100, zeros - np.arange(30)).estimate == 1
    assert stats.wilcoxon(ones, ones).note == "no item differs"
    assert math.isnan(effects.hedges_g(ones, zeros).estimate)
    assert stats.cluster_mean(np.arange(10.0), np.arange(10)).note == "only 10 clusters"
    with pytest.raises(LareError, match="1 of 3 values are no numbers"):
        stats.welch([1, math.nan, 2], [1, 2, 3])
    with pytest.raises(LareError, match="same items on both sides, got 3 and 2"):
        stats.paired_t([1, 2, 3], [1, 2])
    with pytest.raises(LareError, match="need a cluster each, 2 have one"):
        stats.cluster_mean([1.0, 2, 3], ["a", None, "b"])
