"""One look-up: what is at a place, where is a thing, what is it like."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from lare.embedded.world.concepts import TILE, TILE_KIND
from lare.embedded.world.v2.chains import Chain, attribute_question, fair_kind, with_tile
from lare.embedded.world.v2.scene import Scene2
from lare.embedded.world.wording import Question, name_of, place

__all__ = ["attribute", "what_at", "where"]


def what_at(scene: Scene2, rng: Random) -> Question | None:
    """What is at c2? None where a tile is not to be the answer and the scene holds nothing else."""
    tile = with_tile(rng)
    if not tile and all(scene.kind[cell] == TILE_KIND for cell in scene.things):
        return None
    cell = rng.choice(scene.things)
    while not fair_kind(scene, rng, cell, tile):
        cell = rng.choice(scene.things)
    answer = name_of(scene, cell)
    say, blocked = (f"{place(cell)} {answer}.",), () if tile else (TILE,)
    return Question("what_at", f"What is at {place(cell)}?", answer, "kind", 1, say, (cell,), blocked)


def where(scene: Scene2, rng: Random) -> Question | None:
    """Where is the small red cat?"""
    if not scene.nameable:
        return None
    cell = rng.choice(scene.nameable)
    phrase = scene.phrases[cell]
    say = (f"{phrase} {place(cell)}.",)
    return Question("where", f"Where is the {phrase}?", place(cell), "place", 1, say, (cell,))


def attribute(name: str) -> Callable[[Scene2, Random], Question | None]:
    """The family that asks for one attribute of a named thing, which its words don't give away."""

    def ask(scene: Scene2, rng: Random) -> Question | None:
        named = [cell for cell in scene.nameable if name != "digit" or scene.kind[cell] == TILE_KIND]
        if not named:
            return None
        cell = rng.choice(named)
        phrase = scene.phrases[cell]
        given = phrase.count(" ")
        if (name == "colour" and given) or (name == "size" and given == 2):
            return _of_place(scene, name, cell)
        return attribute_question(scene, Chain("gaze", (cell,), phrase), name)

    ask.__doc__ = f"Ask for the {name} of a thing."
    return ask


def _of_place(scene: Scene2, name: str, cell: int) -> Question:
    """The same of `the thing at c2`.

    Never asked for directions: things of a planted chain point at a neighbour, and so never off the board.
    """
    question = attribute_question(scene, Chain("gaze", (cell,), f"thing at {place(cell)}"), name)
    say = f"{place(cell)} {name_of(scene, cell)} {question.answer}."
    return Question(name, question.stem, question.answer, name, 1, (say,), (cell,), (), question.options)
