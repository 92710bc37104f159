"""Chains of one to six steps: displacement ("above the thing right of the cat") and gaze ("what does it point at").

A displacement chain has a shortcut, since displacements add up; it must not get easier with more steps. So it never
ends at its start or beside it (from two steps on), and its words alone leave at least four places for its end: a walk
that spans the whole board would tell where it ends without its start. A gaze chain has no shortcut: its words are the
same wherever it leads, and each step must be seen before the next is known. No chain enters a cell twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np

from lare.embedded.world.concepts import (
    BESIDE,
    CATEGORY_NAMES,
    CATEGORY_OF,
    COLOUR_NAMES,
    DIRECTIONS,
    FUNCTIONS,
    KINDS,
    N_DRAWINGS,
    SIZES,
    STEPS,
    TILE,
    TILE_KIND,
)
from lare.embedded.world.scene import CELLS, SIDE
from lare.embedded.world.v2.scene import MAX_HOPS, Scene2, walks
from lare.embedded.world.wording import Question, name_of, place

__all__ = [
    "ATTRIBUTES",
    "Chain",
    "attribute_question",
    "displaced",
    "end_question",
    "fair_kind",
    "gazed",
    "routes",
    "with_tile",
]

ATTRIBUTES = ("colour", "direction", "size", "digit")
_ASK = {
    "colour": "What color is the {}?",
    "direction": "Where does the {} point?",
    "size": "Is the {} small or large?",
    "digit": "Which digit is on the {}?",
}
_TURNS = {row * SIDE + column: direction for direction, (row, column) in enumerate(STEPS)}
"""Difference of the numbers of two neighbouring cells -> direction from one to the other."""
_PLACES = [place(cell) for cell in range(CELLS)]
_PICKS = 6
"""Chains that are tried for a question before it is given up."""
_PLACES_LEFT = 4
"""For the end of a displacement chain, by its words alone."""


@dataclass(frozen=True)
class Chain:
    """A way over the board.

    Attributes:
        sort: `gaze` or `beside`.
        cells: the cells in order, the named thing's first.
        phrase: the thing that is named.
    """

    sort: str
    cells: tuple[int, ...]
    phrase: str

    @property
    def hops(self) -> int:
        """Number of steps."""
        return len(self.cells) - 1

    @property
    def directions(self) -> list[int]:
        """Direction of each step."""
        return [_TURNS[to - cell] for cell, to in zip(self.cells, self.cells[1:], strict=False)]

    def before_last(self) -> str:
        """The words for the last thing but one, or for the named one: `thing that the cat points at`."""
        words = f"the {self.phrase}"
        for direction in self.directions[:-1]:
            words = (
                f"the thing that {words} points at" if self.sort == "gaze" else f"the thing {BESIDE[direction]} {words}"
            )
        return words

    def last(self) -> str:
        """The words for the chain's end, without article: `cat`, `thing right of the cat`."""
        if not self.hops:
            return self.phrase
        if self.sort == "gaze":
            return f"thing that {self.before_last()} points at"
        return f"thing {BESIDE[self.directions[-1]]} {self.before_last()}"

    def steps(self, scene: Scene2) -> list[str]:
        """A sentence a step, every word after the one that it is looked up by.

        In a gaze chain the direction is seen at the thing (`cat b2 right. c2 dog.`), in a displacement chain the
        question gave it (`cat b2. right c2 dog.`).
        """
        words = [DIRECTIONS[direction] for direction in self.directions]
        things = [f"{_PLACES[cell]} {KINDS[scene.kind[cell]]}" for cell in self.cells]
        things[0] = f"{self.phrase} {_PLACES[self.cells[0]]}"
        if self.sort == "gaze":
            seen = [f"{thing} {word}." for thing, word in zip(things, words, strict=False)]
            return [*seen, f"{things[-1]}."]
        return [f"{things[0]}.", *(f"{word} {thing}." for word, thing in zip(words, things[1:], strict=True))]


@lru_cache(maxsize=MAX_HOPS)
def routes(hops: int) -> tuple[np.ndarray, np.ndarray]:
    """Every displacement chain's cells (n, hops + 1), and those of each as bits, its start again 16 bits higher (n,).

    See the module for which chains there are.
    """
    every = walks(hops)
    rows, columns = np.divmod(every, SIDE)
    left = (SIDE - np.ptp(rows, 1)) * (SIDE - np.ptp(columns, 1))
    apart = np.abs(rows[:, -1] - rows[:, 0]) + np.abs(columns[:, -1] - columns[:, 0])
    kept = every[(left >= _PLACES_LEFT) & (apart >= min(hops, 2))]
    return kept, (1 << kept).sum(1) + (1 << kept[:, 0] + CELLS)


def displaced(scene: Scene2, rng: Random, hops: int) -> Chain | None:
    """A displacement chain from a thing that a phrase names."""
    return next((_chain_of(scene, "beside", cells) for cells in _displaced(scene, rng, hops)), None)


def gazed(scene: Scene2, rng: Random, hops: int) -> Chain | None:
    """A gaze chain from a thing that a phrase names."""
    return next((_chain_of(scene, "gaze", cells) for cells in _gazed(scene, rng, hops)), None)


def _chain_of(scene: Scene2, sort: str, cells: tuple[int, ...]) -> Chain:
    return Chain(sort, cells, scene.phrases[cells[0]])


