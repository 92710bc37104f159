"""Latents of many questions, from a run without intervention: other questions' latents, their means and spreads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lare.errors import LareError
from lare.interventions.asked import Asked, generator_of
from lare.trace import TraceReader

__all__ = ["Bank", "draw_partners", "read_bank"]

TRIES = 64
"""Tries at drawing a partner at random, before the questions that fit are listed and one of them is drawn."""


@dataclass(frozen=True)
class Bank:
    """Latents by question.

    Attributes:
        asked: N questions.
        latents: (N, K, m, d) in single precision; what stands after a question's last step is not read.
        steps: (N,) steps that each question took.
    """

    asked: tuple[Asked, ...]
    latents: Tensor
    steps: Tensor

    def __post_init__(self) -> None:
        if not self.asked or self.latents.dim() != 4 or not self.latents.shape[1]:
            raise LareError("there are no latents to take others from; run the method once without intervention")
        if not len(self.asked) == len(self.latents) == len(self.steps):
            raise LareError(f"{len(self.asked)} questions, {len(self.latents)} latents and {len(self.steps)} counts "
                            "do not belong together")  # fmt: skip

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """Row of each question, by its key."""
        return {one.key: row for row, one in enumerate(self.asked)}

    @cached_property
    def filled(self) -> Tensor:
        """(N, K, m, d) with a question's last latent after its last step."""
        at = torch.arange(self.latents.shape[1]).expand(len(self.latents), -1)
        at = torch.minimum(at, (self.steps[:, None] - 1).clamp_min(0))
        return self.latents[torch.arange(len(self.latents))[:, None], at]

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        return self.filled.mean(0), self.filled.std(0, correction=0)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each dimension over the questions, (K, m, d) each."""
        return self._moments

    def own(self, asked: Sequence[Asked]) -> list[int]:
        """Rows of these questions themselves.

        Raises:
            LareError: If one is not here.
        """
        missing = [one.key for one in asked if one.key not in self.rows]
        if missing:
            raise LareError(f"the own latents of {len(missing)} questions are missing (first: {missing[0]})")
        return [self.rows[one.key] for one in asked]

    def partners(self, asked: Sequence[Asked], seed: int) -> list[int]:
        """A row for each question: of its task where that is known, and of another group; by (seed, question).

        Raises:
            LareError: If all questions are of one group.
        """
        return draw_partners(self.asked, asked, seed)


def draw_partners(pool: Sequence[Asked], asked: Sequence[Asked], seed: int) -> list[int]:
    """Another question for each: its place in the pool.

    Args:
        pool: Questions to draw from.
        asked: Questions to draw for; a draw is a function of the seed, the question and the pool.
        seed: Seed of the draws.

    Raises:
        LareError: If all of the pool's (of a question's task, where there are any) are of the question's group.
    """
    by_task: dict[str, list[int]] = {}
    for row, one in enumerate(pool):
        by_task.setdefault(one.task, []).append(row)
    everyone = list(range(len(pool)))
    return [_partner(pool, by_task.get(one.task) or everyone, one, seed) for one in asked]


def _partner(pool: Sequence[Asked], rows: Sequence[int], one: Asked, seed: int) -> int:
    generator = generator_of(seed, one.key, "partner")
    drawn = [int(place) for place in torch.randint(len(rows), (TRIES,), generator=generator)]
    for place in drawn:
        if pool[rows[place]].group != one.group:
            return rows[place]
    rest = [row for row in rows if pool[row].group != one.group]
    if not rest:
        raise LareError(
            f"all latents at hand belong to one picture or text ({one.group!r}), so no question has another's; take "
            "more questions"
        )
    return rest[drawn[0] % len(rest)]


def read_bank(directory: str | os.PathLike[str]) -> Bank:
    """The latents of a trace directory. A trace keeps no picture, so another question is one with another text.

    Raises:
        LareError: If there is no trace with latents, or they differ in shape.
    """
    traces = TraceReader(directory)
    found = [
        (Asked(f"{task}/{doc}", question, task), torch.from_numpy(latents.copy()))
        for task, doc, question, latents in zip(
            traces.column("task"), traces.column("doc_id"), traces.column("question"), traces.column("latents"),
            strict=True,
        )
        if latents.shape[0]
    ]  # fmt: skip
    if not found:
        raise LareError(f"the traces in {str(directory)!r} hold no latents; give those of a method that makes them")
    if len({one.shape[1:] for _, one in found}) > 1:
        raise LareError(f"the latents in {str(directory)!r} are of several shapes; give one model's traces")
    most = max(len(one) for _, one in found)
    wide = torch.stack([torch.cat((one, one[-1:].expand(most - len(one), -1, -1))) for _, one in found])
    return Bank(tuple(who for who, _ in found), wide, torch.tensor([len(one) for _, one in found]))
