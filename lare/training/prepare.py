"""From a run's configuration to model, processor and plan: what has to exist before the first update.

For full-size models these are pre-trained parts. For the embedded model they are made here, each once, in the run's
folder: the vision encoder (dense labels of the world), the image tokenizer, and the features of all scenes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lare.data.packed import Packed, pack, token_limit
from lare.data.source import Source
from lare.embedded.autoencoder import train_tokenizer
from lare.embedded.batches import WorldBatches, cache_world_features
from lare.embedded.encoder import train_encoder
from lare.embedded.model import Sizes, build_model, warm_start
from lare.embedded.projector_warmup import align_projector
from lare.embedded.ship import build_processor
from lare.embedded.tokenizer import build_tokenizer
from lare.embedded.validation import validate_world
from lare.embedded.vision_conv import LareVisionModel
from lare.errors import LareError
from lare.losses.image import ImageReconstruction
from lare.model import LareForConditionalGeneration, LareProcessor
from lare.progress import note
from lare.training.feeding.features import PackedFeatures, cache_packed_features
from lare.training.feeding.loader import PackedBatches, Split, StageBatches
from lare.training.model import TrainingModel
from lare.training.plan.config import DataConfig, RunConfig, StageConfig
from lare.training.precision import settled
from lare.training.trainer import Plan

__all__ = ["Prepared"]

VALIDATION_SCENES = 1_000


class Prepared:
    """Everything a trainer needs; loads or makes it.

    Args:
        config: The run.

    Attributes:
        model: What trains.
        processor: Its processor.
        plan: Data, first weights and validation.

    Raises:
        LareError: If a part can't be loaded or data can't be read.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config = settled(config)
        self.out = Path(config.out)
        self.parts = _parts_folder(config)
        self.embedded = config.model.text == "embedded"
        lare, self.processor = self._base()
        self.model = TrainingModel(lare, self._shared_dim(), self._reconstruction(lare), config.precision)
        self._features: dict[str, np.ndarray] = {}
        self._packs: dict[DataConfig, Packed] = {}
        self._encoded: dict[Path, PackedFeatures] = {}
        self.plan = Plan(self._batches, self._enter, self._validate)

    def files(self) -> None:
        """Make what the plan reads from disk, so that processes find it there."""
        for stage in self.config.stages:
            for data in stage.data:
                if data.format == "world":
                    self._world_features("train", data)
                    continue
                packed = self._pack(data, stage)
                if self.config.cache_features:
                    self._packed_features(packed)
        if self.config.validate_every and any(data.format == "world" for s in self.config.stages for data in s.data):
            self._world_features("validation", self.config.stages[0].data[0])

    # Parts -----------------------------------------------------------------------------------------------------

    def _base(self) -> tuple[LareForConditionalGeneration, LareProcessor]:
        chosen = self.config.model
        if chosen.checkpoint is not None:
            from lare.loading import load_checkpoint

            model, processor, _ = load_checkpoint(chosen.checkpoint, "cpu")
            return model, processor
        if self.embedded:
            return self._embedded()
        from lare.backbones.assemble import assemble

        assert chosen.text is not None and chosen.vision is not None
        return assemble(chosen.text, chosen.vision, chosen.settings, self.config.seed, chosen.trust_remote_code)

    @property
    def sizes(self) -> Sizes:
        """Sizes of the embedded model."""
        try:
            return Sizes(**self.config.model.sizes, overrides=dict(self.config.model.settings))
        except TypeError as error:
            raise LareError(f"model.sizes: {error}; see lare.embedded.model.Sizes") from None

    def _embedded(self) -> tuple[LareForConditionalGeneration, LareProcessor]:
        folder, vision = self.parts / "encoder", self.config.model.vision
        if vision != "embedded":
            folder = Path(str(vision))
            if not (folder / "config.json").is_file():
                raise LareError(f"model.vision {vision!r} holds no encoder of the embedded world; give embedded")
        else:
            train_encoder(folder, self.sizes.encoder_images, seed=self.config.seed)
        encoder = LareVisionModel.from_pretrained(folder)
        model = build_model(self.sizes, encoder, build_tokenizer().get_vocab(), self.config.seed)
        return model, build_processor(model.config.image_size, model.config.lm_grid)

    def _uses(self, loss: str) -> bool:
        return any(self.config.weights(stage)[loss] for stage in self.config.stages)

    def _shared_dim(self) -> int:
        torch.manual_seed(self.config.seed + 1)
        return self.config.losses.shared_dim if self._uses("alignment") else 0

    def _reconstruction(self, lare: LareForConditionalGeneration) -> ImageReconstruction | None:
        if not self._uses("image"):
            return None
        image = self.config.image
        if image.tokenizer == "embedded":
            folder = self.parts / "image_tokenizer"
            train_tokenizer(folder, self.sizes_or_default().tokenizer_images, self.config.seed)
            image = replace(image, tokenizer=str(folder))
        torch.manual_seed(self.config.seed + 2)
        return ImageReconstruction.from_config(int(lare.config.text_config.hidden_size), image)

    # Data ------------------------------------------------------------------------------------------------------

    def _world_features(self, split: str, data: DataConfig) -> np.ndarray | None:
        """Cached features of the embedded encoder; None where pixels are encoded as they come."""
        encoder = self.model.lare.vision_tower.encoder
        if not isinstance(encoder, LareVisionModel):
            return None
        count = VALIDATION_SCENES if split == "validation" else data.limit or self.sizes_or_default().scenes
        key = f"{split}_{count}"
        if key not in self._features:
            self._features[key] = cache_world_features(encoder, self.parts / f"features_{key}.npy", split, count)
        return self._features[key]

    def sizes_or_default(self) -> Sizes:
        """`sizes`, also of runs that start from a checkpoint."""
        return self.sizes if self.embedded else Sizes()

    def _pack(self, data: DataConfig, stage: StageConfig) -> Packed:
        if data not in self._packs:
            assert data.path is not None
            images = Path(data.images) if data.images else None
            source = Source(Path(data.path), data.format, images, data.on_bad, data.check_images, data.turns)
            number = len(self._packs)
            folder = self.out / "data" / f"{number}-{Path(data.path).stem}"
            config = self.model.lare.config
            latents = config.iterations * config.latents_per_iteration + 2  # and the two delimiters
            room = token_limit(self.processor) - latents
            self._packs[data] = pack(source, self.processor, folder, data.limit, room)
        return self._packs[data]

    def _batches(self, stage: StageConfig, number: int, split: Split) -> StageBatches:
        seed = self.config.seed * 1_009 + number
        config, pictures = self.model.lare.config, bool(self.config.weights(stage)["image"])
        if stage.data[0].format == "world":
            if len(stage.data) > 1:
                raise LareError(f"stage {stage.name} mixes the world with other sources; give them stages of their own")
            data = stage.data[0]
            features = self._world_features("train", data)
            scenes = data.limit or self.sizes_or_default().scenes
            return WorldBatches(data, stage, self.processor, config, split, seed, features, scenes, pictures=pictures)
        packs = [self._pack(data, stage) for data in stage.data]
        cached = [self._packed_features(pack) for pack in packs] if self.config.cache_features else None
        batches = PackedBatches(packs, self.processor, config, stage, split, seed, pictures, cached)
        if batches.without_image and not split.rank:
            note(
                f"stage {stage.name}: {batches.without_image:,} samples without an image are left out: they train the "
                "decoder alone, where it trains, in batches of their own"
            )
        return batches

    def _packed_features(self, packed: Packed) -> PackedFeatures:
        if packed.folder not in self._encoded:
            self._encoded[packed.folder] = cache_packed_features(self.model.lare, self.processor, packed)
        return self._encoded[packed.folder]

    # Starts ----------------------------------------------------------------------------------------------------

    def _enter(self, stage: StageConfig, before: StageConfig | None) -> None:
        """First weights that a stage needs and the one before could not leave."""
        lare = self.model.lare
        if before is None and self.config.start is not None:
            return
        if self.embedded and before is None:
            data = self._world_features("train", stage.data[0])
            vocab = self.processor.tokenizer.get_vocab()
            assert data is not None
            align_projector(lare, data, "train", vocab, self.config.seed)
        if self.embedded and before is not None and _delimited(stage) and not _delimited(before):
            warm_start(lare, self.processor.tokenizer.get_vocab()["<|assistant|>"])
        first = stage.stage != "I" and (before is None or before.stage == "I")
        if first and lare.refocus_projector is not None and self.config.model.checkpoint is None:
            lare.refocus_projector.load_state_dict(lare.projector.state_dict())

    def _validate(self, stage: StageConfig) -> dict[str, float]:
        data = stage.data[0]
        if data.format != "world":
            return {}
        features = self._world_features("validation", data)
        return validate_world(self.model, stage, data, self.processor, features, VALIDATION_SCENES)


def _parts_folder(config: RunConfig) -> Path:
    """Where encoder, image tokenizer and features lie: the run's folder, or that of the run it starts from.

    A run that begins with another one's weights has its encoder as well, whatever its own seed would have made.
    """
    before = Path(config.start).parent if config.start is not None else None
    return before if before is not None and (before / "encoder" / "config.json").is_file() else Path(config.out)


def _delimited(stage: StageConfig) -> bool:
    return stage.stage != "I" or stage.text_share > 0
