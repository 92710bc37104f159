"""Regions beside what a question is about: free cells where there are some, else those that are covered least."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lare.errors import LareError
from lare.interventions import Asked, Setting
from lare.interventions.regions import cell_at, points_of

Box = tuple[float, float, float, float]
GRID = 4


def box(left: float, top: float, right: float, bottom: float) -> Box:
    return min(left, right), min(top, bottom), max(left, right), max(top, bottom)


side = st.floats(0.0, 1.0, allow_nan=False)
boxes = st.lists(st.builds(box, side, side, side, side), min_size=1, max_size=3)


def other(found: list[Box], steps: int = 6, grid: int = GRID) -> list[tuple[float, float]]:
    return points_of([Asked("q", "g", boxes=tuple(found))], Setting("oracle_other", seed=3), steps, grid)[0]


def covered(found: list[Box], row: int, column: int) -> float:
    """Largest share of a cell that one of the boxes covers."""
    parts = []
    for left, top, right, bottom in found:
        down = min((row + 1) / GRID, bottom) - max(row / GRID, top)
        across = min((column + 1) / GRID, right) - max(column / GRID, left)
        parts.append(max(0.0, down) * max(0.0, across) * GRID**2)
    return max(parts)


@given(boxes)
def test_other_regions_are_those_that_boxes_cover_least(found: list[Box]) -> None:
    own = {cell_at(((b[0] + b[2]) / 2, (b[1] + b[3]) / 2), GRID, GRID) for b in found}
    shares = {(row, column): covered(found, row, column) for row in range(GRID) for column in range(GRID)}
    least = min(share for (row, column), share in shares.items() if row * GRID + column not in own)
    for point in other(found):
        cell = cell_at(point, GRID, GRID)
        assert cell not in own and shares[divmod(cell, GRID)] == pytest.approx(least, abs=1e-6)
    assert other(found) == other(found)


def test_a_thing_that_fills_the_picture_has_other_places_still() -> None:
    whole = (0.0, 0.0, 1.0, 1.0)
    drawn = {cell_at(point, GRID, GRID) for point in other([whole], steps=400)}
    assert drawn == set(range(GRID**2)) - {cell_at((0.5, 0.5), GRID, GRID)}
    # All but the last column: only that is free.
    assert {point[0] for point in other([(0.0, 0.0, 0.75, 1.0)], steps=50)} == {0.875}
    with pytest.raises(LareError, match="no other region of 1 x 1"):
        other([whole], grid=1)
    with pytest.raises(LareError, match="have no boxes"):
        points_of([Asked("q", "g")], Setting("oracle_other"), 1, GRID)
