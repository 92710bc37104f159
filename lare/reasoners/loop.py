"""The decode loop: text where a row writes, latents where it thinks, one embedding a step for every row.

Rows are in different places: one writes, one is in a block of latents, one has ended. Each step every row reads one
embedding, a token's or a latent (with picked visual embeddings before it, if the preset picks), and a row that has
ended reads nothing: its column is masked. So a batch has one cache, no row sees another, and what is not text is
charged to nobody's limit of tokens.

Shapes: B rows, d width, n picked patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lare.model.choosing import choose_tokens
from lare.model.generation_options import GenerationOptions
from lare.reasoners.blocks import Blocks, Plan, rows_of
from lare.reasoners.feeding import Picker
from lare.reasoners.stream import LATENT, TEXT, VISUAL, Stream
from lare.reasoners.watching import Watch

__all__ = ["Replies", "read_tail", "write"]


@dataclass
class Replies:
    """What a batch wrote.

    Attributes:
        ids: Tokens of each row without the one that ended it; marks that the model wrote are among them.
        cut: (B,) rows that the limit ended.
        latents: Each row's latents, (K, d).
        lengths: Latents of each row's blocks.
        reasons: Why each row's last block ended: "fixed", "converged" or "max_iterations".
        passes: (B,) steps that each row read.
        states: Each row's states (K', d) at the slots that it read.
        picked: (B, K, n) visual tokens that were taken, counted from a row's first; None without.
        watch: What was attended to; None unless asked for.
    """

    ids: list[list[int]]
    cut: Tensor
    latents: list[Tensor]
    lengths: list[list[int]]
    reasons: list[str]
    passes: Tensor
    states: list[Tensor]
    picked: Tensor | None = None
    watch: Watch | None = None


def write(
    stream: Stream,
    plan: Plan,
    options: GenerationOptions,
    room: int,
    picker: Picker | None = None,
    watch: Watch | None = None,
) -> Replies:
    """Answer from a prompt that has been read; the stream is spent.

    Args:
        stream: The prompt, up to and with the start mark where that is forced.
        plan: The batch's blocks of latents and what else it does.
        options: How text is chosen, and its limit.
        room: Positions that the decoder has left.
        picker: Picks visual embeddings for each latent.
        watch: Takes what is attended to, of a stream that was watched so far.
    """
    loop = _Loop(stream, plan, options, picker, watch)
    for _ in range(max(1, room)):
        if not loop.step():
            break
    else:
        loop.text.cut = loop.text.cut | loop.text.open
    picked = torch.stack(picker.picked, 1) if picker is not None and picker.picked else None
    blocks = loop.blocks
    states = rows_of(loop.states, len(loop.passes))
    return Replies(
        loop.text.ids(),
        loop.text.cut,
        blocks.latents(),
        blocks.lengths(),
        blocks.reasons(),
        loop.passes,
        states,
        picked,
        watch,
    )


def read_tail(
    stream: Stream, ids: Tensor, slots: Sequence[int], fed: Tensor | None = None, watch: Watch | None = None
) -> Tensor:
    """Read how a reply is opened, learnt slots among it.

    Args:
        stream: The prompt before.
        ids: (B, n).
        slots: Ids of slots.
        fed: (B, K, d) embeddings in place of the slots'; None reads theirs.
        watch: Takes what each slot attends to; the positions are then read one by one.

    Returns:
        The states at the slots, (B, K, d); K is the same in all rows.
    """
    embeds, is_slot = stream.embed(ids), torch.isin(ids, torch.tensor(list(slots), device=ids.device))
    if fed is not None:
        embeds = embeds.masked_scatter(is_slot[..., None], fed.to(embeds.dtype))
    kinds = torch.where(is_slot, LATENT, TEXT)
    if watch is None:
        read = stream.read(embeds, kinds=kinds)
    else:
        read = torch.cat([_read_watched(stream, watch, embeds, kinds, place) for place in range(ids.shape[1])], 1)
    states: Tensor = read[is_slot].unflatten(0, (len(ids), -1))
    return states


def _read_watched(stream: Stream, watch: Watch, embeds: Tensor, kinds: Tensor, place: int) -> Tensor:
    """Read one position of a tail, (B, 1, d)."""
    at = slice(place, place + 1)
    read = stream.read(embeds[:, at], watch=True, kinds=kinds[:, at])
    if bool((kinds[:, place] == LATENT).any()):
        assert stream.shares is not None
        watch.step(stream.shares, kinds[:, place] == LATENT)
    return read


class _Text:
    """What the rows have written."""

    def __init__(self, batch: int, limit: int, ends: Sequence[int], device: torch.device) -> None:
        self.ends = torch.tensor(list(ends), dtype=torch.long, device=device)
        self.open = torch.ones(batch, dtype=torch.bool, device=device)
        self.cut = torch.zeros_like(self.open)
        self.limit = limit
        self._length = torch.zeros(batch, dtype=torch.long, device=device)
        self._steps: list[tuple[Tensor, Tensor]] = []

    def take(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """Write the tokens (B,) of rows (B,); returns the rows that go on after them."""
        ended = rows & torch.isin(tokens, self.ends)
        kept = rows & ~ended
        self._steps.append((tokens, kept))
        self._length = self._length + kept
        full = kept & (self._length >= self.limit)
        self.cut, self.open = self.cut | full, self.open & ~ended & ~full
        return kept & ~full

    def ids(self) -> list[list[int]]:
        """Tokens of each row."""
        tokens = torch.stack([one for one, _ in self._steps], 1).cpu()
        kept = torch.stack([one for _, one in self._steps], 1).cpu()
        return [tokens[row, kept[row]].tolist() for row in range(len(tokens))]


class _Loop:
    """The state between two steps."""

    def __init__(
        self, stream: Stream, plan: Plan, options: GenerationOptions, picker: Picker | None, watch: Watch | None
    ) -> None:
        batch, device = stream.hidden.shape[0], stream.hidden.device
        self.stream, self.plan, self.options, self.picker, self.watch = stream, plan, options, picker, watch
        self.text = _Text(batch, options.max_new_tokens, plan.tokens.ends, device)
        self.blocks = Blocks(plan, batch, device)
        self.close = torch.tensor(plan.close, dtype=torch.long, device=device)
        self.at = torch.full((batch,), len(plan.close), dtype=torch.long, device=device)  # in `close`
        self.passes = torch.zeros(batch, dtype=torch.long, device=device)
        self.slots = torch.tensor(plan.tokens.slots, dtype=torch.long, device=device)
        self.slots_read = torch.zeros_like(self.passes)
        self.states: list[tuple[Tensor, Tensor]] = []
        self.marks = torch.tensor(sorted({*plan.tokens.special(), *plan.tokens.ends}), dtype=torch.long, device=device)
        self.latents_read = (stream.kinds == LATENT).any(1)

    def step(self) -> bool:
        """Choose what each row reads, and read it; False once all rows have ended."""
        tokens, text, blocks = self._chosen(), self.text, self.blocks
        left = blocks.leave(tokens, text.open)
        self.at = torch.where(left, 0, self.at)
        thinks, closes = blocks.thinking & text.open, (self.at < len(self.close)) & text.open
        if self.plan.hides_image:
            self.stream.hide_image(left)
        if self.watch is not None and self.stream.shares is not None:
            words = text.open & ~thinks & ~closes & ~torch.isin(tokens, self.marks)
            self.watch.predicting(self.stream.shares, self.stream.keys, words, self.latents_read)
        writes = text.take(tokens, text.open & ~thinks & ~closes)
        if not bool(text.open.any()):
            return False
        opens = writes & (tokens == self.plan.start) if self.plan.start is not None else torch.zeros_like(writes)
        at_once = self._at_once(opens)
        thinks, writes = thinks | at_once, writes & ~at_once
        if len(self.close):
            tokens = torch.where(closes, self.close[self.at.clamp_max(len(self.close) - 1)], tokens)
            self.at = self.at + closes
        self._read(tokens, thinks, thinks | closes | writes)
        blocks.open(opens & ~at_once)
        if self.plan.hides_image and self.plan.block is None and self.plan.tokens.end is not None:
            self.stream.hide_image(writes & tokens.eq(self.plan.tokens.end))
        return True

    def _at_once(self, opens: Tensor) -> Tensor:
        """Rows that open a block whose first latent takes the start mark's place; they begin with this step."""
        block = self.plan.block
        if block is None or block.start_read:
            return torch.zeros_like(opens)
        rows = opens & (self.blocks.most > 0)
        self.blocks.open(rows)
        return rows

    def _chosen(self) -> Tensor:
        """(B,) what each row would write."""
        logits = self.stream.logits()
        if self.plan.banned:
            logits = logits.index_fill(1, torch.tensor(self.plan.banned, device=logits.device), float("-inf"))
        return choose_tokens(logits, self.options)

    def _read(self, tokens: Tensor, thinks: Tensor, rows: Tensor) -> None:
        """Read a token's embedding, or in rows that think a latent."""
        stream, embeds, picking = self.stream, self.stream.embed(tokens), False
        slots = rows & ~thinks & torch.isin(tokens, self.slots)
        if self.plan.block is None and self.plan.change is not None and bool(slots.any()):
            changed = self.plan.change(embeds, self.slots_read, slots).to(embeds.dtype)
            embeds = torch.where(slots[:, None], changed, embeds)
        self.slots_read = self.slots_read + slots
        block, kinds = [embeds], [torch.where(thinks | slots, LATENT, TEXT)]
        if bool(thinks.any()):
            if self.watch is not None and stream.shares is not None:
                self.watch.step(stream.shares, thinks)
            made = self.blocks.feed(stream.hidden, thinks).to(embeds.dtype)
            block = [torch.where(thinks[:, None], made, embeds)]
            if self.picker is not None:
                attention = stream.attention
                assert attention is not None
                block, picking = [*self.picker.pick(attention).to(embeds.dtype).unbind(1), *block], True
                kinds = [torch.full_like(kinds[0], VISUAL)] * self.picker.patches + kinds
        read, real = torch.stack(block, 1), rows[:, None].expand(-1, len(block))
        states = stream.read(read, real, picking or self.watch is not None, torch.stack(kinds, 1))[:, -1]
        self.passes, self.latents_read = self.passes + rows, self.latents_read | thinks | slots
        if self.watch is not None and stream.shares is not None:
            self.watch.read(stream.shares, stream.keys, rows)
            if bool(slots.any()):
                self.watch.step(stream.shares, slots)
        if len(self.slots):
            self.states.append((states, slots))
