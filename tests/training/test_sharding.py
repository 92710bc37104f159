"""Weights split over processes: one process's gradients, its losses over whole runs, checkpoints of any launch."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from filelock import FileLock
from safetensors.torch import load_file

from lare.errors import LareError
from lare.training.distributed.sharding import (
    FullyShard,
    Whole,
    check_sharded,
    launched_as,
    make_accelerator,
    replace_parameters,
)
from lare.training.feeding.loader import Split
from lare.training.optimiser.optim import make_optimisers
from lare.training.plan.config import OptimiserConfig, RunConfig
from lare.training.plan.stages import STAGES, freeze_all_but
from lare.training.step import run_step
from lare.training.trainer import Trainer, make_draws
from tests.processes import run_processes
from tests.training.plain import WEIGHTS, batches, processor, run_config, tiny_model, tiny_plan, to_double

FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "NO_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "false",
}
LOGGED = ("losses", "counts", "negatives", "gradient_norm", "rate")


def launched(rank: int, port: int, launch: dict[str, str]) -> Accelerator:
    """A process as accelerate's launcher starts it."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= launch | {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    return make_accelerator()


def config_of(out: Path | str) -> RunConfig:
    """Two updates a stage, each batch of 16 in passes of 4 rows."""
    config = run_config(out)
    return replace(config, stages=tuple(replace(stage, micro_batch=4, samples=32) for stage in config.stages))


# One update ---------------------------------------------------------------------------------------------------------


def update(accelerator: Accelerator, sharding: Whole, model: Any, split: Split, carried: int) -> dict[str, Any]:
    """Losses, norm and whole gradients of an update in which only the first rows carry the image loss."""
    stage = replace(config_of("").stages[2], methods={})
    freeze_all_but(model, STAGES["III"].parts)
    sharding.begin(
        lambda: make_optimisers(freeze_all_but(model, STAGES["III"].parts), stage, OptimiserConfig(matrices="adamw"))
    )
    parts = [to_double(batch) for batch in batches(stage, model, split).micro_batches(0)]
    draws = make_draws(config_of(""), model, 2, 0, stage.batch)
    draws.carried[:] = torch.arange(stage.batch) < carried
    shares = [draws.slice(batch.start, batch.rows) for batch in parts]
    result = run_step(sharding.wrapped, parts, WEIGHTS, shares, 0.07, sharding.backward)
    norm = sharding.clip(1e9)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    whole = {name: g.full_tensor() if hasattr(g, "full_tensor") else g for name, g in gradients.items()}
    return {"losses": result.losses, "norm": norm, "gradients": whole}


CARRIED = (16, 2, 0)


def once(factory: pytest.TempPathFactory, function: str) -> Path:
    """A folder that two processes of a function filled; filled once, however many workers the tests run in."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"sharding{function}"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            processor()  # its tokenizer is trained once, before the processes fork
            run_processes(__file__, function, 2, str(folder))
    return folder


@pytest.fixture(scope="module")
def fsdp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes under FSDP left: updates, a run, and one that was killed and resumed."""
    return once(tmp_path_factory, "_fsdp")


def _fsdp(rank: int, port: int, folder: str) -> None:
    accelerator = launched(rank, port, FSDP)
    assert launched_as(accelerator) == "fsdp"
    for carried in CARRIED:
        model = tiny_model()
        found = update(accelerator, FullyShard(accelerator, model), model, Split(rank, 2, 4), carried)
        own = sum(p.to_local().numel() for p in model.parameters() if hasattr(p, "to_local"))
        assert 0 < own < 0.6 * sum(p.numel() for p in model.parameters())
        torch.save(found, f"{folder}/{carried}-{rank}.pt")
    train_twice(accelerator, Path(folder))


@pytest.mark.parametrize("carried", CARRIED)
def test_gradients_under_fsdp_are_those_of_one_process(fsdp: Path, carried: int) -> None:
    """Also where no row of the second process, or none at all, carries a loss."""
    model, accelerator = tiny_model(), Accelerator(cpu=True)
    expected = update(accelerator, Whole(accelerator, model), model, Split(0, 1, 4), carried)
    assert bool(expected["gradients"]["image.project.weight"].any()) == (carried > 0)
    for rank in range(2):
        found = torch.load(fsdp / f"{carried}-{rank}.pt", weights_only=True)
        assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)
        assert found["norm"] == pytest.approx(expected["norm"], rel=1e-5)
        assert found["gradients"].keys() == expected["gradients"].keys()
        for name, gradient in expected["gradients"].items():
            torch.testing.assert_close(found["gradients"][name], gradient, rtol=1e-5, atol=1e-6, msg=name)


# Whole runs ---------------------------------------------------------------------------------------------------------


