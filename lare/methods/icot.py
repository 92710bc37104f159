"""ICoT: after each step of its rationale the decoder reads again what it attended to (arXiv 2411.19488).

One decode. Where a line or sentence of the text ends, the newest token's attention to the image positions, mean over
heads and layers, chooses visual tokens; they are spliced in between the delimiters, in the image's order, and the text
goes on from there. It has no training of its own: it answers with a checkpoint that writes rationales (``cot``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lare.errors import LareError
from lare.methods.base import option
from lare.methods.generating import GeneratingOptions
from lare.methods.layout import ENDS, NEWLINES, OPENS
from lare.methods.splicing import Splicer, Splicing
from lare.model.generation import GenerationOptions, eos_ids
from lare.trace import Column

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.model.loop import LoopState

__all__ = ["Icot", "IcotOptions"]


@dataclass(frozen=True)
class IcotOptions(GeneratingOptions):
    """Options of what is spliced in.

    Attributes:
        patches: Visual tokens that are spliced in each time.
        share: Their number as a share of the grid that they come from; None takes `patches`.
        times: How often at most tokens are spliced in.
        fine: Take fine tokens where the decoder reads pooled ones: all those of the pooled tokens attended most.
        repeat: Read the step's last token once more after the closing delimiter, for checkpoints that never saw one.
    """

    patches: int = option(16, "visual tokens spliced in each time", least=1)
    share: float | None = option(None, "share of the grid instead of a number of patches", least=0.0)
    times: int = option(3, "how often at most", least=0)
    fine: bool = option(True, "take fine tokens where the decoder reads pooled ones")
    repeat: bool = option(False, "read the step's last token again after the closing delimiter")


class _Attended(Splicer):
    watches = True

    def __init__(self, method: Icot, features: Tensor | None) -> None:
        self.method, self.model, self.features = method, method.model, features
        config, own = method.model.config, method.options
        self.factor = config.grid // config.lm_grid if own.fine and config.refocus_source == "fine" else 1
        cells = (config.lm_grid * self.factor) ** 2
        wanted = own.patches if own.share is None else round(own.share * cells)
        self.best = min(max(1, wanted // self.factor**2), config.lm_grid**2)
        self.visual = self.best * self.factor**2
        self.most, self.size = own.times, self.visual + 2 + own.repeat
        self.chosen: list[tuple[Tensor, Tensor]] = []

    def due(self, newest: Tensor, following: Tensor, written: Tensor, open_rows: Tensor) -> Tensor:
        """See `Splicer.due`; a step ends as it does for rationales in training."""
        lines, stops, opens, ends = (one.to(newest.device) for one in self.method.kinds)
        last = newest.clamp_min(0)
        line = lines[last] & ~lines[following]
        return (newest >= 0) & ~ends[following] & (line | (stops[last] & opens[following]))

    def block(self, due: Tensor, newest: Tensor, state: LoopState) -> Tensor:
        """See `Splicer.block`."""
        side, f, batch = state.visual.lm_grid, self.factor, newest.shape[0]
        best = state.saliency.topk(self.best).indices  # (B, k) cells of the decoder's grid
        inner = torch.arange(f, device=best.device)
        rows = (best // side * f)[..., None, None] + inner[:, None]
        cells = (rows * (side * f) + (best % side * f)[..., None, None] + inner).flatten(1).sort(1).values
        self.chosen.append((due, cells))
        source = state.visual.lm
        if f > 1:  # by the decoder's own projector: the Extractor's has learnt nothing from text alone
            assert self.features is not None
            source = self.model.encode_features(self.features, side * f).lm
        seen = source.gather(1, cells[..., None].expand(-1, -1, source.shape[-1]))
        config, token = self.model.config, self.model.embed_token
        parts = [token(config.latent_start_id, batch), seen, token(config.latent_end_id, batch)]
        if self.method.options.repeat:
            parts.append(self.model.embed(newest.clamp_min(0)[:, None]))
        return torch.cat([part.to(parts[0].dtype) for part in parts], dim=1)

    def arrays(self, row: int) -> dict[str, Any]:
        """See `Splicer.arrays`."""
        own = [cells[row].cpu().numpy() for due, cells in self.chosen if bool(due[row])]
        return {"spliced": np.array(own, np.int32).reshape(len(own), self.visual)}


class Icot(Splicing):
    """A rationale with visual tokens spliced in."""

    name = "icot"
    options_type = IcotOptions
    options: IcotOptions
    columns = {"spliced": Column("<i4", ("time", "patch"))}

    def check(self) -> None:
        """See `Method.check`."""
        super().check()
        if self.options.share is not None and not 0 < self.options.share <= 1:
            raise LareError(f"share is {self.options.share}; give a share above 0 and up to 1, or patches")

    @cached_property
    def kinds(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of every token (V,): breaks a line, ends a sentence, opens a word or line, ends the answer."""
        config = self.model.config.text_config
        names = [
            str(one)
            for one in self.processor.tokenizer.convert_ids_to_tokens(list(range(len(self.processor.tokenizer))))
        ]
        names += [""] * (int(config.vocab_size) - len(names))
        tests = (
            lambda name: any(mark in name for mark in NEWLINES),
            lambda name: name.endswith(ENDS),
            lambda name: name.startswith(OPENS),
        )
        lines, stops, opens = (torch.tensor([test(name) for name in names]) for test in tests)
        ends = torch.zeros(len(names), dtype=torch.bool)
        ends[eos_ids(self.model, GenerationOptions())] = True
        return lines, stops, opens, ends

    def splicer(self, images: Sequence[Image], features: Tensor | None = None) -> Splicer:
        """See `Splicing.splicer`."""
        return _Attended(self, features)
