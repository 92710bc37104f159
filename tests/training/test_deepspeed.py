"""What DeepSpeed is told and when it is let go; stand-ins for its engine, since LaRe does not install it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import Accelerator

from lare.training.trainer import Trainer, _tell_deepspeed
from tests.training.plain import processor, run_config, tiny_model, tiny_plan


@pytest.mark.parametrize(("micro_batch", "rows"), [(None, 8), (4, 4)])
def test_deepspeed_is_told_the_rows_of_a_pass(tmp_path: Path, micro_batch: int | None, rows: int) -> None:
    stage = replace(run_config(tmp_path).stages[2], batch=16, micro_batch=micro_batch)
    plugin = SimpleNamespace(deepspeed_config={"zero_stage": 2, "train_batch_size": "auto"})
    accelerator: Any = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin), num_processes=2)
    _tell_deepspeed(accelerator, stage)
    assert plugin.deepspeed_config == {
        "zero_stage": 2,
        "train_micro_batch_size_per_gpu": rows,
        "train_batch_size": 2 * rows,
    }
    plain: Any = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=None), num_processes=2)
    _tell_deepspeed(plain, stage)  # FSDP has no such plugin


def test_a_stages_engine_is_gone_before_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an engine left behind, accelerate runs the next stage's backward passes through it: wrong gradients."""
    events: list[str] = []

    class Engine:
        def __init__(self, model: Any) -> None:
            self.model = model
            events.append("made")

        def __call__(self, *given: Any, **named: Any) -> Any:
            return self.model(*given, **named)

        def destroy(self) -> None:
            events.append("destroyed")

    model = tiny_model()
    config = run_config(tmp_path, stages=run_config(tmp_path).stages[2:])
    config = replace(
        config, stages=tuple(replace(s, samples=16, direct_share=1.0, text_share=0.0) for s in config.stages)
    )
    trainer = Trainer(config, model, processor(), tiny_plan(model), Accelerator(cpu=True))
    trainer.sharded = True
    monkeypatch.setattr(trainer.accelerator, "prepare", lambda whole, *optimisers: (Engine(whole), *optimisers))
    monkeypatch.setattr(trainer.accelerator, "no_sync", lambda whole: None)
    freed = trainer.accelerator.free_memory
    monkeypatch.setattr(trainer.accelerator, "free_memory", lambda: (events.append("freed"), freed())[1])
    assert trainer.run() == 0
    assert events == ["made", "destroyed", "freed"] * 2
