"""How a loop that makes latents applies an intervention: one call a step.

    replacer = Replacer(setting, asked, dummy=..., given=...)
    for number in range(steps):
        fed = replacer(make_latents(...), number)

Shapes: B rows, K steps, m latents a step, d width, C settings side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lare.errors import LareError
from lare.interventions.asked import Asked, generator_of, normal
from lare.interventions.bank import Bank
from lare.interventions.base import OWN, Intervention, get_intervention

__all__ = ["Branches", "Replacer", "Setting", "Step"]


@dataclass(frozen=True)
class Setting:
    """An intervention as it is asked for.

    Attributes:
        name: The intervention's name.
        seed: Seed of its draws.
        bank: Latents of a run without intervention (for ``image_latents``: of the run on other pictures); None where
            the method has to make what it needs itself.
    """

    name: str = OWN
    seed: int = 0
    bank: Bank | None = field(default=None, repr=False, compare=False)

    @property
    def intervention(self) -> Intervention:
        """The entry of the registry.

        Raises:
            LareError: If there is none.
        """
        return get_intervention(self.name)

    def need_bank(self) -> Bank:
        """The bank.

        Raises:
            LareError: If there is none.
        """
        if self.bank is None:
            raise LareError(
                f"intervene={self.name} needs latents of other questions; name the traces of a run without "
                "intervention with intervene_from=DIR"
            )
        return self.bank


@dataclass(frozen=True)
class Step:
    """What a content reads.

    Attributes:
        made: (B, m, d) what the method would feed.
        first: (B, m, d) what it made at the first step.
        number: The step's number, from 0 on.
        asked: The B questions.
        setting: The setting that is applied.
        dummy: (d,) the padding token's embedding.
        given: (B, K, m, d) latents that were looked up.
    """

    made: Tensor
    first: Tensor
    number: int
    asked: Sequence[Asked]
    setting: Setting
    dummy: Tensor | None = None
    given: Tensor | None = None

    @property
    def bank(self) -> Bank:
        """See `Setting.need_bank`."""
        return self.setting.need_bank()

    def normal(self) -> Tensor:
        """(B, m, d) standard normal numbers of (seed, question, step)."""
        return normal(self.asked, self.made.shape[1:], self.setting.seed, self.number).to(self.made)


class Replacer:
    """One intervention on one batch.

    Args:
        setting: The intervention.
        asked: The B questions.
        dummy: (d,) an embedding for dummies; None if the method has none.
        given: (B, K, m, d) latents to feed, where `setting` names some that the method makes (own or a region's).
    """

    def __init__(
        self, setting: Setting, asked: Sequence[Asked], dummy: Tensor | None = None, given: Tensor | None = None
    ) -> None:
        self.setting, self.asked, self.dummy = setting, list(asked), dummy
        self.content = setting.intervention.content
        self.given = given if given is not None or self.content is None else _looked_up(setting, self.asked)
        self._first: Tensor | None = None

    def __call__(self, made: Tensor, number: int) -> Tensor:
        """What is fed in place of a step's latents (B, m, d)."""
        if number == 0 or self._first is None:
            self._first = made
        if self.content is None:
            return made
        return self.content(Step(made, self._first, number, self.asked, self.setting, self.dummy, self.given))


def _looked_up(setting: Setting, asked: Sequence[Asked]) -> Tensor | None:
    """Latents from the bank (B, K, m, d), for interventions that feed whole ones."""
    needs = setting.intervention.needs
    if setting.name == "other":
        bank = setting.need_bank()
        return bank.filled[bank.partners(asked, setting.seed)]
    if "own" not in needs or setting.bank is None:
        return None
    rows = setting.bank.own(asked)
    latents, steps = setting.bank.filled[rows], setting.bank.steps[rows]
    return reordered(latents, steps, asked, setting.seed) if setting.name == "permuted" else latents


def reordered(latents: Tensor, steps: Tensor, asked: Sequence[Asked], seed: int) -> Tensor:
    """(B, K, m, d) with each question's steps in an order of its own, never the one they had (if there are two)."""
    order = torch.arange(latents.shape[1]).repeat(len(latents), 1)
    for row, (count, one) in enumerate(zip(steps.tolist(), asked, strict=True)):
        generator = generator_of(seed, one.key, "order")
        drawn = torch.randperm(count, generator=generator)
        if count > 1 and bool((drawn == torch.arange(count)).all()):
            drawn = drawn.roll(1)
        order[row, :count] = drawn
    return latents[torch.arange(len(latents))[:, None], order]


class Branches:
    """Several interventions on one prefix: row b * C + c is question b under the setting c."""

    def __init__(self, replacers: Sequence[Replacer]) -> None:
        self.replacers = list(replacers)

    def __call__(self, made: Tensor, number: int) -> Tensor:
        """What is fed (B * C, m, d)."""
        split = made.unflatten(0, (-1, len(self.replacers)))
        fed = [one(split[:, place], number) for place, one in enumerate(self.replacers)]
        return torch.stack(fed, 1).flatten(0, 1)
