"""Windows taught by the Extractor's own attention over the whole grid."""

from __future__ import annotations

import pytest
import torch

from lare.losses.finding import FIND, find_loss
from lare.training.plan.config import StageConfig
from tests.training.plain import DATA, batches, tiny_model


def test_the_loss_is_the_cross_entropy_against_the_pooled_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    saliency = torch.rand(2, 3, 2, 2, generator=generator, requires_grad=True)
    attention = torch.rand(2, 3, 16, generator=generator, requires_grad=True)
    total, count = find_loss(saliency, attention)
    slow = torch.zeros(())
    for b in range(2):
        for k in range(3):
            fine = attention[b, k].detach().reshape(4, 4) / attention[b, k].detach().sum()
            for r in range(2):
                for c in range(2):
                    share = saliency[b, k, r, c] / saliency[b, k].sum()
                    slow = slow - fine[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].sum() * share.log()
    torch.testing.assert_close(total, slow)
    assert int(count) == 6
    total.backward()
    assert attention.grad is None and saliency.grad is not None and saliency.grad.abs().sum() > 0


def test_steps_that_were_not_taken_do_not_count() -> None:
    saliency, attention = torch.rand(2, 3, 2, 2), torch.rand(2, 3, 16)
    saliency[0, 2], attention[0, 2] = 0, 0
    total, count = find_loss(saliency, attention)
    assert int(count) == 5 and bool(total.isfinite())


@pytest.mark.parametrize("window", ["full", "saliency"])
def test_it_reaches_the_decoder_from_batches_that_see_the_whole_grid_alone(window: str) -> None:
    model = tiny_model(shared_projector=True, lm_token_scale=2.0, lm_grid=2).train().float()
    stage = StageConfig("III", (DATA,), batch=4, iterations=2, replaced=0, window=window)
    batch = batches(stage, model).micro_batches(0)[0]
    out = model(batch, {"find": 1.0})
    assert FIND.count(batch, None) == (batch.rows * 2 if window == "full" else 0)
    assert ("find" in out.sums) == (window == "full")
    if window == "full":
        out.sums["find"].backward()
        moved = {name for name, value in model.lare.named_parameters() if value.grad is not None and value.grad.any()}
        assert any("q_proj" in name for name in moved)
