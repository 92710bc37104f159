"""The typed configuration of a training run: frozen dataclasses; `lare.training.plan.run_file` reads them.

Every impossible value or pair of values is refused here, before anything is loaded, in one sentence with the mend.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lare.errors import require
from lare.losses.base import needs_pictures, weighted_names
from lare.losses.settings import ImageConfig
from lare.registry import BASE_MODELS, DATA_FORMATS, IMAGE_AUTOENCODERS, VISION_ENCODERS
from lare.training.plan.mixture import LEGACY
from lare.training.plan.stage_config import PARTS, STAGE_NAMES, DataConfig, StageConfig

__all__ = [
    "PARTS",
    "STAGE_NAMES",
    "DataConfig",
    "ImageConfig",
    "LossConfig",
    "ModelConfig",
    "OptimiserConfig",
    "RunConfig",
    "StageConfig",
    "plain",
]


@dataclass(frozen=True)
class ModelConfig:
    """What the model is made of: a LaRe checkpoint, or a decoder and an encoder that are put together.

    Attributes:
        checkpoint: Folder or hub id of a LaRe checkpoint to start from; then the others are None.
        text: Folder or hub id of a causal language model; ``FOLDER::FILE.gguf`` for GGUF weights; or a name of
            `lare.registry.BASE_MODELS`, which the run builds from nothing.
        vlm: Folder or hub id of a vision-language model that LaRe has a backbone for; then text and vision are None.
        vision: Folder or hub id of a CLIP vision model; ``efficientnet-lite0`` (ImageNet weights from the package
            index); or a name of `lare.registry.VISION_ENCODERS`, which the run trains first.
        settings: Fields of `LareConfig` other than its sub-configurations.
        sizes: Sizes of a model that the run builds from nothing; only then.
        trust_remote_code: Whether code from a hub repository may run.
        quantise: ``8bit`` or ``4bit`` holds the frozen decoder of `vlm` so, by bitsandbytes on a GPU; adapters train
            (`settings.lora`).
    """

    checkpoint: str | None = None
    text: str | None = None
    vision: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False
    vlm: str | None = None
    quantise: str | None = None

    def __post_init__(self) -> None:
        if self.checkpoint is not None or self.vlm is not None:
            require(
                self.text is None and self.vision is None,
                "model.checkpoint and model.text or model.vision are both given; leave one of them out"
                if self.vlm is None
                else "model.vlm holds decoder and encoder; leave model.text and model.vision out",
            )
            require(
                self.checkpoint is None or self.vlm is None,
                "model.checkpoint and model.vlm are both given; leave one of them out",
            )
        else:
            require(
                self.text is not None and self.vision is not None,
                "model needs text and vision (a decoder and an encoder), vlm, or checkpoint; add them",
            )
        require(
            not self.sizes or self.text in BASE_MODELS,
            f"model.sizes is only for models that a run builds (text: {', '.join(BASE_MODELS.names())}); leave it out",
        )
        if self.quantise is not None:
            kinds = ("8bit", "4bit")
            require(self.quantise in kinds, f"model.quantise is {self.quantise!r}; give {' or '.join(kinds)}")
            require(
                self.vlm is not None and bool(self.settings.get("lora")),
                "model.quantise holds the frozen decoder of model.vlm beside adapters; give model.vlm and "
                "model.settings.lora, or leave it out",
            )
        if self.vision in VISION_ENCODERS:
            texts = VISION_ENCODERS.get(str(self.vision)).texts
            require(
                self.text in texts,
                f"model.vision {self.vision} goes only with model.text {' or '.join(texts)}; change one",
            )


@dataclass(frozen=True)
class LossConfig:
    """Weights and settings of the losses (eqs. 6-10): L = L_lm + a L_align + b L_image + c L_text + e L_look.

    Attributes:
        alignment: a; 0 turns the loss off.
        image: b.
        text: c.
        look: e, of box supervision, a loss beyond the paper: the attention that chooses a window is supervised by the
            box that the reasoning step needs, where the data have one.
        others: Weights of losses of other packages, by name (see `lare.registry.LOSSES`).
        temperature: Temperature of the alignment's InfoNCE.
        shared_dim: Width of the space in which latents, text and image are compared.
    """

    alignment: float = 0.1
    image: float = 0.1
    text: float = 0.5
    look: float = 0.0
    others: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 0.07
    shared_dim: int = 256

    def __post_init__(self) -> None:
        for name, weight in self.weights().items():
            require(weight >= 0, f"losses.{name} is {weight}; give a weight of 0 or more")
        wrong = [name for name in self.others if name not in weighted_names() or hasattr(self, name)]
        require(not wrong, f"losses.others: {wrong} are no losses of other packages; leave them out")
        require(self.temperature > 0, f"losses.temperature is {self.temperature}; give a number above 0")
        require(self.shared_dim >= 1, f"losses.shared_dim is {self.shared_dim}; give at least 1")

    def weights(self) -> dict[str, float]:
        """The weight of every loss but L_lm, by name."""
        return {name: float(getattr(self, name, self.others.get(name, 0.0))) for name in weighted_names()}


@dataclass(frozen=True)
class OptimiserConfig:
    """The optimiser of every stage.

    Attributes:
        weight_decay: Decoupled weight decay of matrices; vectors have none.
        betas: AdamW's betas.
        warmup: Share of a stage's steps in which the learning rate rises; then it falls by a cosine.
        floor: Learning rate at the end, as a share of the peak.
        clip: Largest norm of the gradient.
        matrices: ``adamw``, or ``muon`` for the matrices inside the network.
        matrix_rate: Muon's learning rate.
    """

    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: float = 0.03
    floor: float = 0.0
    clip: float = 1.0
    matrices: str = "adamw"
    matrix_rate: float = 3e-3

    def __post_init__(self) -> None:
        require(self.matrices in ("adamw", "muon"), f"optimiser.matrices is {self.matrices!r}; give adamw or muon")
        require(0 <= self.warmup < 1, f"optimiser.warmup is {self.warmup}; give a share of the steps below 1")
        require(0 <= self.floor <= 1, f"optimiser.floor is {self.floor}; give a share of the peak up to 1")
        require(self.clip > 0, f"optimiser.clip is {self.clip}; give a norm above 0")
        require(self.weight_decay >= 0, f"optimiser.weight_decay is {self.weight_decay}; give 0 or more")
        require(all(0 <= beta < 1 for beta in self.betas), f"optimiser.betas are {self.betas}; give numbers below 1")


@dataclass(frozen=True)
class RunConfig:
    """A whole run.

    Attributes:
        model: The model that it trains.
        stages: Its plan, in order; each entry starts from the weights of the one before.
        out: Folder of the run.
        start: Folder of another run's finished stage (such as ``runs/embedded/II``) whose weights this run begins with;
            so several rows of a comparison share what comes before. Parts that only one of the two has (an ablation's
            Extractor) are left as they are.
        seed: Seed of initial weights, sample order, noise and random windows.
        precision: ``fp32``, ``bf16`` or ``fp16`` (autocast over float32 weights; fp16 with a scaled loss, for GPUs
            without bf16), or ``auto``: bf16 where the machine has it in hardware, else fp16 on a GPU and fp32 on a CPU;
            what it was stands in the run's folder and holds when the run is resumed elsewhere.
        processes: Processes that ``lare train`` starts on this machine; under ``accelerate launch`` leave it at 1.
        losses: Loss weights.
        image: Image reconstruction.
        optimiser: Optimiser.
        workers: Worker processes of the data loader.
        cache_features: Keep the frozen encoder's features on disk.
        gradient_checkpointing: Make the decoder's inner activations again in the backward pass: less memory, and one
            more forward pass of the decoder.
        save_every: Updates between checkpoints.
        keep: Checkpoints kept per stage.
        log_every: Updates between lines of the log.
        validate_every: Updates between validations (of data formats that have one); 0 for none.
        tensorboard: Write TensorBoard's event files.
        wandb: Project name at Weights & Biases; None for none.
    """

    model: ModelConfig
    stages: tuple[StageConfig, ...]
    out: str = "runs/lare"
    start: str | None = None
    seed: int = 0
    precision: str = "fp32"
    processes: int = 1
    losses: LossConfig = field(default_factory=LossConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    workers: int = 0
    cache_features: bool = False
    gradient_checkpointing: bool = False
    save_every: int = 500
    keep: int = 2
    log_every: int = 10
    validate_every: int = 0
    tensorboard: bool = True
    wandb: str | None = None

    def __post_init__(self) -> None:
        require(bool(self.stages), "the run has no stages; add at least one")
        require(
            self.model.vlm is None or not self.cache_features,
            "cache_features is for LaRe's own assembly; leave it out with model.vlm",
        )
        names = [stage.name for stage in self.stages]
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, f"two stages are named {', '.join(twice)}; give each a name of its own")
        order = [STAGE_NAMES.index(stage.stage) for stage in self.stages]
        require(order == sorted(order), "the stages are not in the order I, II, III, IV; sort them")
        require(self.precision in _PRECISIONS, f"precision is {self.precision!r}; give {' or '.join(_PRECISIONS)}")
        for name, least in _LEAST:
            require(getattr(self, name) >= least, f"{name} is {getattr(self, name)}; give at least {least}")
        if self.image.tokenizer in IMAGE_AUTOENCODERS and any(map(needs_pictures, map(self.weights, self.stages))):
            IMAGE_AUTOENCODERS.get(self.image.tokenizer).check(self)
        for stage in self.stages:
            share, left = divmod(stage.batch, self.processes)
            require(
                left == 0,
                f"stage {stage.name}: batch {stage.batch} does not divide over {self.processes} processes; change one",
            )
            require(
                stage.micro_batch is None or share % stage.micro_batch == 0,
                f"stage {stage.name}: micro_batch {stage.micro_batch} does not divide a process's share {share}; "
                "give a divisor",
            )
            own = [data.format for data in stage.data if data.format in DATA_FORMATS]
            require(
                not own or len(stage.data) == 1,
                f"stage {stage.name} mixes the data format {''.join(own[:1])} with other sources; give them stages of "
                "their own",
            )
            require(
                not own or stage.per_image == 1,
                f"stage {stage.name}: data of format {''.join(own[:1])} have a per_image of their own; give it there",
            )
            require(
                not own or stage.data[0].times == 1,
                f"stage {stage.name}: data of format {''.join(own[:1])} are drawn as they are needed; leave times out",
            )
            rows, unit = stage.micro_batch or share, max(stage.per_image, stage.data[0].unit)
            require(
                rows % unit == 0,
                f"stage {stage.name}: {rows} rows a forward pass hold no whole images of per_image {unit} questions; "
                "change batch, micro_batch or per_image",
            )

    def weights(self, stage: StageConfig) -> dict[str, float]:
        """Loss weights of a stage: the run's, with the stage's own in their place; stage I has only its own."""
        usual = dict.fromkeys(weighted_names(), 0.0) if stage.stage == "I" else self.losses.weights()
        return {name: stage.losses.get(name, weight) for name, weight in usual.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and YAML; without keys of earlier versions, which `methods` says."""
        found = typing.cast(dict[str, Any], plain(dataclasses.asdict(self)))
        for stage in found["stages"]:
            for name in LEGACY:
                del stage[name]
        return found


def plain(value: Any) -> Any:
    """A copy of nested values in dictionaries, lists and scalars."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


_PRECISIONS = ("fp32", "bf16", "fp16", "auto")
_LEAST = (
    ("seed", 0),
    ("processes", 1),
    ("workers", 0),
    ("save_every", 1),
    ("keep", 1),
    ("log_every", 1),
    ("validate_every", 0),
)
