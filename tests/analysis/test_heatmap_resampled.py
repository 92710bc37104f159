"""Maps of pictures that have grids of their own: on one grid each keeps its sum, and every cell its place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.heatmaps import page
from analysis.heatmaps.measure import HeatmapsOptions, read_maps
from analysis.heatmaps.resampled import on_one_grid, overlap, resample
from lare.errors import LareError
from tests.analysis.made import answer, write

GRID, SIDE, STEPS = 8, 4, 2
INFO = {"config": {"grid": GRID, "image_size": 448, "backbone_config": {"model_type": "qwen2_5_vl"}}}
SHAPES = ((8, 8), (4, 8), (16, 2), (5, 7))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_map_keeps_its_sum_and_its_even_spread(rows: int, columns: int, grid: int, seed: int) -> None:
    maps = np.random.default_rng(seed).random((2, rows, columns))
    found = resample(maps, grid)
    assert found.shape == (2, grid, grid) and found.sum((-2, -1)) == pytest.approx(maps.sum((-2, -1)))
    even = resample(np.full((rows, columns), 1 / (rows * columns)), grid)
    assert even == pytest.approx(np.full((grid, grid), 1 / grid**2))
    painted = np.kron(maps, np.ones((grid, grid))) / grid**2  # each token as grid x grid points: cells hold whole ones
    cells = painted.reshape(2, grid, rows, grid, columns).sum((2, 4))
    assert found == pytest.approx(cells)
    assert overlap(rows, rows) == pytest.approx(np.eye(rows))


def records(count: int = 24) -> list:
    """Answers whose Extractor attends to the token at the centre of a window alone, on grids of several sizes."""
    rng = np.random.default_rng(0)
    made = []
    for doc in range(count):
        shape = SHAPES[doc % len(SHAPES)]
        most = [max(0, one - SIDE) for one in shape]
        corners = np.stack([rng.integers(0, one + 1, STEPS) for one in most], -1)
        attention = np.zeros((STEPS, SIDE, SIDE))
        attention[:, min(2, shape[0] - 1), min(1, shape[1] - 1)] = 1
        at = (corners[0, 0] + min(2, shape[0] - 1)) / shape[0], (corners[0, 1] + min(1, shape[1] - 1)) / shape[1]
        box = [128 * at[1], 128 * at[0], 128 * (at[1] + 1 / shape[1]), 128 * (at[0] + 1 / shape[0])]
        meta = {"scene": f"s{doc}", "hops": 1, "boxes": json.dumps([box]), "sort": "where", "answer": "A"}
        saliency = rng.random((STEPS, *shape))
        arrays = dict(windows=corners, cross_attention=attention.reshape(STEPS, -1), saliency=saliency)
        made.append(answer(doc, task="lare_mini_mmstar", steps=STEPS, meta=meta, **arrays))
    return made


def test_traces_of_several_grids_are_read_on_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.heatmaps.measure.IMAGE_SIZE", 128)
    written = records()
    maps = read_maps(write(tmp_path / "K", written, INFO))
    assert maps.extractor.shape == maps.inside.shape == maps.saliency.shape == (24, STEPS, GRID, GRID)
    assert maps.extractor.sum((-2, -1)) == pytest.approx(1) and maps.evenly.sum((-2, -1)) == pytest.approx(1)
    assert (maps.extractor[~maps.inside] == 0).all()
    places = list(maps.table["doc_id"])
    for doc, record in enumerate(written):
        row, shape = places.index(doc), SHAPES[doc % len(SHAPES)]
        on_box = (maps.extractor[row, 0] * (maps.covered()[row] > 0)).sum()
        assert on_box == pytest.approx(1)  # the token is where the box is, whatever the grid
        if shape == (GRID, GRID):
            corner = tuple(record.windows[0])
            assert maps.window_at(row, 0) == (*corner, SIDE, SIDE)
            assert maps.extractor[row, 0, corner[0] + 2, corner[1] + 1] == pytest.approx(1)
    kept = maps.take(np.array([3, 1]))
    assert kept.even is not None and (kept.evenly[0] == maps.evenly[3]).all()


def test_a_report_says_that_maps_were_resampled(tmp_path: Path) -> None:
    write(tmp_path / "traces" / "K4", records(), INFO)
    document, arrays = page.compute(HeatmapsOptions(traces=(str(tmp_path / "traces" / "K4"),), samples=4))
    told = " ".join((*document.methods, *document.warnings))
    assert "brought to one of 8 x 8 cells" in told and "pictures of one grid" in told
    assert arrays["average"].shape == (STEPS, GRID, GRID)


def test_damaged_windows_are_refused() -> None:
    corners = np.array([[[3, 0]]])
    with pytest.raises(LareError, match="stands out"):
        on_one_grid(np.ones((1, 1, 16)), corners, [(6, 6)], GRID)
    with pytest.raises(LareError, match="no square"):
        on_one_grid(np.ones((1, 1, 15)), corners, [(9, 9)], GRID)
