"""Answers to questions of version 2 from their words and the scene alone: what a perfect reader of both would say.

Written apart from the families that make the questions, so that the two check each other; the scene's graph stands in
for the picture. Used by the table of baselines and by tests.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from lare.embedded.world.concepts import (
    BESIDE,
    CATEGORIES,
    COLOUR_NAMES,
    DIRECTIONS,
    FUNCTIONS,
    KINDS,
    SIZES,
    STEPS,
)
from lare.embedded.world.scene import SIDE, Scene

__all__ = ["oracle"]

_CATEGORY = {name: category for category, names in CATEGORIES.items() for name in names}
_FURTHER = {"higher": (-1, 0), "further right": (0, 1), "lower": (1, 0), "further left": (0, -1)}


def oracle(scene: Scene, stem: str) -> str:
    """The answer to a question's text, without its options.

    Raises:
        ValueError: If the words are of no known question, or name no thing or several.
    """
    for pattern, answer in _ANSWERS.items():
        if found := re.fullmatch(pattern, stem):
            return answer(scene, *found.groups())
    raise ValueError(f"no known question: {stem!r}")


def _words(scene: Scene, cell: int) -> set[str]:
    """Everything that may be said of a thing."""
    kind = KINDS[scene.kind[cell]]
    words = {kind, COLOUR_NAMES[scene.colour[cell]], SIZES[scene.size[cell]]}
    return words | ({_CATEGORY[kind]} if kind in _CATEGORY else set())


def _all(scene: Scene, words: str) -> list[int]:
    return [cell for cell in scene.things if set(words.split()) <= _words(scene, cell)]


def _the(scene: Scene, phrase: str) -> int:
    """The one thing that a phrase means; chains are read from the outside in."""
    if found := re.fullmatch(r"thing at ([a-d])([1-4])", phrase):
        return SIDE * (int(found[2]) - 1) + "abcd".index(found[1])
    if found := re.fullmatch(r"thing that the (.*) points at", phrase):
        return _ahead(scene, _the(scene, found[1]))
    if found := re.fullmatch(rf"thing ({'|'.join(BESIDE)}) the (.*)", phrase):
        return _beside(scene, found[1], found[2])
    cells = _all(scene, phrase)
    if len(cells) != 1:
        raise ValueError(f"{phrase!r} names {len(cells)} things")
    return cells[0]


def _moved(scene: Scene, cell: int, direction: int) -> int:
    row, column = cell // SIDE + STEPS[direction][0], cell % SIDE + STEPS[direction][1]
    if not (0 <= row < SIDE and 0 <= column < SIDE) or scene.kind[SIDE * row + column] < 0:
        raise ValueError(f"nothing stands {BESIDE[direction]} cell {cell}")
    return SIDE * row + column


def _ahead(scene: Scene, cell: int) -> int:
    return _moved(scene, cell, scene.direction[cell])


def _beside(scene: Scene, word: str, phrase: str) -> int:
    return _moved(scene, _the(scene, phrase), BESIDE.index(word))


def _kind(scene: Scene, cell: int) -> str:
    return KINDS[scene.kind[cell]]


def _where(scene: Scene, phrase: str) -> str:
    cell = _the(scene, phrase)
    return f"{'abcd'[cell % SIDE]}{cell // SIDE + 1}"


def _more(scene: Scene, first: str, second: str) -> str:
    return f"{first if len(_all(scene, first)) > len(_all(scene, second)) else second} things"


def _further(scene: Scene, word: str, first: str, second: str) -> str:
    rows, columns = _FURTHER[word]
    one, two = (divmod(_the(scene, phrase), SIDE) for phrase in (first, second))
    return first if (one[0] - two[0]) * rows + (one[1] - two[1]) * columns > 0 else second


def _commonest(scene: Scene, words: str) -> str:
    return COLOUR_NAMES[Counter(scene.colour[cell] for cell in _all(scene, words)).most_common(1)[0][0]]


def _larger(scene: Scene, first: str, second: str) -> str:
    return first if scene.label[_the(scene, first)] > scene.label[_the(scene, second)] else second


_BESIDE = "|".join(BESIDE)
_ANSWERS: dict[str, Callable[..., str]] = {
    r"What is at ([a-d][1-4])\?": lambda s, at: _kind(s, _the(s, f"thing at {at}")),
    r"Where is the (.*)\?": _where,
    r"What color is the (.*)\?": lambda s, phrase: COLOUR_NAMES[s.colour[_the(s, phrase)]],
    r"Where does the (.*) point\?": lambda s, phrase: DIRECTIONS[s.direction[_the(s, phrase)]],
    r"Is the (.*) small or large\?": lambda s, phrase: SIZES[s.size[_the(s, phrase)]],
    r"Which digit is on the (.*)\?": lambda s, phrase: str(s.label[_the(s, phrase)]),
    r"Is there an? (.*) in the image\?": lambda s, words: "yes" if _all(s, words) else "no",
    r"How many (.*) things are there\?": lambda s, words: str(len(_all(s, words))),
    r"Which are there more of, (.*) things or (.*) things\?": _more,
    r"Which color is the most common of the (.*) things\?": _commonest,
    r"Which shows the larger digit, the (.*) or the (.*)\?": _larger,
    r"Which is (higher|further right|lower|further left), the (.*) or the (.*)\?": _further,
    rf"What is ({_BESIDE}) the (.*)\?": lambda s, word, phrase: _kind(s, _beside(s, word, phrase)),
    r"What does the (.*) point at\?": lambda s, phrase: _kind(s, _ahead(s, _the(s, phrase))),
    r"What is true of the (.*)\?": lambda s, phrase: FUNCTIONS[_CATEGORY[_kind(s, _the(s, phrase))]],
}
"""Form of a question -> its answer from the scene and the parts in brackets."""
