"""Scenes of version 2: fewer kinds, so that every thing has near misses, and a planted chain of things that point on.

Drawings, digits, colours, sizes, picture format and splits are those of version 1, so that an encoder and a tokenizer
serve both. What differs is what stands together: 6 or 7 drawings out of three categories, one shape and the digit tile
share 8 to 12 places and 3 or 4 colours, and most scenes hold a chain of up to six looks without a repeat.
"""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar

import numpy as np

from lare.embedded.world.concepts import (
    CATEGORY_NAMES,
    COLOUR_NAMES,
    KINDS,
    SHAPE_START,
    SHAPES,
    SIZES,
    STEPS,
    TILE_KIND,
)
from lare.embedded.world.scene import CELLS, SIDE, SPLIT_SALT, Scene, draw_things, kind_weights
from lare.embedded.world.wording import neighbour

__all__ = ["MAX_HOPS", "Scene2", "sample_scene", "walks"]

MAX_HOPS = 6
"""Steps of the longest chain."""
_PLANTED = (0.1, 0.1, 0.1, 0.15, 0.55)
"""Shares of scenes with a planted chain of 2, 3, 4, 5 and 6 steps."""
_WEIGHTS = kind_weights()
_PLANTED_UP_TO: list[float] = np.cumsum(_PLANTED).tolist()
_TILES = 2.0
"""Weight of the digit tile among the kinds of a scene, where others have 1: reading digits needs a close look."""


_NEXT = [[neighbour(cell, direction) for direction in range(len(STEPS))] for cell in range(CELLS)]
"""The cell one step away in each direction, None at the border."""


@dataclass(frozen=True)
class Scene2(Scene):
    """A scene of version 2; attributes as in `Scene`."""

    version: ClassVar[int] = 2

    @cached_property
    def ahead(self) -> list[int | None]:
        """(16,) the cell of the thing that the thing in a cell points at; None where there is none."""
        found: list[int | None] = [None] * CELLS
        for cell in self.things:
            to = _NEXT[cell][self.direction[cell]]
            found[cell] = to if to is not None and self.kind[to] >= 0 else None
        return found

    @cached_property
    def gazes(self) -> list[tuple[int, ...]]:
        """From every thing that a phrase names, the cells that one is led to by looking on, until one comes back."""
        return [self.led(cell) for cell in self.things if self.phrases[cell]]

    def led(self, cell: int) -> tuple[int, ...]:
        """The cells of the longest gaze chain from a cell, itself first, without a repeat."""
        path, ahead = [cell], self.ahead
        while (to := ahead[path[-1]]) is not None and to not in path:
            path.append(to)
        return tuple(path)

    @cached_property
    def phrases(self) -> list[str]:
        """(16,) the shortest phrase that picks out a thing: `cat`, `red cat`, `small red cat`; empty without one."""
        found, pairs = [""] * CELLS, list(zip(self.kind, self.colour, strict=True))
        for cell in self.things:
            kind, colour = pairs[cell]
            if self.kind.count(kind) == 1:
                found[cell] = KINDS[kind]
            elif pairs.count((kind, colour)) == 1:
                found[cell] = f"{COLOUR_NAMES[colour]} {KINDS[kind]}"
            elif self.looks[kind, colour, self.size[cell]] == 1:
                found[cell] = f"{SIZES[self.size[cell]]} {COLOUR_NAMES[colour]} {KINDS[kind]}"
        return found

    @cached_property
    def looks(self) -> dict[tuple[int, int, int], int]:
        """How many things have a kind, a colour and a size together."""
        found: dict[tuple[int, int, int], int] = {}
        for cell in self.things:
            look = self.kind[cell], self.colour[cell], self.size[cell]
            found[look] = found.get(look, 0) + 1
        return found

    @cached_property
    def shared(self) -> dict[tuple[str, int, int], int]:
        """How many things share two of the three, as ("kind", kind, colour), ("size", kind, size) and so on."""
        found: dict[tuple[str, int, int], int] = {}
        for (kind, colour, size), number in self.looks.items():
            for pair in (("kind", kind, colour), ("size", kind, size), ("colour", colour, size)):
                found[pair] = found.get(pair, 0) + number
        return found

    @cached_property
    def nameable(self) -> list[int]:
        """The cells of things that a phrase names."""
        return [cell for cell in self.things if self.phrases[cell]]

    @cached_property
    def groups(self) -> dict[str, dict[str, list[int]]]:
        """Groups of things by what they have in common, as far as they were asked for; see `groups.groups`."""
        return {}

    @cached_property
    def routes(self) -> dict[int, np.ndarray]:
        """Which displacement chains of each length stand here, as far as they were asked for; see `chains.routes`."""
        return {}

    @cached_property
    def mask(self) -> int:
        """The occupied cells as bits; 16 bits higher the cells of things that a phrase names."""
        return sum(1 << cell for cell in self.things) + sum(1 << cell + CELLS for cell in self.nameable)


