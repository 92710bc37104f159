"""DeepSpeed: what its engine is told and when it is let go, by a stand-in; the engine itself where it is installed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from lare.errors import LareError
from lare.training.distributed import zero
from lare.training.distributed.zero import Zero
from lare.training.saving.checkpoints import latest
from lare.training.trainer import Trainer
from tests.processes import run_processes
from tests.training.plain import processor, run_config, tiny_model, tiny_plan
from tests.training.test_sharding import close_logs, finals, launched, resumed_bit_by_bit, train, train_twice

EVENTS: list[str] = []


class Engine:
    """Takes DeepSpeed's calls, and trains as it would."""

    def __init__(self, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
        self.model, self.optimiser, self.last = model, optimiser, False
        self.optimizer = SimpleNamespace(grad_partitions_flat_buffer=torch.ones(3))
        EVENTS.append("made")

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self.model(*given, **named)

    def set_gradient_accumulation_boundary(self, is_boundary: bool) -> None:
        self.last = is_boundary

    def zero_optimization_stage(self) -> int:
        return 3

    def backward(self, loss: torch.Tensor) -> None:
        if len(EVENTS) == 1 or EVENTS[-1] == "step":
            assert not self.optimizer.grad_partitions_flat_buffer.any()  # of the update before
        loss.backward()
        self.optimizer.grad_partitions_flat_buffer += 1
        EVENTS.append("backward, last" if self.last else "backward")

    def step(self) -> None:
        self.optimiser.step()
        EVENTS.append("step")

    def get_global_grad_norm(self) -> float:
        return 1.0

    def save_checkpoint(self, folder: str, tag: str) -> None:
        assert folder.endswith(".tmp")  # published once it is whole
        (Path(folder) / tag).mkdir()

    def load_checkpoint(self, folder: str, tag: str) -> tuple[str | None, dict[str, Any]]:
        return None, {}

    def destroy(self) -> None:
        EVENTS.append("destroyed")


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """Stage IV in two updates of two passes, as if launched with DeepSpeed."""
    EVENTS.clear()
    model = tiny_model().float()
    stage = replace(run_config(tmp_path).stages[3], samples=32, batch=16, micro_batch=8)
    made = Trainer(run_config(tmp_path, stages=(stage,)), model, processor(), tiny_plan(model), Accelerator(cpu=True))
    made.launch = "deepspeed"
    plugin = SimpleNamespace(deepspeed_config={"zero_stage": 2, "train_batch_size": "auto"})
    monkeypatch.setattr(type(made.accelerator.state), "deepspeed_plugin", plugin)
    monkeypatch.setattr(made.accelerator, "prepare", lambda whole, optimiser: (Engine(whole, optimiser), optimiser))
    freed = made.accelerator.free_memory
    monkeypatch.setattr(made.accelerator, "free_memory", lambda: (EVENTS.append("freed"), freed())[1])
    monkeypatch.setattr(zero, "_whole", lambda parameter: parameter.detach().clone())
    return made


def test_the_engine_steps_behind_an_updates_last_pass_and_goes_with_its_stage(trainer: Trainer) -> None:
    """With an engine left behind, accelerate runs the next stage's backward passes through it: wrong gradients."""
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    assert trainer.run() == 0
    update = ["backward", "backward, last", "step"]
    assert ["made", *update, *update, "destroyed", "freed"] == EVENTS
    assert any(not torch.equal(value, before[name]) for name, value in trainer.model.named_parameters())
    assert not trainer.model.whole_graph


def test_frozen_weights_come_back_as_they_were(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """In half precision the engine rounds every weight, and only those that train have whole values elsewhere."""
    kept = trainer.out / "IV" / "frozen" / "state.safetensors"
    monkeypatch.setattr(type(trainer.accelerator), "mixed_precision", "bf16")
    made = trainer.accelerator.prepare

    def prepare(whole: Any, optimiser: Any) -> Any:
        assert kept.is_file()
        with torch.no_grad():
            for parameter in whole.parameters():
                parameter.copy_(parameter.bfloat16())
        return made(whole, optimiser)

    monkeypatch.setattr(trainer.accelerator, "prepare", prepare)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if "vision_tower" in n}
    assert trainer.run() == 0
    after = dict(trainer.model.named_parameters())
    assert any(not torch.equal(value, value.bfloat16().float()) for value in before.values())
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not kept.parent.exists()


@pytest.mark.parametrize(("micro_batch", "rows"), [(None, 16), (4, 4)])
def test_the_engine_is_told_the_rows_of_a_pass(trainer: Trainer, micro_batch: int | None, rows: int) -> None:
    plugin: Any = trainer.accelerator.state.deepspeed_plugin
    Zero(
        trainer.accelerator, trainer.model, replace(trainer.config.stages[0], micro_batch=micro_batch), 0.7, trainer.out
    )
    assert plugin.deepspeed_config == {
        "zero_stage": 2,
        "train_micro_batch_size_per_gpu": rows,
        "train_batch_size": rows,
        "gradient_clipping": 0.7,
    }


def test_checkpoints_are_deepspeeds_and_say_so(trainer: Trainer) -> None:
    stage = trainer.out / "IV"
    assert trainer.run() == 0
    found = latest(stage)
    assert found is not None and (found / "deepspeed").is_dir() and not (found / "state.safetensors").exists()
    sharding = Zero(trainer.accelerator, trainer.model, trainer.config.stages[0], 1.0, trainer.out)
    sharding.wrapped = Engine(trainer.model, torch.optim.SGD(trainer.model.parameters()))
    meta = (found / "meta.json").read_text(encoding="utf8")
    (found / "meta.json").write_text(meta.replace('"processes": 1', '"processes": 3'), encoding="utf8")
    with pytest.raises(LareError, match="saved by 3 processes .* num_processes: 3"):
        sharding.load(found)
    trainer.launch = "whole"
    (stage / "final" / "meta.json").unlink()
    with pytest.raises(LareError, match="saved under DeepSpeed; resume it as it was launched"):
        trainer.run()


def test_a_full_disk_loses_no_checkpoint(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trainer.run() == 0
    found = latest(trainer.out / "IV")
    sharding = Zero(trainer.accelerator, trainer.model, trainer.config.stages[0], 1.0, trainer.out)
    sharding.wrapped = Engine(trainer.model, torch.optim.SGD(trainer.model.parameters()))

    def full(folder: str, tag: str) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    monkeypatch.setattr(sharding.wrapped, "save_checkpoint", full)
    with pytest.raises(LareError, match="can't be written .*free some space"):
        sharding.save(trainer.out / "IV", 9, {}, 1)
    assert latest(trainer.out / "IV") == found
    assert not list((trainer.out / "IV").glob("*.tmp"))


def test_checkpoints_of_another_launch_are_refused(trainer: Trainer, tmp_path: Path) -> None:
    with pytest.raises(LareError, match="not saved under DeepSpeed"):
        Zero(trainer.accelerator, trainer.model, trainer.config.stages[0], 1.0, trainer.out).load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["2", "3"])
def test_runs_under_deepspeed_are_those_of_one_process(tmp_path: Path, stage: str) -> None:
    """The real engine, on two CPU processes; its first use compiles."""
    pytest.importorskip("deepspeed")
    train(tmp_path / "one", Accelerator(cpu=True))
    run_processes(__file__, "_runs", 2, str(tmp_path), stage, timeout=900, fresh=True)
    close_logs(tmp_path / "two", tmp_path / "one", ("I", "II", "III", "IV"), 2e-3)
    resumed_bit_by_bit(tmp_path)
    ours, theirs = finals(tmp_path / "two"), finals(tmp_path / "one")
    assert {n: (v.shape, v.dtype) for n, v in ours.items()} == {n: (v.shape, v.dtype) for n, v in theirs.items()}


def _runs(rank: int, port: int, folder: str, stage: str) -> None:
    launch = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": stage, "DS_ACCELERATOR": "cpu"}
    train_twice(launched(rank, port, launch), Path(folder))
