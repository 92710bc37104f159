"""What a batch attends to: where a latent is made, and around the first word after the latents.

Rows of attention are split into `lare.trace.SHARES` as soon as they are made, so no map is kept.

Shapes: B rows, L layers, H heads, K latents of a row.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Watch"]


class Watch:
    """Attention shares of a batch.

    A step's shares are those of the position whose last state the latent is: where states are fed back, the position
    before the latent; of slots, the slot itself. They are means over layers and heads.

    The word is the first text token after a row's first latent; in a row without latents, its first text token. Its
    shares are those of the position that predicts it, and of the token itself (`lare.trace.AnswerRecord`).
    """

    def __init__(self) -> None:
        self._steps: list[tuple[Tensor, Tensor]] = []
        self._level: Tensor | None = None
        self._ahead: tuple[Tensor, Tensor] | None = None
        self._own: tuple[Tensor, Tensor] | None = None
        self._awaited: Tensor | None = None

    def step(self, shares: Tensor, rows: Tensor) -> None:
        """Keep the shares (B, L, H, 4) of rows (B,) as those of a latent of theirs."""
        self._steps.append((shares.mean((1, 2)), rows))

    def predicting(self, shares: Tensor, keys: Tensor, writes: Tensor, after: Tensor) -> None:
        """Take the shares that predict a text token, in rows where it is the word.

        Args:
            shares: (B, L, H, 4) of the position that predicts it.
            keys: (B,) positions that it attends to.
            writes: (B,) rows that write a text token.
            after: (B,) rows that have read a latent.
        """
        level = 1 + after.long()
        if self._level is None or self._ahead is None:
            self._level = torch.zeros_like(level)
            self._ahead = self._own = (torch.zeros_like(shares), torch.zeros_like(keys))
        assert self._own is not None
        self._awaited = writes & (level > self._level)
        self._level = torch.where(self._awaited, level, self._level)
        self._ahead = _put(self._ahead, self._awaited, shares, keys)
        self._own = _put(self._own, self._awaited, shares, torch.zeros_like(keys))  # until it is read

    def read(self, shares: Tensor, keys: Tensor, rows: Tensor) -> None:
        """Take the word's own shares (B, L, H, 4) over `keys` (B,) positions, in rows (B,) that have just read it."""
        if self._awaited is not None and self._own is not None:
            self._own = _put(self._own, self._awaited & rows, shares, keys)
            self._awaited = None

    def arrays(self, row: int) -> dict[str, npt.NDArray[Any]]:
        """A row's columns of the trace; one that it has nothing for is left out.

        Returns:
            ``step_shares`` (K, 4); ``attention_shares`` (n, L, H, 4) and ``attention_keys`` (n,), the number of
            positions that each row spreads over: n is 2, and 1 where the word was not read because the answer ended.
        """
        found: dict[str, Tensor] = {}
        if steps := [shares[row] for shares, rows in self._steps if rows[row]]:
            found["step_shares"] = torch.stack(steps).float()
        if self._ahead is not None and self._own is not None:
            pairs = [(shares[row], keys[row]) for shares, keys in (self._ahead, self._own) if keys[row]]
            if pairs:
                found["attention_shares"] = torch.stack([shares for shares, _ in pairs]).float()
                found["attention_keys"] = torch.stack([keys for _, keys in pairs]).int()
        return {name: values.cpu().numpy() for name, values in found.items()}


def _put(kept: tuple[Tensor, Tensor], rows: Tensor, shares: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(rows[:, None, None, None], shares, kept[0]), torch.where(rows, keys, kept[1])
