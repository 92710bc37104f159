"""From a run's configuration to model, processor and plan: what has to exist before the first update.

Full-size models are put together from pre-trained parts. What a run file names from `lare.registry` instead (a base
model, an encoder, an image autoencoder, a data format) is made by `lare.training.extensions`' objects, each part once,
in the run's folder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from lare.losses.image import ImageReconstruction
from lare.model import LareForConditionalGeneration, LareProcessor
from lare.registry import BASE_MODELS, DATA_FORMATS, IMAGE_AUTOENCODERS, VISION_ENCODERS
from lare.training.extensions import DataFeed, RunParts
from lare.training.feeding.files import FileFeed
from lare.training.feeding.loader import Split, StageBatches
from lare.training.model import TrainingModel
from lare.training.plan.config import RunConfig, StageConfig
from lare.training.precision import AUTOCAST, settled
from lare.training.trainer import Plan, further_losses

__all__ = ["Prepared"]


class Prepared:
    """Everything a trainer needs; loads or makes it.

    Args:
        config: The run.

    Attributes:
        model: The model that trains.
        processor: Its processor.
        plan: Data, first weights and validation.

    Raises:
        LareError: If a part can't be loaded or data can't be read.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config = settled(config)
        folder = _parts_folder(config)
        lare, self.processor = self._base(folder)
        if config.gradient_checkpointing:
            lare.gradient_checkpointing_enable()
        image = self._shared_dim(), self._reconstruction(lare, folder)
        self.model = TrainingModel(lare, *image, config.precision, self._heads(lare))
        self.run = RunParts(config, folder, self.model, self.processor, self.feed)
        self._feeds: dict[str, DataFeed] = {}
        self.plan = Plan(self._batches, self._enter, self._validate)

    def files(self) -> None:
        """Make what the plan reads from disk, so that processes find it there."""
        for stage in self.config.stages:
            self._feed_of(stage).files(stage)

    def feed(self, name: str) -> DataFeed:
        """The data of a format; all formats of files share one."""
        own = name in DATA_FORMATS
        key = name if own else ""
        if key not in self._feeds:
            self._feeds[key] = DATA_FORMATS.get(name).feed(self.run) if own else FileFeed(self.run)
        return self._feeds[key]

    def _feed_of(self, stage: StageConfig) -> DataFeed:
        return self.feed(stage.data[0].format)

    # Parts -----------------------------------------------------------------------------------------------------

    def _base(self, folder: Path) -> tuple[LareForConditionalGeneration, LareProcessor]:
        config, chosen = self.config, self.config.model
        if chosen.checkpoint is not None:
            from lare.loading import load_checkpoint

            model, processor, _ = load_checkpoint(chosen.checkpoint, "cpu")
            model.stop_heads = None  # fitted on the weights as they were
            return model, processor
        if chosen.vlm is not None:
            from lare.backbones.adopt import adopt

            remote, kind, products = chosen.trust_remote_code, chosen.quantise, AUTOCAST.get(config.precision)
            return adopt(chosen.vlm, chosen.settings, config.seed, remote, quantise=kind, products=products)
        text, vision = str(chosen.text), str(chosen.vision)
        if vision in VISION_ENCODERS:
            vision = str(VISION_ENCODERS.get(vision).make(config, folder))
        if text in BASE_MODELS:
            model, processor = BASE_MODELS.get(text).build(config, vision)
            return model, processor
        from lare.backbones.assemble import assemble

        model, processor = assemble(text, vision, chosen.settings, config.seed, chosen.trust_remote_code)
        if model.base is not None and chosen.vision in VISION_ENCODERS:  # the run's own
            model.base = model.base.without_encoder()
        return model, processor

    def _uses(self, loss: str) -> bool:
        return any(self.config.weights(stage)[loss] for stage in self.config.stages)

    def _shared_dim(self) -> int:
        torch.manual_seed(self.config.seed + 1)
        return self.config.losses.shared_dim if self._uses("alignment") else 0

    def _reconstruction(self, lare: LareForConditionalGeneration, folder: Path) -> ImageReconstruction | None:
        if not self._uses("image"):
            return None
        image = self.config.image
        if image.tokenizer in IMAGE_AUTOENCODERS:
            made = IMAGE_AUTOENCODERS.get(image.tokenizer).make(self.config, folder)
            image = replace(image, tokenizer=str(made))
        torch.manual_seed(self.config.seed + 2)
        return ImageReconstruction.from_config(int(lare.config.text_config.hidden_size), image)

    def _heads(self, lare: LareForConditionalGeneration) -> dict[str, torch.nn.Module]:
        """Modules of losses that are not LaRe's own."""
        torch.manual_seed(self.config.seed + 3)
        made = {one.name: one.module(int(lare.config.text_config.hidden_size)) for one in further_losses(self.config)}
        return {name: module for name, module in made.items() if module is not None}

    # The plan --------------------------------------------------------------------------------------------------

    def _batches(self, stage: StageConfig, number: int, split: Split) -> StageBatches:
        return self._feed_of(stage).batches(stage, number, split)

    def _validate(self, stage: StageConfig) -> dict[str, float]:
        return self._feed_of(stage).validate(stage)

    def _enter(self, stage: StageConfig, before: StageConfig | None) -> None:
        """Set first weights that a stage needs and that the stage before it has not trained."""
        lare, text = self.model.lare, self.config.model.text
        if before is None and self.config.start is not None:
            return
        if text is not None and text in BASE_MODELS:
            BASE_MODELS.get(text).enter(self.run, stage, before)
        first = stage.stage != "I" and (before is None or before.stage == "I")
        if first and getattr(lare, "refocus_projector", None) is not None and self.config.model.checkpoint is None:
            lare.refocus_projector.load_state_dict(lare.projector.state_dict())


def _parts_folder(config: RunConfig) -> Path:
    """Where encoder, image tokenizer and features lie: the run's folder, or that of the run it starts from.

    A run that begins with another one's weights has its encoder as well, whatever its own seed would have made.
    """
    before = Path(config.start).parent if config.start is not None else None
    return before if before is not None and (before / "encoder" / "config.json").is_file() else Path(config.out)
