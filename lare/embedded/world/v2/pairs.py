"""Minimal pairs of version 2: two pictures that differ in one attribute of one thing, and one question about both."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from lare.embedded.world.assets import digits
from lare.embedded.world.concepts import COLOUR_NAMES, DIRECTIONS, N_DRAWINGS, TILE_KIND
from lare.embedded.world.scene import Scene
from lare.embedded.world.v2.chains import ATTRIBUTES, Chain, attribute_question, displaced, end_question, gazed
from lare.embedded.world.v2.scene import Scene2
from lare.embedded.world.wording import Question

__all__ = ["minimal_pair"]

_CHANGES = (*ATTRIBUTES, "kind", "turn")
"""What differs: an attribute or the kind of a chain's end, or where the last thing but one points."""


def minimal_pair(scene: Scene, rng: Random) -> tuple[Scene, Question, Question] | None:
    """Change one attribute of one thing so that a question about a chain of up to four steps gets another answer.

    Returns:
        The changed scene, the question about the scene as it was, and the same question about the changed one.
    """
    assert isinstance(scene, Scene2)
    what, hops = rng.choice(_CHANGES), rng.randrange(5)
    if what == "turn":
        return _turned(scene, rng, max(1, hops))
    chain = (gazed if rng.random() < 0.5 else displaced)(scene, rng, hops if hops or what != "kind" else 1)
    if chain is None:
        return None
    changed = _change(scene, chain.cells[-1], what, rng)
    if changed is None or changed.phrases[chain.cells[0]] != chain.phrase:
        return None
    if what == "kind":
        return changed, end_question(scene, chain), end_question(changed, chain)
    if not hops and (what == "colour" and chain.phrase.count(" ") or what == "size" and chain.phrase.count(" ") == 2):
        return None  # the words would say the answer
    return changed, attribute_question(scene, chain, what), attribute_question(changed, chain, what)


def _another(value: int, n: int, rng: Random) -> int:
    return (value + rng.randrange(1, n)) % n


def _change(scene: Scene2, cell: int, what: str, rng: Random) -> Scene2 | None:
    values: dict[str, int] | None = None
    if what == "colour":
        values = {"colour": _another(scene.colour[cell], len(COLOUR_NAMES), rng)}
    elif what == "direction":
        values = {"direction": _another(scene.direction[cell], len(DIRECTIONS), rng)}
    elif what == "size" and max(map(abs, scene.offset[cell])) <= 1:  # a large thing has less room about its centre
        values = {"size": 1 - scene.size[cell]}
    elif what == "digit" and scene.kind[cell] == TILE_KIND:
        labels = digits(scene.split)[1]
        sample = rng.randrange(len(labels))
        if int(labels[sample]) != scene.label[cell]:
            values = {"digit": sample, "label": int(labels[sample])}
    elif what == "kind" and scene.kind[cell] < N_DRAWINGS:
        values = {"kind": scene.kind[cell] // 8 * 8 + _another(scene.kind[cell] % 8, 8, rng)}
    return None if values is None else _with(scene, cell, values)


def _with(scene: Scene2, cell: int, values: dict[str, int]) -> Scene2:
    changed = scene.with_cell(cell, **values)
    assert isinstance(changed, Scene2)
    return changed


def _turned(scene: Scene2, rng: Random, hops: int) -> tuple[Scene, Question, Question] | None:
    """The last thing but one points at another thing."""
    chain = gazed(scene, rng, hops)
    if chain is None:
        return None
    cell = chain.cells[-2]
    changed = _with(scene, cell, {"direction": _another(scene.direction[cell], len(DIRECTIONS), rng)})
    to = changed.ahead[cell]
    if to is None or to in chain.cells or changed.kind[to] == scene.kind[chain.cells[-1]]:
        return None
    other: Chain = replace(chain, cells=(*chain.cells[:-1], to))
    return changed, end_question(scene, chain), end_question(changed, other)
