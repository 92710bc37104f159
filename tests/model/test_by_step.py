"""Eq. 8 by steps: each latent alone tells its own step, as one call for each would have it."""

from __future__ import annotations

import pytest
import torch

from lare.model import prefill, think
from lare.model.losses import prefix_reconstruction

from .tiny import BACKBONES, collate, make_samples, tiny_model


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("tokens", [1, 2])
def test_it_is_one_reconstruction_for_each_iteration(kind: str, tokens: int) -> None:
    model = tiny_model(kind, latents_per_iteration=tokens)
    batch = collate(make_samples(model.config))
    visual = model.encode_features(batch["visual_features"])
    state = prefill(model, batch["input_ids"], batch["attention_mask"], visual)
    thoughts = think(model, state, 3)
    rows = len(batch["input_ids"])
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 60, (rows, 3, 4), generator=generator)
    mask = torch.arange(4)[None, None] < torch.randint(0, 5, (rows, 3, 1), generator=generator)
    mask[0, 1] = False
    (total, count), _ = prefix_reconstruction(model, thoughts, ids, mask)
    assert int(count) == int(mask.sum())
    sums = torch.zeros(())
    for row in range(rows):
        for step in range(3):
            size = int(mask[row, step].sum())
            if not size:
                continue
            start = model.embed_token(model.config.latent_start_id, 1)
            end = model.embed_token(model.config.latent_end_id, 1)
            text = model.embed(ids[row : row + 1, step, : size - 1])
            read = torch.cat((start, thoughts.latents[row : row + 1, step], end, text), 1)
            logits = model.language_model(inputs_embeds=read).logits[0, -size:]
            sums = sums + torch.nn.functional.cross_entropy(logits, ids[row, step, :size], reduction="sum")
    torch.testing.assert_close(total, sums, atol=1e-3, rtol=1e-5)
    (found,) = torch.autograd.grad(total, [thoughts.latents], retain_graph=True)
    (wanted,) = torch.autograd.grad(sums, [thoughts.latents])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
