"""Other projects' models that reason in learnt slots: CoVT, LaViT, Mull-Tokens, LIVR.

A slot is an ordinary token with a learnt embedding; the text after it attends to its states, and nothing is fed back.
Slots open the reply, or the model writes them itself. The trace's latents are the last states at the slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from lare.errors import LareError
from lare.interventions import Bank, Replacer, Setting
from lare.methods.foreign import Foreign, Inputs
from lare.methods.foreign_options import Batch, ForeignOptions
from lare.reasoners.blocks import Plan
from lare.reasoners.intervening import change_of
from lare.reasoners.loop import Replies, read_tail, write
from lare.reasoners.preset import Block
from lare.reasoners.stream import Stream
from lare.reasoners.watching import Watch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Slots"]


class Slots(Foreign):
    """Learnt slots that the text after them attends to, by a preset: CoVT, LaViT, Mull-Tokens, LIVR."""

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
        if wanted is not None and self.slots.opened_by == "model":
            raise LareError(f"the preset {self.preset.name!r} lets the model write its slots; leave iterations out")
        if wanted is not None and wanted % row:
            raise LareError(f"iterations is {wanted}; the slots of {self.preset.name!r} come in rows of {row}")
        self.row = self.slots.tokens * (self.slots.repeat if wanted is None else wanted // row)

    def check_setting(self, setting: Setting) -> None:
        """See `Method.check_setting`."""
        super().check_setting(setting)
        one = setting.intervention
        if one.needs & {"bank", "boxes"} or (one.name != "permuted" and "own" in one.needs and not one.exchanges):
            raise LareError(
                f"slots are the same embeddings for every question, so intervene={one.name} changes nothing"
            )
        counted = one.steps is not None and one.marks and bool(one.steps(1))
        if self.slots.opened_by == "model" and (counted or "own" in one.needs):
            raise LareError(f"the preset {self.preset.name!r} lets the model write its slots; leave out {one.name}")

    def replies(self, batch: Batch) -> list[tuple[Replies, Inputs]]:
        """See `Foreign.replies`."""
        ask = self._written if self.slots.opened_by == "model" else self._forced
        return [ask(batch, setting) for setting in batch.settings]

    def _forced(self, batch: Batch, setting: Setting) -> tuple[Replies, Inputs]:
        """Slots that open the reply."""
        one, row = setting.intervention, self.row
        if one.steps is not None:
            row = (row * 2)[: one.steps(len(row))]
        opening = self.slots.before + "".join(row) + self.slots.after if one.marks else one.dots(len(self.row))
        inputs = self.inputs(batch, opening)
        prompt, tail = _split(inputs, self.tokens.slots, len(row))
        stream, states = self._stream(prompt, batch), None
        watch = Watch() if batch.watch else None
        if tail is not None:
            states = read_tail(stream, tail, self.tokens.slots, self._fed(stream, tail, batch, setting), watch)
            stream.hide_image(torch.full_like(tail[:, 0], one.hides_image, dtype=torch.bool))
        replies = self._write(stream, Plan(self.tokens), batch, inputs, watch)
        own = list(states) if states is not None else [torch.zeros(0, 0)] * len(batch.asked)
        return replace(replies, latents=own, lengths=[[len(one)] * bool(len(one)) for one in own]), inputs

    def _fed(self, stream: Stream, tail: Tensor, batch: Batch, setting: Setting) -> Tensor | None:
        """(B, K, d) in the place of the slots' embeddings; None leaves them."""
        if setting.intervention.content is None:
            return None
        own = stream.embed(tail[:, torch.isin(tail[0], torch.tensor(self.tokens.slots, device=tail.device))])
        bank = Bank(tuple(batch.asked), own[:, :, None].float().cpu(), torch.full((len(own),), own.shape[1]))
        replacer = Replacer(replace(setting, bank=bank), batch.asked, self.dummy)
        return torch.cat([replacer(own[:, place, None], place).to(own) for place in range(own.shape[1])], 1)

    def _written(self, batch: Batch, setting: Setting) -> tuple[Replies, Inputs]:
        """Slots that the model writes."""
        one, tokens = setting.intervention, self.tokens
        plan = Plan(tokens, change=change_of(setting, batch.asked, self.dummy), hides_image=one.hides_image)
        if not one.marks:
            plan = replace(plan, banned=tuple(tokens.special()))
        elif one.steps is not None and tokens.start is not None and tokens.end is not None:
            empty = torch.zeros(len(batch.asked), 1, dtype=torch.long)
            plan = Plan(tokens, Block(), None, empty, (tokens.end,), banned=tokens.slots)
        inputs = self.inputs(batch, one.dots(len(self.row)))
        replies = self._write(self._stream(inputs, batch), plan, batch, inputs, Watch() if batch.watch else None)
        return replace(
            replies, latents=replies.states, lengths=[[len(s)] * bool(len(s)) for s in replies.states]
        ), inputs

    def _stream(self, prompt: Inputs, batch: Batch) -> Stream:
        return Stream(self.model, prompt, self.preset.prompt.positions == "sequential", batch.watch)

    def _write(self, stream: Stream, plan: Plan, batch: Batch, inputs: Inputs, watch: Watch | None) -> Replies:
        room = self.room(inputs)
        return write(stream, plan, self.decoding(batch.sampling, room), room, watch=watch)


def _split(inputs: Inputs, slots: Sequence[int], count: int) -> tuple[Inputs, Tensor | None]:
    """Prompts, and how the replies begin from their first slot on, which is the same in all rows."""
    ids = inputs["input_ids"]
    if not count:
        return inputs, None
    start = torch.isin(ids[0], torch.tensor(slots, device=ids.device)).nonzero()[-count, 0]
    return {n: one[:, :start] if one.shape[:2] == ids.shape else one for n, one in inputs.items()}, ids[:, start:]
