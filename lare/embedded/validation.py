"""Validation on the embedded world: teacher-forced exact matches on scenes that no stage trains on."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lare.embedded.batches import WorldBatches
from lare.embedded.world_data import WorldData
from lare.losses.looking import pick_tokens
from lare.methods.layout import Layout
from lare.model.outputs import LareOutput
from lare.training.feeding.loader import Split
from lare.training.feeding.mode import main_layout
from lare.training.model import TrainingModel
from lare.training.plan.config import StageConfig
from lare.training.plan.mixture import Entry

if TYPE_CHECKING:
    from lare.model import LareProcessor

__all__ = ["token_hits", "validate_world"]

SEED = 4242
QUESTIONS = 768


def token_hits(out: LareOutput, answered: Tensor) -> Tensor:
    """(B,) share of the row's answered tokens that are the arg-max, teacher-forced; 1 is an exact match.

    Args:
        out: The model's output.
        answered: (B, T), 1 at the supervised tokens of the target.
    """
    assert out.logits is not None and out.labels is not None
    right = torch.zeros(answered.shape, dtype=torch.float32, device=answered.device)
    right[answered.bool()] = (out.logits.argmax(-1) == out.labels).float()
    return right.sum(1) / answered.sum(1)


@torch.no_grad()
def validate_world(
    model: TrainingModel,
    stage: StageConfig,
    data: WorldData,
    processor: LareProcessor,
    features: np.ndarray | None,
    scenes: int,
    questions: int = QUESTIONS,
) -> dict[str, float]:
    """Share of exact matches in percent: overall (``all``), by family, and with other modes of the same weights.

    A match means every supervised token of the target, rationale included; what a target only reads, such as the visual
    tokens of a box or a crop, is given. The stage's other methods that make no latents are given by their labels, where
    they read the same visual tokens.

    Args:
        model: The model; it is left in evaluation mode.
        stage: The stage, whose last method is validated.
        data: The world as its source.
        processor: The model's processor.
        features: (n, g*g, d_vis) cached features of the validation scenes; None encodes pixels.
        scenes: Validation scenes.
        questions: Questions of each method.
    """
    model.train(False)
    config = model.lare.config
    batches = WorldBatches(data, stage, processor, config, Split(), SEED, features, scenes, world_split="validation")
    *others, last = stage.mixture
    main = main_layout(stage, config)
    found = _matches(model, batches, main, last, questions)
    result = {"all": _percent(sum(found.values(), []))}
    for entry in others:
        layout = entry.training.layout(stage, config)
        plain = not (entry.training.own_examples or entry.training.own_segments or layout.iterations)
        if plain and layout.lm_grid == main.lm_grid:
            result[entry.label] = _percent(sum(_matches(model, batches, layout, entry, questions).values(), []))
    return result | {f"family/{name}": _percent(hits) for name, hits in sorted(found.items())}


def _percent(hits: list[float]) -> float:
    return round(100 * sum(hits) / len(hits), 2)


def _matches(
    model: TrainingModel, batches: WorldBatches, mode: Layout, entry: Entry, questions: int
) -> dict[str, list[float]]:
    found: defaultdict[str, list[float]] = defaultdict(list)
    step = seen = 0
    while seen < questions:
        scenes, items, _ = batches.draw(step)
        batch = batches.encode(scenes, items, 0, mode, entry, batches.picks(step, len(items)))
        inputs = {k: v for k, v in batch.inputs.items() if not k.startswith("prefix")}
        device = next(model.parameters()).device
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
        if batch.fetch:
            assert batch.boxes is not None
            middle = torch.full(batch.boxes.shape[:2], 0.5)
            moved["fetch"] = pick_tokens(batch.boxes, middle, model.lare.config.grid).to(device)
        answered = moved["target_mask"] * moved.get("label_mask", 1)
        hits = token_hits(model.lare(**moved), answered).tolist()
        for item, hit in zip(items, hits, strict=True):
            found[item.question.family].append(hit if item.question.family == "caption" else float(hit == 1.0))
        step, seen = step + 1, seen + len(items)
    return found
