"""The steps that are compared do the same work."""

import pytest
import torch

from benchmarks.flop_rate import llava_step
from benchmarks.models import Size


def test_llava_s_loss_does_not_depend_on_where_its_head_runs():
    losses = []
    for everywhere in (True, False):
        torch.manual_seed(0)
        losses.append(float(llava_step(Size(32, 2, 2, 64, 64), 2, "fp32", everywhere)()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] > 1
