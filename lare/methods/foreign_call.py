"""One prompt that a model which feeds states back has read, and what it writes after it under several interventions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from lare.interventions import OWN, Asked, Setting
from lare.reasoners.blocks import Plan
from lare.reasoners.feeding import Picker
from lare.reasoners.intervening import bank_of, change_of, counts_of, region_latents
from lare.reasoners.loop import Replies, write
from lare.reasoners.stream import Stream
from lare.reasoners.watching import Watch

if TYPE_CHECKING:
    from torch import Tensor

    from lare.methods.foreign import Inputs
    from lare.methods.foreign_options import Batch

__all__ = ["Call"]


class Call:
    """Prompts that were read once, and the replies to them under any number of settings.

    Args:
        method: The `lare.methods.feedback.Feedback` that answers.
        batch: What it is asked.
        inputs: The prompts.
        stream: The prompts after they were read; each reply goes on from a branch of it.
    """

    def __init__(self, method: Any, batch: Batch, inputs: Inputs, stream: Stream) -> None:
        self.method, self.batch, self.inputs, self.stream = method, batch, inputs, stream
        self._own: Replies | None = None

    @property
    def own(self) -> Replies:
        """The replies without intervention; made once, and only where a setting needs them."""
        if self._own is None:
            self._own = self._write(Plan(self.method.tokens), Setting(), self.stream.branch())
        return self._own

    def write(self, setting: Setting, last: bool) -> Replies:
        """Answer under a setting; the last one may spend the stream."""
        one, method = setting.intervention, self.method
        plan, natural = Plan(method.tokens, hides_image=one.hides_image), method.block.stop == "fixed"
        if one.steps is not None or (one.content is not None and not natural):
            lengths = [[method.most]] * len(self.batch.asked) if natural else self.own.lengths
            plan = replace(plan, counts=counts_of(setting, lengths, method.most))
        if one.content is not None:
            plan = replace(plan, change=change_of(*self._content(setting)))
        return self._write(plan, setting, self.stream if last else self.stream.branch())

    def _content(self, setting: Setting) -> tuple[Setting, Sequence[Asked], Tensor, Tensor | None]:
        """The setting with the latents that it needs."""
        asked, needs, bank, given = self.batch.asked, setting.intervention.needs, setting.bank, None
        if "own" in needs and (bank is None or any(one.key not in bank.rows for one in asked)):
            bank = bank_of(asked, self.own)
            setting = replace(setting, bank=bank) if bank is not None else replace(setting, name=OWN)
        if "boxes" in needs:
            given = region_latents(self.stream, self.inputs, asked, setting, self.method.most)
        return setting, asked, self.method.dummy, given

    def _write(self, plan: Plan, setting: Setting, stream: Stream) -> Replies:
        method, block, end = self.method, self.method.block, self.method.tokens.end
        counts = plan.counts
        if counts is None and method.options.iterations == 0:
            counts = torch.zeros(len(self.batch.asked), 1, dtype=torch.long)
        most = method.most if counts is None else int(counts.max())
        bare = counts is not None and not bool(counts.any())
        close = (end,) if end is not None and (block.closed_by == "prompt" or bare) else ()
        plan = replace(plan, block=block, feeding=method.feeding, counts=counts, close=close)
        room = method.room(self.inputs, most * block.patches)
        picker = None
        if block.patches:
            assert stream.visual is not None
            picker = Picker(stream.visual, stream.is_image, block.patches, most)
        watch = Watch() if self.batch.watch else None
        return write(stream, plan, method.decoding(self.batch.sampling, room), room, picker, watch)
