"""Coconut (Hao et al. 2024, arXiv 2412.06769): continuous thoughts take the place of the rationale's first steps.

In stage s of its curriculum s * c latents, each the last hidden state fed back, stand for the first s steps, and the
text goes on at step s + 1. A row with fewer steps has as many latents and no rationale left. A stage is an entry of the
plan, so each has its samples, its learning rate and a new optimiser, as in the authors' code:

    {stage: IV, name: IV-2, methods: {coconut: {stage: 2, per_step: 1}}, ...}

Stage 0 is the whole rationale as text. `text: false` leaves out whatever is left of it (their last stage). An answer
takes the latents of the last stage: ask with ``iterations`` = s * c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lare.methods.base import option
from lare.methods.latent import Latent
from lare.methods.layout import Layout, Row, Segment, Text
from lare.methods.training import ModelSettings, StageSettings, Training, TrainingOptions

__all__ = ["Coconut", "CoconutTraining"]


@dataclass(frozen=True)
class CoconutOptions(TrainingOptions):
    """Options in a mixture.

    Attributes:
        stage: s.
        per_step: c.
        text: Write the steps that no latents stand for.
    """

    stage: int = option(1, "steps of the rationale that latents stand for", least=0)
    per_step: int = option(1, "latents in the place of each", least=1)
    text: bool = option(True, "write the other steps of the rationale")


class CoconutTraining(Training):
    """s * c latents, the rationale from step s + 1 on, the answer."""

    options_type = CoconutOptions
    options: CoconutOptions

    def layout(self, stage: StageSettings, config: ModelSettings) -> Layout:
        """See `Training.layout`."""
        own = self.options
        steps = own.stage * own.per_step
        return Layout(steps, delimiters=True, rationale=own.text, refocus=False, lm_grid=self.grid(stage))

    def segments(self, row: Row, layout: Layout) -> Sequence[Segment]:
        """See `Training.segments`."""
        left = row.rationale[row.after_steps(self.options.stage) :] if layout.rationale else ()
        return [Text([*left, *row.answer])]


class Coconut(Latent):
    """Latents, then what is left of the rationale, and the answer."""

    name = "coconut"
    training = CoconutTraining
