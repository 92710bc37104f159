"""Numbers of attention maps: spread, travel, and how much lies on the things that a question is about.

Maps are distributions over the cells of a g x g grid. The Extractor attends to the cells of its window alone: outside
there is no value, which counts as no attention where a share is asked for, and as missing where cells are compared.
Shapes: N answers, K latent steps, g cells a side, w cells a side of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.heatmaps.overlap import spearman, top_mass
from analysis.shared.stats import codes_of
from lare.errors import LareError

__all__ = [
    "Shares",
    "cover",
    "entropy_bits",
    "jensen_shannon",
    "lay_out",
    "mean_map",
    "mean_of_others",
    "nss",
    "on_things",
    "ratio_of_sums",
    "shape_of_maps",
]

Values = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]

DRAWS = 1000
"""Draws of a bootstrap over clusters."""


def lay_out(attention: npt.ArrayLike, corners: npt.ArrayLike, grid: int) -> tuple[Values, Truths]:
    """Put attention over the cells of windows onto the grid.

    Args:
        attention: (N, K, n) shares over a window's cells, row by row; n = w * w, or g * g for the whole grid.
        corners: (N, K, 2) top row and left column of each window.
        grid: Cells a side g.

    Returns:
        Maps (N, K, g, g) that add up to 1 each, 0 outside the windows, and where the windows are, (N, K, g, g).

    Raises:
        LareError: If n is no square, or a window stands out of the grid.
    """
    shares = np.asarray(attention, np.float64)
    places = np.asarray(corners, np.int64)
    side = int(round(shares.shape[-1] ** 0.5))
    if side * side != shares.shape[-1]:
        raise LareError(f"the Extractor's attention has {shares.shape[-1]} cells, which is no square window")
    if places.size and (places.min() < 0 or places.max() + side > grid):
        raise LareError(f"a {side} x {side} window stands out of the {grid} x {grid} grid; the trace is damaged")
    cells = np.arange(grid)
    within = (cells >= places[..., None]) & (cells < places[..., None] + side)
    inside = within[..., 0, :, None] & within[..., 1, None, :]
    maps = np.zeros(inside.shape)
    maps[inside] = shares.reshape(-1)
    total = maps.sum((-2, -1), keepdims=True)
    return np.divide(maps, total, out=np.zeros_like(maps), where=total > 0), inside


def cover(boxes: Sequence[Sequence[float]], grid: int) -> Values:
    """How much of each cell the union of boxes covers, (g, g) in [0, 1].

    Args:
        boxes: (left, top, right, bottom) as shares of the image.
        grid: Cells a side g.
    """
    fine = 16  # points a side of a cell: an error below 1/16 of a cell's side
    at = (np.arange(grid * fine) + 0.5) / (grid * fine)
    covered = np.zeros((at.size, at.size), bool)
    for left, top, right, bottom in boxes:
        covered |= ((at >= top) & (at < bottom))[:, None] & ((at >= left) & (at < right))[None, :]
    return np.asarray(covered.reshape(grid, fine, grid, fine).mean((1, 3)), dtype=np.float64)


def shape_of_maps(maps: Values) -> dict[str, Values]:
    """Spread and travel of maps (N, K, g, g).

    Returns:
        (N, K) each: "entropy" in bits; "effective", 2 to its power, in cells; "top", the share in the strongest tenth
        of the grid's cells; the centre of mass's "row" and "column", in cells from the top left corner; its "travel"
        since the step before, in cells, and that step's map's "divergence" (Jensen-Shannon), in bits, and "spearman"
        rank correlation. The last three are missing at the first step.
    """
    entropy = entropy_bits(maps)
    cells = np.arange(maps.shape[-1]) + 0.5
    centre = np.stack([maps.sum(-1) @ cells, maps.sum(-2) @ cells], -1)
    travel, divergence, ranks = (np.full(entropy.shape, np.nan) for _ in range(3))
    travel[:, 1:] = np.linalg.norm(np.diff(centre, axis=1), axis=-1)
    divergence[:, 1:] = jensen_shannon(maps[:, 1:], maps[:, :-1])
    ranks[:, 1:] = spearman(maps[:, 1:], maps[:, :-1])
    return {
        "entropy": entropy,
        "effective": 2.0**entropy,
        "top": top_mass(maps),
        "row": centre[..., 0],
        "column": centre[..., 1],
        "travel": travel,
        "divergence": divergence,
        "spearman": ranks,
    }


def jensen_shannon(first: Values, second: Values) -> Values:
    """Jensen-Shannon divergence of maps (..., g, g) in bits: 0 for equal ones, 1 for ones that share no cell."""
    gap = entropy_bits((first + second) / 2) - (entropy_bits(first) + entropy_bits(second)) / 2
    return np.clip(gap, 0.0, 1.0)


def entropy_bits(maps: Values) -> Values:
    """Entropy of maps (..., g, g) in bits."""
    logs = np.log2(maps, out=np.zeros_like(maps), where=maps > 0)
    return np.asarray(-(maps * logs).sum((-2, -1)), dtype=np.float64)


def mean_map(maps: Values) -> Values:
    """The data set's mean map at each step, (K, g, g): what a model would look at without looking at the question."""
    return np.asarray(maps.mean(0), dtype=np.float64)


