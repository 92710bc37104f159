"""What a loss is: one object in one file.

It tells what it needs of a batch and of the model's forward, by what its sum is divided, which random numbers it draws,
which modules of its own it trains, and its value. The trainer, the held-out losses and the reports iterate over the
objects and know none by name. `lare.registry.LOSSES` names those that a run file may weigh; a method brings its own
along (`lare.methods.training.Training.losses`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from lare.registry import LOSSES

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from lare.losses.batch import Draws, MicroBatch
    from lare.model import LareForConditionalGeneration
    from lare.model.outputs import LareOutput

__all__ = [
    "Contrastive",
    "Loss",
    "Run",
    "Trained",
    "active",
    "get_loss",
    "loss_names",
    "needs_pictures",
    "weighted_names",
]

FIRST = "lm"
"""The loss without a weight of its own: L_lm counts once."""


class Trained(Protocol):
    """What a loss sees of the model that trains (`lare.training.model.TrainingModel`)."""

    lare: LareForConditionalGeneration
    precision: str
    whole_graph: bool

    def head(self, loss: Loss) -> Any:
        """A loss's own module; None where the run has none."""


class Run(NamedTuple):
    """One forward pass.

    Attributes:
        model: The model that trains.
        batch: Its rows.
        out: The model's output.
        draws: The rows' random numbers; None where there are none.
    """

    model: Trained
    batch: MicroBatch
    out: LareOutput
    draws: Draws | None


class Loss:
    """A loss. It holds no state, so that objects of a class are all alike.

    Attributes:
        name: Its key in run files and logs.
        label: Its name in reports.
        reads: Arguments of the model's forward that only this loss needs; they are left out where it is off.
        pictures: Whether it needs the images' pixels.
        owner: Attribute of the training model that holds its module; "" means an entry of ``heads`` under its name.
    """

    name: ClassVar[str]
    label: ClassVar[str] = ""
    reads: ClassVar[tuple[str, ...]] = ()
    pictures: ClassVar[bool] = False
    owner: ClassVar[str] = ""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def module(self, hidden: int) -> nn.Module | None:
        """Its own module, with fresh weights, for a decoder of width `hidden`; None where it has none."""
        return None

    def count(self, batch: MicroBatch, draws: Draws) -> int:
        """What its sum over a batch is divided by: tokens or rows; 0 where it does not apply."""
        return batch.rows

    def draw(self, head: Any, rows: int, generator: torch.Generator, share: float) -> dict[str, Tensor]:
        """Random numbers of the G rows of a whole global batch, (G, ...) each, by name.

        Args:
            head: Its module.
            rows: G.
            generator: Source of the numbers.
            share: Share of rows that carry image reconstruction, from the run file.
        """
        return {}

    def request(self, batch: MicroBatch) -> dict[str, Any]:
        """Further arguments of the model's forward."""
        return {}

    def value(self, run: Run) -> Tensor | None:
        """Its sum over the batch, a scalar with gradient; None where it does not apply."""
        raise NotImplementedError


class Contrastive(Loss):
    """A loss that compares the rows of a whole global batch, and so does not split over micro-batches."""

    def embed(self, run: Run) -> tuple[Tensor, ...] | None:
        """The embeddings (B, e) of a micro-batch's rows that are compared; None where the loss does not apply."""
        raise NotImplementedError

    def contrast(self, made: Sequence[Tensor], batches: Sequence[MicroBatch], temperature: float) -> Tensor:
        """Its sum over the rows of all micro-batches of this process, compared with those of all processes.

        Args:
            made: The embeddings of all micro-batches, joined: (rows, e) each.
            batches: The micro-batches.
            temperature: Divides cosines.
        """
        raise NotImplementedError


def loss_names() -> list[str]:
    """All losses of run files: LaRe's own in the order of the paper, then those of other packages."""
    return [*LOSSES.own, *(name for name in LOSSES.names() if name not in LOSSES.own)]


def weighted_names() -> list[str]:
    """Losses that have a weight."""
    return [name for name in loss_names() if name != FIRST]


def get_loss(name: str) -> Loss:
    """A loss of run files by its name.

    Raises:
        LareError: If there is none.
    """
    found: Loss = LOSSES.get(name)
    return found


def active(weights: Mapping[str, float], batches: Iterable[MicroBatch]) -> dict[str, Loss]:
    """The losses of an update by name: L_lm, those of a weight above 0, and those of its method."""
    found = {name: get_loss(name) for name in loss_names() if name == FIRST or weights.get(name)}
    return found | {loss.name: loss for batch in batches for loss in batch.losses}


def needs_pictures(weights: Mapping[str, float]) -> bool:
    """Whether a loss that weighs in needs the images' pixels."""
    return any(get_loss(name).pictures for name, weight in weights.items() if weight)
