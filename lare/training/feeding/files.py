"""Data files in a run: packed once, with features of the frozen encoder if they are kept, and as batches."""

from __future__ import annotations

from pathlib import Path

from lare.data.packed import Packed, pack, token_limit
from lare.data.source import Source
from lare.progress import note
from lare.training.extensions import DataFeed, RunParts
from lare.training.feeding.features import PackedFeatures, cache_packed_features
from lare.training.feeding.loader import PackedBatches, Split
from lare.training.plan.config import DataConfig, StageConfig

__all__ = ["FileFeed"]


class FileFeed(DataFeed):
    """The data files of a run.

    Args:
        run: The run.
    """

    def __init__(self, run: RunParts) -> None:
        self.run = run
        self._packs: dict[DataConfig, Packed] = {}
        self._encoded: dict[Path, PackedFeatures] = {}

    def files(self, stage: StageConfig) -> None:
        """See `DataFeed`."""
        for data in stage.data:
            packed = self._pack(data)
            if self.run.config.cache_features:
                self._features(packed)

    def batches(self, stage: StageConfig, number: int, split: Split) -> PackedBatches:
        """See `DataFeed`."""
        run, config = self.run, self.run.config
        packs = [self._pack(data) for data in stage.data]
        cached = [self._features(packed) for packed in packs] if config.cache_features else None
        pictures = bool(config.weights(stage)["image"])
        seed = config.seed * 1_009 + number
        batches = PackedBatches(packs, run.processor, run.model.lare.config, stage, split, seed, pictures, cached)
        if batches.without_image and not split.rank:
            note(
                f"stage {stage.name}: {batches.without_image:,} samples without an image are left out: they train the "
                "decoder alone, where it trains, in batches of their own"
            )
        return batches

    def _pack(self, data: DataConfig) -> Packed:
        if data not in self._packs:
            assert data.path is not None
            images = Path(data.images) if data.images else None
            source = Source(Path(data.path), data.format, images, data.on_bad, data.check_images, data.turns)
            folder = Path(self.run.config.out) / "data" / f"{len(self._packs)}-{Path(data.path).stem}"
            config = self.run.model.lare.config
            latents = config.iterations * config.latents_per_iteration + 2  # and the two delimiters
            room = token_limit(self.run.processor) - latents
            self._packs[data] = pack(source, self.run.processor, folder, data.limit, room)
        return self._packs[data]

    def _features(self, packed: Packed) -> PackedFeatures:
        if packed.folder not in self._encoded:
            self._encoded[packed.folder] = cache_packed_features(self.run.model.lare, self.run.processor, packed)
        return self._encoded[packed.folder]
