"""An update's gradients: equal to the plain version, however samples are split; and who trains in which stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from lare.errors import LareError
from lare.training.feeding.batch import Draws, MicroBatch, Replaced
from lare.training.feeding.loader import Split
from lare.training.model import TrainingModel
from lare.training.plan.config import StageConfig
from lare.training.plan.stages import STAGES, freeze_all_but, parts_of
from lare.training.step import StepResult, gathered, run_step
from lare.training.trainer import make_draws
from tests.processes import run_processes
from tests.training.plain import DATA, ROWS, WEIGHTS, WHOLE, batches, plain_losses, run_config, tiny_model, to_double

STAGE = StageConfig("III", (DATA,), batch=ROWS, replaced=2)
NO_WEIGHTS = dict.fromkeys(WEIGHTS, 0.0)


def drawn(model: TrainingModel, rows: int = ROWS, step: int = 0) -> Draws:
    draws = make_draws(run_config("unused"), model, 2, step, rows)
    return replace(draws, noise=draws.noise.double())


def step(
    model: TrainingModel, parts: Sequence[MicroBatch], weights: dict[str, float] = WEIGHTS
) -> tuple[StepResult, dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    draws = drawn(model)
    result = run_step(model, parts, weights, [draws.slice(b.start, b.rows) for b in parts], 0.07)
    return result, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def split_batches(model: TrainingModel, stage: StageConfig = STAGE, split: Split = WHOLE) -> list[MicroBatch]:
    return [to_double(batch) for batch in batches(stage, model, split).micro_batches(0)]


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name in expected.keys() | found.keys():
        if name in found and name in expected:
            # Scores and cosines are float32 by design, and a small entry of a gradient is a sum that cancels.
            slack = 1e-5 * float(expected[name].abs().max()) + 1e-9
            torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=slack)
        else:  # a parameter that one of the two never used
            assert float((found | expected)[name].abs().max()) < 1e-12, name


PLAIN = [
    StageConfig("I", (DATA,), batch=8, text_share=1.0, train=("projector", "language_model")),
    StageConfig("I", (DATA,), batch=8),
    StageConfig("II", (DATA,), batch=8, replaced=0),
    StageConfig("III", (DATA,), batch=8, replaced=2),
    StageConfig("IV", (DATA,), batch=8),
]


@pytest.mark.parametrize("stage", PLAIN, ids=lambda stage: f"{stage.stage}-{stage.text_share:g}-{stage.replaced}")
def test_an_update_equals_the_plain_version(stage: StageConfig) -> None:
    model = tiny_model()
    freeze_all_but(model, parts_of(stage))
    weights = NO_WEIGHTS if stage.stage == "I" else WEIGHTS
    batch = split_batches(model, stage)[0]
    draws = drawn(model, 8)
    model.zero_grad(set_to_none=True)
    result = run_step(model, [batch], weights, [draws], 0.07)
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    expected = plain_losses(model, batch, draws)
    if stage.stage != "I":
        assert set(expected) == {"lm", "text", "image", "alignment", "look"}
    factors = {"lm": 1.0} | weights
    total = sum(factors[name] * value for name, value in expected.items())
    model.zero_grad(set_to_none=True)
    total.backward()
    for name, value in expected.items():
        assert result.losses[name] == pytest.approx(float(value), rel=1e-5), name
    assert result.losses["total"] == pytest.approx(float(total), rel=1e-5)
    close(found, {n: p.grad for n, p in model.named_parameters() if p.grad is not None})


@pytest.fixture(scope="module")
def whole() -> tuple[TrainingModel, StepResult, dict[str, Tensor]]:
    model = tiny_model()
    freeze_all_but(model, STAGES["III"].parts)
    result, gradients = step(model, split_batches(model))
    assert set(result.losses) == {"lm", "alignment", "image", "text", "look", "total"}
    assert result.negatives == ROWS - 1
    return model, result, gradients


@pytest.mark.parametrize("micro_batch", [4, 8, 16])
def test_micro_batches_equal_one_batch(whole, micro_batch: int) -> None:
    model, result, gradients = whole
    found, grads = step(model, split_batches(model, replace(STAGE, micro_batch=micro_batch), Split(0, 1, micro_batch)))
    assert found.counts == result.counts and found.negatives == result.negatives
    assert found.losses == pytest.approx(result.losses, rel=1e-5)
    close(grads, gradients)


def test_every_loss_reaches_the_latents(whole) -> None:
    """Else the comparisons above could hold for a loss that pulls at nothing."""
    model = whole[0]
    parts = split_batches(model)
    base = step(model, parts, NO_WEIGHTS)[1]
    for name in WEIGHTS:
        pulled = step(model, parts, NO_WEIGHTS | {name: 1.0})[1]
        # The windows' losses pull at the decoder, the latents' at the Extractor.
        key = (
            "lare.language_model.model.layers.0.self_attn.q_proj.weight"
            if name == "look"
            else "lare.extractor.output_proj.weight"
        )
        assert float((pulled[key] - base[key]).norm()) > 1e-4 * float(base[key].norm()), name


def test_two_processes_equal_one(whole, tmp_path) -> None:
    model, result, gradients = whole
    run_processes(__file__, "_process", 2, str(tmp_path))
    for rank in range(2):
        saved = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert saved["losses"] == pytest.approx(result.losses, rel=1e-5)
        assert saved["negatives"] == ROWS - 1
        assert saved["replaced"] == 1 and saved["listed"] == [["data.json:1", "damaged", "data.json:2"]]
        close(saved["gradients"], gradients)


def _process(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = tiny_model()
    freeze_all_but(model, STAGES["III"].parts)
    # One process with one forward pass, the other with two: who splits how is nobody else's matter.
    parts = split_batches(model, STAGE, Split(rank, 2, 16))
    parts[0].replaced = [Replaced("data.json:1", "damaged", "data.json:2")] * rank
    result, gradients = step(model, parts)
    listed = [list(one) for one in gathered(parts[0].replaced)]
    saved = {"losses": result.losses, "negatives": result.negatives, "gradients": gradients}
    saved |= {"replaced": result.replaced, "listed": listed}
    torch.save(saved, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


TRAINED = {
    "I": {"lare.projector."},
    "II": {"lare.extractor.", "lare.refocus_projector.", "alignment.", "image."},
    "III": {
        "lare.projector.",
        "lare.extractor.",
        "lare.refocus_projector.",
        "lare.language_model.",
        "alignment.",
        "image.",
    },
}
TRAINED["IV"] = TRAINED["III"]


@pytest.mark.parametrize("name", STAGES)
def test_parts_that_train(name: str) -> None:
    model = tiny_model()
    chosen = {n for n, _ in freeze_all_but(model, STAGES[name].parts)}
    assert chosen == {n for n, _ in model.named_parameters() if n.startswith(tuple(TRAINED[name]))}
    assert chosen == {n for n, p in model.named_parameters() if p.requires_grad}
    assert not [n for n in chosen if "vision_tower" in n or "tokenizer" in n]


def test_a_loss_that_is_not_finite_names_the_samples() -> None:
    model = tiny_model()
    batch = split_batches(model)[0]
    with torch.no_grad():
        model.lare.projector.linear_1.weight[0, 0] = float("nan")
    with pytest.raises(LareError, match=r"not finite .* train scene \d+"):
        step(model, [batch])


def test_random_windows_repeat() -> None:
    model = tiny_model()
    stage = replace(STAGE, window="random")
    first, second = (step(model, split_batches(model, stage))[0].losses for _ in range(2))
    other = step(model, split_batches(model))[0].losses
    assert first == second and first["lm"] != other["lm"]


def test_parts_that_an_update_does_not_use_have_gradients_of_zero() -> None:
    """Without, one process would leave their decay and momentum out, and several would not."""
    model = tiny_model()
    trained = dict(freeze_all_but(model, STAGES["III"].parts))
    parts = split_batches(model, replace(STAGE, methods={"llava": 1.0}))
    assert not parts[0].inputs["iterations"]
    step(model, parts)
    unused = [name for name in trained if name.startswith(("lare.extractor.", "alignment.", "image."))]
    assert unused and all(trained[name].grad is not None for name in trained)
    assert not [name for name in unused if trained[name].grad.any()]
