"""Windows and saliency against loops over cells, on random grids."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lare import LareError
from lare.model.window import saliency_grid, select_window, soft_window, window_cells, window_mask

from . import reference


def gather_window(tokens: Tensor, corner: Tensor, window: int, grid: int) -> Tensor:
    """The visual tokens inside each row's window: (B, g * g, d) and (B, 2) -> (B, w * w, d)."""
    cells = window_cells(corner, window, grid)
    return tokens.gather(1, cells[..., None].expand(-1, -1, tokens.shape[-1]))


quick = settings(deadline=None, max_examples=60)


@st.composite
def grids(draw: st.DrawFn, whole: bool = False) -> tuple[Tensor, int]:
    """Saliency (B, g, g) and a window side; whole numbers make ties and exact sums."""
    side, batch = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (batch, side, side)
    values = (
        torch.randint(0, 4, shape, generator=generator).float() if whole else torch.rand(shape, generator=generator)
    )
    return values, draw(st.integers(1, side))


@quick
@given(grids())
def test_window_is_brute_force_argmax(case: tuple[Tensor, int]) -> None:
    saliency, size = case
    corners, shares = select_window(saliency, size)
    for row, grid in enumerate(saliency.tolist()):
        corner, total = reference.best_window(grid, size)
        at = corners[row].tolist()
        found = sum(grid[at[0] + i][at[1] + j] for i in range(size) for j in range(size))
        assert at == list(corner) or found == pytest.approx(total, rel=1e-6)
        assert float(shares[row]) == pytest.approx(total / sum(map(sum, grid)), rel=1e-5)


@quick
@given(grids(whole=True))
def test_ties_go_to_the_first_window(case: tuple[Tensor, int]) -> None:
    saliency, size = case
    corners, _ = select_window(saliency, size)
    assert corners.tolist() == [list(reference.best_window(grid, size)[0]) for grid in saliency.tolist()]


@quick
@given(grids())
def test_gather_equals_slicing(case: tuple[Tensor, int]) -> None:
    saliency, size = case
    batch, side, _ = saliency.shape
    corners, _ = select_window(saliency, size)
    tokens = torch.arange(batch * side * side * 2.0).reshape(batch, side * side, 2)
    gathered = gather_window(tokens, corners, size, side)
    grid = tokens.reshape(batch, side, side, 2)
    for row, (top, left) in enumerate(corners.tolist()):
        sliced = grid[row, top : top + size, left : left + size].reshape(size * size, 2)
        assert torch.equal(gathered[row], sliced)
        assert torch.equal(gathered[row], reference.window_tokens(tokens[row], (top, left), size, side))


@quick
@given(grids())
def test_mask_marks_the_gathered_cells(case: tuple[Tensor, int]) -> None:
    saliency, size = case
    side = saliency.shape[1]
    corners, _ = select_window(saliency, size)
    cells, mask = window_cells(corners, size, side), window_mask(corners, size, side)
    assert mask.sum(1).tolist() == [size * size] * len(mask)
    assert bool(mask.gather(1, cells).all())


@quick
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**31))
def test_saliency_is_spread_by_nearest_neighbour(coarse: int, factor: int, seed: int) -> None:
    values = torch.rand(2, coarse * coarse, generator=torch.Generator().manual_seed(seed))
    spread = saliency_grid(values, coarse, coarse * factor)
    for row in range(2):
        assert spread[row].tolist() == reference.fine_saliency(values[row].tolist(), coarse, coarse * factor)


@quick
@given(st.integers(1, 6), st.integers(0, 2**31))
def test_random_windows_fit_and_repeat(size: int, seed: int) -> None:
    saliency = torch.rand(8, 6, 6)
    draws = [select_window(saliency, size, "random", torch.Generator().manual_seed(seed))[0] for _ in range(2)]
    assert torch.equal(*draws)
    assert int(draws[0].min()) >= 0
    assert int(draws[0].max()) <= 6 - size


def test_random_windows_reach_everywhere_evenly() -> None:
    corners, _ = select_window(torch.rand(9000, 4, 4), 2, "random", torch.Generator().manual_seed(0))
    counts = torch.bincount(corners[:, 0] * 3 + corners[:, 1], minlength=9)
    assert len(counts) == 9
    assert int((counts - 1000).abs().max()) < 150  # five standard deviations