@lru_cache(maxsize=MAX_HOPS)
def walks(steps: int) -> np.ndarray:
    """(n, steps + 1) int64: every walk of `steps` steps over the grid's cells that enters no cell twice."""
    found: list[tuple[int, ...]] = [(cell,) for cell in range(CELLS)]
    for _ in range(steps):
        found = [
            (*walk, to)
            for walk in found
            for direction in range(len(STEPS))
            if (to := neighbour(walk[-1], direction)) is not None and to not in walk
        ]
    return np.array(found, dtype=np.int64)


def _palette(rng: np.random.Generator) -> np.ndarray:
    """Kinds of a scene: 6 or 7 drawings out of three categories, one shape, the digit tile last."""
    themes = rng.choice(len(CATEGORY_NAMES), 3, replace=False)
    allowed = (themes[:, None] * 8 + np.arange(8)).ravel()
    weights = _WEIGHTS[allowed]
    drawings = rng.choice(allowed, int(rng.integers(6, 8)), replace=False, p=weights / weights.sum())
    return np.concatenate([drawings, [SHAPE_START + int(rng.integers(len(SHAPES))), TILE_KIND]])


@lru_cache(maxsize=MAX_HOPS)
def _turns(steps: int) -> np.ndarray:
    """(n, steps) int64: the direction of each step of each of the `walks`."""
    rows, columns = np.divmod(walks(steps), SIDE)
    delta = np.stack([np.diff(rows), np.diff(columns)], -1)
    found: np.ndarray = (delta[:, :, None] == np.array(STEPS)).all(-1).argmax(-1)
    return found


def _places(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cells of the things, the planted chain's first, and the (16,) directions in which things point."""
    steps = 2 + min(bisect(_PLANTED_UP_TO, rng.random()), MAX_HOPS - 2)
    chosen = int(rng.integers(len(walks(steps))))
    walk, free = walks(steps)[chosen], np.ones(CELLS, bool)
    free[walk] = False
    order = rng.permutation(CELLS)
    cells = np.concatenate([walk, order[free[order]]])[: int(rng.integers(8, 13))]
    direction = rng.integers(4, size=CELLS)
    direction[walk[:-1]] = _turns(steps)[chosen]
    return cells, direction


def sample_scene(split: str, seed: int) -> Scene2:
    """Sample the scene named (split, seed); the same name always gives the same scene.

    Raises:
        KeyError: unknown split.
    """
    rng = np.random.default_rng((SPLIT_SALT[split], seed, Scene2.version))
    cells, direction = _places(rng)
    palette = _palette(rng)
    weights = np.ones(len(palette))
    weights[-1] = _TILES
    picks = np.searchsorted((weights / weights.sum()).cumsum(), rng.random(len(cells)), side="right")
    kind = np.full(CELLS, -1)
    kind[cells] = palette[picks.clip(0, len(palette) - 1)]
    return Scene2(split=split, seed=seed, **draw_things(rng, split, kind, int(rng.integers(3, 5)), direction))
