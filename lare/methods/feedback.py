"""Other projects' models that feed hidden states back: Coconut, Mirage, Monet, LVR, IVT-LR, SwimBird, CoLT.

A preset (`lare.reasoners`) says which marks the model has, how many latents a block holds and what ends it, and what is
fed back. `preset=` names it; a model that has its marks is recognised without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch

from lare.errors import LareError
from lare.methods.base import option
from lare.methods.foreign import Foreign, ForeignOptions
from lare.model.generation import Clock, GenerationOptions
from lare.reasoners.blocks import Plan
from lare.reasoners.feeding import Feeding, Picker
from lare.reasoners.loading import digest_of
from lare.reasoners.loop import Replies, write
from lare.reasoners.preset import DISTANCES, STOPS
from lare.reasoners.stream import Stream, attends
from lare.trace import Column

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Feedback", "FeedbackOptions"]


@dataclass(frozen=True)
class FeedbackOptions(ForeignOptions):
    """Options of what ends a block.

    Attributes:
        stop: In the place of the preset's rule.
        threshold: Of the distance.
        distance: Which.
        end_embedding: Name of the learnt embedding among the checkpoint's weights.
    """

    stop: str | None = option(None, "what ends a block of latents", choices=STOPS)
    threshold: float | None = option(None, "distance to the learnt end below which a block ends", least=0.0)
    distance: str | None = option(None, "of which kind", choices=DISTANCES)
    end_embedding: str | None = option(None, "name of the learnt end among the checkpoint's weights")


class Feedback(Foreign):
    """Latents that are fed back between two marks, by a preset: Coconut, Mirage, Monet, LVR, IVT-LR, SwimBird, CoLT."""

    name = "feedback"
    kind = "feedback"
    options_type = FeedbackOptions
    options: FeedbackOptions
    columns: ClassVar[Mapping[str, Column]] = {**Foreign.columns, "picked": Column("<i4", ("K", "patch"))}

    def check(self) -> None:
        """See `Method.check`."""
        super().check()
        own, block = self.options, self.preset.block
        assert block is not None
        changes = {
            name: value for name in ("stop", "threshold", "distance", "end_embedding")
            if (value := getattr(own, name)) is not None
        }  # fmt: skip
        if own.iterations:
            changes["count"] = own.iterations
        self.block = replace(block, **changes)
        self.preset = replace(self.preset, block=self.block)
        if self.block.patches and not self.sees:
            raise LareError(f"the preset {self.preset.name!r} picks visual tokens, and this model sees no picture")
        self.feeding = Feeding(self.preset, self.model)
        if self.block.patches:
            attends(self.model)

    def fingerprint(self) -> str:
        """See `Method.fingerprint`; parts that lie beside the model's own weights count as well."""
        own = digest_of(self.feeding.weights)
        return super().fingerprint() + (f"-{own}" if own else "")

    def opening(self) -> str:
        """The start mark, where a block opens every reply."""
        return (self.preset.marks.start or "") if self.block.opened_by == "prompt" else ""

    def reply(self, inputs: dict[str, Tensor], options: GenerationOptions, clock: Clock) -> Replies:
        """See `Foreign.reply`."""
        steps = self.block.count if self.options.iterations is None else self.options.iterations
        picks = self.block.patches if steps else 0
        room = self.room(inputs) - steps * picks
        if room < 2:
            raise LareError(f"the question leaves no room for {steps} latents; shorten it")
        stream = Stream(self.model, inputs, self.preset.prompt.positions == "sequential", watch=bool(picks))
        clock.lap("prefill")
        picker = None
        if picks:
            assert stream.visual is not None
            picker = Picker(stream.visual, stream.is_image, picks, steps)
        return write(stream, self.plan(len(stream.hidden)), options, room, picker)

    def plan(self, rows: int) -> Plan:
        """What `rows` rows do beside writing."""
        end = self.tokens.end
        close = (end,) if self.block.closed_by == "prompt" and end is not None else ()
        counts = torch.zeros(rows, dtype=torch.long) if self.options.iterations == 0 else None
        return Plan(self.tokens, self.block, self.feeding, counts, close)
