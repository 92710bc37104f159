"""Batches for the embedded model: many questions per image behind one shared visual prefix, frozen features cached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from lare.model.vision_conv import LareVisionModel
from lare.training.encoder import pixels
from lare.training.tokenizer import ASSISTANT, BOS, USER
from lare.world.items import Item, ItemSampler
from lare.world.render import render
from lare.world.scene import sample_scene


def cache_features(encoder: LareVisionModel, path: Path, split: str, n: int, variants: int) -> np.ndarray:
    """Encode scenes 0..n-1 of a split once; (n, g*g, d_vis) float16 in a memory-mapped file.

    A finished file of the right shape is used as it is; an unfinished one is made anew.
    """
    shape = (n, encoder.config.grid**2, encoder.config.hidden_size)
    if path.is_file() and _open(path).shape == shape:
        return _open(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part.npy")
    out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
    encoder.train(False)
    for start in tqdm(range(0, n, 64), desc=f"features {split}", mininterval=5):
        images = np.stack([render(sample_scene(split, i), variants) for i in range(start, min(n, start + 64))])
        with torch.no_grad():
            features = encoder(pixels(torch.from_numpy(images))).last_hidden_state
        out[start : start + len(images)] = features.numpy().astype(np.float16)
    out.flush()
    del out
    temporary.replace(path)
    return _open(path)


def _open(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode="r")
    return array


def pad(rows: list[list[int]], fill: int, left: bool) -> tuple[Tensor, Tensor]:
    """Pad ragged ids to (B, S) with their mask, on the left or the right."""
    width = max(1, max(len(r) for r in rows))
    ids = torch.full((len(rows), width), fill, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        span = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, span] = torch.tensor(row, dtype=torch.long)
        mask[i, span] = 1
    return ids, mask


@dataclass(frozen=True)
class Mode:
    """How an item becomes (prompt, latent slots, target): the direct answer, or latents for the rationale's start.

    Attributes:
        iterations: K; 0 is the direct answer without delimiters (LLaVA).
        prefix: P, the number of rationale tokens that the decoder must reconstruct from the latents alone.
        reconstruct: whether the batch carries the text-prefix reconstruction (eq. 8).
        replaced: how many of the rationale's first tokens the text after the latents leaves out.
        rationale: with `iterations` 0, write the whole rationale after empty delimiters instead of answering at once.
    """

    iterations: int
    prefix: int
    reconstruct: bool = True
    rationale: bool = False
    replaced: int = 0

    @property
    def delimiters(self) -> bool:
        """Whether the prompt opens a thought."""
        return self.iterations > 0 or self.rationale


class Batcher:
    """Draws batches of `images` scenes with `questions` items each.

    Args:
        features: (N, g*g, d_vis) cached features of scenes 0..N-1 of `split`.
        seed: seeds the choice of scenes and the items; (seed, rank) differ between processes.
    """

    def __init__(
        self,
        features: np.ndarray,
        split: str,
        tokenizer: PreTrainedTokenizerBase,
        lm_tokens: int,
        families: Mapping[str, float],
        styles: Mapping[str, float],
        seed: tuple[int, ...],
    ) -> None:
        self.features, self.split, self.tokenizer = features, split, tokenizer
        self.sampler = ItemSampler(families, styles, seed)
        self.rng = np.random.default_rng(seed)
        head = tokenizer(BOS + USER + "<|image|>" * lm_tokens, add_special_tokens=False)["input_ids"]
        self.shared = torch.tensor(head)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return list(self.tokenizer(texts, add_special_tokens=False)["input_ids"])

    def encode(self, items: list[Item], mode: Mode) -> dict[str, Any]:
        """Token tensors of items for the model's forward (without the visual part)."""
        start = "<|latent_start|>" if mode.delimiters else ""
        prompts = self._ids([f"\n{i.prompt}{ASSISTANT}{start}" for i in items])
        answers = self._ids([f" Answer: {i.final}{self.tokenizer.eos_token}" for i in items])
        fill = int(self.tokenizer.pad_token_id)
        batch: dict[str, Any] = {"iterations": mode.iterations, "delimiters": mode.delimiters}
        if mode.delimiters:
            prefix = mode.prefix if mode.iterations else 0
            replaced = mode.replaced if mode.iterations else 0
            rationales = self._ids([" " + " ".join(i.question.rationale) for i in items])
            if mode.reconstruct and prefix:
                heads = [r[:prefix] for r in rationales]
                batch["prefix_ids"], batch["prefix_mask"] = pad(heads, fill, left=False)
            answers = [r[replaced:] + a for r, a in zip(rationales, answers, strict=True)]
        batch["input_ids"], batch["attention_mask"] = pad(prompts, fill, left=True)
        batch["target_ids"], batch["target_mask"] = pad(answers, fill, left=False)
        return batch

    def draw(self, images: int, questions: int, mode: Mode) -> tuple[dict[str, Any], list[Item]]:
        """One training batch and its items, rows of an image adjacent.

        All items of a batch share a format, so that lengths are alike and little is spent on padding.
        """
        style = self.sampler.style()
        rows = self.rng.integers(len(self.features), size=images)
        items = [
            item for row in rows for item in self.sampler.sample(sample_scene(self.split, int(row)), questions, style)
        ]
        batch = self.encode(items, mode)
        batch["visual_features"] = torch.from_numpy(self.features[rows].astype(np.float32))
        batch["shared_ids"] = self.shared.expand(images, -1)
        batch["questions_per_image"] = questions
        return batch, items
