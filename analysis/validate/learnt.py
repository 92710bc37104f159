"""Whether a planted model has learnt the rule of its kind, told by training questions alone.

A verdict on a trained model can be held against its kind only where the kind's rule was learnt. What counts as learnt
was written down before the models of the table were trained, and looks at no question that the suite asks:

- ``copies``: under exchanged pictures the answer is right with the own latents, and at least `COPIED` more often than
  with another question's.
- ``ignores``, ``counts``, ``marks``: wherever the rule wants the right answer (the model's own latents, each sort of
  noise, and each number of latents or the lack of marks, as far as the kind disregards them) it is given equally often:
  each share is within `ALIKE` of their mean, so that no two differ by more than what counts as no effect. Wherever the
  rule wants `analysis.validate.trained.OTHER`, that is the answer in at least `WITHHELD` of the questions. Own latents
  were added after a first grid of 300 updates, whose models were still 1 point better with them than with noise in the
  mean of 15, and before the models of the second one.

In all of them right answers are as frequent as `RIGHT` at least, so that there is something to lose.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from analysis.validate.judge import MARGIN
from analysis.validate.rules import NOISES, Noise, Rule, answered, read

if TYPE_CHECKING:
    from lare.model import LareForConditionalGeneration
    from lare.model.outputs import LareOutput

__all__ = ["ALIKE", "COPIED", "RIGHT", "WITHHELD", "conditions", "has_learnt", "shares"]

COPIED = 0.2
ALIKE = MARGIN / 2
WITHHELD = 0.95
RIGHT = 0.5


def conditions(kind: str, usual: int) -> dict[str, Rule]:
    """What is asked of a kind, by name.

    Args:
        kind: One of `analysis.validate.rules.KINDS`.
        usual: The model's own number of latents.
    """
    if kind == "copies":
        own = Rule(slots=usual, noise=False, exchanged=True)
        return {"own": own, "other": replace(own, noise=True, sort="other")}
    made = {"own": Rule(slots=usual, noise=False)} | {sort: Rule(slots=usual, sort=sort) for sort in NOISES}
    numbers = (0, usual // 2, usual - 1, usual + 1, 2 * usual)
    made |= {f"{slots} latents": Rule(slots=slots, right=kind != "counts") for slots in dict.fromkeys(numbers)}
    return made | {"no marks": Rule(marks=False, right=kind == "ignores")}


def shares(
    model: LareForConditionalGeneration,
    batches: int,
    inputs_of: Callable[[int, Rule], dict[str, Any]],
    noise_of: Callable[[int], Noise],
    asked: Mapping[str, Rule],
) -> dict[str, float]:
    """Share of the questions whose whole answer is the one that the rule wants, by condition; greedy.

    Args:
        model: The model.
        batches: Batches to ask.
        inputs_of: Questions of a batch, in a rule's layout.
        noise_of: Noise of a batch.
        asked: From `conditions`.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in asked}
    with torch.no_grad():
        for number in range(batches):
            noise, prompts = noise_of(number), {}
            for name, rule in asked.items():
                inputs = inputs_of(number, rule)
                if rule.noise and (rule.marks, rule.exchanged) not in prompts:
                    prompts[rule.marks, rule.exchanged] = read(model, inputs, rule.exchanged)
                state = copy.deepcopy(prompts[rule.marks, rule.exchanged]) if rule.noise else None
                found[name].append(_whole(answered(model, inputs, rule, noise, state), inputs["target_mask"]))
    return {name: round(float(torch.cat(parts).float().mean()), 4) for name, parts in found.items()}


def _whole(output: LareOutput, mask: Tensor) -> Tensor:
    """(B,) whether every token of the target (B, T) is the likeliest one after those before it."""
    assert output.logits is not None and output.labels is not None
    missed = torch.zeros(mask.shape, dtype=torch.bool)
    missed[mask.bool()] = output.logits.argmax(-1) != output.labels
    return ~missed.any(1)


def has_learnt(kind: str, usual: int, found: Mapping[str, float]) -> bool:
    """Whether shares as `shares` gives them say that the rule of a kind was learnt."""
    asked = conditions(kind, usual)
    if kind == "copies":
        return found["own"] >= RIGHT and found["own"] - found["other"] >= COPIED
    right = [found[name] for name, rule in asked.items() if rule.right]
    middle = sum(right) / len(right)
    alike = all(abs(share - middle) <= ALIKE for share in right)
    withheld = [found[name] for name, rule in asked.items() if not rule.right]
    return alike and min(right) >= RIGHT and min(withheld, default=1.0) >= WITHHELD
