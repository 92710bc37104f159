"""Other projects' models that feed hidden states back: Coconut, Mirage, Monet, LVR, IVT-LR, SwimBird, CoLT.

A preset (`lare.reasoners`) says which marks the model has, how many latents a block holds and what ends it, and what is
fed back. `preset=` names it; a model that has its marks is recognised without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from lare.errors import LareError
from lare.methods.base import option
from lare.methods.foreign import Foreign, Inputs
from lare.methods.foreign_call import Call
from lare.methods.foreign_options import Batch, ForeignOptions
from lare.reasoners.blocks import Plan
from lare.reasoners.feeding import Feeding
from lare.reasoners.loading import digest_of
from lare.reasoners.loop import Replies, write
from lare.reasoners.preset import DISTANCES, STOPS
from lare.reasoners.stream import Stream
from lare.reasoners.watching import Watch
from lare.trace import Column

__all__ = ["Feedback", "FeedbackOptions"]


@dataclass(frozen=True)
class FeedbackOptions(ForeignOptions):
    """Options of what ends a block.

    Attributes:
        stop: What ends a block of latents (`lare.reasoners.preset.Block`); None takes the preset's rule, as None does
            for the others.
        threshold: Distance to the learnt end embedding below which a block ends.
        distance: Kind of that distance: "mse", "mae" or "cosine".
        end_embedding: Name of the learnt embedding among the checkpoint's weights.
    """

    stop: str | None = option(None, "what ends a block of latents", choices=STOPS)
    threshold: float | None = option(None, "distance to the learnt end below which a block ends", least=0.0)
    distance: str | None = option(None, "kind of distance to the learnt end", choices=DISTANCES)
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

    def fingerprint(self) -> str:
        """See `Method.fingerprint`; parts that lie beside the model's own weights count as well."""
        own = digest_of(self.feeding.weights)
        return super().fingerprint() + (f"-{own}" if own else "")

    def replies(self, batch: Batch) -> list[tuple[Replies, Inputs]]:
        """See `Foreign.replies`; settings with marks share the prompt's prefill."""
        found: dict[int, tuple[Replies, Inputs]] = {}
        marked = [place for place, one in enumerate(batch.settings) if one.intervention.marks]
        if marked:
            start = (self.preset.marks.start or "") if self.block.opened_by == "prompt" else ""
            inputs = self.inputs(batch, start)
            looks = any("boxes" in batch.settings[place].intervention.needs for place in marked)
            stream = Stream(self.model, inputs, *self._reading(batch.watch or bool(self.block.patches)), looks=looks)
            call = Call(self, batch, inputs, stream)
            found |= {place: (call.write(batch.settings[place], place == marked[-1]), inputs) for place in marked}
        for place, setting in enumerate(batch.settings):
            if place not in found:
                inputs = self.inputs(batch, setting.intervention.dots(self.most))
                plan = Plan(self.tokens, banned=() if self.tokens.start is None else (self.tokens.start,))
                room = self.room(inputs)
                stream = Stream(self.model, inputs, *self._reading(batch.watch))
                watch = Watch() if batch.watch else None
                found[place] = (write(stream, plan, self.decoding(batch.sampling, room), room, watch=watch), inputs)
        return [found[place] for place in range(len(batch.settings))]

    @property
    def most(self) -> int:
        """Latents of a block, or the most that it may have."""
        return self.block.count if self.options.iterations is None else self.options.iterations

    def _reading(self, watch: bool) -> tuple[bool, bool]:
        return self.preset.prompt.positions == "sequential", watch
