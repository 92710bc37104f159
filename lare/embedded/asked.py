"""The world's questions to be answered and marked, for what is fitted on a finished model."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from lare.data.questions import Question
from lare.embedded.held_out import PER_SCENE, draw_questions
from lare.embedded.world.render import render
from lare.embedded.world.versions import world
from lare.embedded.world_data import WorldData

__all__ = ["world_questions"]

FRESH = {"train": 50_000_000, "validation": 0}
"""First scene: those of training are drawn as all its others, of the same drawings and digits, but were never shown."""
_CHUNK = 64


def world_questions(data: WorldData, split: str, count: int) -> Iterator[Question]:
    """Questions by the weights of a source of the world, until `count` are given out."""
    scenes, sample = -(-count // PER_SCENE), world(data.version).sample_scene
    for start in range(0, scenes, _CHUNK):
        first = FRESH[split] + start
        for one in draw_questions(data, min(_CHUNK, scenes - start), split, first):
            image = Image.fromarray(render(sample(split, one.scene), 0))
            yield Question(one.item.prompt, one.item.final, image, f"{split}/{one.scene}")
