"""Interfaces of what a name of `lare.registry` stands for: data formats, base models, encoders, autoencoders.

A run calls these methods and branches on no name; `lare.embedded.register` holds LaRe's own objects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lare.errors import LareError
from lare.training.plan.config import DataConfig, ModelConfig, RunConfig, StageConfig

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from lare.data.questions import Question
    from lare.model import LareForConditionalGeneration, LareProcessor
    from lare.training.feeding.loader import Split, StageBatches
    from lare.training.model import TrainingModel

__all__ = ["BaseModel", "DataFeed", "DataFormat", "ImageAutoencoder", "RunParts", "VisionEncoder"]


@dataclass(frozen=True)
class RunParts:
    """A run whose model exists.

    Attributes:
        config: The run.
        folder: Folder of what is made once: encoder, autoencoder, features.
        model: The model that trains.
        processor: Its processor.
        feed: The data of a format, by its name.
    """

    config: RunConfig
    folder: Path
    model: TrainingModel
    processor: LareProcessor
    feed: Callable[[str], DataFeed]


class DataFeed(ABC):
    """The data of one format in one run."""

    @abstractmethod
    def files(self, stage: StageConfig) -> None:
        """Make what a stage reads from disk, so that all processes find it there."""

    @abstractmethod
    def batches(self, stage: StageConfig, number: int, split: Split) -> StageBatches:
        """A process's batches of a stage, which is entry `number` of the plan."""

    def validate(self, stage: StageConfig) -> dict[str, float]:
        """Figures of a validation by name; nothing by default."""
        return {}


class DataFormat(ABC):
    """A data format.

    Attributes:
        settings: Its entry under ``data``; a source of it is the only one of its stage.
    """

    settings: type[DataConfig]

    @abstractmethod
    def feed(self, run: RunParts) -> DataFeed:
        """The format's data in a run."""

    @abstractmethod
    def lengths(self, data: DataConfig) -> tuple[int, int, int]:
        """Mean tokens of a question, a rationale and an answer, for `lare.cost`."""

    def questions(self, data: DataConfig, split: str, count: int) -> Iterator[Question]:
        """Questions of a split ("train" or "validation") to be answered and marked, `count` or a few more.

        Those of "train" are like the ones that train, and may be among them.

        Raises:
            LareError: If the format has none.
        """
        raise LareError(f"the data format {data.format!r} has no questions to be answered; name a data file")


class BaseModel(ABC):
    """A model that a run builds from nothing, instead of putting pre-trained parts together."""

    @abstractmethod
    def build(self, config: RunConfig, vision: str) -> tuple[LareForConditionalGeneration, LareProcessor]:
        """The model around the encoder `vision` (a folder if the run made it), and its processor."""

    @abstractmethod
    def skeleton(self, model: ModelConfig) -> LareForConditionalGeneration:
        """A model of these sizes with any weights, on any device, for `lare.cost`."""

    @abstractmethod
    def enter(self, run: RunParts, stage: StageConfig, before: StageConfig | None) -> None:
        """Set first weights that a stage needs and that the stage before it (None for the first) has not trained."""


class VisionEncoder(ABC):
    """A vision encoder that a run trains before its first stage.

    Attributes:
        texts: Values of ``model.text`` that it goes with.
    """

    texts: tuple[str, ...]

    @abstractmethod
    def make(self, config: RunConfig, folder: Path) -> Path:
        """Train it below `folder`, unless it is there already; returns its own folder."""


class ImageAutoencoder(ABC):
    """An image autoencoder that a run trains before its first stage."""

    @abstractmethod
    def check(self, config: RunConfig) -> None:
        """Refuse a run whose pictures the autoencoder was not made for.

        Raises:
            LareError: With the mend.
        """

    @abstractmethod
    def make(self, config: RunConfig, folder: Path) -> Path:
        """Train it below `folder`, unless it is there already; returns its own folder."""

    @abstractmethod
    def skeleton(self) -> AutoencoderKL:
        """One with any weights, for `lare.cost`."""
