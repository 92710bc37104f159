"""Data files in a run: packed once, with features of the frozen encoder if they are kept, and as batches."""

from __future__ import annotations

from pathlib import Path

from lare.data.packed import Packed, pack, token_limit
from lare.data.source import Source
from lare.errors import LareError
from lare.losses.base import needs_pictures
from lare.methods.training import Training
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
        self._packs: dict[tuple[DataConfig, str], Packed] = {}
        self._encoded: dict[Path, PackedFeatures] = {}

    def files(self, stage: StageConfig) -> None:
        """See `DataFeed`."""
        for training in _packed_for(stage):
            for data in stage.data:
                packed = self._pack(data, training)
                if self.run.config.cache_features:
                    self._features(packed)

    def batches(self, stage: StageConfig, number: int, split: Split) -> PackedBatches:
        """See `DataFeed`.

        Raises:
            LareError: If a method needs boxes and the data have none, or there are too few samples.
        """
        batches = self._batches(stage, number, split, None)  # first: packs are numbered as `files` makes them
        entries = [entry for entry in stage.mixture if entry.training.own_examples]
        batches.own = {entry.label: self._batches(stage, number, split, entry.training) for entry in entries}
        need = [entry.label for entry in stage.mixture if entry.training.boxes]
        if need and not any(pack.with_boxes.any() for pack in batches.packs):
            places = ", ".join(str(data.path) for data in stage.data)
            raise LareError(
                f"stage {stage.name}: the method {need[0]!r} needs the boxes of each reasoning step, and {places} has "
                "none; add them to the rows as 'boxes', or leave the method out"
            )
        if batches.without_image and not split.rank:
            note(
                f"stage {stage.name}: {batches.without_image:,} samples without an image are left out: they train the "
                "decoder alone, where it trains, in batches of their own"
            )
        return batches

    def _batches(self, stage: StageConfig, number: int, split: Split, training: Training | None) -> PackedBatches:
        run, config = self.run, self.run.config
        packs = [packed for data in stage.data for packed in [self._pack(data, training)] * data.times]
        cached = [self._features(packed) for packed in packs] if config.cache_features else None
        pictures = needs_pictures(config.weights(stage))
        seed = config.seed * 1_009 + number
        return PackedBatches(packs, run.processor, run.model.lare.config, stage, split, seed, pictures, cached)

    def _pack(self, data: DataConfig, training: Training | None = None) -> Packed:
        key = (data, "" if training is None else training.identity)
        if key not in self._packs:
            assert data.path is not None
            images = Path(data.images) if data.images else None
            kept = data.split, data.take
            source = Source(Path(data.path), data.format, images, data.on_bad, data.check_images, data.turns, *kept)
            folder = Path(self.run.config.out) / "data" / f"{len(self._packs)}-{Path(data.path).stem}"
            config = self.run.model.lare.config
            latents = config.iterations * config.latents_per_iteration + 2  # and the two delimiters
            room = token_limit(self.run.processor) - latents
            self._packs[key] = pack(source, self.run.processor, folder, data.limit, room, training)
        return self._packs[key]

    def _features(self, packed: Packed) -> PackedFeatures:
        if packed.folder not in self._encoded:
            self._encoded[packed.folder] = cache_packed_features(self.run.model.lare, self.run.processor, packed)
        return self._encoded[packed.folder]


def _packed_for(stage: StageConfig) -> list[Training | None]:
    """The methods that make their own samples of the data, and None for all others."""
    return [None, *(entry.training for entry in stage.mixture if entry.training.own_examples)]
