"""The permutation test of the pairing: its count, its calibration and its power."""

import numpy as np
import pytest
from scipy import stats

from analysis.probe.experiment import Model, Settings, run_seed
from analysis.probe.pairs import Pairs
from analysis.probe.permuting import combined_p, pairing_p
from tests.analysis.probing.synthetic import planted


def _test_pairs(rng, total=30, count=60):
    left = rng.integers(0, total, count)
    strangers = (left + rng.integers(1, total, count)) % total
    kind = np.repeat([0, 3], count // 2)
    return Pairs(left, np.where(kind == 0, left, strangers), kind)


def test_it_counts_pairings_that_are_judged_at_least_as_well():
    rng = np.random.default_rng(0)
    pairs, table = _test_pairs(rng), rng.normal(size=(30, 30)) + 0.6 * np.eye(30)
    found = pairing_p(lambda some: table[some.left, some.right], pairs, 5, 400)

    def right(taken):
        return ((table[pairs.left, taken[pairs.right]] > 0) == (pairs.kind == 0)).sum()

    rng = np.random.default_rng(1)
    rights = np.unique(pairs.right)
    null = []
    for _ in range(4000):
        taken = np.arange(30)
        taken[rights] = rng.permutation(rights)
        null.append(right(taken) >= right(np.arange(30)))
    assert found == pytest.approx(np.mean(null), abs=0.06)
    assert 0 < found < 1 and round(found * 401) == pytest.approx(found * 401)


def test_a_probe_that_says_one_thing_of_all_pairs_has_no_evidence():
    pairs = _test_pairs(np.random.default_rng(4))
    assert pairing_p(lambda some: np.ones(len(some)), pairs, 0, 50) == 1.0


def test_without_a_signal_p_values_are_uniform_and_with_one_they_are_as_small_as_can_be():
    rng = np.random.default_rng(2)
    none, some = [], []
    for seed in range(150):
        pairs, table = _test_pairs(rng), rng.normal(size=(30, 30))
        none.append(pairing_p(lambda one, table=table: table[one.left, one.right], pairs, seed, 99))
        strong = table + 6 * np.eye(30) - 3
        some.append(pairing_p(lambda one, table=strong: table[one.left, one.right], pairs, seed, 99))
    assert max(some) == 0.01
    # Equal accuracies count as reached, so the test errs to the careful side: fewer small ones than uniform.
    assert stats.kstest(none, "uniform", alternative="greater").pvalue > 0.01
    assert 0.5 <= np.mean(none) < 0.65


def test_all_latents_and_partners_are_scored_in_parts(monkeypatch):
    rng = np.random.default_rng(3)
    pairs, table = _test_pairs(rng), rng.normal(size=(30, 30))
    sizes = []

    def scores(some):
        sizes.append(len(some))
        return table[some.left, some.right]

    whole = pairing_p(scores, pairs, 0, 50)
    monkeypatch.setattr("analysis.probe.permuting.CHUNK", 7)
    assert pairing_p(scores, pairs, 0, 50) == whole and max(sizes[1:]) == 7


def test_seeds_are_put_together_without_taking_them_as_independent():
    assert combined_p([0.01, None, 0.03]) == pytest.approx(0.04)
    assert combined_p([0.9, 0.8]) == 1.0
    assert combined_p([0.2]) == 0.2 and combined_p([None]) is None


@pytest.mark.parametrize(("strength", "small"), [(0.0, False), (1.0, True)])
def test_the_probe_has_it_for_its_main_rows_alone(strength, small):
    models = [Model("planted", "with", planted(strength, 200, width=32))]
    found, _ = run_seed(models, 0, Settings(dim=64, steps=False, pairs=400, only=("main", "shuffled")))
    assert all((one.p is None) == (one.condition != "main") for one in found)
    assert all((one.p <= 0.002) == small for one in found if one.condition == "main")
