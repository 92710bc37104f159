"""AUC-Judd and IoU against scikit-learn and against slow, plain references; rank correlation against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score

from analysis.heatmaps.numbers import cover, lay_out, shape_of_maps
from analysis.heatmaps.overlap import agreement, spearman, spearman_within, top_mass

GRID, SIDE = 8, 4


def made(seed: int, kind: str, answers: int = 3, steps: int = 2):
    """Maps within windows with many ties or none, and boxes that cover cells in part or as a whole."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, GRID - SIDE + 1, (answers, steps, 2))
    shares = rng.gamma(0.4, size=(answers, steps, SIDE * SIDE))
    if kind == "ties":
        shares = rng.integers(0, 3, shares.shape) + (np.arange(SIDE * SIDE) == 0)
    maps, _ = lay_out(shares, corners, GRID)
    low = rng.uniform(0, 0.7, (answers, 2, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.3, low.shape)], -1)
    if kind == "whole cells":
        boxes = np.round(boxes * GRID) / GRID + np.array([0, 0, 1 / GRID, 1 / GRID])
    return maps, np.stack([cover(one.tolist(), GRID) for one in boxes])


def slow_iou(values: np.ndarray, on: np.ndarray) -> float:
    best = 0.0
    for threshold in set(values[values > 0].tolist()):
        chosen = values >= threshold
        overlap = on[chosen].sum()
        best = max(best, overlap / (chosen.sum() + on.sum() - overlap))
    return best


def slow_auc(values: np.ndarray, on: np.ndarray) -> float:
    won = sum(
        p * (1 - q) * ((a > b) + (a == b) / 2)
        for a, p in zip(values, on, strict=True)
        for b, q in zip(values, on, strict=True)
    )
    return float(won / (on.sum() * (1 - on).sum()))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["plain", "ties", "whole cells"]))
def test_auc_equals_sklearn_and_iou_a_slow_loop(seed: int, kind: str) -> None:
    maps, covered = made(seed, kind)
    found = agreement(maps, covered)
    for i in range(len(maps)):
        on = covered[i].ravel()
        for k in range(maps.shape[1]):
            values = maps[i, k].ravel()
            # A cell that is covered in part is on the thing with that weight, and off it with the rest.
            expected = roc_auc_score(
                np.repeat([1, 0], on.size), np.tile(values, 2), sample_weight=np.concatenate([on, 1 - on])
            )
            assert found.auc[i, k] == pytest.approx(expected, abs=1e-12)
            assert found.iou[i, k] == pytest.approx(slow_iou(values, on), abs=1e-12)
            if kind == "whole cells":
                assert found.auc[i, k] == pytest.approx(roc_auc_score(on > 0.5, values), abs=1e-12)


def test_auc_equals_a_slow_loop_over_pairs() -> None:
    for kind in ("plain", "ties"):
        maps, covered = made(7, kind, 2, 1)
        expected = [slow_auc(maps[i, 0].ravel(), covered[i].ravel()) for i in range(2)]
        assert agreement(maps, covered).auc[:, 0] == pytest.approx(expected)


def test_cells_in_part_count_as_the_pixels_they_are_painted_on() -> None:
    maps, _ = made(3, "plain", 1, 1)
    box = (3 / 64, 10 / 64, 40 / 64, 33 / 64)  # on a 64 x 64 picture's pixels
    pixels = np.zeros((64, 64), bool)
    pixels[10:33, 3:40] = True
    painted = np.kron(maps[0, 0], np.ones((8, 8)))
    found = agreement(maps, cover([box], GRID)[None])
    assert found.auc.item() == pytest.approx(roc_auc_score(pixels.ravel(), painted.ravel()))
    ious = [
        (pixels & (painted >= t)).sum() / (pixels | (painted >= t)).sum() for t in set(painted[painted > 0].tolist())
    ]
    assert found.iou.item() == pytest.approx(max(ious))


def test_known_values() -> None:
    covered = cover([(0, 0, 2 / 8, 1 / 8)], GRID)[None]  # the first two cells
    perfect = np.zeros((1, 1, GRID, GRID))
    perfect[0, 0, 0, :2] = 0.5
    wrong = np.zeros_like(perfect)
    wrong[0, 0, 7, 7] = 1
    even = np.full_like(perfect, 1 / 64)
    for maps, auc, iou in ((perfect, 1, 1), (wrong, 61 / 62 / 2, 0), (even, 0.5, 2 / 64)):
        found = agreement(maps, covered)
        assert found.auc.item() == pytest.approx(auc) and found.iou.item() == pytest.approx(iou)
    both = agreement(np.concatenate([perfect, wrong]), np.concatenate([covered, covered]))
    alike = agreement(perfect[0], np.concatenate([covered, covered]))
    assert both.iou[:, 0].tolist() == [1, 0] and alike.iou[:, 0].tolist() == [1, 1]


def test_without_a_box_or_with_one_over_all_there_is_no_value() -> None:
    maps, _ = made(0, "plain", 2, 1)
    found = agreement(maps, np.stack([np.zeros((GRID, GRID)), np.ones((GRID, GRID))]))
    assert np.isnan(found.auc).all() and np.isnan(found.iou[0]).all()
    assert found.iou[1].item() == pytest.approx((maps[1] > 0).sum() / 64)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["plain", "ties"]))
def test_overlap_with_the_step_before_equals_scipy(seed: int, kind: str) -> None:
    maps, _ = made(seed, kind, 2, 3)
    found = shape_of_maps(maps)
    assert np.isnan(found["spearman"][:, 0]).all()
    for i in range(2):
        for k in (1, 2):
            expected = scipy_stats.spearmanr(maps[i, k].ravel(), maps[i, k - 1].ravel()).statistic
            assert found["spearman"][i, k] == pytest.approx(expected)
        strongest = sorted(maps[i, 0].ravel().tolist())[-7:]  # a tenth of 64 cells, rounded up
        assert found["top"][i, 0] == pytest.approx(sum(strongest))
        rows, columns = np.mgrid[:GRID, :GRID] + 0.5
        assert found["row"][i, 0] == pytest.approx((maps[i, 0] * rows).sum())
        assert found["column"][i, 0] == pytest.approx((maps[i, 0] * columns).sum())


def test_an_even_map_has_no_ranks_and_a_tenth_in_its_strongest_tenth() -> None:
    even = np.full((1, 1, 10, 10), 0.01)
    assert np.isnan(spearman(even, even)).all()
    assert top_mass(even).item() == pytest.approx(0.1)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["plain", "ties"]))
def test_rank_correlation_within_shared_cells_equals_scipy_on_them(seed: int, kind: str) -> None:
    maps, _ = made(seed, kind, 2, 2)
    first, second = maps[:1], maps[1:]
    shared = (first > 0) & (second > 0)
    found = spearman_within(first, second, shared)
    for k in range(2):
        a, b = first[0, k][shared[0, k]], second[0, k][shared[0, k]]
        if len(a) < 4 or len(set(a.tolist())) < 2 or len(set(b.tolist())) < 2:
            assert np.isnan(found[0, k])
        else:
            assert found[0, k] == pytest.approx(scipy_stats.spearmanr(a, b).statistic)


def test_one_window_makes_maps_alike_over_all_cells_but_not_within() -> None:
    rng = np.random.default_rng(0)
    maps, inside = lay_out(rng.dirichlet(np.ones(16), (2, 200)), np.ones((2, 200, 2), int), GRID)
    assert spearman(maps[:1], maps[1:]).mean() > 0.9
    assert abs(spearman_within(maps[:1], maps[1:], inside[:1]).mean()) < 0.1
