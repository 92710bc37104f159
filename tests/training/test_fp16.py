"""fp16: the scaled loss's gradients are those of fp32 up to rounding; an overflow costs an update and nothing else."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from lare.errors import LareError
from lare.training import precision
from lare.training.distributed import sharding
from lare.training.distributed.sharding import Whole, check_sharded
from lare.training.distributed.zero import Zero
from lare.training.feeding.loader import Split
from lare.training.model import TrainingModel
from lare.training.optimiser.optim import make_optimisers
from lare.training.plan.run_file import load_run_config
from lare.training.plan.stages import STAGES, freeze_all_but
from lare.training.saving.checkpoints import latest
from lare.training.step import StepResult, run_step
from lare.training.trainer import STOPPED, Trainer, make_draws
from tests.processes import run_processes
from tests.training.plain import DATA, WEIGHTS, WHOLE, batches, processor, run_config, tiny_model, tiny_plan

STAGE = replace(run_config("unused").stages[2], batch=16, methods={})


def model_in(kind: str, seed: int = 0) -> TrainingModel:
    model = tiny_model(seed, use_window=False).float()  # rounding may choose another window
    freeze_all_but(model, STAGES["III"].parts)
    model.precision = kind
    return model


def begun(model: TrainingModel, matrices: str = "adamw", scale: float = 1024) -> Whole:
    made = Trainer(run_config("unused"), model, processor(), tiny_plan(model))
    config = replace(made.config.optimiser, matrices=matrices)
    whole = Whole(made.accelerator, model)
    whole.begin(
        lambda: make_optimisers([(n, p) for n, p in model.named_parameters() if p.requires_grad], STAGE, config)
    )
    if whole.scaler is not None:
        assert whole.scaler.get_scale() == sharding.LOSS_SCALE == 65536
        whole.scaler = GradScaler("cpu", init_scale=scale)  # one at which this model does not overflow
    return whole


def gradients(whole: Whole, micro: int, split: Split = WHOLE, clip: float = 1e9) -> tuple[StepResult, float, Any]:
    """Of one update with every loss, in `micro` rows a pass, with the scale taken out again."""
    model = whole.model
    parts = batches(replace(STAGE, micro_batch=micro), model, replace_micro(split, micro)).micro_batches(0)
    draws = make_draws(run_config("unused"), model, 2, 0, STAGE.batch)
    model.zero_grad(set_to_none=True)
    shares = [draws.slice(b.start, b.rows) for b in parts]
    result = run_step(model, parts, WEIGHTS, shares, 0.07, whole.backward, whole.scaler)
    norm = whole.clip(clip)
    return result, norm, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def replace_micro(split: Split, micro: int) -> Split:
    return Split(split.rank, split.processes, micro)


def near(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = (found[name] - value).norm() / value.norm().clamp_min(1e-6)
        assert float(error) < 0.03, (name, float(error))


@pytest.mark.parametrize("micro", [16, 8, 4])
def test_gradients_are_those_of_fp32_up_to_rounding(micro: int) -> None:
    """In one pass, and in the two passes of the alignment's gradient cache, whose cached part is unscaled."""
    exact, norm, expected = gradients(begun(model_in("fp32")), 16)
    whole = begun(model_in("fp16"))
    found, half_norm, grads = gradients(whole, micro)
    near(grads, expected)
    assert found.losses == pytest.approx(exact.losses, rel=3e-3)
    assert half_norm == pytest.approx(norm, rel=1e-2)
    assert {"lm", "alignment", "image", "text", "look"} <= found.losses.keys()


