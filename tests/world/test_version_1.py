"""Version 1 of the world stays as it was, bit for bit: pinned by hashes taken before version 2 was built."""

from __future__ import annotations

from dataclasses import astuple
from hashlib import sha256

import pytest

from lare.embedded.world.benchmark import TASKS, make_task
from lare.embedded.world.items import STYLES, ItemSampler
from lare.embedded.world.questions import FAMILIES, TRAINING_FAMILIES
from lare.embedded.world.render import render
from lare.embedded.world.scene import sample_scene

SCENES = {"train": "2f66c15a16434826", "validation": "b79d463488aa1f82", "test": "0658bffadec96553"}
ITEMS = {"train": "3b509324e292a428", "test": "f67e10cc77e9c1ae"}
ROWS = {
    "mmbench": "da11a41ef72adf1d",
    "mmstar": "67a0fbe9c9b56a48",
    "mmvp": "c2b768dc211b4996",
    "scienceqa": "e58e0709ceb29955",
    "pope": "260f457ec462e7d6",
}


def _hash(*parts: object) -> str:
    return sha256(repr(parts).encode()).hexdigest()[:16]


@pytest.mark.parametrize("split", SCENES)
def test_scenes_and_their_pictures(split: str) -> None:
    scenes = [sample_scene(split, seed) for seed in (0, 1, 999, 400_003, 20_000_005)]
    # Pixels are summed: libraries for images may round one pixel another way.
    ink = [int(render(scene).astype(int).sum() // 100_000) for scene in scenes]
    assert _hash([astuple(scene) for scene in scenes], ink) == SCENES[split]


@pytest.mark.parametrize("split", ITEMS)
def test_questions(split: str) -> None:
    weights = dict.fromkeys([*FAMILIES, *TRAINING_FAMILIES], 1.0)
    sampler = ItemSampler(weights, dict.fromkeys(STYLES, 1.0), (5, 7))
    items = [item for seed in range(40) for item in sampler.sample(sample_scene(split, seed), 16)]
    made = [
        (one.prompt, one.final, one.index, one.choices, one.question.rationale, one.question.cells, one.question.hops)
        for one in items
    ]
    assert _hash(made) == ITEMS[split]


@pytest.mark.parametrize("task", TASKS)
def test_rows_of_the_mini_tasks(task: str) -> None:
    rows = [make_task(task, split, 60, images=False) for split in ("test", "validation")]
    told = [[sorted(row.items()) for row in part] for part in rows]
    assert _hash(told) == ROWS[task]
