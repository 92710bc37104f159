"""Methods that decode once and let the decoder read further visual tokens in the middle of its own text.

All rows of a batch take a token a step. Where some are due for visual tokens, those rows read a block of them, and the
others' columns are masked; positions count what a row has read, so that an answer is what it would be alone.

Shapes: B rows, T text tokens, n positions of a block, d width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lare.methods.base import Answer, Sampling
from lare.methods.generating import Generating, cut_text
from lare.model.choosing import choose_tokens
from lare.model.generation import Clock, GenerationOptions, eos_ids
from lare.model.loop import LoopState, extend, prefill

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.model.reasoner import Reasoner

__all__ = ["Splicer", "Splicing", "Written", "write"]


class Splicer(ABC):
    """What a method splices into one batch.

    Attributes:
        most: Most blocks that a row may get.
        size: n, positions of a block, delimiters included.
        visual: Visual tokens among them.
        watches: Whether `block` needs the attention of the newest token.
    """

    most: int
    size: int
    visual: int
    watches: ClassVar[bool] = False

    @abstractmethod
    def due(self, newest: Tensor, following: Tensor, written: Tensor, open_rows: Tensor) -> Tensor:
        """Rows that get a block now, (B,) booleans.

        Args:
            newest: (B,) the last token that was read; -1 where it is of the prompt or of a block.
            following: (B,) what would be written next, without a block.
            written: (B, t) all tokens so far.
            open_rows: (B,) rows that still write and may get a block.
        """

    @abstractmethod
    def block(self, due: Tensor, newest: Tensor, state: LoopState) -> Tensor:
        """Embeddings (B, n, d) of the blocks; those of rows that are not due are not read."""

    def arrays(self, row: int) -> dict[str, Any]:
        """A row's trace columns of the method's own."""
        return {}


class Written(NamedTuple):
    """What was written: ids (B, T), lengths (B,) without the end token, and blocks (B,)."""

    sequences: Tensor
    lengths: Tensor
    blocks: Tensor


def write(model: Reasoner, state: LoopState, splicer: Splicer, options: GenerationOptions) -> Written:
    """Decode, and read the splicer's blocks wherever rows are due for one.

    Args:
        model: The model.
        state: The prefilled state; it is spent.
        splicer: What is spliced in, and when.
        options: How text is chosen, and its limit of tokens.
    """
    batch, device = state.attention_mask.shape[0], state.attention_mask.device
    ends = torch.tensor(eos_ids(model, options), dtype=torch.long, device=device)
    sequences = torch.zeros(batch, options.max_new_tokens, dtype=torch.long, device=device)
    lengths = torch.full((batch,), options.max_new_tokens, dtype=torch.long, device=device)
    blocks, newest = torch.zeros_like(lengths), torch.full_like(lengths, -1)
    running, hidden = torch.ones(batch, dtype=torch.bool, device=device), state.last_hidden
    for step in range(options.max_new_tokens):
        tokens = choose_tokens(model.lm_head(hidden), options)
        may = running & (blocks < splicer.most)
        due = may & splicer.due(newest, tokens, sequences[:, :step], may)
        if bool(due.any()):
            made, state = extend(model, state, splicer.block(due, newest, state), due[:, None].expand(-1, splicer.size))
            hidden = torch.where(due[:, None], made[:, -1], hidden)
            tokens = torch.where(due, choose_tokens(model.lm_head(hidden), options), tokens)
            blocks = blocks + due
        ended = running & torch.isin(tokens, ends)
        lengths = torch.where(ended, step, lengths)
        running = running & ~ended
        sequences[:, step] = torch.where(running, tokens, 0)
        if step + 1 == options.max_new_tokens or not bool(running.any()):
            break
        made, state = extend(model, state, model.embed(tokens[:, None]), running[:, None], capture=splicer.watches)
        hidden, newest = torch.where(running[:, None], made[:, -1], hidden), tokens
    return Written(sequences, lengths, blocks)


class Splicing(Generating):
    """A method that answers by `write`."""

    def splicer(self, images: Sequence[Image], features: Tensor | None = None) -> Splicer:
        """What is spliced into the answers about these pictures, given their encoder features (B, N_f, d_vis)."""
        raise NotImplementedError

    def budget(self, prompt: int, wanted: int) -> int:
        """See `Generating.budget`."""
        splicer = self.splicer(())
        return super().budget(prompt + splicer.most * splicer.size, wanted)

    def answer(
        self, images: Sequence[Image], questions: Sequence[str], sampling: Sampling, trace: bool = False
    ) -> list[Answer]:
        """See `Method.answer`."""
        shown, clock = self.shown(images), Clock(self.model)
        with torch.inference_mode(), self.configured():
            inputs = self.inputs(images, questions)
            features = self.model.vision_tower(inputs["pixel_values"])
            splicer = self.splicer(shown, features)
            budget = self.budget(inputs["input_ids"].shape[1], sampling.max_new_tokens)
            options = GenerationOptions(budget)
            if sampling.temperature > 0:
                generator = torch.Generator(self.model.device).manual_seed(sampling.seed)
                options = GenerationOptions(
                    budget, True, sampling.temperature, sampling.top_p, sampling.top_k, generator=generator
                )
            visual = self.model.encode_features(features)
            clock.lap("vision")
            room = budget + splicer.most * splicer.size
            state = prefill(self.model, inputs["input_ids"], inputs["attention_mask"], visual, room=room)
            clock.lap("prefill")
            written = write(self.model, state, splicer, options)
            clock.lap("decode")
        seconds = {phase: spent / len(shown) for phase, spent in clock.seconds.items()}
        return [self._row(row, written, splicer, inputs, sampling, trace, seconds) for row in range(len(shown))]

    def _row(
        self,
        row: int,
        written: Written,
        splicer: Splicer,
        inputs: dict[str, Tensor],
        sampling: Sampling,
        trace: bool,
        seconds: dict[str, float],
    ) -> Answer:
        length, blocks = int(written.lengths[row]), int(written.blocks[row])
        text, kept = cut_text(written.sequences[row, :length].tolist(), sampling.stop, self._decode)
        real = inputs["attention_mask"][row].bool()
        prompt = inputs["input_ids"][row][real].cpu().numpy()
        return Answer(
            text=text,
            input_tokens=len(prompt),
            output_tokens=kept,
            cut=kept >= written.sequences.shape[1],
            seconds=seconds,
            arrays={"prompt_ids": prompt, **splicer.arrays(row)} if trace else {},
            extra_visual_tokens=blocks * splicer.visual,
            decoder_passes=1 + kept + blocks,
        )