def mean_of_others(maps: Values, clusters: Sequence[object]) -> Values:
    """For each answer the mean map at each step of all answers of other clusters, (N, K, g, g).

    An answer's own map is left out because it knows its question; with one cluster the mean is that of all.
    """
    codes = codes_of(np.asarray(clusters, object), len(maps))
    groups = int(codes.max()) + 1
    if groups < 2:
        return np.broadcast_to(mean_map(maps), maps.shape)
    totals = np.zeros((groups, *maps.shape[1:]))
    np.add.at(totals, codes, maps)
    counts = len(maps) - np.bincount(codes, minlength=groups)
    return np.asarray(((totals.sum(0) - totals) / counts[:, None, None, None])[codes], dtype=np.float64)


@dataclass(frozen=True)
class Shares:
    """How maps lie on things.

    Attributes:
        mass: Share of a map on the things, (N, K).
        area: Share of the image that the things take, (N,).
        pointing: Whether the strongest cell touches a thing, (N, K).
        near: The same with a tolerance of one cell.
    """

    mass: Values
    area: Values
    pointing: Values
    near: Values


def on_things(maps: Values, covered: Values) -> Shares:
    """How maps (N, K, g, g), or (K, g, g) for all alike, lie on things of which `covered` (N, g, g) is `cover`."""
    maps = np.broadcast_to(maps, (covered.shape[0], *maps.shape[-3:]))
    mass = (maps * covered[:, None]).sum((-2, -1))
    touched = covered > 0
    wide = np.pad(touched, ((0, 0), (1, 1), (1, 1)))
    side = touched.shape[-1]
    near = np.any([wide[:, i : i + side, j : j + side] for i in range(3) for j in range(3)], axis=0)
    strongest = maps.reshape(*maps.shape[:2], -1).argmax(-1)
    flat = touched.reshape(len(touched), -1), near.reshape(len(near), -1)
    hit, close = (np.take_along_axis(one, strongest, 1).astype(np.float64) for one in flat)
    return Shares(mass, covered.mean((-2, -1)), hit, close)


def nss(maps: Values, inside: Truths, covered: Values) -> Values:
    """Normalised scanpath saliency within the windows, (N, K).

    A map is brought to mean 0 and variance 1 over its window's cells and averaged over the part of the things that lies
    in the window. 0 is chance. Missing where no part of a thing is in the window, or the map is flat.
    """
    maps = np.broadcast_to(maps, inside.shape)
    count = inside.sum((-2, -1), keepdims=True)
    mean = (maps * inside).sum((-2, -1), keepdims=True) / count
    spread = np.sqrt((((maps - mean) ** 2) * inside).sum((-2, -1), keepdims=True) / count)
    seen = covered[:, None] * inside
    weight = seen.sum((-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        score = ((maps - mean) / spread * seen).sum((-2, -1)) / weight
    flat = spread[..., 0, 0] <= 1e-9 * np.abs(mean[..., 0, 0])
    return np.where((weight > 0) & ~flat, score, np.nan)


def ratio_of_sums(
    top: npt.ArrayLike, bottom: npt.ArrayLike | None, clusters: Sequence[object], seed: int = 0, draws: int = DRAWS
) -> tuple[Values, Values, Values]:
    """Sum by sum, with percentile intervals of a bootstrap over clusters, for many columns at once.

    Args:
        top: (n, m) values; missing ones are left out together with their place in `bottom`.
        bottom: (n, m) or (n, 1) values; None gives means.
        clusters: (n,) names.
        seed: Seed of the draws.
        draws: How many.

    Returns:
        Estimates, lower and upper ends (95 %), (m,) each; the ends are missing with fewer than two clusters.
    """
    values = np.asarray(top, np.float64)
    known = np.isfinite(values)
    weights = np.broadcast_to(1.0 if bottom is None else np.asarray(bottom, np.float64), values.shape)
    codes = codes_of(np.asarray(clusters, object), len(values))
    groups = int(codes.max()) + 1 if len(codes) else 0
    totals = [np.zeros((groups, values.shape[1])) for _ in range(2)]
    for total, part in zip(totals, (values, weights), strict=True):
        np.add.at(total, codes, np.where(known, part, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = totals[0].sum(0) / totals[1].sum(0)
        if groups < 2:
            return estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
        drawn = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), draws).astype(np.float64)
        spread = (drawn @ totals[0]) / (drawn @ totals[1])
    low, high = np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
    drawn_at_all = np.asarray(np.isfinite(spread).any(0), dtype=np.bool_)
    low[drawn_at_all], high[drawn_at_all] = np.nanquantile(spread[:, drawn_at_all], (0.025, 0.975), axis=0)
    return estimate, low, high
