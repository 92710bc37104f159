"""Questions about a scene: the answer, the rationale in steps, and the cell that each step needs.

A family is a function (scene, rng) -> Question | None; None means that this scene holds no such question. Displacement
chains ("below the thing right of the cat") have a shortcut, since displacements add up; gaze chains ("what does the
thing that the cat points at point at") have none: each hop must be seen before the next is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from lare.embedded.world.concepts import (
    BESIDE,
    CATEGORY_NAMES,
    CATEGORY_OF,
    COLOUR_NAMES,
    DIRECTIONS,
    FUNCTIONS,
    KINDS,
    N_DRAWINGS,
    POPULAR,
    SIZES,
    STEPS,
    TILE_KIND,
)
from lare.embedded.world.scene import CELLS, SIDE, Scene, kind_weights
from lare.embedded.world.wording import Question, article, at_place, follow, gaze, name_of, named, place, refer

MAX_COUNT = 4

_WEIGHT = tuple(kind_weights())
Family = Callable[[Scene, Random], Question | None]


# --- one look-up -----------------------------------------------------------------------------------------------


def what_at(scene: Scene, rng: Random) -> Question:
    """What is at c2?"""
    cell = rng.choice(scene.things)
    answer = name_of(scene, cell)
    return Question("what_at", f"What is at {place(cell)}?", answer, "kind", 1, (f"{place(cell)} {answer}.",), (cell,))


def where(scene: Scene, rng: Random) -> Question | None:
    """Where is the cat?"""
    if (found := named(scene, rng)) is None:
        return None
    cell, phrase = found
    return Question(
        "where", f"Where is the {phrase}?", place(cell), "place", 1, (at_place(scene, cell, phrase),), (cell,)
    )


_ATTRIBUTES: dict[str, tuple[str, Callable[[Scene, int], str]]] = {
    "colour": ("What color is the {}?", lambda s, c: COLOUR_NAMES[s.colour[c]]),
    "direction": ("Where does the {} point?", lambda s, c: DIRECTIONS[s.direction[c]]),
    "size": ("Is the {} small or large?", lambda s, c: SIZES[s.size[c]]),
    "digit": ("Which digit is on the {}?", lambda s, c: str(s.label[c])),
}


def attribute_question(scene: Scene, name: str, cell: int, phrase: str, family: str, path: list[int]) -> Question:
    """Ask for one attribute of the thing at `cell`, which `phrase` names and `path` leads to."""
    ask, value = _ATTRIBUTES[name]
    gaze = "points at" in phrase
    steps = _chain_steps(scene, path, gaze, phrase.startswith("thing at"))
    steps[-1] = f"{steps[-1][:-1]} {value(scene, cell)}."
    options = SIZES if name == "size" else ()
    return Question(
        family, ask.format(phrase), value(scene, cell), name, len(path), tuple(steps), tuple(path), (), options
    )


def _chain_steps(scene: Scene, path: list[int], gaze: bool, by_place: bool = False) -> list[str]:
    """Sentences of a chain: the thing and its place, then for each step the direction, the new place, what is there.

    Terse on purpose, every word after the one that it is looked up by. In a gaze chain the direction is seen at the
    thing (`cat b2 right. c2 dog.`), in a displacement chain the question gave it (`cat b2. right c2 dog.`).
    """
    steps = [
        f"{place(path[0])} {name_of(scene, path[0])}." if by_place else at_place(scene, path[0], refer(scene, path[0]))
    ]
    for before, after in zip(path, path[1:], strict=False):
        delta = (after // SIDE - before // SIDE, after % SIDE - before % SIDE)
        direction, there = DIRECTIONS[STEPS.index(delta)], f"{place(after)} {name_of(scene, after)}."
        if gaze:
            steps[-1] = f"{steps[-1][:-1]} {direction}."
            steps.append(there)
        else:
            steps.append(f"{direction} {there}")
    return steps


def _attribute(name: str) -> Family:
    def ask(scene: Scene, rng: Random) -> Question | None:
        if name == "digit":
            tiles = [c for c in scene.things if scene.kind[c] == TILE_KIND]
            if not tiles:
                return None
            cell = rng.choice(tiles)
            phrase = refer(scene, cell)
        elif rng.random() < 0.4:
            cell = rng.choice(scene.things)
            phrase = f"thing at {place(cell)}"
        else:
            found = named(scene, rng, plain=name == "colour")
            cell, phrase = found if found else (0, None)
        if phrase is None:
            return None
        return attribute_question(scene, name, cell, phrase, name, [cell])

    ask.__doc__ = f"Ask for the {name} of a thing."
    return ask


def caption(scene: Scene, rng: Random) -> Question:
    """Describe the image: eight things in random order, half of the time place first, half of the time thing first.

    Many look-ups in one text: the dense supervision with which a fresh decoder learns to find things by place and
    places by thing, long before single questions would teach it. Every word follows the one that it is looked up by.
    """
    cells = rng.sample(scene.things, 8)
    by_place = rng.random() < 0.5
    parts = []
    for cell in cells:
        look = f"{COLOUR_NAMES[scene.colour[cell]]} {SIZES[scene.size[cell]]} {DIRECTIONS[scene.direction[cell]]}"
        digit = f" {scene.label[cell]}" if scene.label[cell] >= 0 else ""
        first, second = (place(cell), name_of(scene, cell)) if by_place else (name_of(scene, cell), place(cell))
        parts.append(f"{first} {second} {look}{digit}.")
    stem = "Describe the image by place." if by_place else "Describe the image by thing."
    return Question("caption", stem, " ".join(parts), "caption", 1, (), tuple(cells))


# --- existence, counting, comparison -----------------------------------------------------------------------------


def exist(scene: Scene, rng: Random, negative: str = "random") -> Question | None:
    """Is there a cat in the image? Negatives are random, popular or adversarial (POPE's three kinds).

    Absent kinds are drawn by the same weights by which scenes draw theirs, and `popular` asks for popular kinds in both
    cases, so that the name of a kind alone says nothing about the answer.
    """
    present = set(scene.drawings)
    pool = POPULAR if negative == "popular" else range(N_DRAWINGS)
    yes = [k for k in pool if k in present]
    no = [k for k in pool if k not in present]
    if negative == "adversarial":
        themes = {CATEGORY_OF[p] for p in present}
        no = [k for k in no if CATEGORY_OF[k] in themes]
    if not yes or not no:
        return None
    positive = rng.random() < 0.5
    kind = rng.choice(yes) if positive else rng.choices(no, weights=[_WEIGHT[k] for k in no])[0]
    cells = (scene.kind.index(kind),) if positive else ()
    say = at_place(scene, cells[0]) if cells else f"no {KINDS[kind]}."
    stem = f"Is there {article(KINDS[kind])} in the image?"
    return Question("exist", stem, "yes" if positive else "no", "yesno", 1, (say,), cells)


def _group(scene: Scene, rng: Random) -> tuple[str, list[int]]:
    """A random countable group: its name and the cells of its members."""
    if rng.random() < 0.5 or not scene.drawings:
        colour = scene.colour[rng.choice(scene.things)]
        return f"{COLOUR_NAMES[colour]} things", [c for c in scene.things if scene.colour[c] == colour]
    category = CATEGORY_OF[rng.choice(scene.drawings)]
    members = [c for c in scene.things if scene.kind[c] // 8 == category]
    return f"{CATEGORY_NAMES[category]} things", members


def _listed(name: str, members: list[int]) -> str:
    return f"{name.removesuffix(' things')} {' '.join(place(c) for c in members)}."


def count(scene: Scene, rng: Random) -> Question | None:
    """How many red things are there? One to four."""
    name, members = _group(scene, rng)
    cells = tuple(members)
    if not 1 <= len(cells) <= MAX_COUNT:
        return None
    options = tuple(str(n) for n in range(1, MAX_COUNT + 1))
    say = _listed(name, members)
    return Question("count", f"How many {name} are there?", str(len(cells)), "count", 1, (say,), cells, (), options)


def more(scene: Scene, rng: Random) -> Question | None:
    """Which are there more of: red things or blue things?"""
    (first, a), (second, b) = _group(scene, rng), _group(scene, rng)
    if first == second or len(a) == len(b):
        return None
    answer = first if len(a) > len(b) else second
    say = (_listed(first, a), _listed(second, b))
    stem = f"Which are there more of, {first} or {second}?"
    return Question("more", stem, answer, "pair", 2, say, (), (), (first, second))


def larger_digit(scene: Scene, rng: Random) -> Question | None:
    """Which tile shows the larger digit, the red one or the blue one?"""
    tiles = [c for c in scene.things if scene.kind[c] == TILE_KIND]
    rng.shuffle(tiles)
    if len(tiles) < 2 or scene.label[tiles[0]] == scene.label[tiles[1]]:
        return None
    one, two = (refer(scene, c) for c in tiles[:2])
    if not one or not two or one == two:
        return None
    answer = one if scene.label[tiles[0]] > scene.label[tiles[1]] else two
    say = tuple(f"{n} {place(c)} {scene.label[c]}." for n, c in ((one, tiles[0]), (two, tiles[1])))
    stem = f"Which shows the larger digit, the {one} or the {two}?"
    return Question("larger_digit", stem, answer, "pair", 2, say, tuple(tiles[:2]), (), (one, two))


_FURTHER = ("higher", "further right", "lower", "further left")


def further(scene: Scene, rng: Random) -> Question | None:
    """Which is further left, the cat or the dog?"""
    first, second = named(scene, rng, plain=True), named(scene, rng, plain=True)
    if first is None or second is None or first[0] == second[0]:
        return None
    direction = rng.randrange(4)
    step = STEPS[direction]
    gap = (first[0] // SIDE - second[0] // SIDE) * step[0] + (first[0] % SIDE - second[0] % SIDE) * step[1]
    if gap == 0:
        return None
    answer = first[1] if gap > 0 else second[1]
    say = (at_place(scene, *first), at_place(scene, *second))
    stem = f"Which is {_FURTHER[direction]}, the {first[1]} or the {second[1]}?"
    return Question("further", stem, answer, "pair", 2, say, (first[0], second[0]), (), (first[1], second[1]))


def common_colour(scene: Scene, rng: Random) -> Question | None:
    """Which color is the most common?"""
    ranked = Counter(scene.colour[c] for c in scene.things).most_common()
    if len(ranked) < 2 or ranked[0][1] == ranked[1][1]:
        return None
    say = tuple(f"{COLOUR_NAMES[colour]} {n}." for colour, n in ranked[:2])
    answer = COLOUR_NAMES[ranked[0][0]]
    return Question("common_colour", "Which color is the most common?", answer, "colour", 1, say, ())


# --- chains ------------------------------------------------------------------------------------------------------


def _displaced_path(scene: Scene, rng: Random, hops: int) -> tuple[list[int], str] | None:
    for _ in range(6):
        found = named(scene, rng)
        if found is None:
            return None
        directions = [rng.randrange(4) for _ in range(hops)]
        path = follow(scene, found[0], directions)
        if path is None:
            continue
        phrase = f"the {found[1]}"
        for i, direction in enumerate(directions):
            phrase = f"{'the thing ' if i + 1 < hops else ''}{BESIDE[direction]} {phrase}"
        return path, phrase
    return None


def _gaze_path(scene: Scene, rng: Random, hops: int) -> tuple[list[int], str] | None:
    for cell in rng.sample(scene.things, len(scene.things)):
        path = gaze(scene, cell, hops)
        phrase = refer(scene, cell) if path else None
        if path is None or phrase is None:
            continue
        text = f"the {phrase}"
        for _ in range(hops - 1):
            text = f"the thing that {text} points at"
        return path, text
    return None


def _chain(sort: str, hops: int) -> Family:
    """The family that asks for the end of a displacement chain (`beside`) or of a gaze chain (`gaze`)."""
    gazes = sort == "gaze"

    def ask(scene: Scene, rng: Random) -> Question | None:
        found = _gaze_path(scene, rng, hops) if gazes else _displaced_path(scene, rng, hops)
        if found is None or scene.kind[found[0][-1]] == scene.kind[found[0][0]]:
            return None
        path, phrase = found
        stem = f"What does {phrase} point at?" if gazes else f"What is {phrase}?"
        steps, blocked = tuple(_chain_steps(scene, path, gazes)), (name_of(scene, path[0]),)
        answer = name_of(scene, path[-1])
        return Question(f"{sort}{hops}", stem, answer, "kind", len(path), steps, tuple(path), blocked)

    ask.__doc__ = f"What stands at the end of a {sort} chain of {hops} steps?"
    return ask


def chain_attribute(scene: Scene, rng: Random) -> Question | None:
    """What color is the thing right of the cat? Where does the thing that the cat points at point?"""
    gaze = rng.random() < 0.5
    found = _gaze_path(scene, rng, 1) if gaze else _displaced_path(scene, rng, 1)
    if found is None:
        return None
    path, phrase = found
    thing = f"thing that {phrase} points at" if gaze else f"thing {phrase}"
    name = rng.choice(("colour", "direction", "size"))
    return attribute_question(scene, name, path[-1], thing, f"chain_{name}", path)


def function(scene: Scene, rng: Random) -> Question | None:
    """What is true of the thing that the cat points at? Common knowledge of its category."""
    gaze = rng.random() < 0.5
    found = _gaze_path(scene, rng, 1) if gaze else _displaced_path(scene, rng, 1)
    if found is None or scene.kind[found[0][-1]] >= N_DRAWINGS:
        return None
    path, phrase = found
    category = CATEGORY_NAMES[CATEGORY_OF[scene.kind[path[-1]]]]
    thing = f"thing that {phrase} points at" if gaze else f"thing {phrase}"
    steps = (*_chain_steps(scene, path, gaze), f"{category}.")
    stem = f"What is true of the {thing}?"
    return Question("function", stem, FUNCTIONS[category], "function", 2, steps, tuple(path))


TRAINING_FAMILIES: dict[str, Family] = {"caption": caption}
"""Families that only train; they have no short answer to score."""

FAMILIES: dict[str, Family] = {
    "what_at": what_at,
    "where": where,
    "colour": _attribute("colour"),
    "direction": _attribute("direction"),
    "size": _attribute("size"),
    "digit": _attribute("digit"),
    "exist": exist,
    "count": count,
    "more": more,
    "larger_digit": larger_digit,
    "further": further,
    "common_colour": common_colour,
    "beside1": _chain("beside", 1),
    "beside2": _chain("beside", 2),
    "beside3": _chain("beside", 3),
    "gaze1": _chain("gaze", 1),
    "gaze2": _chain("gaze", 2),
    "gaze3": _chain("gaze", 3),
    "chain_attribute": chain_attribute,
    "function": function,
}
"""Every question family by name."""

assert CELLS == SIDE * SIDE
