"""Tracks each row of a batch through its blocks of latents: when one begins, what it feeds, when it ends.

Shapes: B rows, d width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lare.reasoners.feeding import Feeding
from lare.reasoners.marks import Tokens
from lare.reasoners.preset import Block

__all__ = ["Blocks", "Change", "Plan"]

Change = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(latents (B, d), number of each in its row (B,), which rows make one (B,)) -> what is fed (B, d)."""


@dataclass(frozen=True)
class Plan:
    """What a batch does beside writing text.

    Attributes:
        tokens: Ids of the preset's tokens.
        block: How latents are made; None makes none.
        feeding: Computes what is fed back; None where no latents are made.
        counts: (B, M) latents of a row's first, second, ... block; later blocks have the last number. None takes the
            preset's rule.
        close: Ids that are read after a block's last latent; empty lets the model write on.
        change: What is fed in place of the latents, or of slots that the model writes; None feeds them.
        banned: Ids that are never written.
        hides_image: Mask the image for a row once its first block has its latents.
    """

    tokens: Tokens
    block: Block | None = None
    feeding: Feeding | None = None
    counts: Tensor | None = None
    close: tuple[int, ...] = ()
    change: Change | None = None
    banned: tuple[int, ...] = ()
    hides_image: bool = False

    @property
    def start(self) -> int | None:
        """The token with which the model itself opens a block."""
        return self.tokens.start if self.block is not None and self.block.opened_by == "model" else None


class Blocks:
    """Blocks of a batch. Counters are a row's and a block's own, so that no row's block ends another's.

    Args:
        plan: The batch's plan.
        batch: B.
        device: Device of its tensors.

    Attributes:
        thinking: (B,) rows whose next position is a latent.
    """

    def __init__(self, plan: Plan, batch: int, device: torch.device) -> None:
        self.plan, self.block = plan, plan.block
        self.thinking = torch.zeros(batch, dtype=torch.bool, device=device)
        self._count = torch.zeros(batch, dtype=torch.long, device=device)
        self._total = torch.zeros_like(self._count)
        self._block = torch.zeros_like(self._count)
        most = 0 if self.block is None else self.block.count
        self._counts = torch.full((batch, 1), most, device=device) if plan.counts is None else plan.counts.to(device)
        self._last: Tensor | None = None
        self._fed: list[tuple[Tensor, Tensor]] = []
        self._ends: list[tuple[Tensor, Tensor, Tensor]] = []
        if self.block is not None and self.block.opened_by == "prompt":
            self.open(torch.ones_like(self.thinking))

    @property
    def most(self) -> Tensor:
        """(B,) the most latents of each row's block, or of its next."""
        at = self._block.clamp_max(self._counts.shape[1] - 1)
        return self._counts.gather(1, at[:, None])[:, 0]

    def open(self, rows: Tensor) -> None:
        """Let rows (B,) begin a block at the next position."""
        self.thinking = self.thinking | rows
        self._count = torch.where(rows, 0, self._count)

    def leave(self, tokens: Tensor, open_rows: Tensor) -> Tensor:
        """End the blocks whose stop rule is met; returns their rows, (B,) booleans.

        Args:
            tokens: (B,) what each row would write here.
            open_rows: (B,) rows that have not ended.
        """
        if self.block is None:
            return torch.zeros_like(self.thinking)
        full, early = self._count >= self.most, torch.zeros_like(self.thinking)
        if self.plan.counts is None and self.block.stop == "end_mark":
            assert self.plan.tokens.end is not None
            early = tokens.eq(self.plan.tokens.end)
        elif self.plan.counts is None and self.block.stop == "distance" and self._last is not None:
            assert self.plan.feeding is not None
            early = self.plan.feeding.near_end(self._last) & (self._count > 0)
        out = open_rows & self.thinking & (full | early)
        if bool(out.any()):
            self._ends.append((out, early & ~full, self._count.clone()))
        self.thinking, self._block = self.thinking & ~out, self._block + out
        return out

    def feed(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """Latents (B, d) of rows (B,), made of the last states (B, d)."""
        assert self.plan.feeding is not None
        made = self.plan.feeding.latent(hidden)
        if self.plan.change is not None:
            made = self.plan.change(made, self._total, rows)
        self._last = made if self._last is None else torch.where(rows[:, None], made, self._last)
        self._fed.append((made, rows))
        self._count, self._total = self._count + rows, self._total + rows
        return made

    def latents(self) -> list[Tensor]:
        """Each row's latents, (K, d)."""
        return rows_of(self._fed, len(self.thinking))

    def lengths(self) -> list[list[int]]:
        """Latents of each row's blocks."""
        return [[int(count[row]) for out, _, count in self._ends if out[row]] for row in range(len(self.thinking))]

    def reasons(self) -> list[str]:
        """Why each row's last block ended."""
        if self.block is None or self.plan.counts is not None or self.block.stop == "fixed":
            return ["fixed"] * len(self.thinking)
        found = []
        for row in range(len(self.thinking)):
            early = [bool(soon[row]) for out, soon, _ in self._ends if out[row]]
            found.append("fixed" if not early else "converged" if early[-1] else "max_iterations")
        return found


def rows_of(steps: list[tuple[Tensor, Tensor]], batch: int) -> list[Tensor]:
    """Each row's values (K, d), from steps that hold values (B, d) and the rows (B,) for which they count."""
    if not steps:
        return [torch.zeros(0, 0)] * batch
    values, rows = torch.stack([one for one, _ in steps], 1), torch.stack([one for _, one in steps], 1)
    return [values[row, rows[row]] for row in range(batch)]