def _displaced(scene: Scene2, rng: Random, hops: int) -> Iterator[tuple[int, ...]]:
    cells, masks = routes(hops)
    found = scene.routes.get(hops)
    if found is None:
        found = scene.routes[hops] = ((masks & ~scene.mask) == 0).nonzero()[0]
    for _ in range(min(_PICKS, len(found))):
        yield tuple(cells[found[int(rng.random() * len(found))]].tolist())


def _gazed(scene: Scene2, rng: Random, hops: int) -> Iterator[tuple[int, ...]]:
    found = [led for led in scene.gazes if len(led) > hops]
    for led in rng.sample(
        found, min(_PICKS, len(found))
    ):  # each once: there are few, and `fair_kind` must not be worn down
        yield led[: hops + 1]


def with_tile(rng: Random) -> bool:
    """Whether a question about kinds may have the digit tile as an answer or an option.

    One in five, since the tile stands in nearly every scene and would otherwise be the commonest answer of all.
    """
    return rng.random() < 0.2


def fair_kind(scene: Scene2, rng: Random, cell: int, tile: bool) -> bool:
    """Whether to ask for the kind of a thing.

    Kinds of a scene are asked for alike, however often they stand there; else an option's name would tell whether it is
    right.
    """
    kind = scene.kind[cell]
    return (tile or kind != TILE_KIND) and rng.random() * scene.kind.count(kind) < 1


def end_question(scene: Scene2, chain: Chain, blocked: tuple[str, ...] = ()) -> Question:
    """What stands at the end of a chain of at least one step? Named names must not be offered."""
    if chain.sort == "gaze":
        stem = f"What does {chain.before_last()} point at?"
    else:
        stem = f"What is {BESIDE[chain.directions[-1]]} {chain.before_last()}?"
    answer, blocked = name_of(scene, chain.cells[-1]), (name_of(scene, chain.cells[0]), *blocked)
    family = f"{chain.sort}{chain.hops}"
    return Question(family, stem, answer, "kind", len(chain.cells), tuple(chain.steps(scene)), chain.cells, blocked)


def value(scene: Scene2, cell: int, attribute: str) -> str:
    """The value of an attribute of a thing, as an answer."""
    if attribute == "colour":
        return COLOUR_NAMES[scene.colour[cell]]
    if attribute == "direction":
        return DIRECTIONS[scene.direction[cell]]
    return SIZES[scene.size[cell]] if attribute == "size" else str(scene.label[cell])


def attribute_question(scene: Scene2, chain: Chain, attribute: str) -> Question:
    """Ask for an attribute of a chain's end, or of the named thing when the chain has no step."""
    answer = value(scene, chain.cells[-1], attribute)
    steps = chain.steps(scene)
    steps[-1] = f"{steps[-1][:-1]} {answer}."
    family = f"chain_{attribute}" if chain.hops else attribute
    options = SIZES if attribute == "size" else ()
    stem = _ASK[attribute].format(chain.last())
    return Question(family, stem, answer, attribute, len(chain.cells), tuple(steps), chain.cells, (), options)


def beside(scene: Scene2, rng: Random, hops: int) -> Question | None:
    """What is below the thing right of the cat?"""
    return _end(scene, rng, "beside", _displaced(scene, rng, hops))


def gaze(scene: Scene2, rng: Random, hops: int) -> Question | None:
    """What does the thing that the cat points at point at?"""
    return _end(scene, rng, "gaze", _gazed(scene, rng, hops))


def _end(scene: Scene2, rng: Random, sort: str, ways: Iterator[tuple[int, ...]]) -> Question | None:
    tile = with_tile(rng)
    for cells in ways:
        if scene.kind[cells[-1]] != scene.kind[cells[0]] and fair_kind(scene, rng, cells[-1], tile):
            return end_question(scene, _chain_of(scene, sort, cells), () if tile else (TILE,))
    return None


def _chain(scene: Scene2, rng: Random, most: int) -> Chain | None:
    """A chain of either sort of 1 to `most` steps."""
    hops = 1 + rng.randrange(most)
    return gazed(scene, rng, hops) if rng.random() < 0.5 else displaced(scene, rng, hops)


def chain_attribute(scene: Scene2, rng: Random) -> Question | None:
    """What color is the thing right of the cat? Which digit is on the thing that the cat points at?

    Directions are asked for at the end of gaze chains only: things of a planted chain point at a neighbour, so the
    words of a displacement would tell a little of where its end points.
    """
    chain = _chain(scene, rng, 4)
    if chain is None:
        return None
    end = chain.cells[-1]
    if scene.kind[end] == TILE_KIND and rng.random() < 0.7:
        return attribute_question(scene, chain, "digit")
    return attribute_question(scene, chain, rng.choice(ATTRIBUTES[:3] if chain.sort == "gaze" else ("colour", "size")))


def function(scene: Scene2, rng: Random) -> Question | None:
    """What is true of the thing that the cat points at? Common knowledge of its category."""
    chain = _chain(scene, rng, 3)
    if chain is None or scene.kind[chain.cells[-1]] >= N_DRAWINGS:
        return None
    category = CATEGORY_NAMES[CATEGORY_OF[scene.kind[chain.cells[-1]]]]
    steps = (*chain.steps(scene), f"{category}.")
    stem = f"What is true of the {chain.last()}?"
    return Question("function", stem, FUNCTIONS[category], "function", chain.hops + 1, steps, chain.cells)
