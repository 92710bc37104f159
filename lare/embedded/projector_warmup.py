"""Start of stage I for the embedded model: the projector learns to write what a cell holds in the decoder's own words.

A visual token is pulled towards the sum of the token embeddings of its thing's kind, colour, size, direction and digit,
and of its cell's name. The decoder then meets visual tokens in a language that it shares, and finds things by name from
the first step on; without this, thousands of steps pass before it uses the picture at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lare.embedded.encoder import labels
from lare.embedded.world.concepts import COLOUR_NAMES, DIRECTIONS, KINDS, SIZES
from lare.embedded.world.scene import SIDE
from lare.embedded.world.versions import world
from lare.embedded.world.wording import place
from lare.model import LareForConditionalGeneration
from lare.model.vision import pool_grid
from lare.progress import progress

WORDS: tuple[tuple[str, ...], ...] = (KINDS, COLOUR_NAMES, SIZES, DIRECTIONS, tuple("0123456789"))
"""The words of each row of `lare.embedded.encoder.labels`."""
WEIGHTS = (2.0, 1.0, 1.0, 1.0, 1.0)
STEPS, BATCH = 1000, 64
"""Updates, and scenes of each."""
PLACE_WEIGHT = 2.0
"""Kind and place weigh double: they are what questions find things by."""


def word_ids(vocab: Mapping[str, int]) -> list[Tensor]:
    """Token ids of the words of each label, in the byte-level alphabet (a leading space is one character there)."""
    return [torch.tensor([vocab["\u0120" + word] for word in words]) for words in WORDS]


def cell_targets(table: Tensor, ids: list[Tensor], label_B5N: Tensor, place_Nd: Tensor) -> Tensor:
    """(B, 16, d): sum of the embeddings of each cell's words and of its place."""
    target = PLACE_WEIGHT * place_Nd.expand(len(label_B5N), -1, -1)
    for i, word in enumerate(ids):
        label = label_B5N[:, i]
        known = (label >= 0) & (label < len(word))
        target += WEIGHTS[i] * table[word[label.clamp(0, len(word) - 1)]] * known[..., None]
    return target


def _spread(target_BCd: Tensor, grid: int) -> Tensor:
    """Give every fine token its cell's target: (B, 16, d) -> (B, g * g, d)."""
    times = grid // SIDE
    cells = target_BCd.reshape(len(target_BCd), SIDE, SIDE, -1)
    return cells.repeat_interleave(times, 1).repeat_interleave(times, 2).flatten(1, 2)


def align_projector(
    model: LareForConditionalGeneration,
    features: np.ndarray,
    split: str,
    vocab: Mapping[str, int],
    seed: int,
    version: int = 1,
) -> float:
    """Train the projector alone on dense labels; the decoder's embedding table stays as it is.

    Args:
        model: the model; only its projector changes.
        features: (N, g*g, d_vis) cached features of scenes 0..N-1 of `split`.
        split: split of the scenes.
        vocab: the tokenizer's vocabulary.
        seed: seed of the choice of scenes.
        version: version of the world whose scenes they are.

    Returns:
        The share of the targets' variance that the last batch explains.
    """
    rng, sample_scene = np.random.default_rng((seed, 11)), world(version).sample_scene
    table = cast(Tensor, model.get_input_embeddings().weight).detach()
    place_Nd = table[torch.tensor([vocab["\u0120" + place(cell)] for cell in range(SIDE * SIDE)])]
    ids = word_ids(vocab)
    optimiser = torch.optim.AdamW(model.projector.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=STEPS)
    explained = 0.0
    for _ in progress(range(STEPS), desc="projector", mininterval=5):
        chosen = rng.integers(len(features), size=BATCH)
        label = torch.from_numpy(np.stack([labels(sample_scene(split, int(i))) for i in chosen]))
        target = cell_targets(table, ids, label, place_Nd)
        fine = torch.from_numpy(features[chosen].astype(np.float32))
        if model.config.shared_projector:
            loss = F.mse_loss(model.projector(fine), _spread(target, model.config.grid))
        else:
            loss = F.mse_loss(model.projector(pool_grid(fine, model.config.grid, SIDE)), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        explained = 1.0 - loss.item() / target.var().item()
    return explained
