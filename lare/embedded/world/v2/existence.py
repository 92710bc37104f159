"""Existence by conjunction: is there a small red apple, in a picture that is full of near misses.

Every question, yes or no, is about a kind that stands there, in a colour and a size that stand there too. What the
three kinds of POPE say here of an absent thing: `random` is any, `popular` is of a kind that scenes draw often,
`adversarial` is the hardest, right in kind and colour and wrong in size.
"""

from __future__ import annotations

from random import Random

from lare.embedded.world.concepts import COLOUR_NAMES, KINDS, POPULAR, SIZES
from lare.embedded.world.v2.scene import Scene2
from lare.embedded.world.wording import Question, article, place

__all__ = ["MAX_STEPS", "exist", "near_misses"]

MAX_STEPS = 6
"""Things that a rationale names at most."""

Look = tuple[int, int, int]
"""Kind, colour and size."""


def near_misses(scene: Scene2, look: Look) -> int:
    """Things that share two of the three attributes of a look: right kind and colour, wrong size, and so on."""
    kind, colour, size = look
    pairs = (("kind", kind, colour), ("size", kind, size), ("colour", colour, size))
    return sum(scene.shared.get(pair, 0) for pair in pairs) - 3 * scene.looks.get(look, 0)


def exist(scene: Scene2, rng: Random, negative: str = "random") -> Question | None:
    """Is there a small red apple in the image? Negatives are random, popular or adversarial (POPE's three kinds).

    The kind is drawn among those that allow a yes and a no in this scene, and the answer by a coin, so that neither the
    kind nor its presence tells anything. Both answers need two near misses, and a yes another thing of its kind.
    """
    kinds = [kind for kind in set(scene.kind) - {-1} if negative != "popular" or kind in POPULAR]
    kinds.sort()
    rng.shuffle(kinds)
    for kind in kinds:
        yes = _present(scene, kind)
        no = _absent(scene, kind, negative) if yes else []
        if yes and no:
            break
    else:
        return None
    look = rng.choice(yes if rng.random() < 0.5 else no)
    return _question(scene, look, [cell for cell in scene.things if scene.kind[cell] == kind])


def _present(scene: Scene2, kind: int) -> list[Look]:
    """Looks of things of a kind that may be asked for with answer yes; none unless the kind has two looks."""
    looks = [look for look in scene.looks if look[0] == kind]
    if len(looks) < 2 or scene.kind.count(kind) > MAX_STEPS:
        return []
    return [look for look in looks if near_misses(scene, look) >= 2]


def _absent(scene: Scene2, kind: int, negative: str) -> list[Look]:
    """Looks that no thing of a kind has, of colours and sizes that are seen in the scene."""
    taken = {look for look in scene.looks if look[0] == kind}
    if negative == "adversarial":
        options = {(kind, colour, 1 - size) for _, colour, size in taken}
    else:
        options = {(kind, colour, size) for colour in {scene.colour[cell] for cell in scene.things} for size in (0, 1)}
    return [look for look in sorted(options - taken) if near_misses(scene, look) >= 2]


def _question(scene: Scene2, look: Look, same: list[int]) -> Question:
    """The things of the kind are looked at one after another, until one fits."""
    fits = [(scene.colour[cell], scene.size[cell]) == look[1:] for cell in same]
    cells = same[: fits.index(True) + 1] if any(fits) else same
    say = [
        f"{KINDS[look[0]]} {place(cell)} {COLOUR_NAMES[scene.colour[cell]]} {SIZES[scene.size[cell]]}."
        for cell in cells
    ]
    answer = "yes" if any(fits) else "no"
    stem = f"Is there {article(f'{SIZES[look[2]]} {COLOUR_NAMES[look[1]]} {KINDS[look[0]]}')} in the image?"
    return Question("exist", stem, answer, "yesno", 1, tuple(say), tuple(cells), near=near_misses(scene, look))