def logged(out: Path, stage: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / stage / "log.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in LOGGED} for row in rows]


def finals(out: Path) -> dict[str, torch.Tensor]:
    files = sorted(out.glob("*/final/*.safetensors"))
    assert len(files) == 8
    return {f"{f.parent.parent.name}/{k}": v for f in files for k, v in load_file(f).items()}


def close_logs(left: Path, right: Path, stages: tuple[str, ...], relative: float) -> None:
    for stage in stages:
        for ours, theirs in zip(logged(left, stage), logged(right, stage), strict=True):
            for name in LOGGED:
                assert ours[name] == pytest.approx(theirs[name], rel=relative), (stage, name)


def train(out: Path | str, accelerator: Accelerator) -> None:
    model = tiny_model().float()
    assert Trainer(config_of(out), model, processor(), tiny_plan(model), accelerator).run() == 0


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    folder = tmp_path_factory.mktemp("one")
    train(folder, Accelerator(cpu=True))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that each hold the whole model, and one that was killed and resumed."""
    return once(tmp_path_factory, "_whole")


def _whole(rank: int, port: int, folder: str) -> None:
    accelerator = launched(rank, port, {"ACCELERATE_USE_FSDP": "false"})
    assert launched_as(accelerator) == "whole" and accelerator.num_processes == 2
    train_twice(accelerator, Path(folder))


@pytest.fixture(params=["fsdp", "whole"])
def runs(request: pytest.FixtureRequest) -> Path:
    """``two``: a run of two processes. ``again``: that, killed in stage III and resumed."""
    found: Path = request.getfixturevalue(request.param)
    return found


def killed(run: Path, copy: Path) -> None:
    """A copy of a run as a kill in the middle of stage III would have left it."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "IV")
    shutil.rmtree(copy / "III" / "final")
    assert (copy / "III" / "step-00000001" / "meta.json").is_file()


def train_twice(accelerator: Accelerator, folder: Path) -> None:
    """A run, and one that is killed and resumed."""
    train(folder / "two", accelerator)
    if accelerator.is_main_process:
        killed(folder / "two", folder / "again")
    accelerator.wait_for_everyone()
    train(folder / "again", accelerator)
    dist.destroy_process_group()


def test_a_run_of_two_processes_is_that_of_one(runs: Path, one: Path) -> None:
    close_logs(runs / "two", one, ("I", "II", "III", "IV"), 2e-3)
    ours, theirs = finals(runs / "two"), finals(one)
    assert {n: (v.shape, v.dtype) for n, v in ours.items()} == {n: (v.shape, v.dtype) for n, v in theirs.items()}
    frozen = [name for name in ours if "vision_tower" in name]
    assert frozen and all(torch.equal(ours[name], theirs[name]) for name in frozen)


def test_each_stage_trains_its_parts(runs: Path) -> None:
    """A stage that took the weights as the one before had frozen them would train the wrong parts, or none."""
    found = finals(runs / "two")
    for before, stage, name in (
        ("I", "II", "lare.extractor"),
        ("II", "III", "language_model"),
        ("III", "IV", "extractor.output_proj"),
    ):
        moved = {
            key.partition("/")[2]
            for key in found
            if key.startswith(f"{stage}/") and not torch.equal(found[key], found[f"{before}/{key.partition('/')[2]}"])
        }
        assert any(name.removeprefix("lare.") in key for key in moved), (stage, sorted(moved)[:3])
        assert any("language_model" in key for key in moved) == (stage != "II")


def test_a_run_goes_on_bit_by_bit(runs: Path) -> None:
    resumed_bit_by_bit(runs)


def resumed_bit_by_bit(folder: Path) -> None:
    assert logged(folder / "again", "IV") == logged(folder / "two", "IV")
    ours, theirs = finals(folder / "again"), finals(folder / "two")
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


def test_a_run_goes_on_under_another_launch(fsdp: Path, tmp_path: Path) -> None:
    killed(fsdp / "two", tmp_path / "one")
    train(tmp_path / "one", Accelerator(cpu=True))
    close_logs(tmp_path / "one", fsdp / "two", ("III", "IV"), 2e-3)


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "mend"),
    [
        ("FSDP_VERSION", "1", "fsdp_version: 2"),
        ("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP", "NO_WRAP"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "fsdp_activation_checkpointing: false"),
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params: false"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "mixed_precision: bf16"),
    ],
)
def test_fsdp_that_would_break_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str, mend: str) -> None:
    for key, given in (FSDP | {name: value}).items():
        monkeypatch.setenv(key, given)
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    accelerator: Any = SimpleNamespace(is_main_process=True, mixed_precision=precision)
    with pytest.raises(LareError, match=mend):
        FullyShard(accelerator, tiny_model())


@pytest.mark.parametrize(("matrices", "every", "named"), [("muon", 0, "matrices"), ("adamw", 5, "validate_every")])
def test_settings_that_need_whole_weights_are_refused(matrices: str, every: int, named: str) -> None:
    with pytest.raises(LareError, match=named):
        check_sharded(OptimiserConfig(matrices=matrices), every)
    check_sharded(OptimiserConfig(matrices="adamw"), 0)


def test_shared_parameters_stay_shared() -> None:
    model = torch.nn.ModuleDict({"table": torch.nn.Embedding(5, 3), "head": torch.nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["table"].weight
    model["table"].weight.requires_grad_(False)
    old = model["table"].weight
    replace_parameters(model, lambda parameter: parameter.detach() + 1)
    assert model["head"].weight is model["table"].weight is not old
    assert torch.equal(model["head"].weight, old + 1) and not model["head"].weight.requires_grad
