"""Alignment equals a plain loop over rows; micro-batches and processes give what one large batch gives."""

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lare.errors import LareError
from lare.losses import AlignmentHeads, alignment_loss, hybrid_mean_max, info_nce
from lare.losses.alignment import ALIGNMENT, Aligned
from lare.losses.batch import MicroBatch
from lare.training.step import CachedContrast
from tests.processes import run_processes

ROWS, WIDTH = 8, 6


def inputs(seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(ROWS, 5)
    mask[::2, 3:] = 0
    shapes = ((ROWS, 4, WIDTH), (ROWS, 5, WIDTH), (ROWS, 9, WIDTH))
    latents, rationale, visual = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return latents, rationale, mask, visual


def heads() -> AlignmentHeads:
    torch.manual_seed(1)
    return AlignmentHeads(WIDTH, WIDTH, dim=7).double()


def plain(aligned: Aligned, temperature: float = 0.07) -> torch.Tensor:
    """Eq. 6 row by row."""
    total = torch.zeros((), dtype=torch.float64)
    for other in (aligned.text, aligned.visual):
        for row in range(len(other)):
            for one, two in ((aligned.latents, other), (other, aligned.latents)):
                scores = torch.stack([one[row] @ candidate / temperature for candidate in two])
                total = total + 0.5 * (torch.logsumexp(scores, 0) - scores[row])
    return total


def gradients(module: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in module.parameters()]


def test_it_equals_the_plain_loop():
    module = heads()
    total, count = alignment_loss(module(*inputs()))
    expected = plain(module(*inputs()))
    torch.testing.assert_close(total, expected)
    assert int(count) == ROWS
    found = torch.autograd.grad(total, list(module.parameters()))
    torch.testing.assert_close(found, torch.autograd.grad(expected, list(module.parameters())))


def test_matching_rows_cost_nothing_and_shuffled_ones_do():
    vectors = torch.eye(ROWS)
    matched, _ = info_nce(vectors, vectors)
    shuffled, _ = info_nce(vectors, vectors.roll(1, 0))
    assert float(matched) < 1e-3 * ROWS and float(shuffled) > 10 * ROWS


@given(rows=st.integers(1, 6), tokens=st.integers(1, 7), seed=st.integers(0, 99))
@settings(deadline=None)
def test_pooling_ignores_what_is_masked(rows, tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, tokens, 4, generator=generator)
    mask = torch.rand(rows, tokens, generator=generator) < 0.6
    mask[:, 0] = True
    expected = torch.stack(
        [0.5 * (row[kept].mean(0) + row[kept].amax(0)) for row, kept in zip(states, mask, strict=True)]
    )
    torch.testing.assert_close(hybrid_mean_max(states, mask), expected)
    spoilt = states.masked_fill(~mask[..., None], 1e4)
    torch.testing.assert_close(hybrid_mean_max(spoilt, mask), expected)


def test_a_row_without_tokens_is_named():
    mask = torch.ones(3, 4)
    mask[1] = 0
    with pytest.raises(LareError, match=r"rows \[1\]"):
        hybrid_mean_max(torch.randn(3, 4, 2), mask)


def test_temperature_is_checked():
    with pytest.raises(LareError, match="temperature"):
        info_nce(torch.eye(2), torch.eye(2), 0.0)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_micro_batches_equal_one_batch(size):
    whole, parts = heads(), heads()
    total, count = alignment_loss(whole(*inputs()))
    (total / count).backward()

    starts = range(0, ROWS, size)
    contrast = CachedContrast(ALIGNMENT, [MicroBatch({})] * len(starts), 1 / float(count), 0.07)
    micro = [[part[start : start + size] for part in inputs()] for start in starts]
    with torch.no_grad():
        contrast.cache([parts(*one) for one in micro])
    assert contrast.total == pytest.approx(float(total))
    for number, one in enumerate(micro):
        contrast.loss(parts(*one), number).backward()
    torch.testing.assert_close(gradients(parts), gradients(whole))


def test_naive_accumulation_would_not_be_equal():
    """What the cache is for: micro-batches on their own have fewer negatives."""
    module = heads()
    whole, _ = alignment_loss(module(*inputs()))
    halves = [alignment_loss(module(*(part[rows] for part in inputs())))[0] for rows in (slice(0, 4), slice(4, 8))]
    assert float(whole - sum(halves)) > 1.0


def _process(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    module = heads()
    half = slice(rank * ROWS // 2, (rank + 1) * ROWS // 2)
    total, count = alignment_loss(module(*(part[half] for part in inputs())))
    total.backward()
    both = torch.stack((total.detach(), count.double()))
    dist.all_reduce(both)
    for parameter in module.parameters():
        dist.all_reduce(parameter.grad)
    torch.save({"both": both, "gradients": gradients(module)}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    run_processes(__file__, "_process", 2, str(tmp_path))
    module = heads()
    total, count = alignment_loss(module(*inputs()))
    total.backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["both"], torch.stack((total.detach(), count.double())))
        torch.testing.assert_close(found["gradients"], gradients(module))
