"""L_lm: cross-entropy of the text after the latents (eq. 9's first term); computed by the model's forward."""

from __future__ import annotations

from torch import Tensor

from lare.losses.base import Loss, Run
from lare.losses.batch import Draws, MicroBatch

__all__ = ["LM", "LanguageModelling"]


class LanguageModelling(Loss):
    """Next-token prediction of the answered part of the target."""

    name, label = "lm", "L_lm"
    reads = ("target_ids", "target_mask", "label_mask", "target_visual", "crop_values")

    def count(self, batch: MicroBatch, draws: Draws) -> int:
        """Answered tokens."""
        return int(batch.inputs.get("label_mask", batch.inputs["target_mask"]).sum())

    def value(self, run: Run) -> Tensor | None:
        """See `Loss.value`."""
        return None if run.out.lm_loss is None else run.out.lm_loss[0]


LM = LanguageModelling()
