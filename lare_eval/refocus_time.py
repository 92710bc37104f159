"""Milliseconds an answer of each row of ``python -m lare_eval.refocus``, vision encoder and all, at batch 1 and 16.

The time of an answer depends on what a model computes, not on what it has learnt: rows are timed on models of their
shape around the shipped encoder, with as many text tokens as the trained rows wrote on average. So no row has to be
trained for it, and a row that writes less because it is worse is not faster for that.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lare.checkpoints import default_checkpoint
from lare.embedded.model import Sizes, build_model
from lare.embedded.ship import build_processor
from lare.embedded.vision_conv import LareVisionModel
from lare.model import LareForConditionalGeneration, LareProcessor

if TYPE_CHECKING:
    from lare.training.plan.config import RunConfig

__all__ = ["TimedRow", "milliseconds", "shape_of"]

BATCHES = (1, 16)
QUESTIONS = 64


@dataclass(frozen=True)
class TimedRow:
    """One row to time.

    Attributes:
        name: Its name.
        config: Its run, of which the model's part counts.
        iterations: K when asked; None takes the model's.
        delimiters: Whether latent delimiters stand in the prompt.
        text_tokens: Text tokens of an answer, the end token included.
    """

    name: str
    config: RunConfig
    iterations: int | None
    delimiters: bool
    text_tokens: int


def shape_of(config: RunConfig) -> LareForConditionalGeneration:
    """An untrained model of a row's shape around the shipped checkpoint's encoder."""
    shipped = LareForConditionalGeneration.from_pretrained(default_checkpoint())
    encoder = shipped.vision_tower.encoder
    assert isinstance(encoder, LareVisionModel)
    sizes = Sizes(**config.model.sizes, overrides=dict(config.model.settings))
    vocab = LareProcessor.from_pretrained(default_checkpoint()).tokenizer.get_vocab()
    model = build_model(sizes, encoder, vocab)
    model.train(False)
    return model


def milliseconds(rows: Sequence[TimedRow], rounds: int = 7, questions: int = QUESTIONS) -> dict[str, dict[str, float]]:
    """Median over rounds in which the rows take turns, in both orders, on one thread.

    Args:
        rows: What to time.
        rounds: Rounds; each asks `questions` at batch 16 and a quarter of them at batch 1.
        questions: Of the mini tasks' validation split, one picture each.

    Returns:
        By row, ``ms_batch1`` and ``ms_batch16``: milliseconds an answer.
    """
    from lare.progress import progress

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    asked = {row.name: _asked(row, questions) for row in rows}
    spent: dict[str, dict[int, list[float]]] = {row.name: {size: [] for size in BATCHES} for row in rows}
    for number in progress(range(rounds + 1), desc="timed", unit="round"):
        for row in rows if number % 2 else list(reversed(rows)):
            model, batches = asked[row.name]
            for size in BATCHES:
                seconds = _seconds(model, batches[size], row)
                if number:  # the first round warms up
                    spent[row.name][size].append(seconds)
    torch.set_num_threads(threads)
    return {
        name: {f"ms_batch{size}": 1000 * float(np.median(found)) for size, found in sizes.items()}
        for name, sizes in spent.items()
    }


def _asked(row: TimedRow, count: int) -> tuple[LareForConditionalGeneration, dict[int, list[Mapping[str, Any]]]]:
    """The model and its inputs, prepared: reading files and words is alike in all rows and is not timed."""
    from lare.embedded.world.benchmark import make_task
    from lare.embedded.world.prompts import task_prompt

    model = shape_of(row.config)
    processor = build_processor(model.config.image_size, model.config.lm_grid)
    found = make_task("mmstar", "validation", count)[:count]
    images = [one["image"].convert("RGB") for one in found]
    prompts = list(processor.build_prompts([str(task_prompt("mmstar", one)) for one in found], latent=row.delimiters))
    batches: dict[int, list[Mapping[str, Any]]] = {}
    for size in BATCHES:
        few = count if size > 1 else max(1, count // 4)
        parts = [slice(start, min(start + size, few)) for start in range(0, few, size)]
        batches[size] = [processor(images=images[p], text=prompts[p], return_tensors="pt") for p in parts]
    return model, batches


def _seconds(model: LareForConditionalGeneration, batches: Sequence[Mapping[str, Any]], row: TimedRow) -> float:
    """Seconds an answer."""
    started = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            model.generate(
                **batch,
                iterations=row.iterations,
                delimiters=row.delimiters,
                max_new_tokens=row.text_tokens,
                eos_token_ids=[],  # nothing ends a text, so every answer has the length asked for
            )
    return (time.perf_counter() - started) / sum(len(batch["input_ids"]) for batch in batches)
