"""What a question is, and what questions are made of: names of places and things, chains of things over the grid."""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random

from lare.embedded.world.concepts import COLOUR_NAMES, KINDS, SIZES, STEPS
from lare.embedded.world.scene import SIDE, Scene

__all__ = [
    "Question",
    "article",
    "at_place",
    "follow",
    "gaze",
    "name_of",
    "named",
    "neighbour",
    "place",
    "refer",
    "scene_graph",
]


@dataclass(frozen=True)
class Question:
    """A question, its answer, and how the answer is reached.

    Attributes:
        family: name of the question family, e.g. `gaze2`.
        stem: the question's text without options.
        answer: the answer's text, e.g. `cat`, `c2`, `yes`.
        answer_type: kind, colour, direction, size, digit, count, place, function, category, pair or yesno.
        hops: number of look-ups that depend on one another (1 for a plain look-up).
        rationale: one sentence a step.
        cells: the cell that each step needs, in order.
        blocked: names in the question that must not be offered as options.
        options: the only possible answers, when the question names them itself.
        near: things that are nearly what is asked for (version 2).
    """

    family: str
    stem: str
    answer: str
    answer_type: str
    hops: int
    rationale: tuple[str, ...]
    cells: tuple[int, ...]
    blocked: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    near: int = 0


def place(cell: int) -> str:
    """The name of a cell as on a spreadsheet: column letter, then row number from the top, e.g. `c2`.

    One short token: with `row 2 column 3` a small decoder has to put two words together before it can look anywhere.
    """
    return f"{'abcd'[cell % SIDE]}{cell // SIDE + 1}"


def article(name: str) -> str:
    """The name with its indefinite article; mass nouns stand alone."""
    if name in ("food", "weather"):
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def name_of(scene: Scene, cell: int) -> str:
    """The name of the kind of the thing in `cell`."""
    return KINDS[scene.kind[cell]]


def refer(scene: Scene, cell: int) -> str | None:
    """The shortest phrase that picks out one thing: `cat`, else `red cat`, else None."""
    kind = scene.kind[cell]
    if scene.kind.count(kind) == 1:
        return KINDS[kind]
    colour = scene.colour[cell]
    if sum(scene.kind[c] == kind and scene.colour[c] == colour for c in scene.things) == 1:
        return f"{COLOUR_NAMES[colour]} {KINDS[kind]}"
    return None


def neighbour(cell: int, direction: int) -> int | None:
    """The cell one step away, or None at the border."""
    row, column = cell // SIDE + STEPS[direction][0], cell % SIDE + STEPS[direction][1]
    return row * SIDE + column if 0 <= row < SIDE and 0 <= column < SIDE else None


def named(scene: Scene, rng: Random, plain: bool = False) -> tuple[int, str] | None:
    """A random thing that a phrase picks out; with `plain`, by its kind alone."""
    for cell in rng.sample(scene.things, 4):
        phrase = refer(scene, cell)
        if phrase and not (plain and " " in phrase):
            return cell, phrase
    return None


def at_place(scene: Scene, cell: int, phrase: str | None = None) -> str:
    """A step of a rationale: a thing and its place, e.g. `cat c2.`."""
    return f"{phrase or name_of(scene, cell)} {place(cell)}."


def follow(scene: Scene, cell: int, directions: list[int]) -> list[int] | None:
    """Cells along a displacement chain; None when it leaves the grid, meets an empty cell or turns back."""
    path = [cell]
    for direction in directions:
        step = neighbour(path[-1], direction)
        if step is None or scene.kind[step] < 0 or step in path:
            return None
        path.append(step)
    return path


def gaze(scene: Scene, cell: int, hops: int) -> list[int] | None:
    """Cells along a gaze chain of `hops` steps, under the same conditions as `follow`."""
    path: list[int] | None = [cell]
    for _ in range(hops):
        assert path is not None
        tail = follow(scene, path[-1], [scene.direction[path[-1]]])
        if tail is None or tail[1] in path:
            return None
        path = [*path, tail[1]]
    return path


def scene_graph(scene: Scene) -> str:
    """A scene's things in reading order as compact JSON, place to kind, colour and size: `{"b2":"panda red small"}`.

    For methods that write or read scene graphs (CCoT). Kind, colour and size are words that the tokenizer knows whole.
    """
    things = {
        place(cell): f"{name_of(scene, cell)} {COLOUR_NAMES[scene.colour[cell]]} {SIZES[scene.size[cell]]}"
        for cell in scene.things
    }
    return json.dumps(things, separators=(",", ":"))
