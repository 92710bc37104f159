"""The losses of semantic augmentation: alignment (eq. 6) here; text-prefix reconstruction (eq. 8) in `lare.model`."""

from lare.semantics.alignment import AlignmentHeads, alignment_loss, gather_rows, hybrid_mean_max, info_nce
from lare.semantics.caching import cached_backward

__all__ = ["AlignmentHeads", "alignment_loss", "cached_backward", "gather_rows", "hybrid_mean_max", "info_nce"]
