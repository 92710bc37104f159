"""L_text: the rationale's first tokens from the latents alone (eq. 8).

The equation itself is an argument of the model's forward (`lare.model.losses.prefix_reconstruction`): it runs the
decoder once more, and can be asked for without a trainer.
"""

from __future__ import annotations

from torch import Tensor

from lare.losses.base import Loss, Run
from lare.losses.batch import Draws, MicroBatch

__all__ = ["PREFIX", "PrefixReconstruction"]


class PrefixReconstruction(Loss):
    """Text-prefix reconstruction."""

    name, label = "text", "L_text"
    reads = ("prefix_ids", "prefix_mask")

    def count(self, batch: MicroBatch, draws: Draws) -> int:
        """Tokens of the prefixes."""
        mask = batch.inputs.get("prefix_mask")
        return 0 if mask is None else int(mask.sum())

    def value(self, run: Run) -> Tensor | None:
        """See `Loss.value`."""
        return None if run.out.prefix_loss is None else run.out.prefix_loss[0]


PREFIX = PrefixReconstruction()