def test_the_alignment_alone_is_scaled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the other losses a cached gradient at a wrong scale might not show."""
    alone = dict.fromkeys(WEIGHTS, 0.0) | {"alignment": 1.0}
    monkeypatch.setitem(globals(), "WEIGHTS", alone)
    one, two = begun(model_in("fp16")), begun(model_in("fp16"))
    near(gradients(two, 4)[2], gradients(one, 16)[2])


def test_small_gradients_need_the_scale() -> None:
    """Else the tests above could hold without one."""
    whole = begun(model_in("fp16"))
    leaf = torch.full((4,), 1.0, requires_grad=True)
    for scaled in (False, True):
        leaf.grad = None
        loss = (leaf.half() * 1e-8).float().sum()
        (whole.scaler.scale(loss) if scaled else loss).backward()
        assert bool(leaf.grad.any()) is scaled


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
def test_an_overflow_skips_the_update_and_halves_the_scale(matrices: str) -> None:
    whole = begun(model_in("fp16"), matrices)
    before = {n: v.clone() for n, v in whole.model.state_dict().items()}
    gradients(whole, 16)
    whole.scaler.update()  # the gradients are given back; now ones that overflowed, in one optimiser's parameter only
    whole.model.alignment.text.bias.grad.fill_(float("inf"))
    norm = whole.clip(1.0)
    assert not math.isfinite(norm) and whole.skip()
    assert whole.scaler.get_scale() == 512 and whole.skipped == 1
    after = whole.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(optimiser.state for optimiser in whole.optimisers)
    # The next update is made, of the clipped gradient of the loss itself.
    norm = gradients(whole, 16, clip=1e-3)[1]
    clipped = torch.cat([p.grad.flatten() for p in whole.model.parameters() if p.grad is not None])
    assert norm > 1e-3 and float(clipped.norm()) == pytest.approx(1e-3, rel=1e-3)
    whole.step()
    assert any(not torch.equal(before[name], value) for name, value in whole.model.state_dict().items())


def test_an_infinite_loss_is_an_overflow_too() -> None:
    whole = begun(model_in("fp16"))
    with torch.no_grad():
        whole.model.lare.projector.linear_2.bias.fill_(1e30)  # no fp16 number
    _, norm, _ = gradients(whole, 16)
    assert not math.isfinite(norm)
    assert whole.skip()
    with pytest.raises(LareError, match="precision=fp32"):
        gradients(begun_infinite(), 16)


def begun_infinite() -> Whole:
    whole = begun(model_in("fp32"))
    with torch.no_grad():
        whole.model.lare.projector.linear_2.bias.fill_(float("inf"))
    return whole


def trainer(out: Path, **changes: Any) -> Trainer:
    model = tiny_model().float()
    model.precision = "fp16"
    stages = (replace(STAGE, samples=4 * 16, micro_batch=8),)
    config = run_config(out, precision="fp16", stages=stages, **changes)
    return Trainer(config, model, processor(), tiny_plan(model))


def log(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "III" / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_a_run_that_overflows_counts_it_and_is_resumed_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "LOSS_SCALE", 2.0**19)  # real overflows in the first backward passes
    assert trainer(tmp_path / "whole").run() == 0
    rows = log(tmp_path / "whole")
    skipped = rows[-1]["skipped_updates"]
    assert 1 <= skipped == 19 - torch.tensor(rows[-1]["loss_scale"]).log2().item()
    for _ in range(4):
        cut = trainer(tmp_path / "cut")
        cut.stop = True  # after one update
        if cut.run() != STOPPED:
            break
        kept = json.loads((latest(tmp_path / "cut" / "III") / "meta.json").read_text())  # type: ignore[operator]
        assert kept["loss_scaling"]["scaler"]["scale"] == rows[kept["step"] - 1]["loss_scale"]
    assert str(log(tmp_path / "cut")) == str(rows)  # as text: NaN is not itself
    final = [tmp_path / run / "III" / "final" / "model.safetensors" for run in ("whole", "cut")]
    assert final[0].read_bytes() == final[1].read_bytes()


def test_overflow_without_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "LOSS_SCALE", 2.0)
    made = trainer(tmp_path)
    with torch.no_grad():
        made.model.lare.projector.linear_2.bias.fill_(1e30)
    with pytest.raises(LareError, match=r"gradient of update 2 .* precision=fp32"):
        made.run()


@pytest.mark.slow
def test_processes_skip_together(tmp_path: Path) -> None:
    run_processes(__file__, "_process", 2, str(tmp_path))
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert ours["scale"] == theirs["scale"] == 512
    assert all(torch.equal(ours["weights"][name], theirs["weights"][name]) for name in ours["weights"])
    near(ours["gradients"], gradients(begun(model_in("fp16")), 16)[2])


def _process(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    whole = begun(model_in("fp16"))
    _, _, grads = gradients(whole, 8, Split(rank, 2, 8))
    whole.step()
    with torch.no_grad():
        if rank == 1:  # only here does anything overflow
            whole.model.alignment.text.bias.fill_(1e30)
    _, norm, _ = gradients(whole, 8, Split(rank, 2, 8))
    assert not math.isfinite(norm)
    assert whole.skip()
    state = {n: v for n, v in whole.model.state_dict().items() if n != "alignment.text.bias"}
    torch.save({"scale": whole.scaler.get_scale(), "weights": state, "gradients": grads}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_sharded_launches_refuse_it() -> None:
    config = run_config("unused")
    with pytest.raises(LareError, match=r"FSDP or DeepSpeed give bf16 or fp32"):
        check_sharded(config.optimiser, 0, "fp16")
    accelerator: Any = type("Launch", (), {"mixed_precision": "fp16"})()
    with pytest.raises(LareError, match="mixed_precision: bf16"):
        Zero(accelerator, tiny_model(), STAGE, 1.0, Path("unused"))


@pytest.mark.parametrize(
    ("gpu", "native", "cpu", "chosen"),
    [
        (True, True, False, "bf16"),
        (True, False, True, "fp16"),
        (False, False, True, "bf16"),
        (False, False, False, "fp32"),
    ],
)
def test_auto_takes_what_the_machine_multiplies(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, native: bool, cpu: bool, chosen: str
) -> None:
    """A V100 and a T4 imitate bf16, which torch calls supported unless asked for the hardware."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    monkeypatch.setattr(precision, "fast_bf16", lambda: cpu)
    asked = load_run_config(Path("lare/configs/embedded.yaml"), ["precision=auto"])
    assert precision.settled(asked).precision == chosen
    assert not precision.slow(precision.settled(asked))
    assert precision.slow(replace(asked, precision="bf16")) is not (native if gpu else cpu)
    assert precision.slow(replace(asked, precision="fp16")) is not gpu


def test_the_data_are_the_worlds() -> None:
    """What makes the comparisons above worth something: rows with boxes, rationales and pictures."""
    batch = batches(STAGE, model_in("fp16")).micro_batches(0)[0]
    assert DATA.format == "world" and batch.boxes is not None and batch.rationale_ids is not None
