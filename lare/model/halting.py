"""When to stop thinking: a fixed number of iterations, or latents that no longer move (paper, Table 4).

A row of a batch stops by itself: the rule looks at that row's two newest latents only, so a row thinks for as many
iterations in a batch as it does alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lare.errors import LareError

__all__ = ["StopRule", "parse_stop"]

_MEASURES = ("cosine", "l1", "l2")


@dataclass(frozen=True)
class StopRule:
    """One parsed stop rule.

    Attributes:
        kind: "fixed", "cosine", "l1" or "l2".
        threshold: C: stop when the cosine similarity exceeds it, or the L1 or L2 distance falls below it.
    """

    kind: str = "fixed"
    threshold: float = 0.0

    @property
    def adaptive(self) -> bool:
        """Whether rows may stop before the last iteration."""
        return self.kind != "fixed"

    def converged(self, latents_BmD: Tensor, previous_BmD: Tensor) -> Tensor:
        """Which rows have stopped moving between two iterations.

        Args:
            latents_BmD: Newest latents, (B, m, d).
            previous_BmD: The ones before, (B, m, d).

        Returns:
            Booleans of shape (B,); all False for the fixed rule.
        """
        new, old = latents_BmD.detach().float().flatten(1), previous_BmD.detach().float().flatten(1)
        if self.kind == "cosine":
            similarity: Tensor = torch.nn.functional.cosine_similarity(new, old, dim=-1)
            return similarity > self.threshold
        if self.kind == "l1":
            return (new - old).abs().sum(-1) < self.threshold
        if self.kind == "l2":
            return (new - old).square().sum(-1).sqrt() < self.threshold
        return torch.zeros(new.shape[0], dtype=torch.bool, device=new.device)


def parse_stop(text: str) -> StopRule:
    """Read a stop rule such as "fixed" or "cosine:0.98".

    Args:
        text: "fixed", "cosine:C", "l1:C" or "l2:C"; C is in (-1, 1] for cosine and positive for distances.

    Raises:
        LareError: If the text is none of these.
    """
    if text == "fixed":
        return StopRule()
    kind, _, number = str(text).partition(":")
    try:
        threshold = float(number)
    except ValueError:
        threshold = float("nan")
    valid = -1.0 < threshold <= 1.0 if kind == "cosine" else 0.0 < threshold < float("inf")
    if kind not in _MEASURES or not valid:
        raise LareError(
            f'stop is {text!r}; give "fixed", "cosine:C" with C in (-1, 1], or "l1:C" or "l2:C" with C above 0.'
        )
    return StopRule(kind, threshold)
