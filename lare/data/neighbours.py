"""Nearest neighbours by cosine, block by block: two sets of 100,000 never meet in one matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["nearest"]


@torch.inference_mode()
def nearest(queries: Tensor, keys: Tensor, block: int = 4096) -> tuple[Tensor, Tensor]:
    """For each query find the key with the greatest cosine.

    Exact, in O(n m d) time and O(block^2) memory beside the two sets; float16 sets are widened a block at a time.

    Args:
        queries: Vectors (n, d), of any length above zero.
        keys: Vectors (m, d), m >= 1.
        block: Rows of each set that are compared at once.

    Returns:
        The greatest cosine (n,), float32, and its key's index (n,); the first of equals.
    """
    best = torch.full((len(queries),), -2.0)
    index = torch.zeros(len(queries), dtype=torch.long)
    for low in range(0, len(queries), block):
        rows = _unit(queries[low : low + block])
        for start in range(0, len(keys), block):
            value, found = (rows @ _unit(keys[start : start + block]).T).max(1)
            better = value > best[low : low + block]
            best[low : low + block][better] = value[better]
            index[low : low + block][better] = found[better] + start
    return best, index


def _unit(rows: Tensor) -> Tensor:
    """Widen and normalise: vectors rounded to float16 are no unit vectors any more."""
    return nn.functional.normalize(rows.float(), dim=-1)
