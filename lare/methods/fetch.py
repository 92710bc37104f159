"""Teacher latents (in run files *fetch*): the visual token that each reasoning step needs replaces its latent.

The latents' counterpart of teacher forcing: the decoder learns to read latents before the Extractor has learnt to make
any. It needs data with boxes, and is answered as LaRe is.
"""

from __future__ import annotations

from lare.methods.lare import Lare, LareTraining
from lare.methods.layout import Layout
from lare.methods.training import ModelSettings, StageSettings

__all__ = ["Fetch"]


class FetchTraining(LareTraining):
    """The fine token of each step's box, then the whole rationale as text."""

    boxes = True

    def layout(self, stage: StageSettings, config: ModelSettings) -> Layout:
        """See `Training.layout`."""
        steps = self.steps(stage, config) or config.iterations
        return Layout(steps, True, True, fetch=True, lm_grid=self.grid(stage))


class Fetch(Lare):
    """LaRe, trained with latents that are given."""

    name = "fetch"
    training = FetchTraining
