"""Projection, the two probes, the online code, retrieval and the arithmetic over seeds."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.svm import SVC

from analysis.probe.classifiers import (
    COSTS,
    fit_mlp,
    fit_svm,
    judge,
    pair_features,
    scaled,
    validation_rows,
)
from analysis.probe.mdl import online_code, retrieval
from analysis.probe.pairs import Pairs
from analysis.probe.projection import project
from analysis.probe.summary import corrected_gap, spread
from lare.errors import LareError
from tests.analysis.probing.synthetic import planted


def _told_apart(rng, rows=300, shift=1.0):
    labels = np.repeat([0, 1], rows // 2)
    features = rng.normal(size=(rows, 20)).astype(np.float32)
    features[:, 0] += shift * (2 * labels - 1)
    return features, labels, np.array([f"picture {number}" for number in rng.integers(0, 80, rows)])


def test_the_svm_is_the_libraries_linear_one():
    rng = np.random.default_rng(0)
    features, labels, groups = _told_apart(rng)
    test = rng.normal(size=(50, 20)).astype(np.float32)
    folds = StratifiedGroupKFold(5)
    search = GridSearchCV(SVC(kernel="linear"), {"C": list(COSTS)}, cv=folds).fit(
        features.astype(np.float64), labels, groups=groups
    )
    expected = search.decision_function(test.astype(np.float64))
    found = fit_svm(features, labels, groups)
    assert found.settled
    np.testing.assert_allclose(found.scores(test), expected, atol=5e-3)


def test_a_solver_that_is_cut_short_is_counted(monkeypatch):
    features, labels, groups = _told_apart(np.random.default_rng(0), shift=0.1)
    monkeypatch.setattr("analysis.probe.classifiers.MAX_STEPS", 3)
    found = fit_svm(features, labels, groups)
    assert not found.settled and found.unsettled_folds == 5 * len(COSTS)


def test_the_mlp_learns_what_is_there_and_repeats_itself():
    rng = np.random.default_rng(1)
    features, labels, groups = _told_apart(rng, shift=2.0)
    fit, held = validation_rows(groups, 0)
    assert not set(groups[fit]) & set(groups[held]) and len(held) > 20
    first, again = (fit_mlp(features, labels, fit, held, 3).scores(features) for _ in range(2))
    assert np.array_equal(first, again)
    assert ((first > 0) == labels).mean() > 0.9


def test_judging_is_sklearns():
    rng = np.random.default_rng(2)
    kind = rng.integers(0, 4, 200)
    pairs = Pairs(np.arange(200), np.arange(200), kind)
    scores = rng.normal(size=200) + 0.5 * (kind == 0)
    judged = judge(scores, pairs)
    assert judged.auc == pytest.approx(roc_auc_score(pairs.label, scores))
    assert judged.balanced == pytest.approx(balanced_accuracy_score(pairs.label, scores > 0))
    assert judged.accuracy == pytest.approx(((scores > 0) == pairs.label).mean())
    assert judged.kinds[2] == pytest.approx((scores[kind == 2] <= 0).mean())


def test_features_of_pairs():
    z, v = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), np.array([[5.0, 6.0], [7.0, 8.0]], np.float32)
    pairs = Pairs(np.array([0]), np.array([1]), np.array([3]))
    expected = {
        "both": [7, 16, 6, 6],
        "product": [7, 16],
        "absdiff": [6, 6],
        "cosine": [23],
        "concat": [1, 2, 7, 8],
        "latent": [1, 2],
        "partner": [7, 8],
    }
    for kind, values in expected.items():
        assert pair_features(z, v, pairs, kind).tolist() == [values]
    with pytest.raises(LareError, match="feature 'sum' is unknown"):
        pair_features(z, v, pairs, "sum")


@pytest.mark.parametrize("kind", ["infonce", "none", "random", "pca"])
def test_projections_are_unit_vectors_and_fitted_on_training_instances_only(kind):
    made = planted(1.0, images=60, width=16)
    train = np.arange(90)
    z, v = project(made.latent, made.vision, train, made.image, 0, kind, dim=24)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1.0, atol=1e-5)
    assert z.shape[1] == {"none": 16, "pca": 16}.get(kind, 24)
    changed = made.latent.copy()
    changed[100:] = 50.0
    again, _ = project(changed, made.vision, train, made.image, 0, kind, dim=24)
    assert np.array_equal(z[:100], again[:100])


def test_widths_that_differ_need_a_projection_of_their_own():
    made = planted(1.0, images=60, width=16)
    narrow = made.vision[:, :8]
    z, v = project(made.latent, narrow, np.arange(90), made.image, 0, dim=24)
    assert z.shape == v.shape
    with pytest.raises(LareError, match="width 16 and their partners 8"):
        project(made.latent, narrow, np.arange(90), made.image, 0, "none")


def test_the_code_is_short_for_what_is_easy_and_as_long_as_the_labels_for_noise():
    rng = np.random.default_rng(3)
    features, labels, groups = _told_apart(rng, 600, 2.0)
    fit, held = validation_rows(groups, 0)
    easy = online_code(features, labels, fit, held, 0)
    noise = online_code(features, rng.permutation(labels), fit, held, 0)
    assert easy.n == len(fit) == easy.ends[-1]
    assert easy.bits == pytest.approx(sum(easy.blocks))
    assert easy.compression > 2 and 0.8 < noise.compression < 1.1


def test_retrieval_counts_equal_partners_once():
    unit = np.eye(4, dtype=np.float32)
    assert retrieval(unit, unit, np.arange(4)) == (1.0, 1.0)
    assert retrieval(unit, unit[[1, 0, 2, 3]], np.arange(4))[0] == 0.5
    twice = unit[[0, 0, 1, 2]]
    assert retrieval(twice, twice, np.array([5, 5, 1, 2])) == (1.0, 1.0)


def test_intervals_over_seeds_are_scipys():
    values = [60.0, 62.0, 61.0, 66.0, 59.0]
    found = spread(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert spread([60.0]).low is None


def test_the_corrected_gap_is_wider_than_the_paired_t_by_what_seeds_share():
    first, second = np.array([60.0, 62.0, 61.0, 66.0]), np.array([55.0, 58.0, 60.0, 59.0])
    plain = stats.ttest_rel(first, second)
    found = corrected_gap(first, second, 700, 300)
    factor = np.sqrt((1 / 4 + 300 / 700) / (1 / 4))
    t = plain.statistic / factor
    assert found.mean == pytest.approx((first - second).mean())
    assert found.p == pytest.approx(2 * stats.t.sf(t, 3))
    assert found.high - found.mean == pytest.approx((plain.confidence_interval().high - found.mean) * factor)


def test_scaling_uses_training_rows():
    rng = np.random.default_rng(4)
    train, test = scaled(rng.normal(3, 2, (100, 4)), np.full((1, 4), 3.0))
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-5)
    assert np.abs(test).max() < 0.5
