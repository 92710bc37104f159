"""Scenes: a 4x4 grid of cells with 8 to 12 things, and their sampling.

Few kinds and colours per scene, so that things repeat and a name alone often does not identify a thing.
Every attribute is a tuple over the 16 cells, row by row; an empty cell has ``kind == -1``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from lare.embedded.world.assets import digits
from lare.embedded.world.concepts import (
    CATEGORY_NAMES,
    COLOUR_NAMES,
    N_DRAWINGS,
    POPULAR,
    SHAPE_START,
    SHAPES,
    TILE_KIND,
    VENDORS,
)

SIDE = 4
CELLS = SIDE * SIDE
CELL = 32
"""Pixels a cell; an image is 128 x 128."""
IMAGE_SIZE = SIDE * CELL
SIZE_PIXELS = (23, 30)
"""Side of a small and of a large thing in pixels."""
SPLIT_SALT = {"train": 1, "validation": 2, "test": 3}


@dataclass(frozen=True)
class Scene:
    """One scene graph.

    Attributes:
        split: train, validation or test; decides vendors, digit samples and the random stream.
        seed: names the scene within its split; the same (split, seed) is the same picture.
        kind: (16,) index into `KINDS`, -1 for an empty cell.
        colour: (16,) index into `COLOURS`: of the tile, or of the shape itself.
        size: (16,) 0 small, 1 large.
        direction: (16,) where the thing points: 0 up, 1 right, 2 down, 3 left.
        digit: (16,) index of the digit sample within the split, -1 when the thing bears none.
        label: (16,) the digit's value 0..9, -1 when the thing bears none.
        offset: (16, 2) shift of the thing's centre from the cell's centre, (rows, columns) in pixels.
        vendor: drawing vendor of the scene.
    """

    version: ClassVar[int] = 1
    """Version of the world whose scene it is."""

    split: str
    seed: int
    kind: tuple[int, ...]
    colour: tuple[int, ...]
    size: tuple[int, ...]
    direction: tuple[int, ...]
    digit: tuple[int, ...]
    label: tuple[int, ...]
    offset: tuple[tuple[int, int], ...]
    vendor: str

    @property
    def name(self) -> str:
        """The scene's name in question files and traces: `test/12`, from version 2 on `test@2/12`."""
        return f"{self.split}{f'@{self.version}' if self.version > 1 else ''}/{self.seed}"

    @cached_property
    def things(self) -> list[int]:
        """The cells that hold a thing."""
        return [cell for cell, kind in enumerate(self.kind) if kind >= 0]

    @cached_property
    def kinds(self) -> tuple[int, ...]:
        """The kinds in the scene, each once, in reading order."""
        return tuple(dict.fromkeys(kind for kind in self.kind if kind >= 0))

    @cached_property
    def drawings(self) -> list[int]:
        """The drawing kinds in the scene, once a thing."""
        return [kind for kind in self.kind if 0 <= kind < N_DRAWINGS]

    def with_cell(self, cell: int, **values: int) -> Scene:
        """A copy of the scene in which attributes of one cell differ (for minimal pairs)."""
        arrays: dict[str, Any] = {}
        for name, value in values.items():
            old = getattr(self, name)
            arrays[name] = (*old[:cell], value, *old[cell + 1 :])
        return replace(self, **arrays)

    def box(self, cell: int) -> tuple[int, int, int, int]:
        """Bounding box of the thing in `cell`: (left, top, right, bottom) in pixels."""
        side = SIZE_PIXELS[self.size[cell]]
        row, column = divmod(cell, SIDE)
        top = row * CELL + (CELL - side) // 2 + self.offset[cell][0]
        left = column * CELL + (CELL - side) // 2 + self.offset[cell][1]
        return left, top, left + side, top + side


def kind_weights() -> np.ndarray:
    """(64,) sampling weight of each drawing; the popular ones count three times."""
    weights = np.ones(N_DRAWINGS)
    weights[list(POPULAR)] = 3.0
    out: np.ndarray = weights / weights.sum()
    return out


_WEIGHTS = kind_weights()


def _palette_kinds(rng: np.random.Generator) -> np.ndarray:
    """Kinds of one scene: 6 to 8 drawings out of four categories, a shape, often the digit tile."""
    themes = rng.choice(len(CATEGORY_NAMES), 4, replace=False)
    allowed = (themes[:, None] * 8 + np.arange(8)).ravel()
    weights = _WEIGHTS[allowed] / _WEIGHTS[allowed].sum()
    drawings = rng.choice(allowed, int(rng.integers(6, 9)), replace=False, p=weights)
    shape = SHAPE_START + int(rng.integers(len(SHAPES)))
    return np.concatenate([drawings, [shape, TILE_KIND]])


def sample_scene(split: str, seed: int) -> Scene:
    """Sample the scene named (split, seed); the same name always gives the same scene.

    Raises:
        KeyError: unknown split.
    """
    rng = np.random.default_rng((SPLIT_SALT[split], seed))
    n_things = int(rng.integers(8, 13))
    cells = rng.permutation(CELLS)[:n_things]
    palette = _palette_kinds(rng)
    picks = rng.random(n_things)
    weights = np.ones(len(palette))
    weights[-2:] = (1.0, 1.6)
    weights /= weights.sum()
    chosen = palette[np.searchsorted(np.cumsum(weights), picks, side="right").clip(0, len(palette) - 1)]
    kind = np.full(CELLS, -1)
    kind[cells] = chosen
    return Scene(split=split, seed=seed, **draw_things(rng, split, kind, 4))


def draw_things(
    rng: np.random.Generator, split: str, kind: np.ndarray, colours: int, direction: np.ndarray | None = None
) -> dict[str, Any]:
    """All that a scene's things have beside their kind, as fields of `Scene`, and the vendor of their drawings.

    Args:
        rng: The scene's random numbers.
        split: Its split.
        kind: (16,) kind in each cell, -1 for none.
        colours: How many colours the scene has.
        direction: (16,) where things point; None draws it.
    """
    palette = rng.choice(len(COLOUR_NAMES), colours, replace=False)
    labels = digits(split)[1]
    digit = np.where(kind == TILE_KIND, rng.integers(len(labels), size=CELLS), -1)
    size = rng.integers(2, size=CELLS)
    slack = np.where(size == 0, 4, 1)[:, None]
    colour = rng.choice(palette, CELLS)
    direction = rng.integers(4, size=CELLS) if direction is None else direction
    offset = rng.integers(-slack, slack + 1, size=(CELLS, 2))
    return {
        "kind": tuple(kind.tolist()),
        "colour": tuple(colour.tolist()),
        "size": tuple(size.tolist()),
        "direction": tuple(direction.tolist()),
        "digit": tuple(digit.tolist()),
        "label": tuple(np.where(digit >= 0, labels[digit], -1).tolist()),
        "offset": tuple((int(row), int(column)) for row, column in offset),
        "vendor": str(rng.choice(VENDORS["test" if split == "test" else "train"])),
    }
