"""Stage 0 of the embedded model: the vision encoder learns dense labels of the world, then is frozen.

Every patch that a thing covers must name the thing's kind, colour, size, direction and digit. Drawings are varied
(mirrored, turned, recoloured) since the test split holds the drawings of a vendor never seen here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lare.embedded.vision_conv import LareVisionConfig, LareVisionModel
from lare.embedded.world.concepts import COLOUR_NAMES, KINDS
from lare.embedded.world.render import render
from lare.embedded.world.scene import SIDE, Scene, sample_scene
from lare.progress import note, progress
from lare.training.precision import fast_bf16
from lare.training.saving.state import load_state, save_state

HEADS = {"kind": len(KINDS) + 1, "colour": len(COLOUR_NAMES), "size": 2, "direction": 4, "label": 10}
MEAN, STD = 0.5, 0.25
"""Pixel normalisation shared with the shipped image processor."""
BATCH = 64
"""Scenes a step."""
REPORT_EVERY = 300
"""Steps between two entries of the history, each with a state to resume from."""


def labels(scene: Scene) -> np.ndarray:
    """(5, 16) int64 label of each cell for each head; -100 where a head has nothing to say."""
    kind, digit = np.array(scene.kind), np.array(scene.label)
    rows = [np.where(kind >= 0, kind, len(KINDS))]
    rows += [np.where(kind >= 0, getattr(scene, name), -100) for name in ("colour", "size", "direction")]
    rows.append(np.where(digit >= 0, digit, -100))
    return np.stack(rows)


class SceneStream(IterableDataset[tuple[Tensor, Tensor]]):
    """Endless augmented training batches (images uint8 (B, 128, 128, 3), labels (B, 5, 16)) from scene `start` on."""

    def __init__(self, batch_size: int, start: int = 0, variants: int = 24) -> None:
        self.batch_size, self.start, self.variants = batch_size, start, variants

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        torch.set_num_threads(1)
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        seed = self.start + worker * self.batch_size
        while True:
            scenes = [sample_scene("train", 10_000_000 + seed + i) for i in range(self.batch_size)]
            images = np.stack([render(s, self.variants) for s in scenes])
            yield torch.from_numpy(images), torch.from_numpy(np.stack([labels(s) for s in scenes]))
            seed += self.batch_size * workers


def pixels(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> normalised float (B, 3, H, W)."""
    return ((images.permute(0, 3, 1, 2).float() / 255.0) - MEAN) / STD


class DenseHeads(nn.Module):
    """Linear read-outs of the dense labels from the patch features and from their 2x2 means."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in HEADS.items()})

    def forward(self, features_BNd: Tensor) -> dict[str, Tensor]:
        """(B, g*g, d) -> per head logits (B, 16, n) of the cell means."""
        batch, n, width = features_BNd.shape
        grid = int(n**0.5)
        cells = features_BNd.reshape(batch, SIDE, grid // SIDE, SIDE, grid // SIDE, width).mean((2, 4)).flatten(1, 2)
        return {name: head(cells) for name, head in self.heads.items()}


def dense_features(model: LareVisionModel, images: Tensor) -> Tensor:
    """Unscaled patch features with their place, (B, g*g, d), of uint8 images (B, H, W, 3)."""
    return model.place(model.patches(pixels(images)), 1.0, 1.0)


def dense_loss(logits: dict[str, Tensor], target_B5N: Tensor) -> Tensor:
    """Sum over heads of the mean cross-entropy; the kind counts twice."""
    total = torch.zeros(())
    for i, (name, out) in enumerate(logits.items()):
        loss = F.cross_entropy(out.float().flatten(0, 1), target_B5N[:, i].flatten(), ignore_index=-100)
        total = total + loss * (2.0 if name == "kind" else 1.0)
    return total


@torch.no_grad()
def evaluate(model: LareVisionModel, heads: DenseHeads, split: str, n: int = 512) -> dict[str, float]:
    """Dense accuracy of each head over `n` scenes of a split, in [0, 1]."""
    model.train(False)
    right, seen = dict.fromkeys(HEADS, 0), dict.fromkeys(HEADS, 0)
    for start in range(0, n, 64):
        scenes = [sample_scene(split, start + i) for i in range(64)]
        target = torch.from_numpy(np.stack([labels(s) for s in scenes]))
        out = heads(dense_features(model, torch.from_numpy(np.stack([render(s) for s in scenes]))))
        for i, name in enumerate(HEADS):
            keep = (target[:, i] >= 0) & (target[:, 0] < len(KINDS))
            right[name] += int((out[name].argmax(-1) == target[:, i])[keep].sum())
            seen[name] += int(keep.sum())
    model.train()
    return {name: right[name] / max(1, seen[name]) for name in HEADS}


def train_encoder(out: Path, images: int = 96_000, seed: int = 0) -> Path:
    """Train the encoder and save it (resumes from its last state).

    Args:
        out: Folder of the encoder, its state and its history.
        images: Training scenes to see.
        seed: Seed of the first weights.

    Returns:
        The folder of the finished encoder; ``history.jsonl`` beside it holds loss and validation accuracy.

    Raises:
        LareError: the state cannot be written.
    """
    torch.manual_seed(seed)
    model = LareVisionModel(LareVisionConfig())
    nn.Module.to(model, memory_format=torch.channels_last)
    both = nn.ModuleDict({"model": model, "heads": DenseHeads(model.config.hidden_size)})
    parameters = list(both.parameters())
    steps = images // BATCH
    optimiser = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.08)
    saved = load_state(out, [optimiser])
    if saved is not None and saved[1]["done"]:
        return out
    first, seconds = 0, 0.0
    if saved is not None:
        both.load_state_dict(saved[0])
        first, seconds = int(saved[1]["step"]), float(saved[1]["seconds"])
        schedule.last_epoch = first
    began = time.time()
    stream = SceneStream(BATCH, first * BATCH)
    batches = iter(DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=4))
    bar = progress(range(first, steps), desc="encoder", mininterval=5, initial=first, total=steps)
    for step in bar:
        loss = encoder_step(both, *next(batches))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if step + 1 < steps:
            schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == steps:
            meta = {"step": step + 1, "seconds": seconds + time.time() - began, "done": step + 1 == steps}
            _report(both, out, (step + 1) * BATCH, loss.item(), meta["seconds"] / 60)
            save_state(out, both.state_dict(), [optimiser], meta)
            model.save_pretrained(out)
    return out


def encoder_step(both: nn.ModuleDict, images: Tensor, target: Tensor) -> Tensor:
    """Loss of one batch of images (B, H, W, 3) and labels (B, 5, 16)."""
    with torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16()):
        return dense_loss(both["heads"](dense_features(cast(LareVisionModel, both["model"]), images)), target)


def _report(both: nn.ModuleDict, out: Path, images: int, loss: float, minutes: float) -> None:
    model, heads = cast(LareVisionModel, both["model"]), cast(DenseHeads, both["heads"])
    add_history(out, {"images": images, "loss": loss, "minutes": minutes} | evaluate(model, heads, "validation"))


def add_history(out: Path, row: Mapping[str, float]) -> None:
    """Note an entry of a part's history, and add it to the file."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "history.jsonl", "a", encoding="utf8") as file:
        file.write(json.dumps(row) + "\n")
    note(json.dumps(row))
