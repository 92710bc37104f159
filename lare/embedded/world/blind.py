"""The blind baseline: what can be answered from the question's text alone.

From the answers of many training questions it learns, for each opening of a question, how often each option text is
right when offered, how often each letter is, and how often a named thing is there. It then takes the likeliest
option. A format on which this does much better than chance leaks its answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lare.embedded.world.benchmark import make_task
from lare.embedded.world.prompts import LETTERS

Key = tuple[str, ...]


@dataclass(frozen=True)
class Blind:
    """A question without its image: the words, the options, and the right one."""

    stem: str
    options: tuple[str, ...]
    index: int


def blind_view(task: str, row: Mapping[str, Any]) -> Blind:
    """Strip a row of a mini task of its image."""
    if task == "pope":
        return Blind(str(row["question"]), ("yes", "no"), int(row["answer"] == "no"))
    if task == "scienceqa":
        return Blind(f"{row['hint']} {row['question']}", tuple(row["choices"]), int(row["answer"]))
    if task == "mmvp":
        first, second = str(row["Options"]).removeprefix("(a) ").split(" (b) ", 1)
        return Blind(str(row["Question"]), (first, second), int(row["Correct Answer"] == "(b)"))
    if task == "mmstar":
        stem, listed = str(row["question"]).rsplit("\nOptions: ", 1)
        options = tuple(part.split(": ", 1)[1] for part in listed.split(", "))
        return Blind(stem, options, LETTERS.index(row["answer"]))
    options = tuple(str(row[letter]) for letter in "ABCD" if str(row[letter]) != "nan")
    return Blind(str(row["question"]), options, LETTERS.index(row["answer"]))


class BlindBaseline:
    """Majority table over (opening words, option text), backed off to the option text and to chance."""

    def __init__(self) -> None:
        self._right: defaultdict[Key, int] = defaultdict(int)
        self._offered: defaultdict[Key, int] = defaultdict(int)

    @staticmethod
    def _keys(question: Blind, option: str) -> tuple[Key, Key, Key]:
        words = question.stem.split()
        return (question.stem, option), (" ".join(words[:3]), option), (option,)

    def fit(self, questions: Iterable[Blind]) -> BlindBaseline:
        """Count how often each option was right among the times it was offered."""
        for question in questions:
            for i, option in enumerate(question.options):
                for key in self._keys(question, option):
                    self._offered[key] += 1
                    self._right[key] += int(i == question.index)
        return self

    def score(self, question: Blind, option: str) -> float:
        """Smoothed probability that the option is right; longer contexts lean on shorter ones."""
        estimate = 1.0 / len(question.options)
        for key in reversed(self._keys(question, option)):
            estimate = (self._right[key] + 8.0 * estimate) / (self._offered[key] + 8.0)
        return estimate

    def answer(self, question: Blind) -> int:
        """Index of the likeliest option; the first of equals."""
        scores = [self.score(question, option) for option in question.options]
        return scores.index(max(scores))


@dataclass(frozen=True)
class BlindScore:
    """Blind accuracy of one task beside chance, both in [0, 1]."""

    task: str
    n: int
    chance: float
    blind: float


def blind_answers(task: str, rows: Sequence[Mapping[str, Any]], n_train: int = 3000, version: int = 1) -> list[int]:
    """Blind answers (option indices) to rows, learnt from `n_train` training questions of the same task and version."""
    made = make_task(task, "train", n_train, seed=7, images=False, version=version)
    train = [blind_view(task, row) for row in made]
    baseline = BlindBaseline().fit(train)
    return [baseline.answer(blind_view(task, row)) for row in rows]


def blind_score(task: str, rows: Sequence[Mapping[str, Any]], n_train: int = 3000, version: int = 1) -> BlindScore:
    """Blind accuracy over single questions (for mmvp too: its pairs are unanswerable blind by construction)."""
    views = [blind_view(task, row) for row in rows]
    answers = blind_answers(task, rows, n_train, version)
    right = sum(a == v.index for a, v in zip(answers, views, strict=True))
    chance = sum(1.0 / len(v.options) for v in views) / len(views)
    return BlindScore(task, len(views), chance, right / len(views))


def format_table(scores: Iterable[BlindScore]) -> str:
    """The blind table as text."""
    lines = [f"{'task':<22}{'n':>6}{'chance %':>10}{'blind %':>10}"]
    lines += [f"lare_mini_{s.task:<12}{s.n:>6}{100 * s.chance:>10.1f}{100 * s.blind:>10.1f}" for s in scores]
    return "\n".join(lines)
