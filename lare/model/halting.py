"""When to stop thinking: after a fixed number of steps, when latents no longer move (paper, Table 4), or as learnt.

A row of a batch stops by itself: a rule looks at that row alone, so a row thinks for as many iterations in a batch as
it does alone. What a learned rule reads is in `lare.model.stop_head`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lare.errors import LareError
from lare.model.stop_head import KINDS, Seen, StopHead, StopHeads, head_inputs

__all__ = ["STOP_HELP", "Halter", "Seen", "StopRule", "parse_stop"]

STOP_HELP = "fixed, cosine:C, l1:C, l2:C, or learned[:KIND][:C]"
"""What `parse_stop` reads, in short."""

_MEASURES = ("cosine", "l1", "l2")


@dataclass(frozen=True)
class StopRule:
    """One parsed stop rule.

    Attributes:
        kind: "fixed", "cosine", "l1", "l2" or "learned".
        threshold: C: stop when the cosine similarity exceeds it, the L1 or L2 distance falls below it, or the learned
            head's value exceeds it (0: the threshold that lies with the head).
        head: Kind of the learned head, see `lare.model.stop_head`; "" for the checkpoint's choice.
    """

    kind: str = "fixed"
    threshold: float = 0.0
    head: str = ""

    @property
    def adaptive(self) -> bool:
        """Whether rows may stop before the last iteration."""
        return self.kind != "fixed"

    @property
    def learned(self) -> bool:
        """Whether a head of the checkpoint decides."""
        return self.kind == "learned"

    def head_of(self, heads: StopHeads | None) -> StopHead | None:
        """The head that decides; None for a rule without one.

        Raises:
            LareError: If the checkpoint has no such head.
        """
        if not self.learned:
            return None
        if heads is None:
            raise LareError(
                "this checkpoint has no learned stop rule; fit one with lare halting fit CHECKPOINT, or give another "
                "stop."
            )
        return heads.get(self.head)

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


class Halter:
    """A rule at work on one batch.

    Args:
        rule: The rule.
        heads: The checkpoint's learned heads, if it has any.
        batch: B.
        device: Of the batch.

    Raises:
        LareError: If the rule is learned and the checkpoint has no such head.
    """

    def __init__(self, rule: StopRule, heads: StopHeads | None, batch: int, device: torch.device) -> None:
        self.rule = rule
        self.head = rule.head_of(heads)
        self._going = torch.ones(batch, device=device)  # probability of not having stopped yet, for "ponder"
        if self.head is not None:
            self.head.to(device)
            self.threshold = rule.threshold or self.head.threshold

    @property
    def looks_ahead(self) -> bool:
        """Whether it reads the logits of the text's first token."""
        return self.head is not None and self.head.looks_ahead

    @torch.no_grad()
    def stopped(self, seen: Seen) -> Tensor:
        """Which rows stop after a step, (B,) booleans; call it once after each step."""
        if self.head is None:
            if seen.previous is None:
                return torch.zeros(len(seen.hidden), dtype=torch.bool, device=seen.hidden.device)
            return self.rule.converged(seen.latents, seen.previous)
        value: Tensor = self.head(head_inputs(self.head.kind, seen), seen.step).sigmoid()
        if self.head.kind == "ponder":
            self._going = self._going * (1 - value)
            value = 1 - self._going
        return value > self.threshold

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows: their places (B',)."""
        self._going = self._going[rows]


def parse_stop(text: str) -> StopRule:
    """Read a stop rule such as "fixed", "cosine:0.98" or "learned".

    Args:
        text: "fixed"; "cosine:C", "l1:C" or "l2:C", where C is in (-1, 1] for cosine and positive for distances; or
            "learned", "learned:KIND", "learned:C" or "learned:KIND:C", where KIND is one of
            `lare.model.stop_head.KINDS`, C is in (0, 1), and what is left out is the checkpoint's.

    Raises:
        LareError: If the text is none of these.
    """
    if text == "fixed":
        return StopRule()
    kind, _, rest = str(text).partition(":")
    rule = _learned(rest) if kind == "learned" and str(text) != "learned:" else _measured(kind, rest)
    if rule is None:
        raise LareError(
            f'stop is {text!r}; give "fixed", "cosine:C" with C in (-1, 1], "l1:C" or "l2:C" with C above 0, or '
            f'"learned", "learned:KIND" or "learned:KIND:C" with KIND {", ".join(KINDS[:-1])} or {KINDS[-1]} and C in '
            "(0, 1)."
        )
    return rule


def _measured(kind: str, number: str) -> StopRule | None:
    threshold = _number(number)
    valid = -1.0 < threshold <= 1.0 if kind == "cosine" else 0.0 < threshold < float("inf")
    return StopRule(kind, threshold) if kind in _MEASURES and valid else None


def _learned(rest: str) -> StopRule | None:
    words = rest.split(":") if rest else []
    head = words.pop(0) if words and words[0] in KINDS else ""
    if not words:
        return StopRule("learned", head=head)
    threshold = _number(words[0])
    return StopRule("learned", threshold, head) if len(words) == 1 and 0.0 < threshold < 1.0 else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
