"""The suite: one method, one set of questions, every intervention that means something to it.

Asked in three rounds. First the natural run, and the same questions with another picture or another question before the
latents; their latents are kept. Then everything that begins with the same prefix, in one call a batch, with latents of
others, means and spreads from the first round; and what begins otherwise, in its own. Last the oracles, on questions
that have boxes, and the text rationale of the same weights.

Shapes: N questions, K steps, m latents a step, d width.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from analysis.shared.asking import mark
from analysis.shared.questions import Question
from analysis.validate.store import Part, Reply, Store, identity_of, reply_of
from lare.errors import LareError
from lare.interventions import Asked, Bank, Setting, draw_partners, get_intervention, intervention_names
from lare.methods.base import Sampling
from lare.progress import progress
from lare.trace import SHARES

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.methods.base import Answer, Method

__all__ = ["RATIONALE", "Asking", "Outcome", "Outcomes", "asked_of", "run_suite"]

RATIONALE = "rationale"
"""Name under which the answers of the text rationale stand."""

KEPT = ("own", "image", "question")
"""Settings whose latents are kept."""

_Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """Answers to N questions under one setting.

    Attributes:
        asked: (N,) which were asked.
        right: (N,) right answers.
        readable: (N,) False where options were shown and none could be read.
        replies: What is scored of each; empty where it was not asked.
        tokens: (N,) text tokens.
        steps: (N,) latent iterations.
        prompt: (N,) tokens of the prompt.
        seconds: (N,) each answer's part of its batch's time.
    """

    asked: _Flags
    right: _Flags
    readable: _Flags
    replies: list[str]
    tokens: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    prompt: npt.NDArray[np.int64]
    seconds: npt.NDArray[np.float64]

    def take(self, rows: npt.NDArray[np.int64]) -> Outcome:
        """Some of the questions."""
        said = [self.replies[row] for row in rows]
        flags = self.asked[rows], self.right[rows], self.readable[rows]
        counts = self.tokens[rows], self.steps[rows], self.prompt[rows]
        return Outcome(*flags, said, *counts, self.seconds[rows])


@dataclass(frozen=True)
class Outcomes:
    """Everything that was asked.

    Attributes:
        by_name: Setting to its answers, "own" first; the text rationale as `RATIONALE`.
        latents: For each setting of `KEPT`, (N, K, m, d).
        scenes: Cluster of each question.
        left_out: Setting to why it was not asked.
        read: Parts that were on disk already.
        shares: For each setting of `KEPT`, (N, K, 4) what each latent step attends to (`lare.trace.SHARES`), zeros
            after a question's last step; empty where the method's traces don't tell.
    """

    by_name: Mapping[str, Outcome]
    latents: Mapping[str, Tensor]
    scenes: Sequence[str]
    left_out: Mapping[str, str] = field(default_factory=dict)
    read: int = 0
    shares: Mapping[str, Tensor] = field(default_factory=dict)

    def take(self, rows: npt.NDArray[np.int64]) -> Outcomes:
        """Some of the questions."""
        latents, shares = (
            {name: one[torch.from_numpy(rows)] for name, one in kept.items()} for kept in (self.latents, self.shares)
        )
        by_name = {name: one.take(rows) for name, one in self.by_name.items()}
        scenes = [self.scenes[row] for row in rows]
        return replace(self, by_name=by_name, latents=latents, scenes=scenes, shares=shares)


@dataclass(frozen=True)
class Asking:
    """How the suite asks.

    Attributes:
        batch: Questions of a call; those that share a prefix are as many times more rows.
        seed: Seed of draws.
        keep: Folder where parts are kept; None keeps nothing.
        rationale: A method of the same weights that writes its rationale; None has none.
        only: Settings to ask beside "own"; none asks all.
        quiet: No progress bar.
    """

    batch: int = 16
    seed: int = 0
    keep: str | None = None
    rationale: Method | None = None
    only: tuple[str, ...] = ()
    quiet: bool = False


def asked_of(questions: Sequence[Question]) -> list[Asked]:
    """Questions as interventions know them; their group is their picture's scene."""
    return [Asked(f"{one.task}/{one.doc_id}", one.scene, one.task, one.boxes) for one in questions]


