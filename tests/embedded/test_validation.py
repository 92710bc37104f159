"""Validation looks at the way of answering that a stage trains, on scenes of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lare.embedded import validation
from lare.embedded.batches import WorldBatches
from lare.embedded.validation import token_hits, validate_world
from lare.model.outputs import LareOutput
from lare.training.feeding.loader import Split
from lare.training.feeding.mode import main_layout
from lare.training.plan.config import StageConfig
from tests.training.plain import DATA, processor, tiny_model

TEXT = StageConfig("I", (DATA,), batch=8, text_share=0.9, direct_share=0.1)
FETCH = StageConfig("I", (DATA,), batch=8, text_share=0.3, fetch_share=0.7)
LATENT = StageConfig("III", (DATA,), batch=8, text_share=0.1, direct_share=0.1, replaced=0)


@pytest.fixture(scope="module")
def model():
    return tiny_model().float()


def test_the_main_way_of_answering(model) -> None:
    config = model.lare.config
    text, fetch, latent, plain = (main_layout(s, config) for s in (TEXT, FETCH, LATENT, replace(TEXT, methods={})))
    assert (text.delimiters, text.rationale, text.iterations) == (True, True, 0)
    assert fetch.fetch and fetch.iterations == config.iterations
    assert latent.iterations == config.iterations and not latent.fetch
    assert not plain.delimiters


@pytest.mark.parametrize("stage", [TEXT, FETCH, LATENT], ids=["text", "fetch", "latent"])
def test_figures_of_a_stage(model, stage: StageConfig) -> None:
    found = validate_world(model, stage, DATA, processor(), None, 20, questions=24)
    families = {name for name in found if name.startswith("family/")}
    assert families and found.keys() - families == {"all"} | ({"direct"} if stage is not FETCH else set()) | (
        {"text"} if stage is not TEXT else set()
    )
    assert all(0 <= value <= 100 for value in found.values())
    assert found == validate_world(model, stage, DATA, processor(), None, 20, questions=24)
    assert not model.training


@pytest.mark.parametrize("name", ["lvr", "ccot", "cof", "mmcot"])
def test_a_method_with_targets_of_its_own_is_validated_on_them(model, name: str, monkeypatch) -> None:
    """With what the target only reads in its place, and on the supervised tokens alone."""
    stage, seen = StageConfig("I", (DATA,), batch=8, methods={name: 1}), []

    def noted(out: LareOutput, answered: torch.Tensor) -> torch.Tensor:
        seen.append((answered, out))
        return token_hits(out, answered)

    monkeypatch.setattr(validation, "token_hits", noted)
    found = validate_world(model, stage, DATA, processor(), None, 20, questions=16)
    assert all(0 <= value <= 100 for value in found.values())
    batches = WorldBatches(
        DATA, stage, processor(), model.lare.config, Split(), validation.SEED, None, 20, "validation"
    )
    for step, (answered, out) in enumerate(seen):
        inputs = batches.micro_batches(step)[0].inputs
        assert torch.equal(answered, inputs["target_mask"] * inputs.get("label_mask", 1))
        assert torch.equal(out.labels, inputs["target_ids"][answered.bool()])
        assert ("target_visual" in inputs) is (name in ("lvr", "cof"))


def test_token_hits() -> None:
    logits = torch.nn.functional.one_hot(torch.tensor([3, 1, 5]), 8).float()
    out = LareOutput(logits=logits, labels=torch.tensor([3, 4, 5]))
    assert token_hits(out, torch.tensor([[1, 1], [0, 1]])).tolist() == [0.5, 1.0]
