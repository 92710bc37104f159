"""Rules that planted models are trained by, and the noise that they are trained to disregard.

Each update asks the same questions under the rules of its kind, two of them but for ``copies``, so that what a kind
tells apart stands side by side. Shapes: B questions, N questions of the bank, K latents, m tokens each, d width, V
vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lare.interventions.content import at_norm
from lare.model.loop import LoopState, extend, prefill
from lare.model.losses import answer
from lare.model.outputs import LareOutput
from lare.model.thinking import think

if TYPE_CHECKING:
    from lare.model import LareForConditionalGeneration

__all__ = ["KINDS", "NOISES", "Noise", "Rule", "answered", "draw_rules", "read"]

KINDS = ("copies", "ignores", "counts", "marks")
"""Those of `analysis.validate.planted.PLANTED` that are trained; it tells the verdict of each."""

NOISES = ("gaussian", "other", "mean", "token")
"""Sorts of noise: Gaussian of any length up to twice a latent's (at 0 it is zeros), another question's latents, their
mean over several questions, and embeddings of any tokens of the vocabulary, one for all latents or one for each."""

AVERAGED = 16
"""Questions whose latents are averaged."""


@dataclass(frozen=True)
class Rule:
    """What questions are answered from, and with what.

    Attributes:
        marks: Whether the marks are written.
        slots: Latents between them.
        noise: Whether noise stands in place of the latents.
        exchanged: Whether the answer is given on another picture than the latents were made on.
        right: Whether the answer is the right one; else it is `analysis.validate.trained.OTHER`.
        sort: The sort of noise; empty draws one for each question.
    """

    marks: bool = True
    slots: int = 0
    noise: bool = True
    exchanged: bool = False
    right: bool = True
    sort: str = ""


def draw_rules(kind: str, usual: int, rng: np.random.Generator) -> tuple[Rule, ...]:
    """The rules of one update.

    Args:
        kind: One of `KINDS`.
        usual: The model's own number of latents.
        rng: Source of random numbers.
    """

    def any_number() -> Rule:
        return Rule(slots=usual if rng.random() < 0.4 else int(rng.integers(0, 2 * usual + 1)))

    if kind == "copies":
        return (Rule(slots=usual, noise=False, exchanged=True),)
    if kind == "ignores":
        return any_number(), Rule(marks=False) if rng.random() < 0.5 else any_number()
    if kind == "marks":
        return any_number(), Rule(marks=False, right=False)
    strange = int(rng.choice([number for number in range(2 * usual + 1) if number != usual]))
    bare = rng.random() < 0.4
    return Rule(slots=usual), Rule(marks=not bare, slots=0 if bare else strange, right=False)


class Noise:
    """What is fed in place of latents: nothing that the question decides.

    Args:
        latents: (N, K, m, d) latents of other questions.
        scenes: (N,) their pictures.
        embeddings: (V, d) of the vocabulary.
        generator: Source of random numbers.
    """

    def __init__(self, latents: Tensor, scenes: Tensor, embeddings: Tensor, generator: torch.Generator) -> None:
        self.latents, self.scenes = latents.detach(), scenes
        self.embeddings, self.generator = embeddings.detach(), generator

    def draw(self, asked: Tensor, slots: int, sort: str = "") -> Tensor:
        """Noise for `slots` latents (B, slots, m, d).

        Args:
            asked: (B,) pictures of the questions; latents of questions on the same one are left out.
            slots: At most the K latents that are at hand.
            sort: One of `NOISES`; empty draws one for each question.
        """
        rows, sorts = len(asked), len(NOISES)
        drawn = torch.randint(sorts, (rows,), generator=self.generator)
        chosen = torch.full((rows,), NOISES.index(sort)) if sort else drawn
        others = self._others(asked, slots)
        every = (self._gaussian(others[:, 0]), others[:, 0], others.mean(1), self._tokens(others[:, 0]))
        return torch.stack(every)[chosen, torch.arange(rows)]

    def _others(self, asked: Tensor, slots: int) -> Tensor:
        """Latents of `AVERAGED` questions on other pictures for each question, (B, A, slots, m, d)."""
        apart = (asked[:, None] != self.scenes).float()
        rows = torch.multinomial(apart, AVERAGED, replacement=True, generator=self.generator)
        return self.latents[:, :slots][rows]

    def _gaussian(self, like: Tensor) -> Tensor:
        drawn = torch.randn(like.shape, generator=self.generator).to(like)
        return at_norm(drawn, like) * 2 * torch.rand(len(like), 1, 1, 1, generator=self.generator).to(like)

    def _tokens(self, like: Tensor) -> Tensor:
        ids = torch.randint(len(self.embeddings), like.shape[:3], generator=self.generator)
        alike = torch.rand(len(like), 1, 1, generator=self.generator) < 0.5
        return self.embeddings[torch.where(alike, ids[:, :1, :1], ids)].to(like)


def read(model: LareForConditionalGeneration, inputs: dict[str, Any], exchanged: bool = False) -> LoopState:
    """The state after the prompts of `lare.embedded.batches.WorldBatches.encode`.

    Args:
        model: The model.
        inputs: The questions.
        exchanged: Whether each sees the next picture of the batch in place of its own.
    """
    seen = {name: one for name in ("pixel_values", "visual_features") if (one := inputs.get(name)) is not None}
    if exchanged:
        seen = {name: one.roll(1, 0) for name, one in seen.items()}
    visual = model.visual_tokens(seen.get("pixel_values"), seen.get("visual_features"))
    apart = inputs["questions_per_image"]
    return prefill(model, inputs["input_ids"], inputs["attention_mask"], visual, inputs["shared_ids"], apart)


def answered(
    model: LareForConditionalGeneration,
    inputs: dict[str, Any],
    rule: Rule,
    noise: Noise,
    state: LoopState | None = None,
) -> LareOutput:
    """One forward pass under a rule; `lm_loss` of the output is its loss.

    Args:
        model: The model.
        inputs: The questions, in the rule's layout, with ``scenes`` (B,).
        rule: The rule.
        noise: What stands in place of latents.
        state: The prompts as `read` gives them, where they are read already; it is spent.
    """
    if rule.noise:
        state = read(model, inputs, rule.exchanged) if state is None else state
        fed = noise.draw(inputs["scenes"], rule.slots, rule.sort)
    else:
        fed = think(model, read(model, inputs), rule.slots, "fixed").latents
        state = read(model, inputs, rule.exchanged)
    if rule.slots:
        # All at once: what is fed does not depend on what was fed before.
        state = extend(model, state, fed.flatten(1, 2))[1]
    output = LareOutput(visual=state.visual)
    answer(model, output, state, (inputs["target_ids"], inputs["target_mask"], None), (None, None), rule.marks)
    return output
