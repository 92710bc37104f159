"""CKA and mutual neighbours: known values, what leaves them as they are, intervals, and the shuffled floor."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.probe.experiment import Model
from analysis.probe.similarity import NEIGHBOURS, linear_cka, mutual_neighbours, similarities
from tests.analysis.probing.synthetic import planted


def _kernels(left, right):
    """CKA by its definition, from centred N x N kernels."""
    centre = np.eye(len(left)) - 1 / len(left)
    k, m = (centre @ side @ side.T @ centre for side in (left, right))
    return (k * m).sum() / np.linalg.norm(k) / np.linalg.norm(m)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(5, 40), d=st.integers(1, 6), e=st.integers(1, 6))
def test_cka_is_its_definition_and_blind_to_turns_shifts_and_scale(seed, n, d, e):
    rng = np.random.default_rng(seed)
    left, right = rng.normal(size=(n, d)) + 3, rng.normal(size=(n, e))
    value = linear_cka(left, right)
    assert value == pytest.approx(_kernels(left, right), abs=1e-8) and value == pytest.approx(linear_cka(right, left))
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    assert linear_cka(5 * left @ turn - 2, right) == pytest.approx(value, abs=1e-8)
    assert linear_cka(left, 2 * left @ turn) == pytest.approx(1)


def test_a_side_that_does_not_vary_is_like_nothing():
    assert linear_cka(np.ones((9, 3)), np.random.default_rng(0).normal(size=(9, 2))) == 0


def test_mutual_neighbours_are_a_plain_count_among_other_images():
    rng = np.random.default_rng(1)
    left, right = rng.normal(size=(60, 4)), rng.normal(size=(60, 3))
    right[:, :2] += left[:, :2]
    image = np.repeat(np.arange(20), 3)
    found = mutual_neighbours(left, right, image)
    for one in (0, 17, 59):
        sets = []
        for side in (left, right):
            centred = side - side.mean(0)
            cosine = centred @ centred[one] / np.linalg.norm(centred, axis=1)
            cosine[image == image[one]] = -np.inf
            sets.append(set(np.argsort(-cosine)[:NEIGHBOURS].tolist()))
        assert found[one] == len(sets[0] & sets[1]) / NEIGHBOURS
    assert (mutual_neighbours(left, 3 * left, image) == 1).all()


def test_what_only_the_image_shares_is_no_neighbourhood():
    rng = np.random.default_rng(2)
    image = np.repeat(np.arange(100), 3)
    shared = 10 * rng.normal(size=(100, 8))[image]
    left, right = (
        np.concatenate((one, other), 1)
        for one, other in ((shared, np.zeros((300, 8))), (np.zeros((300, 8)), 10 * rng.normal(size=(100, 8))[image]))
    )
    left, right = left + rng.normal(size=left.shape), right + rng.normal(size=right.shape)
    assert mutual_neighbours(left, right, image).mean() == pytest.approx(NEIGHBOURS / 297, abs=0.02)
    assert mutual_neighbours(left, right, np.arange(300)).mean() > 0.15


def test_more_signal_is_more_alike_and_the_shuffled_floor_stays():
    found = [
        one
        for strength in (0.0, 1.0, 3.0)
        for one in similarities([Model("planted", "with", planted(strength, 100, width=24))])
        if one.modality == "vision"
    ]
    assert found[0].cka < found[1].cka < found[2].cka and found[0].neighbours < found[1].neighbours
    assert found[0].cka == pytest.approx(found[0].cka_shuffled, abs=0.02)
    for one in found:
        assert one.cka_interval[0] <= one.cka <= one.cka_interval[1]
        assert one.neighbours_interval[0] <= one.neighbours <= one.neighbours_interval[1]
        assert one.neighbours_shuffled == pytest.approx(NEIGHBOURS / 299, abs=0.015)
    assert found[2].cka_interval[0] > found[1].cka_interval[1]


def test_the_interval_of_cka_is_as_wide_as_estimates_of_fresh_images_differ():
    values, widths = [], []
    for seed in range(30):
        one = similarities([Model("planted", "with", planted(1.0, 60, width=8, seed=seed))])[0]
        values.append(one.cka)
        widths.append((one.cka_interval[1] - one.cka_interval[0]) / 2 / 2.09)
    assert 0.6 < np.mean(widths) / np.std(values, ddof=1) < 1.7
