"""Chain of thought: the rationale as text, then the answer; no latents (the paper's "Standard CoT")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lare.methods.base import option
from lare.methods.generating import Generating, GeneratingOptions
from lare.methods.layout import Layout
from lare.methods.training import ModelSettings, StageSettings, Training, TrainingOptions

__all__ = ["Cot", "CotOptions"]


@dataclass(frozen=True)
class CotOptions(GeneratingOptions):
    """Options of answering.

    Attributes:
        delimiters: Write both latent delimiters, with nothing between them, before the rationale.
    """

    delimiters: bool = option(False, "write the empty latent delimiters before the rationale")


@dataclass(frozen=True)
class CotTrainingOptions(TrainingOptions):
    """Options in a mixture.

    Attributes:
        delimiters: As in `CotOptions`; so one model learns to write the rationale where it makes no latents.
        fine: Let the decoder read all fine tokens.
    """

    delimiters: bool = option(False, "write the empty latent delimiters before the rationale")
    fine: bool = option(False, "let the decoder read all fine tokens")


class CotTraining(Training):
    """Rationale and answer, all supervised."""

    options_type = CotTrainingOptions
    options: CotTrainingOptions

    def layout(self, stage: StageSettings, config: ModelSettings) -> Layout:
        """See `Training.layout`."""
        grid = config.grid if self.options.fine else self.grid(stage)
        return Layout(delimiters=self.options.delimiters, rationale=True, lm_grid=grid)


class Cot(Generating):
    """Image and question, then rationale and answer."""

    name = "cot"
    options_type = CotOptions
    options: CotOptions
    training = CotTraining

    def prompts(self, questions: Sequence[str]) -> list[str]:
        """See `Generating.prompts`."""
        own = self.options
        return list(self.processor.build_prompts(questions, latent=own.delimiters, system=own.system_prompt))

    def arguments_of_generate(self) -> dict[str, Any]:
        """See `Generating.arguments_of_generate`."""
        return {"iterations": 0, "delimiters": self.options.delimiters}
