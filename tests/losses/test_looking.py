"""Where to look: tokens of a box, the loss on the saliency, and tokens fetched in place of latents."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lare.errors import LareError
from lare.losses.looking import look_loss, pick_tokens, tokens_in_boxes
from lare.model.thinking import rms_normalise
from lare.training.plan.config import StageConfig
from tests.training.plain import DATA, batches, tiny_model

SHARED = {"shared_projector": True, "lm_token_scale": 2.0, "lm_grid": 2}


@given(
    grid=st.sampled_from([1, 2, 4, 8]),
    cells=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_a_cells_tokens(grid: int, cells: tuple[int, int]) -> None:
    row, column = cells
    box = torch.tensor([[[row, column, row + 1, column + 1]]]) / 4
    inside = tokens_in_boxes(box, grid).reshape(grid, grid)
    for r in range(grid):
        for c in range(grid):
            over = [
                max(0.0, min((a + 1) / grid, (b + 1) / 4) - max(a / grid, b / 4)) for a, b in ((r, row), (c, column))
            ]
            assert bool(inside[r, c]) == (min(over) > 1e-6)


def test_no_box_no_token() -> None:
    assert not tokens_in_boxes(torch.full((2, 3, 4), -1.0), 4).any()


def test_the_loss_is_the_cross_entropy_of_the_boxes_share() -> None:
    generator = torch.Generator().manual_seed(0)
    saliency = torch.rand(2, 3, 4, 4, generator=generator, requires_grad=True)
    boxes = torch.tensor(
        [[[0, 0, 0.5, 0.25], [0.5, 0.5, 1, 1], [-1] * 4], [[0.25, 0.25, 0.5, 0.5], [-1] * 4, [-1] * 4]]
    )
    total, count = look_loss(saliency, boxes, 4)
    shares = [
        saliency[0, 0, :2, :1].sum() / saliency[0, 0].sum(),
        saliency[0, 1, 2:, 2:].sum() / saliency[0, 1].sum(),
        saliency[1, 0, 1, 1] / saliency[1, 0].sum(),
    ]
    torch.testing.assert_close(total, -torch.stack(shares).log().sum())
    assert int(count) == 3
    total.backward()
    assert saliency.grad is not None and not saliency.grad[0, 2].any() and saliency.grad[0, 0].any()


def test_picked_tokens_lie_in_their_boxes_and_all_come_up() -> None:
    box = torch.tensor([[[0.25, 0.5, 0.5, 0.75], [-1.0] * 4]]).expand(200, -1, -1)
    uniform = torch.rand(200, 5, generator=torch.Generator().manual_seed(0))
    tokens = pick_tokens(box, uniform, 8)
    expected = {2 * 8 + 4, 2 * 8 + 5, 3 * 8 + 4, 3 * 8 + 5}
    assert set(tokens[:, 0].tolist()) == expected
    assert torch.equal(tokens[:, 0], tokens[:, 1])  # a step without a box repeats the one before
    assert pick_tokens(torch.full((1, 2, 4), -1.0), uniform, 8).tolist() == [[0, 0]]


def inputs_of(model):
    batch = batches(StageConfig("III", (DATA,), batch=8, replaced=0), model).micro_batches(0)[0]
    inputs = {k: v for k, v in batch.inputs.items() if not k.startswith("prefix")}
    return batch, inputs | {"pixel_values": inputs["pixel_values"].double()}


@pytest.fixture(scope="module")
def shared():
    return tiny_model(lm_grid=4).train(False), tiny_model(**SHARED).train(False)


def test_a_shared_projector_averages_the_fine_tokens(shared) -> None:
    model = shared[1].lare
    features = torch.randn(2, 64, model.vision_tower.width(model.config.vision_config), dtype=torch.float64)
    assert model.refocus_projector is None
    coarse, cell, fine = (model.encode_features(features, side) for side in (None, 4, 8))
    every = model.projector(features)
    torch.testing.assert_close(coarse.refocus, every)
    torch.testing.assert_close(fine.lm, every)
    quarters = every.reshape(2, 2, 4, 2, 4, -1).mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(coarse.lm, 2 * quarters)
    torch.testing.assert_close(cell.lm, every.reshape(2, 4, 2, 4, 2, -1).mean((2, 4)).flatten(1, 2))


def test_a_shared_projector_needs_fine_tokens() -> None:
    with pytest.raises(LareError, match="shared_projector"):
        tiny_model(shared_projector=True, refocus_source="lm", lm_grid=8)


def test_fetched_tokens_are_the_latents(shared) -> None:
    model = shared[0].lare
    _, inputs = inputs_of(shared[0])
    fetch = torch.arange(16).reshape(8, 2)
    out = model(**inputs, fetch=fetch)
    tokens = out.visual.refocus.repeat_interleave(4, 0).gather(1, fetch[..., None].expand(-1, -1, 32))
    torch.testing.assert_close(out.thoughts.latents[:, :, 0], rms_normalise(tokens) * model.embedding_rms())
    other = model(**inputs, fetch=fetch.flip(0))
    assert float(out.lm_loss[0]) != float(other.lm_loss[0])


def test_the_saliencys_gradient_changes_no_number_and_reaches_the_decoder(shared) -> None:
    model = shared[0].lare
    batch, inputs = inputs_of(shared[0])
    plain, kept = model(**inputs), model(**inputs, saliency_gradient=True)
    torch.testing.assert_close(plain.thoughts.saliency, kept.thoughts.saliency.detach())
    assert not plain.thoughts.saliency.requires_grad
    torch.testing.assert_close(plain.lm_loss[0], kept.lm_loss[0])
    total, _ = look_loss(kept.thoughts.saliency, batch.boxes, model.config.lm_grid)
    weight = model.decoder.layers[0].self_attn.q_proj.weight
    (gradient,) = torch.autograd.grad(total, [weight], retain_graph=True)
    assert float(gradient.abs().sum()) > 0
    # A step against the gradient makes the model look where it should.
    with torch.no_grad():
        weight -= 1e-3 * gradient / gradient.norm()
        moved, _ = look_loss(model(**inputs).thoughts.saliency, batch.boxes, model.config.lm_grid)
        weight += 1e-3 * gradient / gradient.norm()
    assert float(moved) < float(total)
