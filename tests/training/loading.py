"""What the tests of batches share: the shipped checkpoint's processor and settings, batches of files and the world."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import lare
from lare.data import Source
from lare.data.packed import Packed, pack
from lare.embedded.batches import WorldBatches
from lare.embedded.world_data import WorldData
from lare.model import LareConfig, LareProcessor
from lare.training.feeding.batch import MicroBatch
from lare.training.feeding.loader import PackedBatches, Split
from lare.training.plan.config import DataConfig, StageConfig

FILE, WORLD = DataConfig(path="data.json"), WorldData(per_image=4)
WHOLE = Split()
SPLITS = [
    [Split(0, 1, 8)],
    [Split(0, 2), Split(1, 2)],
    [Split(0, 2, 4), Split(1, 2, 4)],
]


FEW = 1
"""Varied drawings a kind: making all of them takes seconds."""


@functools.cache
def processor() -> LareProcessor:
    found: LareProcessor = LareProcessor.from_pretrained(lare.default_checkpoint())
    return found


@functools.cache
def config() -> LareConfig:
    found: LareConfig = LareConfig.from_pretrained(lare.default_checkpoint())
    return found


def stage(kind: str = "III", data: DataConfig = FILE, **changes: Any) -> StageConfig:
    return StageConfig(kind, (data,), **{"batch": 32, "replaced": 2} | changes)


def kept(ids: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    """Rows without their padding."""
    return [row[own.bool()].tolist() for row, own in zip(ids, mask, strict=True)]


def rows_of(batches: list[MicroBatch]) -> list[tuple[Any, ...]]:
    """Every row by itself: what it is asked, what it is to say, its image, groups and place."""
    found: list[tuple[Any, ...]] = []
    for batch in batches:
        inputs = batch.inputs
        parts: list[Any] = [kept(inputs["input_ids"], inputs["attention_mask"])]
        parts.append(kept(inputs["target_ids"], inputs["target_mask"]))
        if "prefix_ids" in inputs:
            parts.append(kept(inputs["prefix_ids"], inputs["prefix_mask"]))
            parts.append(kept(batch.rationale_ids, batch.rationale_mask))
        seen = inputs["pixel_values"] if "pixel_values" in inputs else inputs["visual_features"]
        per_image = batch.rows // len(seen)
        images = [seen[row // per_image].numpy().tobytes() for row in range(batch.rows)]
        parts += [images, batch.text_groups.tolist(), batch.image_groups.tolist(), batch.where]
        if batch.pictures is not None:
            parts.append([batch.pictures[row // per_image].numpy().tobytes() for row in range(batch.rows)])
        how = (inputs["iterations"], inputs["delimiters"], inputs["window_mode"])
        numbers = range(batch.start, batch.start + batch.rows)
        found += [(number, how, *row) for number, *row in zip(numbers, *parts, strict=True)]
    return found


SCENES = 40
FEATURES = np.zeros((SCENES, 64, 3), np.float16) + np.arange(SCENES, dtype=np.float16)[:, None, None]


def world(
    split: Split = WHOLE,
    seed: int = 0,
    data: DataConfig = WORLD,
    features: np.ndarray | None = FEATURES,
    of: str = "train",
    pictures: bool = False,
    **changes: Any,
) -> WorldBatches:
    made = stage(data=data, **changes)
    return WorldBatches(data, made, processor(), config(), split, seed, features, SCENES, of, pictures)


SAMPLES = 70
WORDS = ["the", "red", "cat", "is", "left", "of", "a", "blue", "dog", "and", "above", "the", "small", "tree"]


def write_data(folder: Path, count: int = SAMPLES, name: str = "data.json") -> Path:
    """Rows of very different lengths about 8 pictures, half of them with a rationale; answers name their rows."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(4)
    for i in range(8):
        picture = Image.fromarray(rng.integers(0, 255, (128, 128, 3), dtype=np.uint8))
        picture.save(folder / f"{i}.png", compress_level=0)
    rows = []
    for i in range(count):
        text = " ".join(WORDS[int(k)] for k in rng.integers(len(WORDS), size=int(rng.integers(1, 60))))
        reply = f"<think>{text}</think>row {i}"
        turns = [{"from": "human", "value": f"<image>\nQuestion {i}?"}, {"from": "gpt", "value": reply}]
        rows.append({"id": str(i), "image": f"{i % 8}.png", "conversations": turns})
    (folder / name).write_text(json.dumps(rows))
    return folder / name


def packed_file(folder: Path) -> Packed:
    """`write_data`'s rows, packed."""
    return pack(Source(write_data(folder), "vision_r1"), processor(), folder / "pack")


def packed(data: Packed, split: Split = WHOLE, seed: int = 0, pictures: bool = False, **changes: Any) -> PackedBatches:
    return PackedBatches([data], processor(), config(), stage(**changes), split, seed, pictures)


def boxed_file(folder: Path, examples: Any = None) -> Packed:
    """`write_data`'s rows, of which every second has a box and every third a scene graph."""
    path = write_data(folder)
    rows = json.loads(path.read_text())
    for number, row in enumerate(rows):
        if number % 2:
            row["boxes"] = [None, [0.25, 0.0, 0.5, 0.25]]
        if not number % 3:
            row["scene_graph"] = {"cat": {"colour": "red"}}
    path.write_text(json.dumps(rows))
    own = examples is not None and examples.own_examples
    return pack(Source(path, "vision_r1"), processor(), folder / "pack", **({"examples": examples} if own else {}))
