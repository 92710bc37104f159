"""Planted models: six reasoners whose verdict is known by construction, so that the suite can be tested on itself.

Each sees a picture of one colour under heavy noise and has to name the colour's letter. All make the same latents:
step t holds what a quarter of the picture says of the colour, in a code of d dimensions. They differ in what decodes:

- ``copies`` reads the colour off the latents, and has but a blurred view of its own: the verdict is "content".
- ``ignores`` reads the picture and not the latents: "ignored".
- ``counts`` reads the picture the better the more slots there are, whatever they hold: "count".
- ``marks`` reads the picture well if the marks are there, with or without latents: "marks".
- ``hints`` is the same, but the marks are worth 4 points only, which is too little to see and too much to rule out at
  the numbers of questions that are usual: "not_latents". "marks" and "ignored" are not wrong of it either.
- ``hurts`` reads the picture the worse the more slots there are, up to the usual number: "harmful".

``ignores``, ``counts``, ``marks`` and ``hints`` leak: what the latents hold moves their scores a little. Replacing it
therefore flips some close answers either way, as it does in trained models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from analysis.shared.questions import Question
from lare.errors import LareError
from lare.interventions import Asked, Replacer, Setting
from lare.interventions.asked import generator_of
from lare.methods.base import Answer, Method, Sampling

if TYPE_CHECKING:
    from lare.interventions import Intervention

__all__ = ["ALSO", "PLANTED", "Planted", "planted_questions"]

PLANTED: Mapping[str, str] = {
    "copies": "content",
    "ignores": "ignored",
    "counts": "count",
    "marks": "marks",
    "hints": "not_latents",
    "hurts": "harmful",
}
"""Kinds, and the verdict that each must get."""

ALSO: Mapping[str, frozenset[str]] = {"hints": frozenset({"marks", "ignored"})}
"""Verdicts that are true of a kind, too: its effect is real, and smaller than what counts as absent."""

STEPS, WIDTH, SIDE = 4, 16, 8
LETTERS = "ABCD"
COLOURS = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200], [180, 180, 60]], dtype=torch.float32)
NOISE = 330.0
"""Standard deviation of a pixel's noise, in steps of colour: a quarter of a picture leaves doubt."""
LEAK = 0.08
"""How much latents move the scores of a model that does not need them, in shares of what the picture says."""
BLUR = 0.3
"""Noise on the scores of a model that lacks what it needs, and on the own view of the one that copies."""
HINT = 0.1
"""Noise on the scores of a model that lacks marks which are worth little to it."""
TEXT = "Which colour is it? A. red B. green C. blue D. yellow"


def planted_questions(count: int, seed: int) -> list[Question]:
    """Questions about noisy pictures of one colour; each has a picture of its own."""
    rng = np.random.default_rng(seed)
    right = rng.integers(len(LETTERS), size=count)
    questions = []
    for number, letter in enumerate(right.tolist()):
        pixels = COLOURS[letter].numpy() + NOISE * rng.standard_normal((SIDE, SIDE, 3))
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        box = (0.0, 0.0, 1.0, 0.25)
        scene = f"{seed}-{number}"
        questions.append(Question("planted", number, TEXT, LETTERS[letter], scene, image, boxes=(box,)))
    return questions


@dataclass(frozen=True)
class _Seen:
    """What a decoder may use: B rows.

    Attributes:
        picture: (B, 4) what the picture says of each colour; zeros where it is hidden.
        read: (B, 4) what the latents say; zeros without latents.
        count: Slots.
        marks: Whether the marks are there.
        mind: (B, 4) standard normal numbers of the question.
    """

    picture: Tensor
    read: Tensor
    count: int
    marks: bool
    mind: Tensor


