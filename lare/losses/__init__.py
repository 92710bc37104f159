"""Losses, each one object in one file (`lare.losses.base`); `lare.registry.LOSSES` lists them.

`lm` (L_lm), `alignment` (eq. 6), `image_loss` with the U-Net of `image` (eq. 7), `prefix` (eq. 8), `looking` (box
supervision, beyond the paper).

The names below are imported when they are first used: run files need the settings of losses, and no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lare.losses.alignment import AlignmentHeads, alignment_loss, gather_rows, hybrid_mean_max, info_nce

__all__ = ["AlignmentHeads", "alignment_loss", "gather_rows", "hybrid_mean_max", "info_nce"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lare.losses' has no attribute {name!r}")
    return getattr(importlib.import_module("lare.losses.alignment"), name)