def test_random_window_reports_its_own_share() -> None:
    saliency = torch.rand(5, 4, 4)
    corners, shares = select_window(saliency, 2, "random", torch.Generator().manual_seed(1))
    for row, (top, left) in enumerate(corners.tolist()):
        inside = saliency[row, top : top + 2, left : left + 2].sum() / saliency[row].sum()
        torch.testing.assert_close(shares[row], inside)


def test_saliency_of_zero_gives_a_window_and_no_nan() -> None:
    corners, shares = select_window(torch.zeros(1, 4, 4), 2)
    assert corners.tolist() == [[0, 0]]
    assert shares.tolist() == [0.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_sums_in_float32(dtype: torch.dtype) -> None:
    """Sums in bfloat16 would make neighbouring windows of a smooth map tie."""
    saliency = torch.full((1, 8, 8), 1.0, dtype=dtype)
    saliency[0, 7, 7] = 1.0078125  # the next bfloat16
    assert select_window(saliency, 6)[0].tolist() == [[2, 2]]


def test_unknown_mode_is_named() -> None:
    with pytest.raises(LareError, match="window_mode is 'centre'"):
        select_window(torch.rand(1, 4, 4), 2, "centre")


@given(st.data())
def test_pictures_of_several_sizes_on_one_canvas(data: st.DataObject) -> None:
    """Each row's window, share and cells are those that its own grid gives it; a side that is too short is covered."""
    window = data.draw(st.integers(1, 3))
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=4))
    shape = (max(window, *(rows for rows, _ in sizes)), max(window, *(columns for _, columns in sizes)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    own = [torch.rand(1, *size, generator=generator) for size in sizes]
    canvas = torch.zeros(len(own), *shape)
    for row, one in zip(canvas, own, strict=True):
        row[: one.shape[1], : one.shape[2]] = one[0]
    extents = torch.tensor(sizes)
    corners, shares = select_window(canvas, window, sizes=extents)
    mask, cells = window_mask(corners, window, shape, extents), window_cells(corners, window, shape)
    soft = soft_window(canvas, window, 1e-7, extents).exp()
    random, _ = select_window(canvas, window, "random", generator, extents)
    assert bool((random <= (extents - window).clamp_min(0)).all())
    for row, one in enumerate(own):
        wide = torch.nn.functional.pad(one, (0, max(0, window - one.shape[2]), 0, max(0, window - one.shape[1])))
        wanted, share = select_window(wide, window)
        assert corners[row].tolist() == wanted[0].tolist()
        assert torch.allclose(shares[row], share[0])
        inside = torch.zeros(shape, dtype=torch.bool)
        top, left = wanted[0].tolist()
        inside[top : top + window, left : left + window] = True
        inside[one.shape[1] :], inside[:, one.shape[2] :] = False, False
        assert torch.equal(mask[row].reshape(shape), inside)
        assert set(torch.nonzero(inside.flatten()).flatten().tolist()) <= set(cells[row].tolist())
        on_grid = torch.zeros(shape, dtype=torch.bool)
        on_grid[: one.shape[1], : one.shape[2]] = True
        assert torch.equal(soft[row].reshape(shape) > 0, on_grid)
        assert bool((soft[row].reshape(shape)[inside] > 0.5).all())  # another window may be next to a tie with it


def test_a_grid_that_is_no_square() -> None:
    """Rows and columns are told apart in every function."""
    saliency = torch.zeros(1, 2, 5)
    saliency[0, 1, 3] = 1.0
    corners, shares = select_window(saliency, 2)
    assert corners.tolist() == [[0, 2]] and shares.tolist() == [1.0]
    assert window_cells(corners, 2, (2, 5)).tolist() == [[2, 3, 7, 8]]
    assert window_mask(corners, 2, (2, 5)).nonzero()[:, 1].tolist() == [2, 3, 7, 8]
    spread = saliency_grid(torch.arange(6.0)[None], (2, 3), (4, 6))
    assert spread.shape == (1, 4, 6) and spread[0, 3].tolist() == [3, 3, 4, 4, 5, 5]
