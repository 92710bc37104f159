"""Batches of the embedded world: many questions per picture after one shared visual prefix, features from disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lare.embedded.encoder import pixels
from lare.embedded.samples import Asked, boxes_of, sample_of
from lare.embedded.vision_conv import LareVisionModel
from lare.embedded.world.items import STYLES, Item, ItemSampler
from lare.embedded.world.render import render
from lare.embedded.world.scene import IMAGE_SIZE
from lare.embedded.world.versions import world
from lare.embedded.world_data import WorldData
from lare.errors import LareError
from lare.methods.layout import Layout
from lare.progress import progress
from lare.training.feeding.batch import MicroBatch
from lare.training.feeding.features import open_array, write_array
from lare.training.feeding.loader import Split, StageBatches
from lare.training.feeding.rows import (
    Targets,
    crop_pixels,
    encode_rows,
    on_grid,
    rows_of,
    step_boxes,
    step_ends,
    targets_of,
)
from lare.training.plan.config import StageConfig
from lare.training.plan.mixture import Entry, drawn

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

    def draw(self, step: int) -> tuple[list[int], list[Item], Layout]:
        """Scenes, questions and layout of an update's whole global batch; all questions share a format.

        One format, so that lengths are alike and little is spent on padding.
        """
        scenes, items, entry = self.drawn(step)
        return scenes, items, entry.training.layout(self.stage, self.config)

    def drawn(self, step: int) -> tuple[list[int], list[Item], Entry]:
        """Scenes and questions of an update, and the method of the mixture that takes it."""
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
        return scenes, items, drawn(self.stage.mixture, float(rng.random()))

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """See `StageBatches`."""
        scenes, items, entry = self.drawn(step)
        layout, unit = entry.training.layout(self.stage, self.config), self.data.per_image
        picks = self.picks(step, len(items))
        return [
            self.encode(
                scenes[start // unit : (start + size) // unit],
                items[start : start + size],
                start,
                layout,
                entry,
                picks[start : start + size],
            )
            for start, size in self.split.starts(self.stage.batch, unit)
        ]

    def picks(self, step: int, rows: int) -> list[float]:
        """Numbers in [0, 1) that choose, for each question of an update, one of the examples a method makes of it."""
        found: list[float] = np.random.default_rng((self.seed, step, 11)).random(rows).tolist()
        return found

    def encode(
        self,
        scenes: list[int],
        items: list[Item],
        start: int,
        mode: Layout,
        entry: Entry | None = None,
        picks: list[float] | None = None,
    ) -> MicroBatch:
        """One micro-batch of questions, rows of a picture adjacent.

        Args:
            scenes: The pictures.
            items: Questions, `per_image` of them about each.
            start: Number of their first row in the global batch.
            mode: Layout of the rows.
            entry: The method of the mixture; None has no examples and segments of its own.
            picks: Numbers in [0, 1) that choose one of the examples that a method makes of a question.
        """
        asked = self._asked(items, entry, picks)
        rationales = [one.rationale for one in asked]
        inputs, rationale, mask = self._text(asked, mode, entry)
        inputs |= self._visual(scenes)
        inputs["shared_ids"] = torch.tensor(self._shared(mode.lm_grid)).expand(len(scenes), -1)
        inputs["questions_per_image"] = self.data.per_image
        crops = inputs.pop("crops", None)
        if crops:
            pictures = [Image.fromarray(one) for one in self._pictures(scenes).permute(0, 2, 3, 1).numpy()]
            inputs["crop_values"] = crop_pixels(pictures, crops, self.processor)
        with_pictures = self.with_pictures and mode.iterations
        return MicroBatch(
            inputs,
            rationale,
            mask,
            self._pictures(scenes) if with_pictures and not mode.fetch else None,
            _boxes(asked, mode.iterations),
            mode.fetch,
            torch.tensor([crc32((r or one.answer).encode()) for r, one in zip(rationales, asked, strict=True)]),
            torch.tensor(scenes).repeat_interleave(self.data.per_image),
            start,
            [f"{self.world_split} scene {scene}" for scene in scenes for _ in range(self.data.per_image)],
            losses={} if entry is None else dict(entry.training.losses()),
        )

    def _asked(self, items: list[Item], entry: Entry | None, picks: list[float] | None) -> list[Asked]:
        """The questions' texts; a method with examples of its own gives one of them for each."""
        if entry is None or not entry.training.own_examples:
            return [Asked(item.prompt, " ".join(item.question.rationale), item.final, boxes_of(item)) for item in items]
        found = []
        for item, pick in zip(items, picks or [0.0] * len(items), strict=True):
            made = entry.training.examples(sample_of(item))
            if not made:
                raise LareError(f"the method {entry.label!r} makes no example of a question of the world; leave it out")
            one = made[int(pick * len(made))]
            found.append(Asked(one.question, one.rationale, one.answer, one.boxes))
        return found

    def _text(
        self, asked: list[Asked], mode: Layout, entry: Entry | None
    ) -> tuple[dict[str, Any], Tensor | None, Tensor | None]:
        """What `encode_rows` gives, and ``crops`` where a target holds some."""
        tokenizer = self.processor.tokenizer
        prompts = self._ids([f"\n{one.question}{self._tail}" for one in asked])
        thoughts = self._ids([f" {one.rationale}" if one.rationale else "" for one in asked])
        answers = self._ids([f" Answer: {one.answer}{tokenizer.eos_token}" for one in asked])
        targets: Targets | None = None
        if entry is not None and entry.training.own_segments:
            boxes = [one.boxes for one in asked]
            rows = rows_of(prompts, thoughts, answers, boxes, self.processor, self.config)
            made = [entry.training.segments(row, mode) for row in rows]
            targets = targets_of(made, rows, mode, self.config, self.data.per_image)
        ends = [step_ends(tokenizer, thought) for thought in thoughts] if mode.by_step else None
        fill = int(tokenizer.pad_token_id)
        return encode_rows(prompts, thoughts, answers, mode, self.config, fill, own=targets, ends=ends)

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


def _boxes(asked: list[Asked], iterations: int) -> Tensor | None:
    """As `lare.training.feeding.rows.step_boxes`; a batch in which no question has a box still has room for them."""
    found = step_boxes([one.boxes for one in asked], iterations)
    return torch.full((len(asked), iterations, 4), -1.0) if found is None and iterations else found


def _around(processor: LareProcessor) -> tuple[list[int], str]:
    """What stands before a question (ids, image tokens included) and after it (text) in the chat template."""
    from lare.model.processing_lare import IMAGE_PLACEHOLDER, IMAGE_TOKEN

    mark = "QUESTION"
    prompt = processor.build_prompts([mark], latent=False)[0]
    head, tail = prompt.split(f"\n{mark}", 1)
    head = head.replace(IMAGE_PLACEHOLDER, IMAGE_TOKEN * processor.lm_grid**2)
    bos = processor.tokenizer.bos_token
    opened = bool(bos) and head.startswith(bos)
    ids: list[int] = processor.tokenizer(head, add_special_tokens=not opened)["input_ids"]
    return ids, tail
