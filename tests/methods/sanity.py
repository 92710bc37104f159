"""Tiny tasks for methods: a model of 48 numbers a token that learns pictures of coloured cells in seconds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig

import lare
from lare.data.sample import Sample
from lare.methods import get_method
from lare.methods.base import Method, Sampling
from lare.methods.layout import Row
from lare.methods.training import Training
from lare.model import LareConfig, LareForConditionalGeneration, LareProcessor
from lare.training.feeding.rows import (
    crop_pixels,
    encode_rows,
    on_grid,
    special_ids,
    step_ends,
    targets_of,
    text_encoder,
)
from lare.training.plan.config import DataConfig, StageConfig

GRID, PATCH, POOL = 4, 8, 60
COLOURS = {
    "red": (255, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "purple": (160, 0, 200),
    "black": (0, 0, 0), "white": (255, 255, 255), "orange": (255, 140, 0),
}  # fmt: skip
PLACES = [f"{column}{row}" for row in range(1, 5) for column in "abcd"]
Task = Callable[[np.random.Generator], tuple[Image.Image, Sample]]


def picture(cells: Sequence[str]) -> Image.Image:
    """16 coloured cells, row by row."""
    values = np.array([COLOURS[one] for one in cells], np.uint8).reshape(GRID, GRID, 3)
    return Image.fromarray(values.repeat(PATCH, 0).repeat(PATCH, 1))


def tiny(lm_grid: int = 2, seed: int = 0, layers: int = 2, **changes: Any) -> tuple[Any, LareProcessor]:
    """A decoder from nothing behind an encoder that tells a patch's colour and place; the shipped vocabulary."""
    shipped: LareProcessor = LareProcessor.from_pretrained(lare.default_checkpoint())
    side = GRID * PATCH
    images = CLIPImageProcessor(size={"height": side, "width": side}, do_center_crop=False, resample=2)
    tokenizer = copy.deepcopy(shipped.tokenizer)
    processor = LareProcessor(images, tokenizer, chat_template=shipped.chat_template, lm_grid=lm_grid)
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=side,
        patch_size=PATCH,
    )  # fmt: skip
    config = LareConfig(
        text_config=text, vision_config=vision, image_size=side, grid=GRID, lm_grid=lm_grid, iterations=1, window=2,
        refocus_source="fine" if lm_grid < GRID else "lm", image_token_id=processor.image_token_id,
        latent_start_id=processor.latent_start_id, latent_end_id=processor.latent_end_id, **changes,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LareForConditionalGeneration(config)
    with torch.no_grad():
        embeddings = model.vision_tower.encoder.embeddings
        embeddings.patch_embedding.weight.normal_(0, 0.1)
        embeddings.position_embedding.weight.normal_(0, 1)
    return model, processor


def batch_of(
    model: LareForConditionalGeneration, processor: LareProcessor, training: Training, rows: Sequence[Any], rng: Any
) -> dict[str, Any]:
    """Arguments of the model's forward for pictures and samples, laid out by the method."""
    stage, config, tokenizer = StageConfig("I", (DataConfig(path="x.json"),)), model.config, processor.tokenizer
    layout = training.layout(stage, config)
    found = [training.examples(sample) for _, sample in rows]
    samples = [one[int(rng.integers(len(one)))] for one in found]
    prompts = processor(
        images=[picture for picture, _ in rows],
        text=processor.build_prompts([one.question for one in samples], latent=False),
    )
    ids = [row[real.bool()].tolist() for row, real in zip(prompts["input_ids"], prompts["attention_mask"], strict=True)]
    side = layout.lm_grid or config.lm_grid
    ids = [on_grid(one, config.image_token_id, side) for one in ids]
    thoughts = tokenizer([f" {one.rationale}" if one.rationale else "" for one in samples], add_special_tokens=False)
    answers = tokenizer([f" Answer: {one.answer}{tokenizer.eos_token}" for one in samples], add_special_tokens=False)
    made = [
        Row(
            prompt,
            thought,
            answer,
            one.boxes,
            step_ends(tokenizer, thought),
            text_encoder(processor),
            special_ids(config),
        )
        for one, prompt, thought, answer in zip(samples, ids, thoughts["input_ids"], answers["input_ids"], strict=True)
    ]
    own = None
    if training.own_segments:
        own = targets_of([training.segments(row, layout) for row in made], made, layout, config)
    inputs, _, _ = encode_rows(
        ids, thoughts["input_ids"], answers["input_ids"], layout, config, int(tokenizer.pad_token_id), own=own
    )
    crops = inputs.pop("crops", None)
    if crops:
        inputs["crop_values"] = crop_pixels([picture for picture, _ in rows], crops, processor)
    return inputs | {"visual_features": model.vision_tower(prompts["pixel_values"])}


def train(
    parts: tuple[Any, LareProcessor],
    task: Task,
    trainings: Sequence[Training],
    steps: int,
    rate: float = 4e-3,
    batch: int = 48,
    seed: int = 0,
) -> tuple[Any, LareProcessor]:
    """Train on at most `POOL` batches of samples; an update takes a batch of one of the methods."""
    model, processor = parts
    rng, chooser = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    pool = [
        batch_of(model, processor, trainings[number % len(trainings)], [task(rng) for _ in range(batch)], rng)
        for number in range(min(steps, POOL))
    ]
    optimiser = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        out = model(**pool[step if step < len(pool) else int(chooser.integers(len(pool)))])
        total, count = out.lm_loss
        optimiser.zero_grad()
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return model.eval(), processor


def trained(name: str, **options: Any) -> Training:
    """How a method is trained."""
    kind = get_method(name).training
    assert kind is not None
    return kind(kind.options_type.read(name, options))


def share_right(method: Method, task: Task, count: int = 150, seed: int = 99, tokens: int = 60) -> float:
    """Share of right answers to fresh questions."""
    rng = np.random.default_rng(seed)
    rows = [task(rng) for _ in range(count)]
    answers = method.answer([image for image, _ in rows], [one.question for _, one in rows], Sampling(tokens))
    said = [one.text.rpartition("Answer:")[2].strip() for one in answers]
    return float(np.mean([text == sample.answer for text, (_, sample) in zip(said, rows, strict=True)]))
