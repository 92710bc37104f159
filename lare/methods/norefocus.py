"""LaRe without looking again: its losses and K latents, each the last hidden state, with no window and no Extractor.

A claim for refocusing needs this control. It needs no settings of the model: a checkpoint's Extractor is left alone, so
both methods are trained from one start. The states are scaled as LaRe's latents are.
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
    """LaRe's layout, options and losses, with latents that choose no window."""

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
