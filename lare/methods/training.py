"""How a method is trained: from a sample to prompt, latents and target, and which losses it adds.

A `Training` is a small object beside the method's answering half, made from the run file without a model. The trainer
knows no method by name; it asks the objects of a stage's mixture. This module needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from lare.methods.layout import Layout, Row, Segment
from lare.methods.options import Options, option

if TYPE_CHECKING:
    from lare.data.sample import Sample
    from lare.losses.base import Loss

__all__ = ["Layout", "ModelSettings", "Row", "Segment", "StageSettings", "Training", "TrainingOptions"]


class StageSettings(Protocol):
    """What a method reads of an entry of a run's plan (`lare.training.plan.stage_config.StageConfig`)."""

    @property
    def stage(self) -> str:
        """I, II, III or IV."""

    @property
    def iterations(self) -> int | None:
        """K of the stage; None is the model's."""

    @property
    def window(self) -> str:
        """Where the Extractor looks."""

    @property
    def replaced(self) -> int | None:
        """Rationale tokens that the text leaves out; None is the model's `text_prefix`."""

    @property
    def lm_grid(self) -> int | None:
        """Side of the decoder's visual grid; None is the model's."""


class ModelSettings(Protocol):
    """What a method reads of a model's configuration (`lare.model.LareConfig`)."""

    @property
    def iterations(self) -> int:
        """K."""

    @property
    def text_prefix(self) -> int:
        """P, rationale tokens that the latents must let the decoder reconstruct."""

    @property
    def grid(self) -> int:
        """Side of the fine grid."""

    @property
    def lm_grid(self) -> int:
        """Side of the decoder's grid."""


@dataclass(frozen=True)
class TrainingOptions(Options):
    """Options in a run file's mixture that every method has.

    Attributes:
        lm_grid: Side of the decoder's visual grid in batches of this method; None takes the stage's.
    """

    lm_grid: int | None = option(None, "side of the decoder's grid of visual tokens", least=1)


class Training:
    """The training half of a method.

    Args:
        options: Its options in the run file.

    Attributes:
        options_type: Their dataclass.
        boxes: Whether it needs the boxes of the reasoning steps.
    """

    options_type: ClassVar[type[TrainingOptions]] = TrainingOptions
    boxes: ClassVar[bool] = False

    options: TrainingOptions

    def __init__(self, options: TrainingOptions | None = None) -> None:
        self.options = self.options_type() if options is None else options

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Training) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    def layout(self, stage: StageSettings, config: ModelSettings) -> Layout:
        """How an update of a stage is answered; by default directly, without delimiters and rationale."""
        return Layout(lm_grid=self.grid(stage))

    def examples(self, sample: Sample) -> Sequence[Sample]:
        """The samples that one of the data becomes, where prompt or target differ; none leaves it out."""
        return [sample]

    def segments(self, row: Row, layout: Layout) -> Sequence[Segment] | None:
        """The target of a row; None is the rationale (as `layout` has it) and the answer."""
        return None

    def losses(self) -> Mapping[Loss, float]:
        """Losses of this method beside the run's, each with its weight."""
        return {}

    @property
    def identity(self) -> str:
        """Name of this training and its options, for data that are made by it."""
        return f"{type(self).__module__}.{type(self).__qualname__} {self.options.given()}"

    @property
    def own_examples(self) -> bool:
        """Whether `examples` is the method's own."""
        return type(self).examples is not Training.examples

    @property
    def own_segments(self) -> bool:
        """Whether `segments` is the method's own."""
        return type(self).segments is not Training.segments

    def grid(self, stage: StageSettings) -> int | None:
        """Side of the decoder's grid in batches of this method; None is the model's."""
        return stage.lm_grid if self.options.lm_grid is None else self.options.lm_grid
