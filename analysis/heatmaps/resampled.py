"""Maps of pictures that have grids of their own, brought to one grid so that they can be averaged.

A vision-language model that keeps a picture's proportions gives each picture rows and columns of its own. Both sides
are divided evenly into g cells: a token's share is dealt out over the cells that it overlaps, by area, so a map keeps
its sum and every cell is the same part of every picture. Cells are then no tokens any more: a window covers more of
them in a picture with few tokens, and numbers in cells are in units of 1 / g of a side.

Shapes: N answers, K latent steps, R x C tokens of a picture, w tokens a side of a window, g cells a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lare.errors import LareError

__all__ = ["Resampled", "on_one_grid", "overlap", "resample"]

Values = npt.NDArray[np.float64]
Shape = tuple[int, int]
_LEAST = 1e-9  # of a window's share that counts as inside


@dataclass(frozen=True)
class Resampled:
    """Windows and what the Extractor attends to in them, on one grid.

    Attributes:
        extractor: (N, K, g, g), adding up to 1.
        inside: Cells that a window reaches into, (N, K, g, g).
        even: The window looked at evenly, (N, K, g, g), adding up to 1.
        corners: Top row and left column of the cells that a window reaches into, (N, K, 2).
    """

    extractor: Values
    inside: npt.NDArray[np.bool_]
    even: Values
    corners: npt.NDArray[np.int64]


def overlap(tokens: int, cells: int) -> Values:
    """How much of each token of a side lies in each cell, (cells, tokens); columns sum to 1."""
    first, last = (np.arange(cells) + end for end in (0, 1))
    start, stop = (np.arange(tokens) + end for end in (0, 1))
    shared = np.minimum(last[:, None] / cells, stop / tokens) - np.maximum(first[:, None] / cells, start / tokens)
    return np.asarray(np.clip(shared, 0, None) * tokens, dtype=np.float64)


def resample(maps: Values, grid: int) -> Values:
    """Maps (..., R, C) on a grid of g cells a side, (..., g, g), of the same sum."""
    if maps.shape[-2:] == (grid, grid):
        return maps
    down, across = (overlap(tokens, grid) for tokens in maps.shape[-2:])
    return np.asarray(down @ maps @ across.T, dtype=np.float64)


def on_one_grid(attention: Values, corners: npt.NDArray[np.int64], shapes: Sequence[Shape], grid: int) -> Resampled:
    """Lay attention over windows out on each picture's own grid, and bring it to one.

    Args:
        attention: (N, K, w * w), row by row; a window's part beyond a shorter side has none.
        corners: (N, K, 2) top row and left column of each window, in tokens.
        shapes: R and C of each answer's picture.
        grid: g.

    Raises:
        LareError: If n is no square, or a window stands out of its picture.
    """
    side = int(round(attention.shape[-1] ** 0.5))
    if side * side != attention.shape[-1]:
        raise LareError(f"the Extractor's attention has {attention.shape[-1]} cells, which is no square window")
    made, even = (np.zeros((*attention.shape[:2], grid, grid)) for _ in range(2))
    for shape in sorted(set(shapes)):
        rows = np.array([row for row, one in enumerate(shapes) if one == shape])
        own, inside = _laid_out(attention[rows], corners[rows], side, shape)
        made[rows] = resample(own, grid)
        even[rows] = resample(inside / inside.sum((-2, -1), keepdims=True), grid)
    total = made.sum((-2, -1), keepdims=True)
    reached = even > _LEAST
    first = np.stack([reached.any(-1).argmax(-1), reached.any(-2).argmax(-1)], axis=-1)
    extractor = np.divide(made, total, out=np.zeros_like(made), where=total > 0)
    return Resampled(extractor, reached, even, first.astype(np.int64))


def _laid_out(attention: Values, corners: npt.NDArray[np.int64], side: int, shape: Shape) -> tuple[Values, Values]:
    """Attention, and where windows are, on grids of one shape, (n, K, R, C) both."""
    wide = max(shape[0], side), max(shape[1], side)
    if corners.size and (corners.min() < 0 or (corners.max((0, 1)) + side > wide).any()):
        raise LareError(f"a {side} x {side} window stands out of a {shape[0]} x {shape[1]} grid; the trace is damaged")
    tall, across = (
        (np.arange(wide[axis]) >= corners[..., axis, None]) & (np.arange(wide[axis]) < corners[..., axis, None] + side)
        for axis in (0, 1)
    )
    inside = tall[..., :, None] & across[..., None, :]
    maps = np.zeros(inside.shape)
    maps[inside] = attention.reshape(-1)
    return maps[..., : shape[0], : shape[1]], inside[..., : shape[0], : shape[1]].astype(np.float64)
