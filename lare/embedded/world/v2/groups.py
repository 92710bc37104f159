"""Counting and comparing: every member is named with its place and has its box, at most six in a question."""

from __future__ import annotations

from collections import Counter
from random import Random

from lare.embedded.world.concepts import CATEGORY_NAMES, COLOUR_NAMES, SIZES, STEPS, TILE_KIND
from lare.embedded.world.scene import SIDE
from lare.embedded.world.v2.existence import MAX_STEPS
from lare.embedded.world.v2.scene import Scene2
from lare.embedded.world.wording import Question, name_of, place

__all__ = ["MAX_COUNT", "SORTS", "common_colour", "count", "further", "groups", "larger_digit", "more"]

MAX_COUNT = 4
SORTS = ("colour", "category", "size colour")
"""What a group of things has in common: `red things`, `animal things`, `small red things`."""
_KEPT = {
    "colour": (1.0, 0.611, 0.569, 0.784),
    "category": (0.611, 0.570, 0.670, 1.0),
    "size colour": (0.127, 0.164, 0.338, 1.0),
}
"""Share of the groups of 1, 2, 3 and 4 things to ask about, so that all counts are asked alike.

The rarest count's frequency over each count's, in 20,000 scenes; `tests/world` measures the outcome on others.
"""
_FURTHER = ("higher", "further right", "lower", "further left")


def groups(scene: Scene2, sort: str) -> dict[str, list[int]]:
    """The groups of a sort that stand in a scene: name without `things` -> its members' cells in reading order."""
    known = scene.groups.get(sort)
    if known is None:
        known = scene.groups[sort] = _groups(scene, sort)
    return known


def _groups(scene: Scene2, sort: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for cell in scene.things:
        category = scene.kind[cell] // 8
        if sort == "category" and category >= len(CATEGORY_NAMES):
            continue
        name = CATEGORY_NAMES[category] if sort == "category" else COLOUR_NAMES[scene.colour[cell]]
        found.setdefault(f"{SIZES[scene.size[cell]]} {name}" if sort == "size colour" else name, []).append(cell)
    return found


def count(scene: Scene2, rng: Random) -> Question | None:
    """How many small red things are there? One to four, all alike."""
    sort = rng.choice(SORTS)
    found = list(groups(scene, sort).items())
    name, cells = rng.choice(found) if found else ("", [])
    if not 1 <= len(cells) <= MAX_COUNT or rng.random() >= _KEPT[sort][len(cells) - 1]:
        return None
    options = tuple(str(number) for number in range(1, MAX_COUNT + 1))
    say = tuple(f"{place(cell)} {name_of(scene, cell)}." for cell in cells)
    stem = f"How many {name} things are there?"
    return Question(
        "count", stem, str(len(cells)), "count", 1, say, tuple(cells), (), options, near=_nearly(scene, name)
    )


def _nearly(scene: Scene2, name: str) -> int:
    """Things of the other size that else belong to a group that names a size."""
    size, _, rest = name.partition(" ")
    if not rest:
        return 0
    return len(groups(scene, "size colour").get(f"{SIZES[1 - SIZES.index(size)]} {rest}", ()))


def more(scene: Scene2, rng: Random) -> Question | None:
    """Which are there more of, red things or blue things? Six at most."""
    found = list(groups(scene, rng.choice(SORTS)).items())
    if len(found) < 2:
        return None
    (first, a), (second, b) = rng.sample(found, 2)
    if len(a) == len(b) or len(a) + len(b) > MAX_STEPS:
        return None
    answer = first if len(a) > len(b) else second
    say = [f"{name} {place(cell)}." for name, cells in ((first, a), (second, b)) for cell in cells]
    stem = f"Which are there more of, {first} things or {second} things?"
    options = (f"{first} things", f"{second} things")
    near = min(len(a), len(b)) if abs(len(a) - len(b)) == 1 else 0
    return Question("more", stem, f"{answer} things", "pair", 2, tuple(say), (*a, *b), (), options, near=near)


def common_colour(scene: Scene2, rng: Random) -> Question | None:
    """Which color is the most common of the animal things? Three to six things, each looked at."""
    found = [(name, cells) for name, cells in groups(scene, "category").items() if 3 <= len(cells) <= MAX_STEPS]
    if not found:
        return None
    name, cells = rng.choice(found)
    ranked = Counter(scene.colour[cell] for cell in cells).most_common()
    if len(ranked) < 2 or ranked[0][1] == ranked[1][1]:
        return None
    say = tuple(f"{place(cell)} {name_of(scene, cell)} {COLOUR_NAMES[scene.colour[cell]]}." for cell in cells)
    stem = f"Which color is the most common of the {name} things?"
    answer = COLOUR_NAMES[ranked[0][0]]
    return Question("common_colour", stem, answer, "colour", 1, say, tuple(cells), near=ranked[1][1])


def larger_digit(scene: Scene2, rng: Random) -> Question | None:
    """Which shows the larger digit, the red tile or the small blue tile?"""
    tiles = [cell for cell in scene.nameable if scene.kind[cell] == TILE_KIND]
    if len(tiles) < 2:
        return None
    a, b = rng.sample(tiles, 2)
    if scene.label[a] == scene.label[b]:
        return None
    one, two = scene.phrases[a], scene.phrases[b]
    answer = one if scene.label[a] > scene.label[b] else two
    say = tuple(f"{name} {place(cell)} {scene.label[cell]}." for name, cell in ((one, a), (two, b)))
    stem = f"Which shows the larger digit, the {one} or the {two}?"
    return Question("larger_digit", stem, answer, "pair", 2, say, (a, b), (), (one, two))


def further(scene: Scene2, rng: Random) -> Question | None:
    """Which is further left, the cat or the small red dog?"""
    if len(scene.nameable) < 2:
        return None
    a, b = rng.sample(scene.nameable, 2)
    direction = rng.randrange(4)
    step = STEPS[direction]
    gap = (a // SIDE - b // SIDE) * step[0] + (a % SIDE - b % SIDE) * step[1]
    if gap == 0:
        return None
    one, two = scene.phrases[a], scene.phrases[b]
    say = tuple(f"{name} {place(cell)}." for name, cell in ((one, a), (two, b)))
    stem = f"Which is {_FURTHER[direction]}, the {one} or the {two}?"
    return Question("further", stem, one if gap > 0 else two, "pair", 2, say, (a, b), (), (one, two))
