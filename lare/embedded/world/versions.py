"""The versions of the embedded world: what scenes hold and what is asked about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from lare.embedded.world import questions, scene
from lare.embedded.world.scene import Scene
from lare.embedded.world.v2 import families as families_2
from lare.embedded.world.v2 import scene as scene_2
from lare.embedded.world.wording import Question
from lare.errors import LareError

__all__ = ["WORLDS", "World", "scene_named", "world"]

Family = Callable[[Any, Random], Question | None]


@dataclass(frozen=True)
class World:
    """One version.

    Attributes:
        version: Its number.
        sample_scene: (split, seed) to the scene of that name.
        families: Question families that have a short answer.
        training_families: Families that only train.
        tries: How often a drawn family is tried on a scene before another is drawn.
    """

    version: int
    sample_scene: Callable[[str, int], Scene]
    families: Mapping[str, Family]
    training_families: Mapping[str, Family]
    tries: int = 1

    def family(self, name: str) -> Family:
        """A family by name, of either sort.

        Raises:
            KeyError: If the version has none of that name.
        """
        return self.families[name] if name in self.families else self.training_families[name]

    def ask(self, name: str, scene: Scene, rng: Random) -> Question | None:
        """A question of a family about a scene; None where the scene holds none (in this draw)."""
        if name == "exist":
            exist: Callable[..., Question | None] = self.families[name]
            return exist(scene, rng, rng.choice(("random", "popular", "adversarial")))
        return self.family(name)(scene, rng)


WORLDS: Mapping[int, World] = {
    1: World(1, scene.sample_scene, questions.FAMILIES, questions.TRAINING_FAMILIES),
    2: World(2, scene_2.sample_scene, families_2.FAMILIES, families_2.TRAINING_FAMILIES, tries=2),
}


def world(version: int) -> World:
    """A version of the world.

    Raises:
        LareError: If there is none of that number.
    """
    if version not in WORLDS:
        raise LareError(f"the embedded world has no version {version!r}; choose from {', '.join(map(str, WORLDS))}")
    return WORLDS[version]


def scene_named(name: str) -> Scene | None:
    """The scene of a name such as `test/12` or `test@2/12` (see `Scene.name`); None for any other text."""
    source, _, seed = name.partition("/")
    split, at, version = source.partition("@")
    numbers = seed.isdigit() and (not at or version.isdigit())
    if not numbers or split not in scene.SPLIT_SALT or int(version or 1) not in WORLDS:
        return None
    return WORLDS[int(version or 1)].sample_scene(split, int(seed))
