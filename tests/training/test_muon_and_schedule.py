"""Muon against its definition, and the learning-rate schedule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lare.training.optimiser.muon import Muon, orthogonalise
from lare.training.optimiser.schedule import learning_rate


@given(rows=st.integers(2, 24), columns=st.integers(2, 24), seed=st.integers(0, 999))
def test_orthogonalise_keeps_singular_vectors_and_evens_values(rows: int, columns: int, seed: int) -> None:
    matrix = torch.randn(1, rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    out = orthogonalise(matrix, 5)
    inside = u.mT @ out @ v.mT
    off = inside - torch.diag_embed(inside.diagonal(dim1=1, dim2=2))
    assert off.abs().max() < 1e-8
    large = (s / s.max() > 0.1).expand_as(s)
    values = inside.diagonal(dim1=1, dim2=2)[large]
    assert (values > 0.6).all() and (values < 1.3).all()


def test_step_equals_the_definition() -> None:
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(4, 6)) for _ in range(2)]
    before = [w.detach().clone() for w in weights]
    optimiser = Muon(weights, lr=0.1, momentum=0.9, weight_decay=0.5)
    momentum = [torch.zeros(4, 6) for _ in weights]
    for _ in range(3):
        for i, weight in enumerate(weights):
            weight.grad = torch.randn(4, 6)
            momentum[i] = 0.9 * momentum[i] + 0.1 * weight.grad
            direction = orthogonalise((0.1 * weight.grad + 0.9 * momentum[i])[None], 5)[0]
            before[i] = before[i] * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 6**0.5 * direction
        optimiser.step()
    for weight, expected in zip(weights, before, strict=True):
        torch.testing.assert_close(weight.detach(), expected)


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="matrices only"):
        Muon([torch.nn.Parameter(torch.zeros(3))])


@given(steps=st.integers(2, 5000), floor=st.floats(0, 1))
def test_schedule_rises_to_the_peak_and_falls_to_the_floor(steps: int, floor: float) -> None:
    rates = [learning_rate(2.0, step, steps, floor) for step in range(steps)]
    peak = rates.index(max(rates))
    assert all(a <= b for a, b in zip(rates[:peak], rates[1 : peak + 1], strict=True))
    assert all(a >= b for a, b in zip(rates[peak:], rates[peak + 1 :], strict=False))
    assert min(rates) + 1e-12 > 0 and max(rates) <= 2.0
    if steps > 500:
        assert rates[-1] == pytest.approx(2.0 * floor, abs=0.01)
