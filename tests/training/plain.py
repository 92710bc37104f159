"""A tiny run on the embedded world, and the plain version of an update: row by row, every loss by its formula."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from lare.embedded.autoencoder import small_tokenizer
from lare.embedded.batches import WorldBatches
from lare.embedded.model import Sizes, build_model
from lare.embedded.ship import build_processor
from lare.embedded.vision_conv import LareVisionConfig, LareVisionModel
from lare.embedded.world_data import WorldData
from lare.losses.image import ImageReconstruction
from lare.model.loop import run_decoder
from lare.training.feeding.batch import Draws, MicroBatch
from lare.training.feeding.loader import Split
from lare.training.model import TrainingModel
from lare.training.plan.config import ImageConfig, LossConfig, ModelConfig, RunConfig, StageConfig
from lare.training.trainer import Plan

DATA = WorldData(per_image=4)
WEIGHTS = {"alignment": 0.3, "image": 0.4, "text": 0.5, "look": 0.2}
ROWS = 32
WHOLE = Split()


def tiny_model(seed: int = 0, **overrides: Any) -> TrainingModel:
    """A decoder of two layers around an encoder with random weights, all heads, in float64.

    Every weight is drawn anew, wide enough that each part shows in every loss.
    """
    torch.manual_seed(7)
    encoder = LareVisionModel(LareVisionConfig(widths=(4, 4, 8, 8)))
    sizes = Sizes(hidden=32, layers=2, heads=2, ffn=48, projector=24, prefix=4, overrides={"iterations": 2} | overrides)
    lare = build_model(sizes, encoder, processor().tokenizer.get_vocab(), seed)
    tiny = small_tokenizer()
    config = ImageConfig(unet="small", size=16, share=0.5)
    image = ImageReconstruction(32, config, tiny, tiny_unet(int(tiny.config.latent_channels)))
    model = TrainingModel(lare, 16, image)
    generator = torch.Generator().manual_seed(seed + 3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("lare.vision_tower") and parameter.dim() > 1:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.double()


def tiny_unet(channels: int) -> UNet2DConditionModel:
    """Less than half the parts of the smallest that a run file names, since each is saved and gathered by itself."""
    return UNet2DConditionModel(
        sample_size=2, in_channels=channels, out_channels=channels, layers_per_block=1, block_out_channels=(16,),
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), cross_attention_dim=24, attention_head_dim=2,
        norm_num_groups=4,
    )  # fmt: skip


@lru_cache
def processor() -> Any:
    return build_processor(128, 4)


def run_config(out: Path | str, **changes: Any) -> RunConfig:
    """Four stages of four updates each."""
    common: dict[str, Any] = {"data": (DATA,), "samples": 4 * 16, "batch": 16, "learning_rate": 1e-3}
    latents = common | {"new_learning_rate": 1e-3, "replaced": 2}
    stages = (
        StageConfig("I", **common, text_share=0.5, train=("projector", "language_model")),
        StageConfig("II", **latents, micro_batch=8),
        StageConfig("III", **latents, direct_share=0.25, text_share=0.25),
        StageConfig("IV", **latents),
    )
    values: dict[str, Any] = {
        "model": ModelConfig(text="embedded", vision="embedded"),
        "stages": stages,
        "out": str(out),
        "losses": LossConfig(**WEIGHTS, shared_dim=16),
        "image": ImageConfig(unet="small", size=16, share=0.5),
        "save_every": 1,
        "log_every": 1,
        "tensorboard": False,
    }
    return RunConfig(**(values | changes))


def batches(
    stage: StageConfig, model: TrainingModel, split: Split = WHOLE, seed: int = 0, scenes: int = 40
) -> WorldBatches:
    """The world's questions for a tiny model, with pixels."""
    return WorldBatches(stage.data[0], stage, processor(), model.lare.config, split, seed, None, scenes, pictures=True)


def tiny_plan(model: TrainingModel) -> Plan:
    return Plan(lambda stage, number, split: batches(stage, model, split, number))


def to_double(batch: MicroBatch) -> MicroBatch:
    batch.inputs["pixel_values"] = batch.inputs["pixel_values"].double()
    return batch


