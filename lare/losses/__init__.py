"""Losses beside L_lm: alignment (eq. 6), image reconstruction (eq. 7), where to look; eq. 8 stands in `lare.model`."""

from lare.losses.alignment import AlignmentHeads, alignment_loss, gather_rows, hybrid_mean_max, info_nce
from lare.losses.gradient_cache import cached_backward

__all__ = ["AlignmentHeads", "alignment_loss", "cached_backward", "gather_rows", "hybrid_mean_max", "info_nce"]
