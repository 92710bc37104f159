"""The trainer: runs a plan's stages, each from the weights of the one before, and can be killed at any moment.

What an update does depends on nothing but the weights, the optimisers and its number: data order, questions, noise and
random windows come from generators that are seeded by the run's seed and that number. So a run that is killed and
resumed ends in the very weights of one that was not.

Processes work on shares of each batch; how the weights lie in them is told in `lare.training.distributed.sharding`.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator

from lare.errors import LareError
from lare.losses.base import Loss, get_loss, loss_names
from lare.progress import note, pace, progress
from lare.registry import LOSSES
from lare.training.casting import cast_once
from lare.training.distributed.sharding import FullyShard, Whole, check_sharded, launched_as
from lare.training.feeding.batch import Draws, MicroBatch
from lare.training.feeding.loader import Split, StageBatches, batch_loader
from lare.training.log import RunLog, describe_replaced
from lare.training.model import TrainingModel
from lare.training.optimiser.optim import make_optimisers, set_rates
from lare.training.plan.config import RunConfig, StageConfig
from lare.training.plan.stages import freeze_all_but, parts_of
from lare.training.saving.checkpoints import (
    circumstances,
    file_hash,
    latest,
    load_final,
    load_start,
    read_meta,
    save_final,
)
from lare.training.step import StepResult, gathered, run_step

__all__ = ["STOPPED", "Plan", "Trainer", "further_losses", "make_draws"]

MOST_STEPS = 32  # most teacher latents of a row
STOPPED = 143
"""Exit code after SIGTERM: saved and ended."""


@dataclass
class Plan:
    """What the trainer is given for a run's stages: data, first weights and validation; see `lare.training.prepare`.

    Attributes:
        batches: Stage, its number in the plan and this process's share -> its batches.
        enter: Called with a stage and the one before it (None at first) when a stage begins from its first update.
        validate: Called with a stage; returns figures by name, or nothing.
    """

    batches: Callable[[StageConfig, int, Split], StageBatches]
    enter: Callable[[StageConfig, StageConfig | None], None] = lambda stage, before: None
    validate: Callable[[StageConfig], dict[str, float]] = lambda stage: {}


def make_draws(config: RunConfig, model: TrainingModel, stage: int, step: int, rows: int) -> Draws:
    """The random numbers of an update's whole global batch.

    Args:
        config: The run.
        model: The model that trains; its heads say what they draw.
        stage: Number of the stage in the plan.
        step: Number of the update.
        rows: G, rows of the global batch.
    """
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + stage * 10_007 + step * 7_919 + 5)
    drawn = {loss.name: _numbers(loss, config, model, rows, generator) for loss in map(get_loss, LOSSES.own)}
    fields: dict[str, Any] = {name: value for found in drawn.values() for name, value in found.items()}
    token = torch.rand(rows, MOST_STEPS, generator=generator)
    draws = Draws(**fields, token=token, seed=int(torch.randint(2**40, (1,), generator=generator)))
    for loss in further_losses(config):
        draws.own[loss.name] = _numbers(loss, config, model, rows, generator)
    return draws


def _numbers(
    loss: Loss, config: RunConfig, model: TrainingModel, rows: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    return loss.draw(model.head(loss), rows, generator, config.image.share)


def further_losses(config: RunConfig) -> list[Loss]:
    """Losses of a run that are not LaRe's own: those of other packages that weigh in, and those of its methods."""
    names = [name for name in loss_names() if name not in LOSSES.own]
    found = {get_loss(n): None for n in names if any(config.weights(stage).get(n) for stage in config.stages)}
    methods = (loss for stage in config.stages for entry in stage.mixture for loss in entry.training.losses())
    return sorted({**found, **dict.fromkeys(methods)}, key=lambda loss: loss.name)


