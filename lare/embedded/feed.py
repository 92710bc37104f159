"""The embedded world's data in a run: features of its scenes, batches of its questions, validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lare.embedded.batches import WorldBatches, cache_world_features
from lare.embedded.model import run_sizes
from lare.embedded.validation import validate_world
from lare.embedded.vision_conv import LareVisionModel
from lare.embedded.world_data import world_data, world_of
from lare.losses.base import needs_pictures
from lare.training.extensions import DataFeed, RunParts
from lare.training.plan.config import DataConfig, StageConfig

if TYPE_CHECKING:
    from lare.training.feeding.loader import Split

__all__ = ["VALIDATION_SCENES", "WorldFeed"]

VALIDATION_SCENES = 1_000


class WorldFeed(DataFeed):
    """The world's data in a run.

    Args:
        run: The run.
    """

    def __init__(self, run: RunParts) -> None:
        self.run = run
        self._features: dict[str, np.ndarray] = {}

    def scenes(self, data: DataConfig) -> int:
        """Training scenes of a source."""
        return data.limit or run_sizes(self.run.config.model).scenes

    def features(self, split: str, data: DataConfig) -> np.ndarray | None:
        """Features (n, g*g, d_vis) of a split's scenes, made once; None where another encoder reads pixels."""
        encoder = self.run.model.lare.vision_tower.encoder
        if not isinstance(encoder, LareVisionModel):
            return None
        count = VALIDATION_SCENES if split == "validation" else self.scenes(data)
        version = world_data(data).version
        key = f"{split}_{count}" if version == 1 else f"world{version}_{split}_{count}"
        if key not in self._features:
            path = self.run.folder / f"features_{key}.npy"
            self._features[key] = cache_world_features(encoder, path, split, count, version)
        return self._features[key]

    def files(self, stage: StageConfig) -> None:
        """See `DataFeed`."""
        self.features("train", stage.data[0])
        if self.run.config.validate_every:
            self.features("validation", stage.data[0])

    def batches(self, stage: StageConfig, number: int, split: Split) -> WorldBatches:
        """See `DataFeed`."""
        config, data = self.run.config, world_of(stage)
        return WorldBatches(
            data,
            stage,
            self.run.processor,
            self.run.model.lare.config,
            split,
            config.seed * 1_009 + number,
            self.features("train", data),
            self.scenes(data),
            pictures=needs_pictures(config.weights(stage)),
        )

    def validate(self, stage: StageConfig) -> dict[str, float]:
        """See `DataFeed`."""
        data, run = world_of(stage), self.run
        features = self.features("validation", data)
        return validate_world(run.model, stage, data, run.processor, features, VALIDATION_SCENES)