def run_suite(method: Method, questions: Sequence[Question], asking: Asking) -> Outcomes:
    """Ask everything.

    Raises:
        LareError: If the method makes no latents, or all questions are about one picture.
    """
    return _Suite(method, questions, asking).run()


class _Suite:
    """One run of the suite."""

    def __init__(self, method: Method, questions: Sequence[Question], asking: Asking) -> None:
        self.method, self.questions, self.asking = method, list(questions), asking
        self.asked = asked_of(questions)
        self.partners = draw_partners(self.asked, self.asked, asking.seed)
        keys = [(who.key, one.text, one.max_new_tokens) for who, one in zip(self.asked, questions, strict=True)]
        identity = [method.fingerprint(), method.arguments(), keys, asking.seed, asking.batch, 1]
        self.store = Store(asking.keep, identity)
        self.order = sorted(range(len(self.questions)), key=self._kind)
        self.left_out: dict[str, str] = {}
        self.replies: dict[str, dict[int, Reply]] = {}
        self.latents: dict[str, dict[int, Tensor]] = {}
        self.shares: dict[str, dict[int, Tensor]] = {}

    def run(self) -> Outcomes:
        """All rounds."""
        wanted = [name for name in intervention_names() if self._means_something(name)]
        first = [name for name in wanted if name in KEPT]
        for name in first:
            self._round(name, [Setting(name, self.asking.seed)], range(len(self.questions)), keep=True)
        own, moved = self._bank("own"), self._bank("image") if "image" in first else None
        banks = {name: moved if name == "image_latents" else own for name in wanted}
        settings = [Setting(name, self.asking.seed, bank) for name, bank in banks.items()]
        rest = [one for one in settings if one.name not in first]
        every = range(len(self.questions))
        boxed = [row for row, who in enumerate(self.asked) if who.boxes]
        shared = [one for one in rest if not one.intervention.exchanges and "boxes" not in one.intervention.needs]
        self._round("replaced", [one for one in shared if one.intervention.marks], every)
        for one in rest:
            if one.intervention.exchanges or not one.intervention.marks:
                self._round(one.name, [one], every)
        self._round("oracles", [one for one in rest if "boxes" in one.intervention.needs], boxed)
        if self.asking.rationale is not None:
            self._round(RATIONALE, [], every, self.asking.rationale)
        return self._outcomes(wanted)

    def _means_something(self, name: str) -> bool:
        only = self.asking.only
        if only and name not in ("own", *only):
            return False
        one = get_intervention(name)
        if "boxes" in one.needs and not any(who.boxes for who in self.asked):
            self.left_out[name] = "the task has no boxes"
            return False
        try:
            self.method.check_setting(Setting(name))
        except LareError as error:
            if name == "own":
                raise
            self.left_out[name] = str(error)
            return False
        return True

    def _bank(self, name: str) -> Bank:
        rows = [self.latents[name][row] for row in range(len(self.questions))]
        if not any(len(one) for one in rows):
            raise LareError(f"the method {self.method.name!r} makes no latents here, so there is nothing to validate")
        steps = torch.tensor([self.replies[name][row].steps for row in range(len(self.questions))])
        return Bank(tuple(self.asked), _padded(rows), steps)

    def _round(self, label: str, settings: list[Setting], rows: Sequence[int], other: Method | None = None,
               keep: bool = False) -> None:  # fmt: skip
        """Ask some questions under settings that go together, or another method."""
        chosen = set(rows)
        if not chosen or not (settings or other):
            return
        names = [one.name for one in settings] or [label]
        key = label if other is None else f"{label}-{identity_of(other.arguments())[:8]}"
        for number, batch in self._batches(label, [row for row in self.order if row in chosen]):
            part = self.store.part(f"{key}-{number:05d}", names, partial(self._ask, batch, settings, other, keep))
            for name in names:
                self.replies.setdefault(name, {}).update(zip(batch, part.replies[name], strict=True))
                for kept, found in ((self.latents, part.latents), (self.shares, part.shares)):
                    if name in found:
                        kept.setdefault(name, {}).update(zip(batch, found[name], strict=True))

    def _batches(self, label: str, rows: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        size = self.asking.batch
        quiet = self.asking.quiet or not sys.stderr.isatty()
        alike = [list(one) for _, one in groupby(rows, lambda row: self._kind(row)[:2])]
        batches = [one[start : start + size] for one in alike for start in range(0, len(one), size)]
        yield from enumerate(progress(batches, desc=label, unit="batch", disable=quiet, leave=False))

    def _kind(self, row: int) -> tuple[int, tuple[str, ...], int]:
        """How a question's text is decoded, and its length: a batch is alike in the first two."""
        one = self.questions[row]
        return one.max_new_tokens, one.stop, len(one.text)

    def _ask(self, batch: list[int], settings: list[Setting], other: Method | None, keep: bool) -> Part:
        chosen = [self.questions[row] for row in batch]
        exchanges = settings[0].intervention.exchanges if settings else ""
        images, texts = self._exchanged(batch, exchanges)
        limit = Sampling(chosen[0].max_new_tokens, stop=chosen[0].stop)
        if other is not None:
            return Part({RATIONALE: [reply_of(one) for one in other.answer(images, texts, limit)]}, {})
        asked = [self.asked[row] for row in batch]
        found = self.method.answer_under(images, texts, limit, settings, asked, trace=keep)
        replies = {one.name: [reply_of(a) for a in answers] for one, answers in zip(settings, found, strict=True)}
        if not keep:
            return Part(replies, {})
        named = [(one.name, answers) for one, answers in zip(settings, found, strict=True)]
        told = [(name, answers) for name, answers in named if any("step_shares" in one.arrays for one in answers)]
        latents = {name: _arrays(answers, "latents", _NONE) for name, answers in named}
        return Part(replies, latents, {name: _arrays(answers, "step_shares", _NO_SHARES) for name, answers in told})

    def _exchanged(self, batch: Sequence[int], what: str) -> tuple[list[Image], list[str]]:
        images = self.partners if what == "image" else range(len(self.questions))
        texts = self.partners if what == "question" else range(len(self.questions))
        return [self.questions[images[row]].image for row in batch], [self.questions[texts[row]].text for row in batch]

    def _outcomes(self, wanted: Sequence[str]) -> Outcomes:
        names = [name for name in (*wanted, RATIONALE) if name in self.replies]
        latents, shares = (
            {name: _padded([rows[row] for row in range(len(rows))]) for name, rows in kept.items()}
            for kept in (self.latents, self.shares)
        )
        scenes = [one.scene for one in self.questions]
        by_name = {name: self._outcome(self.replies[name]) for name in names}
        shares = {name: one for name, one in shares.items() if len(one) == len(scenes)}
        return Outcomes(by_name, latents, scenes, self.left_out, self.store.read, shares)

    def _outcome(self, replies: Mapping[int, Reply]) -> Outcome:
        count = len(self.questions)
        flags = np.zeros((3, count), bool)
        numbers, seconds, said = np.zeros((3, count), np.int64), np.zeros(count), [""] * count
        for row, reply in replies.items():
            said[row], right, readable = mark(reply.text, self.questions[row])
            flags[:, row] = True, right, readable
            numbers[:, row], seconds[row] = (reply.tokens, reply.steps, reply.prompt), reply.seconds
        return Outcome(flags[0], flags[1], flags[2], said, numbers[0], numbers[1], numbers[2], seconds)


_NONE = torch.zeros(0, 1, 1)
_NO_SHARES = torch.zeros(0, len(SHARES))


def _arrays(answers: Sequence[Answer], name: str, none: Tensor) -> Tensor:
    """A column of answers (K, ...) as (B, K, ...); `none` stands for one that lacks it."""
    found = [one.arrays.get(name) for one in answers]
    return _padded([none if one is None else torch.from_numpy(np.asarray(one, np.float32)) for one in found])


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """Arrays (K, ...) of several lengths as (N, K, ...), zeros after each one's last."""
    like = max(rows, key=len)
    filled = like.new_zeros(len(rows), *like.shape)
    for place, one in enumerate(rows):
        if len(one):
            filled[place, : len(one)] = one
    return filled
