"""LaRe without looking again: its losses and K latents, each the last hidden state, with no window and no Extractor.

The control without which no claim for refocusing stands. It needs no settings of the model: where a checkpoint has an
Extractor it is left alone, so both are trained from one start. The states are scaled as LaRe's latents are.
"""

from __future__ import annotations

from dataclasses import replace

from lare.errors import require
from lare.methods.lare import LareTraining
from lare.methods.latent import Latent
from lare.methods.layout import Layout
from lare.methods.training import ModelSettings, StageSettings

__all__ = ["NoRefocus", "NoRefocusTraining"]


class NoRefocusTraining(LareTraining):
    """LaRe's layout and options, whose latents look nowhere; a run's losses weigh in as they do for LaRe."""

    def layout(self, stage: StageSettings, config: ModelSettings) -> Layout:
        """See `Training.layout`.

        Raises:
            LareError: If a window is asked for.
        """
        require(self.options.window is None, "the method 'norefocus' looks nowhere; leave its window out")
        return replace(super().layout(stage, config), window="saliency", refocus=False)


class NoRefocus(Latent):
    """The last hidden state fed back K times."""

    name = "norefocus"
    training = NoRefocusTraining