class Trainer:
    """Runs the stages of a plan.

    Args:
        config: The run.
        model: The model that trains.
        processor: Goes into the finished stages' folders.
        plan: Data, first weights, validation.
        accelerator: Devices and processes; None makes one.

    Raises:
        LareError: If a setting does not work with the way that accelerate was launched.
    """

    def __init__(
        self,
        config: RunConfig,
        model: TrainingModel,
        processor: Any,
        plan: Plan,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.config, self.model, self.processor, self.plan = config, model, processor, plan
        self.accelerator = accelerator or Accelerator(cpu=not torch.cuda.is_available())
        self.launch = launched_as(self.accelerator)
        if self.launch != "whole":
            check_sharded(config.optimiser, config.validate_every, config.precision, config.model.quantise)
        self.out = Path(config.out)
        self.stop = False
        self.parent: str | None = None

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return bool(self.accelerator.is_main_process)

    def run(self) -> int:
        """Train all stages that are not finished yet; returns 0, or `STOPPED` after SIGTERM."""
        self.model.to(self.accelerator.device)
        self.parent = self._from_start()
        before: StageConfig | None = None
        with self._listening():
            for number, stage in enumerate(self.config.stages):
                folder = self.out / stage.name
                if (folder / "final" / "meta.json").is_file():
                    load_final(folder, self.model)
                elif not self._stage(number, stage, None if stage.from_start else before, folder):
                    return STOPPED
                before = stage
        if self.main:
            for told in (describe_replaced(self.out / stage.name) for stage in self.config.stages):
                if told is not None:
                    note(told)
        return 0

    def _from_start(self) -> str | None:
        """Take the weights that the run begins with, and their hash; None where it begins with its own first ones.

        Raises:
            LareError: If a later stage needs weights that are nowhere.
        """
        if self.config.start is not None:
            return load_start(Path(self.config.start), self.model)
        again = [stage.name for stage in self.config.stages if stage.from_start]
        if again:
            raise LareError(f"stage {again[0]} has from_start, but the run has no start; give one, or leave it out")
        return None

    def _stage(self, number: int, stage: StageConfig, before: StageConfig | None, folder: Path) -> bool:
        """Train one stage; False when it was stopped on the way."""
        checkpoint = latest(folder)
        if checkpoint is None:
            if number and stage.from_start:
                self._from_start()
            self.plan.enter(stage, before)
        split = Split(self.accelerator.process_index, self.accelerator.num_processes, stage.micro_batch)
        batches = self.plan.batches(stage, number, split)
        steps = max(1, (stage.samples or batches.samples) // stage.batch)
        meta = self._meta(number, stage, before, batches, steps)
        seconds, first = 0.0, 0
        if checkpoint is not None:
            saved = read_meta(checkpoint)
            _check_resume(saved, meta, checkpoint)
            first, seconds = int(saved["step"]), float(saved["seconds"])
        sharding = self._begin(stage, folder, checkpoint is None)
        if checkpoint is not None:
            sharding.load(checkpoint)
        run = _StageRun(self, sharding, number, stage, folder, meta, steps)
        adapted = self.launch == "whole" and self.model.lare.config.lora is not None
        with cast_once(self.model, self.config.precision) if adapted else nullcontext():
            return run.train(batch_loader(batches, first, steps, self.config.workers), first, seconds)

    def _begin(self, stage: StageConfig, folder: Path, fresh: bool) -> Whole:
        """Freeze what the stage does not train, lay the weights out, make its optimisers."""
        sharding: Whole
        if self.launch == "deepspeed":
            from lare.training.distributed.zero import Zero

            sharding = Zero(self.accelerator, self.model, stage, self.config.optimiser.clip, folder, fresh)
        else:
            sharding = (FullyShard if self.launch == "fsdp" else Whole)(self.accelerator, self.model)

        def make() -> list[torch.optim.Optimizer]:
            return make_optimisers(freeze_all_but(self.model, parts_of(stage)), stage, self.config.optimiser)

        freeze_all_but(self.model, parts_of(stage))  # sharded weights have to be born that way
        sharding.begin(make)
        return sharding

    def _meta(
        self, number: int, stage: StageConfig, before: StageConfig | None, batches: StageBatches, steps: int
    ) -> dict[str, Any]:
        parent = self.parent if before is None else file_hash(self.out / before.name / "final" / "model.safetensors")
        return {
            "stage": stage.stage,
            "name": stage.name,
            "number": number,
            "steps": steps,
            "trained": list(parts_of(stage)),
            **({} if self.model.lare.base is None else {"base": self.model.lare.base.identity}),
            "parent": parent,
            "data": batches.fingerprint,
            "config": self.config.to_dict(),
            "random": {"seed": self.config.seed, "by": "seed, stage and update"},
            **circumstances(),
        }

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Let SIGTERM end the run after the update that is being made, with a checkpoint."""

        def ask(number: int, frame: FrameType | None) -> None:
            self.stop = True

        old = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, old)

    def stopping(self) -> bool:
        """Whether any process was asked to stop."""
        if not (dist.is_available() and dist.is_initialized()):
            return self.stop
        flag = torch.tensor(float(self.stop), device=self.accelerator.device)
        dist.all_reduce(flag)
        return bool(flag > 0)


def _check_resume(saved: dict[str, Any], meta: dict[str, Any], checkpoint: Path) -> None:
    same = {"data": "data", "steps": "number of updates", "trained": "trained parts"}
    if "base" in saved:  # earlier versions kept the base in each checkpoint
        same = {"base": "base model", **same}
    for name, what in same.items():
        was, now = saved.get(name), meta.get(name)
        if was != now:
            raise LareError(
                f"{str(checkpoint)!r} was made with another {what} ({was} instead of {now}); give "
                "the settings it was made with, or another out"
            )


class _StageRun:
    """The updates of one stage."""

    def __init__(
        self,
        trainer: Trainer,
        sharding: Whole,
        number: int,
        stage: StageConfig,
        folder: Path,
        meta: dict[str, Any],
        steps: int,
    ) -> None:
        self.trainer, self.config, self.number, self.stage = trainer, trainer.config, number, stage
        self.sharding, self.folder, self.meta, self.steps = sharding, folder, meta, steps
        self.weights = trainer.config.weights(stage)

    def train(self, loader: Iterator[list[MicroBatch]], first: int, seconds: float) -> bool:
        """Make updates `first` to the last; False when the run was stopped on the way."""
        trainer, main = self.trainer, self.trainer.main
        trainer.model.train()
        log = RunLog(self.config, self.folder, self.stage.name, first) if main else None
        began = time.monotonic() - seconds
        bar = progress(
            total=self.steps,
            initial=first,
            desc=f"stage {self.stage.name}",
            disable=not main,
            mininterval=5,
            unit="step",
        )
        for step in range(first, self.steps):
            batches = next(loader)
            result, norm, factor = self.update(step, batches)
            if result.replaced:
                found = gathered([one for batch in batches for one in batch.replaced])
                if log is not None:
                    log.write_replaced(step + 1, found)
            bar.update()
            elapsed = time.monotonic() - began
            stopping = trainer.stopping()
            if log is not None:
                made = pace(self.stage.batch * (step + 1 - first), elapsed - seconds)
                bar.set_postfix_str(_postfix(result, made, self.sharding.skipped), refresh=False)
                self._record(log, step, result, norm, factor, elapsed)
            if step + 1 < self.steps and (stopping or (step + 1) % self.config.save_every == 0):
                self._save(step + 1, elapsed)
            if stopping and step + 1 < self.steps:
                note(f"stopped at update {step + 1} of stage {self.stage.name}; saved in {self.folder}")
                return False
        bar.close()
        self._finish(time.monotonic() - began)
        return True

    def update(self, step: int, batches: list[MicroBatch]) -> tuple[StepResult, float, float]:
        """One update; returns its losses, the gradient's norm and the schedule's factor."""
        trainer, model = self.trainer, self.trainer.model
        device = trainer.accelerator.device
        torch.manual_seed(self.config.seed + 1_000_003 * step + self.number)  # for dropout, where a decoder has any
        optimisers = self.sharding.optimisers
        factor = set_rates(optimisers, step, self.steps, self.stage, self.config.optimiser)
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        everything = make_draws(self.config, model, self.number, step, self.stage.batch)
        draws = [everything.slice(batch.start, batch.rows).to(device) for batch in batches]
        moved = [batch.to(device) for batch in batches]
        result = run_step(
            self.sharding.wrapped,
            moved,
            self.weights,
            draws,
            self.config.losses.temperature,
            self.sharding.backward,
            self.sharding.scaler,
        )
        norm = self.sharding.clip(self.config.optimiser.clip)
        if math.isfinite(norm):
            self.sharding.step()
        elif not self.sharding.skip():
            samples = ", ".join(batch.where[0] for batch in batches)
            raise LareError(
                f"the gradient of update {step} in stage {self.stage.name} is not finite (samples {samples} and those "
                "after them); lower the learning rate, or train with precision=fp32"
            )
        return result, norm, factor

    def _record(self, log: RunLog, step: int, result: StepResult, norm: float, factor: float, elapsed: float) -> None:
        done, config = step + 1 == self.steps, self.config
        validate = config.validate_every and ((step + 1) % config.validate_every == 0 or done)
        if not (validate or done or (step + 1) % config.log_every == 0 or step == 0):
            return
        row: dict[str, Any] = {"step": step + 1, "samples": (step + 1) * self.stage.batch, "seconds": round(elapsed, 2)}
        row |= {"losses": result.losses, "counts": result.counts, "negatives": result.negatives}
        row |= {"accuracy": result.accuracy, "gradient_norm": norm, "rate": factor}
        if self.sharding.scaler is not None:
            row |= {"loss_scale": self.sharding.scaler.get_scale(), "skipped_updates": self.sharding.skipped}
        if log.count_replaced:
            row["replaced"] = log.count_replaced
        if validate:
            row["validation"] = self.trainer.plan.validate(self.stage)
            self.trainer.model.train()
        log.write(row)

    def _progress(self, step: int, seconds: float) -> dict[str, Any]:
        done = step == self.steps
        return self.meta | {"step": step, "samples": step * self.stage.batch, "seconds": seconds, "done": done}

    def _save(self, step: int, seconds: float) -> None:
        self.sharding.save(self.folder, step, self._progress(step, seconds), self.config.keep)
        self.trainer.accelerator.wait_for_everyone()

    def _finish(self, seconds: float) -> None:
        trainer = self.trainer
        self.sharding.end()
        if trainer.main:
            save_final(self.folder, trainer.model, trainer.processor, self._progress(self.steps, seconds))
        self.sharding.clean()
        trainer.accelerator.wait_for_everyone()


def _postfix(result: StepResult, made: str, skipped: int) -> str:
    parts = " ".join(f"{name} {value:.3f}" for name, value in result.losses.items())
    return f"{parts}, {made}" + (f", {skipped} overflows" if skipped else "")


def finished(config: RunConfig) -> dict[str, Any] | None:
    """The last stage's meta when the whole run is done, else None."""
    final = Path(config.out) / config.stages[-1].name / "final"
    return read_meta(final) if (final / "meta.json").is_file() else None
