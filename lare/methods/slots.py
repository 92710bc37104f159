"""Other projects' models with learnt slots, whose states what follows reads: CoVT, LaViT, Mull-Tokens, LIVR.

Nothing is fed back: a slot is an ordinary token with a learnt embedding. It opens the reply, or the model writes it
itself. The trace's latents are the last states at the slots.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lare.errors import LareError
from lare.methods.foreign import Foreign, ForeignOptions
from lare.model.generation import Clock, GenerationOptions
from lare.reasoners.blocks import Plan
from lare.reasoners.loop import Replies, read_tail, write
from lare.reasoners.stream import Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Slots"]


class Slots(Foreign):
    """Learnt slots that what follows reads, by a preset: CoVT, LaViT, Mull-Tokens, LIVR."""

    name = "slots"
    kind = "slots"
    options_type = ForeignOptions
    options: ForeignOptions

    def check(self) -> None:
        """See `Method.check`."""
        super().check()
        assert self.preset.slots is not None
        self.slots = self.preset.slots
        wanted, row = self.options.iterations, len(self.slots.tokens)
        if wanted is None:
            return
        if self.slots.opened_by == "model":
            raise LareError(f"the preset {self.preset.name!r} lets the model write its slots; leave iterations out")
        if wanted % row:
            raise LareError(f"iterations is {wanted}; the slots of {self.preset.name!r} come in rows of {row}")
        self.repeat = wanted // row
        self.slots = replace(self.slots, repeat=max(1, self.repeat))
        self.preset = replace(self.preset, slots=self.slots)

    def opening(self) -> str:
        """Slots and what stands around them."""
        slots = self.slots
        row = "".join(slots.tokens) * (0 if self.options.iterations == 0 else slots.repeat)
        return slots.before + row + slots.after if slots.opened_by == "prompt" else ""

    def reply(self, inputs: dict[str, Tensor], options: GenerationOptions, clock: Clock) -> Replies:
        """See `Foreign.reply`."""
        prompt, tail = self._split(inputs)
        stream = Stream(self.model, prompt, self.preset.prompt.positions == "sequential")
        forced = read_tail(stream, tail, self.tokens.slots) if tail is not None else None
        clock.lap("prefill")
        replies = write(stream, Plan(self.tokens), options, self.room(inputs))
        states = list(forced) if forced is not None else replies.states
        replies.latents, replies.lengths = states, [[len(one)] if len(one) else [] for one in states]
        return replies

    def _split(self, inputs: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Prompts, and from their first slot on how the replies begin; that is the same in all rows."""
        ids = inputs["input_ids"]
        if self.slots.opened_by == "model" or self.options.iterations == 0:
            return inputs, None
        first, size = self.tokens.slots[0], ids.shape[1]
        behind = (ids[0] == first).nonzero()[:, 0].tolist()
        start = behind[-self.slots.repeat]
        cut = {name: one[:, :start] if one.shape[:2] == ids.shape else one for name, one in inputs.items()}
        return cut, ids[:, start:size]
