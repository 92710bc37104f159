"""What one forward pass of the trainer takes: padded ids, and what the losses see (`lare.losses.batch`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lare.losses.batch import Draws, MicroBatch, Replaced

__all__ = ["Draws", "MicroBatch", "Replaced", "pad"]


def pad(rows: Sequence[Sequence[int]], fill: int, left: bool) -> tuple[Tensor, Tensor]:
    """Pad ragged ids to (B, S) with their mask (0 at padding), on the left or the right."""
    width = max(1, max(len(row) for row in rows))
    ids = torch.full((len(rows), width), fill, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        span = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, span] = torch.tensor(row, dtype=torch.long)
        mask[i, span] = 1
    return ids, mask
