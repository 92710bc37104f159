"""What a data set gives away without its images: chance, the commonest answer, and a guesser that reads the question.

A model that looks has to beat these. The guessers learn from the train split and are asked about another.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lare.data.sample import Sample

__all__ = ["BlindScore", "QuestionOnly", "blind_scores", "blind_table"]

_OPTION = re.compile(r"^([A-Z])\. (.+)$", re.MULTILINE)
_LEAN = 8.0  # questions' worth of the shorter context that a longer one leans on


class BlindScore(NamedTuple):
    """Shares in [0, 1] of one family that are right without the image, by exact match.

    Attributes:
        family: The question family; `all` for every one together.
        n: Questions asked.
        n_train: Questions that the guessers learnt from.
        answers: Different answers among these.
        majority: Right with the family's commonest answer.
        question_only: Right with `QuestionOnly`.
    """

    family: str
    n: int
    n_train: int
    answers: int
    majority: float
    question_only: float


class QuestionOnly:
    """Answers with what was most often right after the same words: the question, its beginning, its family.

    Of lettered options it takes the one whose text was most often right among the times that it was offered.
    """

    def __init__(self) -> None:
        self._right: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        self._offered: defaultdict[str, Counter[str]] = defaultdict(Counter)

    @staticmethod
    def _keys(sample: Sample) -> list[tuple[str, ...]]:
        """Contexts from the shortest to the longest."""
        words = sample.question.lower().split()
        beginnings = [(sample.family, *words[:count]) for count in (2, 3, 4, 6)]
        return [(sample.family,), *beginnings, (sample.family, " ".join(words))]

    def fit(self, samples: Iterable[Sample]) -> QuestionOnly:
        """Count answers by context, and options by their text."""
        for sample in samples:
            options = _options(sample)
            if options:
                self._offered[sample.family].update(options.values())
                self._right[sample.family, "option"][options.get(sample.answer, "")] += 1
            for key in self._keys(sample):
                self._right[key][sample.answer] += 1
        return self

    def majority(self, sample: Sample) -> str:
        """The commonest answer of the sample's family."""
        return _commonest(self._right[(sample.family,)])

    def answer(self, sample: Sample) -> str:
        """The likeliest answer; the alphabet decides between equals."""
        options = _options(sample)
        if options:
            right, offered = self._right[sample.family, "option"], self._offered[sample.family]
            score = {
                letter: (right[text] + _LEAN / len(options)) / (offered[text] + _LEAN)
                for letter, text in options.items()
            }
            return max(sorted(score), key=lambda letter: score[letter])
        shares: dict[str, float] = {}
        for key in self._keys(sample):
            found = self._right[key]
            total = found.total() + _LEAN
            names = {*shares, *found}
            shares = {name: (found[name] + _LEAN * shares.get(name, 0.0)) / total for name in names}
        return _commonest(shares)


def _options(sample: Sample) -> dict[str, str]:
    """Text of each lettered option."""
    return dict(_OPTION.findall(sample.question))


def _commonest(counts: Mapping[str, float]) -> str:
    return max(sorted(counts), key=lambda name: counts[name], default="")


def blind_scores(train: Sequence[Sample], asked: Sequence[Sample]) -> list[BlindScore]:
    """What can be answered blind, by family, and over all where there are several.

    Args:
        train: What the guessers learn from.
        asked: What they are asked.
    """
    guesser = QuestionOnly().fit(train)
    learnt: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for sample in train:
        learnt[sample.family][sample.answer] += 1
    right: defaultdict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for sample in asked:
        answer = sample.answer.lower()
        found = guesser.majority(sample).lower() == answer, guesser.answer(sample).lower() == answer
        right[sample.family].append(found)
    scores = [_score(family, right[family], learnt[family]) for family in right]
    if len(scores) > 1:
        every = [one for found in right.values() for one in found]
        scores.append(_score("all", every, sum(learnt.values(), Counter())))
    return scores


def _score(family: str, right: Sequence[tuple[bool, bool]], learnt: Counter[str]) -> BlindScore:
    majority, question = (sum(one[at] for one in right) / len(right) for at in (0, 1))
    return BlindScore(family, len(right), learnt.total(), len(learnt), majority, question)


def blind_table(scores: Sequence[BlindScore]) -> str:
    """The scores as text, in per cent."""
    lines = [f"{'family':<22}{'train':>8}{'asked':>8}{'answers':>9}{'majority %':>12}{'question only %':>17}"]
    lines += [
        f"{one.family or '(none)':<22}{one.n_train:>8,}{one.n:>8,}{one.answers:>9,}{100 * one.majority:>12.1f}"
        f"{100 * one.question_only:>17.1f}"
        for one in scores
    ]
    return "\n".join(lines)