class Planted(Method):
    """A planted reasoner; it has no weights and no processor.

    Args:
        kind: A key of `PLANTED`.
        seed: Seed of code and of its doubts.

    Raises:
        LareError: If the kind is unknown.
    """

    name = "planted"
    latent = True

    def __init__(self, kind: str, seed: int = 0) -> None:
        if kind not in PLANTED:
            raise LareError(f"there is no planted model {kind!r}; choose from {', '.join(PLANTED)}")
        self.kind, self.seed = kind, seed
        generator = generator_of(seed, "code")
        self.code = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0][: len(LETTERS)]
        self.padding = torch.randn(WIDTH, generator=generator) / WIDTH**0.5
        self._minds: dict[str, Tensor] = {}

    def fingerprint(self) -> str:
        """See `Method.fingerprint`."""
        return f"planted-{self.kind}-{self.seed}"

    def arguments(self) -> dict[str, Any]:
        """See `Method.arguments`."""
        return {"method": self.name, "kind": self.kind}

    def check_setting(self, setting: Setting) -> None:
        """See `Method.check_setting`; all but oracles mean something."""
        if "boxes" in setting.intervention.needs:
            raise LareError("a planted model has no visual tokens")

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[str], sampling: Sampling, trace: bool = False
    ) -> list[Answer]:
        """See `Method.answer`."""
        asked = [Asked(str(row), str(row)) for row in range(len(images))]
        return self.answer_under(images, questions, sampling, [Setting()], asked, trace)[0]

    def answer_under(
        self,
        images: Sequence[Image.Image],
        questions: Sequence[str],
        sampling: Sampling,
        settings: Sequence[Setting],
        asked: Sequence[Asked] | None = None,
        trace: bool = False,
    ) -> list[list[Answer]]:
        """See `Method.answer_under`."""
        assert asked is not None, "planted models take the questions' names"
        quarters = _quarters(images)
        mind = torch.stack([self._mind(one) for one in asked])
        return [self._under(setting, quarters, mind, asked, trace) for setting in settings]

    def _mind(self, one: Asked) -> Tensor:
        if one.key not in self._minds:
            self._minds[one.key] = torch.randn(len(LETTERS), generator=generator_of(self.seed, one.key, "mind"))
        return self._minds[one.key]

    def _under(
        self, setting: Setting, quarters: Tensor, mind: Tensor, asked: Sequence[Asked], trace: bool
    ) -> list[Answer]:
        one = setting.intervention
        fed = self._latents(setting, quarters, asked)
        count = fed.shape[1]
        read = torch.einsum("bkmd,cd->bc", fed, self.code) / max(count, 1)
        picture = torch.zeros_like(mind) if one.hides_image else quarters.mean(1)
        chosen = self._scores(_Seen(picture, read, count, one.marks, mind)).argmax(1).tolist()
        arrays = fed.numpy() if trace else None
        return [
            Answer(LETTERS[letter], 70, 1, count, arrays={} if arrays is None else {"latents": arrays[row]})
            for row, letter in enumerate(chosen)
        ]

    def _latents(self, setting: Setting, quarters: Tensor, asked: Sequence[Asked]) -> Tensor:
        """(B, K, 1, d) as fed."""
        one: Intervention = setting.intervention
        count = STEPS if one.steps is None else one.steps(STEPS)
        replacer = Replacer(setting, asked, self.padding)
        made = [(quarters[:, step % STEPS] @ self.code)[:, None] for step in range(count)]
        fed = [replacer(latents, step) for step, latents in enumerate(made)]
        return torch.stack(fed, 1) if fed else quarters.new_zeros(len(quarters), 0, 1, WIDTH)

    def _scores(self, seen: _Seen) -> Tensor:
        """(B, 4) of the letters."""
        if self.kind == "copies":
            return seen.read + seen.picture + BLUR * seen.mind
        own = seen.picture + LEAK * seen.read
        if self.kind == "counts":
            lacking = max(0.0, 1 - seen.count / STEPS)
            return own + BLUR * lacking * seen.mind
        if self.kind in ("marks", "hints"):
            lost = BLUR if self.kind == "marks" else HINT
            return own + (0.0 if seen.marks else lost) * seen.mind
        if self.kind == "hurts":
            return seen.picture + BLUR * min(1.0, seen.count / STEPS) * seen.mind
        return own


def _quarters(images: Sequence[Image.Image]) -> Tensor:
    """(B, 4, 4) what each quarter of a picture says of each colour, of unit spread."""
    pixels = torch.from_numpy(np.stack([np.asarray(one, np.float32) for one in images]))
    means = pixels.unflatten(1, (STEPS, -1)).mean((2, 3))
    unit = torch.nn.functional.normalize(COLOURS - COLOURS.mean(1, keepdim=True), dim=1)
    said = (means - means.mean(-1, keepdim=True)) @ unit.T
    return torch.nn.functional.normalize(said, dim=-1)
