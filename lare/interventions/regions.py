"""Regions of a picture as points: of the steps' boxes, and of places outside them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lare.errors import LareError
from lare.interventions.asked import Asked, generator_of
from lare.interventions.replacing import Setting

__all__ = ["Point", "cell_at", "points_of"]

Point = tuple[float, float]
"""Across and down, as shares of the picture."""


def points_of(asked: Sequence[Asked], setting: Setting, steps: int, grid: int) -> list[list[Point]]:
    """Points for each question's steps: the middles of its boxes; the last box is repeated where there are fewer.

    Args:
        asked: B questions.
        setting: "oracle", or "oracle_other": cells of the grid that no box touches, drawn by (seed, question). Where
            boxes touch all of them, as the one of an animal that fills a photograph does, those that the boxes cover
            least, the oracle's own left out.
        steps: K.
        grid: Cells a side.

    Raises:
        LareError: If a question has no boxes, or the oracle's cells are all that the grid has.
    """
    without = [one.key for one in asked if not one.boxes]
    if without:
        raise LareError(f"{len(without)} questions have no boxes (first: {without[0]}); ask those that have")
    if setting.name == "oracle":
        middles = [[((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in one.boxes] for one in asked]
        return [[one[min(step, len(one) - 1)] for step in range(steps)] for one in middles]
    return [_elsewhere(one, setting.seed, steps, grid) for one in asked]


def cell_at(point: Point, rows: int, columns: int, canvas: int | None = None) -> int:
    """Number of the cell that holds a point of a picture.

    Args:
        point: The point.
        rows: Rows of the picture's grid.
        columns: Its columns.
        canvas: Columns of the canvas at whose top left the grid lies; None for the grid alone.
    """
    across, down = point
    row, column = min(int(down * rows), rows - 1), min(int(across * columns), columns - 1)
    return row * (columns if canvas is None else canvas) + column


def _elsewhere(one: Asked, seed: int, steps: int, grid: int) -> list[Point]:
    edges = torch.arange(grid, dtype=torch.float64) / grid
    boxes = torch.tensor([*one.boxes], dtype=torch.float64)
    covered = torch.zeros(grid, grid, dtype=torch.float64)
    for left, top, right, bottom in boxes:
        down = (torch.minimum(edges + 1 / grid, bottom) - torch.maximum(edges, top)).clamp_min(0)
        across = (torch.minimum(edges + 1 / grid, right) - torch.maximum(edges, left)).clamp_min(0)
        covered = torch.maximum(covered, down[:, None] * across)
    for left, top, right, bottom in boxes.tolist():
        cell = cell_at(((left + right) / 2, (top + bottom) / 2), grid, grid)
        covered[cell // grid, cell % grid] = torch.inf
    if covered.isinf().all():
        raise LareError(f"the boxes of {one.key} leave no other region of {grid} x {grid}; leave it out")
    free = (covered <= covered.min() + _SAME).nonzero().tolist()
    drawn = torch.randint(len(free), (steps,), generator=generator_of(seed, one.key, "region")).tolist()
    return [((across + 0.5) / grid, (down + 0.5) / grid) for down, across in (free[place] for place in drawn)]


_SAME = 1e-9
"""Areas that differ by less are the same."""
