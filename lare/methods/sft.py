"""Same-data control: LaRe's very samples, prompts and supervised tokens, with nothing between the delimiters.

What is left of LaRe when only its latents are taken away. Where LaRe's text leaves tokens of the rationale out, so does
this one. With the whole rationale in the text (``replaced: 0``) it is `lare.methods.cot` after empty delimiters; with
none of it, `lare.methods.llava` after empty delimiters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lare.methods.base import option
from lare.methods.intervening import Intervening
from lare.methods.layout import Layout
from lare.methods.training import ModelSettings, StageSettings, Training, TrainingOptions

__all__ = ["Sft", "SftTraining"]


@dataclass(frozen=True)
class SftOptions(TrainingOptions):
    """Options in a mixture; what is left out is the stage's.

    Attributes:
        replaced: Rationale tokens that the text leaves out, as LaRe's does.
    """

    replaced: int | None = option(None, "rationale tokens that the text leaves out", least=0)


class SftTraining(Training):
    """LaRe's target without its latents."""

    options_type = SftOptions
    options: SftOptions

    def layout(self, stage: StageSettings, config: ModelSettings) -> Layout:
        """See `Training.layout`."""
        chosen = stage.replaced if self.options.replaced is None else self.options.replaced
        replaced = config.text_prefix if chosen is None else chosen
        return Layout(0, delimiters=True, rationale=True, replaced=replaced, lm_grid=self.grid(stage))


class Sft(Intervening):
    """Text after empty delimiters."""

    name = "sft"
    makes_latents = False
    training = SftTraining

    def arguments_of_generate(self) -> dict[str, Any]:
        """See `Generating.arguments_of_generate`."""
        return {"iterations": 0}