def plain_losses(model: TrainingModel, batch: MicroBatch, draws: Draws) -> dict[str, Tensor]:
    """Mean of each loss over a batch, row by row, without cache, padding or batching.

    The latents come from the model's own loop, which has a reference of its own in the model's tests.
    """
    lare, inputs = model.lare, batch.inputs
    per_image = inputs["questions_per_image"]
    sums: dict[str, list[Tensor]] = {"lm": [], "text": [], "image": [], "look": []}
    counts = dict.fromkeys(sums, 0)
    vectors: list[tuple[Tensor, Tensor, Tensor]] = []
    for row in range(batch.rows):
        one = row // per_image
        prompt = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
        target = inputs["target_ids"][row][inputs["target_mask"][row].bool()]
        whole = torch.cat((inputs["shared_ids"][one], prompt))[None]
        alone = {"input_ids": whole, "pixel_values": inputs["pixel_values"][one : one + 1], "target_ids": target[None]}
        keep = {"iterations": inputs["iterations"], "delimiters": inputs["delimiters"], "saliency_gradient": True}
        out = lare(**alone, **keep)
        sums["lm"].append(_entropy(lare, out.target_hidden[0], target))
        counts["lm"] += len(target)
        if not inputs["iterations"]:
            continue
        latents = out.thoughts.latents[0].flatten(0, 1)
        prefix = inputs["prefix_ids"][row][inputs["prefix_mask"][row].bool()]
        sums["text"].append(_prefix(lare, latents, prefix))
        counts["text"] += len(prefix)
        for step, (top, left, bottom, right) in enumerate((batch.boxes[row] * 4).tolist()):
            if top >= 0:  # a world cell is a token of the decoder's grid here
                seen = out.thoughts.saliency[0, step]
                inside = seen[round(top) : round(bottom), round(left) : round(right)]
                sums["look"].append(-(inside.sum() / seen.sum()).log())
                counts["look"] += 1
        rationale = batch.rationale_ids[row][batch.rationale_mask[row].bool()]
        places = torch.arange(len(rationale))[None]
        states = run_decoder(lare, lare.embed(rationale[None]), None, places, None)[0]
        heads = model.alignment
        tokens = (latents, states, out.visual.lm[0])
        layers = (heads.latents, heads.text, heads.visual)
        pooled = [head(0.5 * (t.mean(0) + t.amax(0))) for head, t in zip(layers, tokens, strict=True)]
        vectors.append(tuple(v / v.norm() for v in pooled))
        if bool(draws.carried[row]):
            sums["image"].append(_image(model, out, batch.pictures[one], draws, row))
            counts["image"] += 1
    means = {name: sum(values) / counts[name] for name, values in sums.items() if values}
    if vectors:
        means["alignment"] = _alignment(vectors, batch, 0.07) / batch.rows
    return means


def _entropy(lare: Any, hidden: Tensor, labels: Tensor) -> Tensor:
    scores = lare.lm_head(hidden).log_softmax(-1)
    return -torch.stack([scores[i, label] for i, label in enumerate(labels)]).sum()


def _prefix(lare: Any, latents: Tensor, prefix: Tensor) -> Tensor:
    ids = (lare.config.latent_start_id, lare.config.latent_end_id)
    start, end = (lare.embed(torch.tensor([[i]])) for i in ids)
    embeds = torch.cat((start, latents[None], end, lare.embed(prefix[None, :-1])), 1)
    hidden = run_decoder(lare, embeds, None, torch.arange(embeds.shape[1])[None], None)[0]
    return _entropy(lare, hidden[-len(prefix) :], prefix)


def _alignment(vectors: list[tuple[Tensor, Tensor, Tensor]], batch: MicroBatch, temperature: float) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for other, groups in ((1, batch.text_groups), (2, batch.image_groups)):
        for row in range(len(vectors)):
            kept = [i for i in range(len(vectors)) if i == row or groups[i] != groups[row]]
            for one, two in ((0, other), (other, 0)):
                scores = torch.stack([vectors[row][one] @ vectors[i][two] / temperature for i in kept])
                total = total + 0.5 * (torch.logsumexp(scores, 0) - scores[kept.index(row)])
    return total


def _image(model: TrainingModel, out: Any, picture: Tensor, draws: Draws, row: int) -> Tensor:
    image, config = model.image, model.lare.config
    taken = int(draws.pick[row] * config.iterations)
    top, left = (out.thoughts.windows[0, taken] * (128 // config.grid)).tolist()
    side = config.window * (128 // config.grid)
    crop = (picture.double() / 127.5 - 1)[None, :, top : top + side, left : left + side]
    small = torch.nn.functional.interpolate(crop, size=(16, 16), mode="bilinear", antialias=True, align_corners=False)
    with torch.no_grad():
        code = image.tokenizer.encode(small).latent_dist.mode() * image.tokenizer.config.scaling_factor
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    kept = torch.cumprod(1 - betas, 0)[draws.timesteps[row]]
    noise = draws.noise[row].double()
    noisy = kept.sqrt() * code + (1 - kept).sqrt() * noise
    predicted = image(noisy, draws.timesteps[row : row + 1], out.thoughts.latents[:, taken])
    return (predicted[0] - noise).square().mean()
