"""Who learns at which rate, with which decay, and how rates fall."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lare.embedded.world_data import WorldData
from lare.training.optimiser.muon import Muon
from lare.training.optimiser.optim import make_optimisers, set_rates
from lare.training.plan.config import OptimiserConfig, StageConfig
from lare.training.plan.stages import STAGES, freeze_all_but
from tests.training.plain import tiny_model

STAGE = StageConfig("III", (WorldData(),), learning_rate=1e-5, new_learning_rate=3e-4, floor=0.1)
ADAMW = OptimiserConfig(weight_decay=0.05, warmup=0.5)


def groups(config: OptimiserConfig) -> tuple[list[torch.optim.Optimizer], dict[str, dict]]:
    model = tiny_model()
    named = freeze_all_but(model, STAGES["III"].parts)
    optimisers = make_optimisers(named, STAGE, config)
    owner = {id(p): group for optimiser in optimisers for group in optimiser.param_groups for p in group["params"]}
    assert len(owner) == len(named)
    return optimisers, {name: owner[id(p)] for name, p in named}


def test_new_parts_learn_faster_and_vectors_do_not_decay() -> None:
    _, found = groups(ADAMW)
    for name, group in found.items():
        new = name.startswith(("lare.extractor.", "lare.refocus_projector.", "alignment.", "image."))
        assert group["peak"] == (3e-4 if new else 1e-5), name
        vector = name.endswith(("bias", "norm.weight", "layernorm.weight"))
        assert group["weight_decay"] == (0.0 if vector else 0.05) or not vector, name


def test_muon_takes_the_matrices_inside() -> None:
    optimisers, found = groups(replace(ADAMW, matrices="muon", matrix_rate=2e-3))
    assert [type(one) for one in optimisers] == [torch.optim.AdamW, Muon]
    assert found["lare.language_model.model.layers.0.self_attn.q_proj.weight"]["peak"] == 2e-3
    assert found["lare.language_model.model.embed_tokens.weight"]["peak"] == 1e-5


def test_rates_rise_to_the_peak_and_fall_to_the_stages_floor() -> None:
    optimisers, found = groups(ADAMW)
    factors = [set_rates(optimisers, step, 10, STAGE, ADAMW) for step in range(10)]
    assert max(factors) == pytest.approx(1.0) and factors.index(max(factors)) in (4, 5)
    assert factors[-1] == min(factors[5:]) and factors[-1] < 0.25
    assert found["lare.projector.linear_1.weight"]["lr"] == pytest.approx(factors[-1] * 1e-5)
    run = set_rates(optimisers, 9, 10, replace(STAGE, floor=None), replace(ADAMW, floor=1.0))
    assert run == pytest.approx(1.0)
