"""Losses beside L_lm: alignment (eq. 6), image reconstruction (eq. 7), where to look; eq. 8 stands in `lare.model`.

The names below are imported when they are first used: run files need the settings of losses, and no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lare.losses.alignment import AlignmentHeads, alignment_loss, gather_rows, hybrid_mean_max, info_nce
    from lare.losses.gradient_cache import cached_backward

__all__ = ["AlignmentHeads", "alignment_loss", "cached_backward", "gather_rows", "hybrid_mean_max", "info_nce"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lare.losses' has no attribute {name!r}")
    home = "gradient_cache" if name == "cached_backward" else "alignment"
    return getattr(importlib.import_module(f"lare.losses.{home}"), name)
