"""Batches of the embedded world: many questions per picture behind one shared visual prefix, features from disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from lare.embedded.encoder import pixels
from lare.embedded.vision_conv import LareVisionModel
from lare.embedded.world.items import STYLES, Item, ItemSampler
from lare.embedded.world.render import render
from lare.embedded.world.scene import IMAGE_SIZE, SIDE
from lare.embedded.world.versions import world
from lare.embedded.world_data import WorldData
from lare.errors import LareError
from lare.progress import progress
from lare.training.feeding.batch import MicroBatch
from lare.training.feeding.features import open_array, write_array
from lare.training.feeding.loader import Mode, Split, StageBatches, encode_rows, on_grid, stage_mode
from lare.training.plan.config import StageConfig

if TYPE_CHECKING:
    from lare.model import LareConfig, LareProcessor

__all__ = ["WorldBatches", "cache_world_features"]

SCENES = 24_000
VARIANTS = 24
"""Varied drawings a kind (mirrored, turned, recoloured) in training pictures; 0 in validation."""


def cache_world_features(encoder: LareVisionModel, path: Path, split: str, scenes: int, version: int = 1) -> np.ndarray:
    """Encode scenes 0..n-1 of a split of a version once; (n, g*g, d_vis) float16 in a memory-mapped file.

    A finished file of the right shape is used as it is; an unfinished one is made anew.

    Raises:
        LareError: If the disk is full, or the encoder reads pictures of another size.
    """
    side = int(encoder.config.image_size)
    if side != IMAGE_SIZE:
        raise LareError(f"the encoder reads {side} pixels a side, the world has {IMAGE_SIZE}; take embedded")
    shape = (scenes, encoder.config.grid**2, encoder.config.hidden_size)
    found = open_array(path, shape)
    return write_array(path, shape, _encoded(encoder, split, scenes, version)) if found is None else found


def _encoded(encoder: LareVisionModel, split: str, scenes: int, version: int) -> Iterator[np.ndarray]:
    """(up to 64, g*g, d_vis) features, scene by scene."""
    encoder.train(False)
    variants, sample_scene = 0 if split == "validation" else VARIANTS, world(version).sample_scene
    for start in progress(range(0, scenes, 64), desc=f"features {split}", mininterval=5):
        images = np.stack([render(sample_scene(split, i), variants) for i in range(start, min(scenes, start + 64))])
        with torch.no_grad():
            features = encoder(pixels(torch.from_numpy(images))).last_hidden_state
        yield features.numpy()


class WorldBatches(StageBatches):
    """Questions about scenes 0..n-1 of a split, made as they are needed.

    Args:
        data: The plan's source: families, styles, questions a picture.
        stage: The plan's entry.
        processor: Tokenizer and chat template.
        config: The model's.
        split: This process's share.
        seed: Seed of scenes, questions and formats.
        features: (n, g*g, d_vis) cached features; None renders and encodes pixels.
        scenes: Scenes, when there are no features.
        world_split: train or validation.
        pictures: Whether pictures come along for image reconstruction.
    """

    def __init__(
        self,
        data: WorldData,
        stage: StageConfig,
        processor: LareProcessor,
        config: LareConfig,
        split: Split,
        seed: int,
        features: np.ndarray | None = None,
        scenes: int = SCENES,
        world_split: str = "train",
        pictures: bool = False,
    ) -> None:
        self.data, self.stage, self.processor, self.config = data, stage, processor, config
        self.split, self.seed, self.features, self.world_split = split, seed, features, world_split
        self.with_pictures, self.world = pictures, world(data.version)
        self.scenes = scenes if features is None else len(features)
        self.samples = self.scenes * data.per_image
        self.families = dict(data.families) or dict.fromkeys(self.world.families, 1.0)
        self.styles = dict(data.styles) or dict.fromkeys(STYLES, 1.0)
        name = "world" if data.version == 1 else f"world{data.version}"
        self.fingerprint = (
            f"{name}-{world_split}-{self.scenes}-{crc32(repr((self.families, self.styles)).encode()):08x}"
        )
        self._head, self._tail = _around(processor)
        self._image_id = config.image_token_id

    def draw(self, step: int) -> tuple[list[int], list[Item], Mode]:
        """Scenes, questions and mode of an update's whole global batch; all questions share a format.

        One format, so that lengths are alike and little is spent on padding.
        """
        seed = (self.seed, step)
        rng = np.random.default_rng(seed)
        sampler = ItemSampler(self.families, self.styles, seed, self.data.version)
        style = sampler.style()
        images = max(1, self.stage.batch // self.data.per_image)
        scenes = rng.integers(self.scenes, size=images).tolist()
        items = [
            item
            for scene in scenes
            for item in sampler.sample(self.world.sample_scene(self.world_split, scene), self.data.per_image, style)
        ]
        return scenes, items, stage_mode(self.stage, self.config, float(rng.random()))

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """See `StageBatches`."""
        scenes, items, mode = self.draw(step)
        unit = self.data.per_image
        return [
            self.encode(scenes[start // unit : (start + size) // unit], items[start : start + size], start, mode)
            for start, size in self.split.starts(self.stage.batch, unit)
        ]

    def encode(self, scenes: list[int], items: list[Item], start: int, mode: Mode) -> MicroBatch:
        """One micro-batch of questions, rows of a picture adjacent."""
        tokenizer = self.processor.tokenizer
        prompts = self._ids([f"\n{item.prompt}{self._tail}" for item in items])
        rationales = [" ".join(item.question.rationale) for item in items]
        thoughts = self._ids([f" {one}" if one else "" for one in rationales])
        end = tokenizer.eos_token
        answers = self._ids([f" Answer: {item.final}{end}" for item in items])
        inputs, rationale, mask = encode_rows(
            prompts, thoughts, answers, mode, self.config, int(tokenizer.pad_token_id)
        )
        inputs |= self._visual(scenes)
        inputs["shared_ids"] = torch.tensor(self._shared(mode.lm_grid)).expand(len(scenes), -1)
        inputs["questions_per_image"] = self.data.per_image
        with_pictures = self.with_pictures and mode.iterations
        return MicroBatch(
            inputs,
            rationale,
            mask,
            self._pictures(scenes) if with_pictures and not mode.fetch else None,
            step_boxes(items, mode.iterations) if mode.iterations else None,
            mode.fetch,
            torch.tensor([crc32((r or item.final).encode()) for r, item in zip(rationales, items, strict=True)]),
            torch.tensor(scenes).repeat_interleave(self.data.per_image),
            start,
            [f"{self.world_split} scene {scene}" for scene in scenes for _ in range(self.data.per_image)],
        )

    def _shared(self, lm_grid: int | None) -> list[int]:
        """What stands before every question; the image's tokens are of the decoder's grid or another."""
        return on_grid(self._head, self._image_id, lm_grid or self.config.lm_grid)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = self.processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return found

    def _visual(self, scenes: list[int]) -> dict[str, Tensor]:
        if self.features is not None:
            return {"visual_features": torch.from_numpy(self.features[scenes].astype(np.float32))}
        images = list(self._pictures(scenes).permute(0, 2, 3, 1).numpy())
        made: Any = self.processor.image_processor(images, return_tensors="pt")
        return {"pixel_values": made["pixel_values"]}

    def _pictures(self, scenes: list[int]) -> Tensor:
        """(I, 3, H, W) uint8."""
        variants = 0 if self.world_split == "validation" else VARIANTS
        images = np.stack([render(self.world.sample_scene(self.world_split, scene), variants) for scene in scenes])
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def step_boxes(items: list[Item], iterations: int) -> Tensor:
    """(B, K, 4) boxes of the cells that the questions' steps need, as shares of the image; -1 where there is none."""
    boxes = torch.full((len(items), iterations, 4), -1.0)
    for row, item in enumerate(items):
        for step, cell in enumerate(item.question.cells[:iterations]):
            top, left = divmod(cell, SIDE)
            boxes[row, step] = torch.tensor([top, left, top + 1, left + 1]) / SIDE
    return boxes


def _around(processor: LareProcessor) -> tuple[list[int], str]:
    """What stands before a question (ids, image tokens included) and behind it (text) in the chat template."""
    from lare.model.processing_lare import IMAGE_PLACEHOLDER, IMAGE_TOKEN

    mark = "QUESTION"
    prompt = processor.build_prompts([mark], latent=False)[0]
    head, tail = prompt.split(f"\n{mark}", 1)
    head = head.replace(IMAGE_PLACEHOLDER, IMAGE_TOKEN * processor.lm_grid**2)
    bos = processor.tokenizer.bos_token
    opened = bool(bos) and head.startswith(bos)
    ids: list[int] = processor.tokenizer(head, add_special_tokens=not opened)["input_ids"]
    return ids, tail
