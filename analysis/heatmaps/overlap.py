"""How well a map agrees with the true boxes: AUC-Judd of its cells' order, and the overlap of its best outline.

Both are worked out for all maps at once from one sort of their cells. A cell that a box covers in part counts in that
part as on it and in the rest as off it, so that both are those of the map painted onto the picture's pixels.

Shapes: N answers, K latent steps, g cells a side of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

__all__ = ["Agreement", "agreement", "spearman", "spearman_within", "top_mass"]

Values = npt.NDArray[np.float64]

TOP = 0.1
"""Which part of the grid's cells is "the strongest" in `top_mass`."""

FEWEST = 4
"""Cells that a rank correlation needs."""


@dataclass(frozen=True)
class Agreement:
    """How maps agree with boxes.

    Attributes:
        auc: AUC-Judd, (N, K): the chance that a point on the things has more attention than a point beside them, ties
            halved; 0.5 is chance. What `sklearn.metrics.roc_auc_score` gives with the boxes' cover as weights.
        iou: The best intersection over union of the things with the cells above a threshold, (N, K).
    """

    auc: Values
    iou: Values


def agreement(maps: Values, covered: Values) -> Agreement:
    """AUC-Judd and best-threshold IoU over the whole grid.

    The threshold of the IoU is chosen for each map with the truth in view, so it is an upper bound, for the baselines
    as well. Cells without attention belong to no outline.

    Args:
        maps: (N, K, g, g), or (K, g, g) for all alike; not negative.
        covered: `analysis.heatmaps.numbers.cover` of each answer's things, (N, g, g).

    Returns:
        Both, missing where an answer's things cover no cell; the AUC also where they cover all of them.
    """
    maps = np.broadcast_to(maps, (covered.shape[0], *maps.shape[-3:]))
    values = maps.reshape(*maps.shape[:2], -1)
    order = np.argsort(-values, axis=-1, kind="stable")
    values = np.take_along_axis(values, order, -1)
    on = np.take_along_axis(np.broadcast_to(covered.reshape(len(covered), 1, -1), values.shape), order, -1)
    first, last = _ties(values)
    above = np.concatenate([np.zeros((*values.shape[:2], 1)), np.cumsum(on, -1)], -1)  # things in the first i cells
    total = above[..., -1]
    stronger, as_strong = np.take_along_axis(above, first, -1), np.take_along_axis(above, last + 1, -1)
    off = 1.0 - on
    pairs = total * off.sum(-1)
    won = (off * (stronger + as_strong) / 2).sum(-1)  # things before each cell that is off them, its ties by half
    auc = np.divide(won, pairs, out=np.full_like(won, np.nan), where=pairs > 0)
    union = last + 1 + total[..., None] - as_strong
    overlap = np.where(values > 0, np.divide(as_strong, union, out=np.zeros_like(union), where=union > 0), 0.0)
    return Agreement(auc, np.where(total > 0, overlap.max(-1), np.nan))


def _ties(values: Values) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and last place of each value's equals in rows that are sorted, the shape of `values`."""
    places = np.broadcast_to(np.arange(values.shape[-1]), values.shape)
    new = np.ones(values.shape, bool)
    new[..., 1:] = values[..., 1:] != values[..., :-1]
    ends = np.ones(values.shape, bool)
    ends[..., :-1] = new[..., 1:]
    first = np.maximum.accumulate(np.where(new, places, 0), -1)
    last = np.minimum.accumulate(np.where(ends, places, values.shape[-1] - 1)[..., ::-1], -1)[..., ::-1]
    return first, last


def top_mass(maps: Values) -> Values:
    """Share of maps (..., g, g) in their strongest `TOP` of the grid's cells, rounded up."""
    values = np.sort(maps.reshape(*maps.shape[:-2], -1), -1)
    count = int(np.ceil(TOP * values.shape[-1]))
    return np.asarray(values[..., -count:].sum(-1), dtype=np.float64)


def spearman(first: Values, second: Values) -> Values:
    """Rank correlation over the cells of maps (N, K, g, g), (N, K); cells outside a window tie at 0.

    Missing where a map is even over the whole grid.
    """
    return spearman_within(first, second, np.ones(first.shape, bool))


def spearman_within(first: Values, second: Values, shared: npt.NDArray[np.bool_]) -> Values:
    """Rank correlation of maps (N, K, g, g) over some of their cells alone, (N, K).

    Over the cells of both maps' windows it says whether the order within the window is the same; over all cells, two
    maps with one window are alike whatever is in it.

    Args:
        first: Maps.
        second: Others.
        shared: Which cells count, (N, K, g, g).

    Returns:
        Missing where fewer than `FEWEST` cells count, or a map is even over them.
    """
    kept = shared.reshape(*shared.shape[:2], -1)
    masked = [np.where(kept, one.reshape(kept.shape), np.nan) for one in (first, second)]
    ranks = [scipy_stats.rankdata(one, axis=-1, nan_policy="omit") for one in masked]
    count = kept.sum(-1, keepdims=True)
    gaps = [np.where(kept, rank - (count + 1) / 2, 0.0) for rank in ranks]  # n ranks have the mean (n + 1) / 2
    scale = np.sqrt((gaps[0] ** 2).sum(-1) * (gaps[1] ** 2).sum(-1))
    known = (scale > 0) & (count[..., 0] >= FEWEST)
    product = (gaps[0] * gaps[1]).sum(-1)
    return np.asarray(np.divide(product, scale, out=np.full(scale.shape, np.nan), where=known), dtype=np.float64)
