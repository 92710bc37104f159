"""The embedded world and its model under their names in a run file; what each needs is imported when it is used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lare.embedded.world_data import WorldData, world_of
from lare.errors import LareError, require
from lare.training.extensions import BaseModel, DataFormat, ImageAutoencoder, RunParts, VisionEncoder
from lare.training.plan.config import DataConfig, ModelConfig, RunConfig, StageConfig
from lare.training.plan.mixture import typical_layout

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from lare.data.questions import Question
    from lare.embedded.feed import WorldFeed
    from lare.model import LareForConditionalGeneration, LareProcessor

__all__ = ["AUTOENCODER", "ENCODER", "MODEL", "WORLD"]


class _World(DataFormat):
    settings = WorldData

    def feed(self, run: RunParts) -> WorldFeed:
        from lare.embedded.feed import WorldFeed

        return WorldFeed(run)

    def lengths(self, data: DataConfig) -> tuple[int, int, int]:
        from lare.embedded.lengths import world_lengths

        assert isinstance(data, WorldData)
        return world_lengths(data)

    def questions(self, data: DataConfig, split: str, count: int) -> Iterator[Question]:
        from lare.embedded.asked import world_questions

        assert isinstance(data, WorldData)
        return world_questions(data, split, count)


class _Encoder(VisionEncoder):
    texts = ("embedded",)

    def make(self, config: RunConfig, folder: Path) -> Path:
        from lare.embedded.encoder import train_encoder
        from lare.embedded.model import run_sizes

        return train_encoder(folder / "encoder", run_sizes(config.model).encoder_images, seed=config.seed)


class _Autoencoder(ImageAutoencoder):
    def check(self, config: RunConfig) -> None:
        require(
            all(isinstance(data, WorldData) for stage in config.stages for data in stage.data),
            "image.tokenizer embedded knows only the embedded world; name an AutoencoderKL or set losses.image=0",
        )

    def make(self, config: RunConfig, folder: Path) -> Path:
        from lare.embedded.autoencoder import train_tokenizer
        from lare.embedded.model import run_sizes

        return train_tokenizer(folder / "image_tokenizer", run_sizes(config.model).tokenizer_images, config.seed)

    def skeleton(self) -> AutoencoderKL:
        from lare.embedded.autoencoder import small_tokenizer

        return small_tokenizer()


class _Model(BaseModel):
    def build(self, config: RunConfig, vision: str) -> tuple[LareForConditionalGeneration, LareProcessor]:
        from lare.embedded.model import build_model, run_sizes
        from lare.embedded.ship import build_processor
        from lare.embedded.tokenizer import build_tokenizer
        from lare.embedded.vision_conv import LareVisionModel

        if not (Path(vision) / "config.json").is_file():
            raise LareError(f"model.vision {vision!r} holds no encoder of the embedded world; give embedded")
        encoder = LareVisionModel.from_pretrained(vision)
        model = build_model(run_sizes(config.model), encoder, build_tokenizer().get_vocab(), config.seed)
        return model, build_processor(model.config.image_size, model.config.lm_grid)

    def skeleton(self, model: ModelConfig) -> LareForConditionalGeneration:
        from lare.embedded.model import build_model, run_sizes
        from lare.embedded.tokenizer import build_tokenizer
        from lare.embedded.vision_conv import LareVisionConfig, LareVisionModel

        return build_model(run_sizes(model), LareVisionModel(LareVisionConfig()), build_tokenizer().get_vocab())

    def enter(self, run: RunParts, stage: StageConfig, before: StageConfig | None) -> None:
        """Teach the projector the decoder's words before stage I; start the delimiters where they are first used."""
        from lare.embedded.feed import WorldFeed
        from lare.embedded.model import warm_start
        from lare.embedded.projector_warmup import align_projector

        vocab, lare = run.processor.tokenizer.get_vocab(), run.model.lare
        if before is None:
            world, data = run.feed("world"), world_of(stage)
            assert isinstance(world, WorldFeed)
            features = world.features("train", data)
            assert features is not None
            align_projector(lare, features, "train", vocab, run.config.seed, version=data.version)
        elif _delimited(stage) and not _delimited(before):
            warm_start(lare, vocab["<|assistant|>"])


def _delimited(stage: StageConfig) -> bool:
    return stage.stage != "I" or any(typical_layout(entry, stage).delimiters for entry in stage.mixture)


WORLD, MODEL, ENCODER, AUTOENCODER = _World(), _Model(), _Encoder(), _Autoencoder()
