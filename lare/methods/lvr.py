"""LVR (Li et al. 2025, arXiv 2509.24251): the latents are trained to be the visual tokens of the region that is needed.

While training, the fine tokens of the steps' boxes stand between the latent delimiters, one box after another, and the
decoder's state at each position regresses the visual token at the next one: the text's loss + 0.1 x mean squared error,
as in the authors' code. An answer feeds the last state back, as it is, for a fixed number of steps, 4, 8 or 16 in the
paper. The tokens are fixed targets: in the paper encoder and projector are frozen, and a projector that trains could
else please the loss by making all tokens alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from lare.losses.base import Loss, Run
from lare.losses.batch import Draws, MicroBatch
from lare.methods.base import option
from lare.methods.latent import Latent, LatentOptions
from lare.methods.layout import Layout, Row, Seen, Segment, Text
from lare.methods.training import Training, TrainingOptions

__all__ = ["Lvr", "LvrOptions", "LvrTraining", "Regression"]


@dataclass(frozen=True)
class LvrOptions(LatentOptions):
    """Options of answering.

    Attributes:
        iterations: States fed back.
    """

    iterations: int | None = option(8, "states fed back; 0 makes no latents", least=0, always=True)


@dataclass(frozen=True)
class LvrTrainingOptions(TrainingOptions):
    """Options in a mixture.

    Attributes:
        rationale: Write the rationale before the answer; the paper's answers are direct.
    """

    rationale: bool = option(False, "write the rationale before the answer")


class Regression(Loss):
    """Mean squared error of the states before visual tokens, with respect to these tokens."""

    name, label = "lvr", "L_lvr"

    def count(self, batch: MicroBatch, draws: Draws) -> int:
        """Visual tokens in the targets."""
        seen = batch.inputs.get("target_visual")
        return 0 if seen is None else int((seen >= 0).sum())

    def value(self, run: Run) -> Tensor | None:
        """The sum over visual tokens of the mean over the width; in float32."""
        seen, out = run.batch.inputs.get("target_visual"), run.out
        if seen is None or out.target_visual is None:
            return None
        assert out.target_hidden is not None
        gap = out.target_hidden[seen >= 0].float() - out.target_visual.detach().float()
        return gap.square().mean(-1).sum()


class LvrTraining(Training):
    """Start, the regions' tokens, end, answer; a row without a box has an empty region."""

    options_type = LvrTrainingOptions
    options: LvrTrainingOptions
    boxes = True

    def segments(self, row: Row, layout: Layout) -> Sequence[Segment]:
        """See `Training.segments`."""
        regions = [Seen(box) for box in row.boxes if box is not None]
        text = [*row.rationale, *row.answer] if self.options.rationale else row.answer
        start, end = (Text([row.special[name]], name == "latent_end") for name in ("latent_start", "latent_end"))
        return [start, *regions, end, Text(text)]

    def losses(self) -> Mapping[Loss, float]:
        """See `Training.losses`."""
        return {Regression(): 0.1}


class Lvr(Latent):
    """States fed back unscaled, since they are trained to be visual tokens as they are."""

    name = "lvr"
    options_type = LvrOptions
    options: LvrOptions
    training = LvrTraining

    @contextmanager
    def configured(self) -> Iterator[None]:
        """See `Generating.configured`; without the scale of LaRe's latents."""
        config, before = self.model.config, self.model.config.rms_scale
        config.rms_scale = False
        try:
            with super().configured():
                yield
        finally:
            config.rms_scale = before
