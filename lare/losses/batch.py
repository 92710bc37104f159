"""What a loss sees of a forward pass: its rows, and the random numbers of one update.

All randomness of an update is drawn for the whole global batch and sliced, so that an update does not depend on how
its samples are split over micro-batches and processes, and a resumed run draws what the killed one would have drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Draws", "MicroBatch", "Replaced"]


class Replaced(NamedTuple):
    """A sample whose image could not be read when its turn came.

    Attributes:
        where: Its file and row.
        reason: What is wrong with the image.
        instead: File and row of the sample that was taken in its place.
    """

    where: str
    reason: str
    instead: str


@dataclass
class MicroBatch:
    """Rows that one process runs at once.

    Attributes:
        inputs: Arguments of `LareForConditionalGeneration.forward`; B rows about I images.
        rationale_ids: (B, R) right-padded rationale, or the answer where a sample has none; None without latents.
        rationale_mask: (B, R), 0 at padding.
        pictures: (I, 3, H, W) uint8 images for reconstruction; None when that loss is off.
        boxes: (B, K, 4) top, left, bottom, right of what each reasoning step needs, as shares of the image; -1 where a
            step has none. None where the data have no boxes.
        fetch: Whether visual tokens of these boxes stand in place of the latents (teacher latents).
        text_groups: (B,) rows with equal numbers have equal rationales, and are no negatives of one another.
        image_groups: (B,) the same for images.
        start: Number of its first row in the global batch.
        where: File and row of each sample, for messages.
        replaced: Samples that others stand in for.
        losses: The losses (`lare.losses.base.Loss`) that its method adds, with their weights.
    """

    inputs: dict[str, Any]
    rationale_ids: Tensor | None = None
    rationale_mask: Tensor | None = None
    pictures: Tensor | None = None
    boxes: Tensor | None = None
    fetch: bool = False
    text_groups: Tensor | None = None
    image_groups: Tensor | None = None
    start: int = 0
    where: list[str] = field(default_factory=list)
    replaced: list[Replaced] = field(default_factory=list)
    losses: dict[Any, float] = field(default_factory=dict)

    @property
    def latents(self) -> bool:
        """Whether latents are made for its rows (fetched ones are not)."""
        return bool(self.inputs["iterations"]) and not self.fetch

    @property
    def rows(self) -> int:
        """B."""
        return int(self.inputs["input_ids"].shape[0])

    def to(self, device: torch.device) -> MicroBatch:
        """A copy on a device."""

        def move(value: Any) -> Any:
            return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

        moved = {name: move(value) for name, value in vars(self).items()}
        return MicroBatch(**moved | {"inputs": {name: move(value) for name, value in self.inputs.items()}})


@dataclass
class Draws:
    """Random numbers of one update over G rows (all processes and micro-batches).

    Attributes:
        carried: (G,) whether a row carries image reconstruction.
        pick: (G,) uniform in [0, 1): which iteration's window is reconstructed.
        noise: (G, C, h, w) noise in the image tokenizer's space; None without image reconstruction.
        timesteps: (G,) noise levels; None without.
        token: (G, steps) uniform in [0, 1): which of a box's tokens is fetched at each step.
        seed: Base of the seeds of random windows.
        own: Numbers (G, ...) of further losses, by the loss's name and theirs.
    """

    carried: Tensor
    pick: Tensor
    noise: Tensor | None = None
    timesteps: Tensor | None = None
    token: Tensor | None = None
    seed: int = 0
    own: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def slice(self, start: int, rows: int) -> Draws:
        """The numbers of some rows."""
        part = slice(start, start + rows)
        noise = None if self.noise is None else self.noise[part]
        timesteps = None if self.timesteps is None else self.timesteps[part]
        token = None if self.token is None else self.token[part]
        own = {loss: {name: value[part] for name, value in found.items()} for loss, found in self.own.items()}
        return Draws(self.carried[part], self.pick[part], noise, timesteps, token, self.seed + start, own)

    def to(self, device: torch.device) -> Draws:
        """A copy on a device."""
        moved: dict[str, Any] = {n: v.to(device) if isinstance(v, Tensor) else v for n, v in vars(self).items()}
        own = {loss: {name: value.to(device) for name, value in found.items()} for loss, found in self.own.items()}
        return Draws(**moved | {"own": own})
