"""A stage's weights under DeepSpeed (ZeRO-1 to 3): `Zero`, one of the ways in `lare.training.distributed.sharding`.

DeepSpeed writes its own checkpoints, which the same number of processes can go on from. They are read without running
code that a file may carry: only the classes listed here are made.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lare.errors import LareError
from lare.training.distributed.sharding import Make, Whole, replace_parameters
from lare.training.model import TrainingModel
from lare.training.plan.config import StageConfig
from lare.training.saving.checkpoints import publish_together, read_meta
from lare.training.saving.state import load_state, save_state

__all__ = ["Zero"]

_TAG = "deepspeed"


class Zero(Whole):
    """DeepSpeed's engine around a stage's model.

    Args:
        accelerator: Launched with a DeepSpeed configuration.
        model: The model that trains.
        stage: Its batch and micro-batch are told to the engine.
        clip: Largest norm of the gradient.
        folder: The stage's; keeps the frozen weights while a run in half precision goes on.
        fresh: Whether the stage begins with its first update.

    Raises:
        LareError: If the launch asks for fp16.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: TrainingModel,
        stage: StageConfig,
        clip: float,
        folder: Path,
        fresh: bool = True,
    ) -> None:
        super().__init__(accelerator, model)
        if accelerator.mixed_precision == "fp16":
            # The engine would skip an update that overflows, as the first ones do, without a word to the trainer.
            raise LareError(
                "DeepSpeed: LaRe needs mixed_precision: bf16, or no; see lare/configs/accelerate/zero2.yaml"
            )
        self.frozen, self.fresh = folder / "frozen", fresh
        self.half = accelerator.mixed_precision != "no"
        self.backward = self._backward
        self._first = True
        # DeepSpeed reads the rows of a pass off a data loader, of which it is given none.
        rows = stage.micro_batch or stage.batch // accelerator.num_processes
        sizes = {"train_micro_batch_size_per_gpu": rows, "train_batch_size": rows * accelerator.num_processes}
        accelerator.state.deepspeed_plugin.deepspeed_config.update(sizes | {"gradient_clipping": clip})

    def begin(self, make: Make) -> None:
        """Make the engine.

        In half precision it rounds weights that don't train too, and those have no whole value in an optimiser.
        """
        if self.half and self.fresh and self.accelerator.is_main_process:
            kept = {n: p.detach().cpu().contiguous() for n, p in self.model.named_parameters() if not p.requires_grad}
            save_state(self.frozen, kept, [], {})
        self.model.whole_graph = True
        self.wrapped, *self.optimisers = self.accelerator.prepare(self.model, *make())

    def _backward(self, loss: Tensor, last: bool) -> None:
        if self._first:
            _forget_gradients(self.wrapped)
        self._first = last
        self.wrapped.set_gradient_accumulation_boundary(last)
        self.wrapped.backward(loss)
        if last:
            self.wrapped.step()  # here, since it also reduces and clips the gradient

    def clip(self, limit: float) -> float:
        """The gradient's norm; the engine has clipped it."""
        return float(self.wrapped.get_global_grad_norm())

    def step(self) -> None:
        """Nothing to do: the engine made the update after its last backward pass."""

    def save(self, stage: Path, step: int, meta: dict[str, Any], keep: int) -> None:
        """Write DeepSpeed's files, each process its own.

        Raises:
            LareError: If the disk is full; earlier checkpoints stay.
        """
        meta = meta | {"processes": self.accelerator.num_processes}

        def write(folder: Path) -> None:
            try:
                self.wrapped.save_checkpoint(str(folder), tag=_TAG)
            except RuntimeError as error:  # what torch.save makes of a full disk
                raise OSError(str(error)) from error

        publish_together(stage, step, write, meta, keep, self.accelerator)

    def load(self, checkpoint: Path) -> None:
        """Go on from DeepSpeed's files.

        Raises:
            LareError: If there are none, they can't be read, or another number of processes wrote them.
        """
        if not (checkpoint / _TAG).is_dir():
            raise LareError(f"{str(checkpoint)!r} was not saved under DeepSpeed; resume it as it was launched at first")
        processes = read_meta(checkpoint)["processes"]
        if processes != self.accelerator.num_processes:
            raise LareError(
                f"{str(checkpoint)!r} was saved by {processes} processes and DeepSpeed goes on with as many only; "
                f"give num_processes: {processes}"
            )
        try:
            with _no_code():
                found, _ = self.wrapped.load_checkpoint(str(checkpoint), tag=_TAG)
        except (OSError, RuntimeError, UnpicklingError) as error:
            found, reason = None, f" ({' '.join(str(error).split())[:200]})"
        else:
            reason = ""
        if found is None:
            raise LareError(f"{str(checkpoint)!r} can't be read by DeepSpeed{reason}; delete that checkpoint")

    def end(self) -> None:
        """Gather the weights, let the engine go, and put whole weights in the place of shares."""
        kept = self._kept() if self.half else {}
        values = {
            id(parameter): kept[name].to(parameter.device) if name in kept else _whole(parameter)
            for name, parameter in self.model.named_parameters()
        }
        self.wrapped.destroy()
        # accelerate would run the next stage's backward passes through this engine.
        self.accelerator.free_memory()
        replace_parameters(self.model, lambda parameter: values[id(parameter)])
        self.model.whole_graph = False
        self.wrapped = self.model

    def _kept(self) -> dict[str, Tensor]:
        found = load_state(self.frozen, [])
        if found is None:
            raise LareError(f"{str(self.frozen)!r} is gone, which holds the frozen weights; train the stage again")
        return found[0]

    def clean(self) -> None:
        """Drop the frozen weights that were kept."""
        if self.accelerator.is_main_process:
            shutil.rmtree(self.frozen, ignore_errors=True)


def _forget_gradients(engine: Any) -> None:
    """Zero the gradients that ZeRO-3 holds.

    ZeRO-3 only overwrites the gradients of parameters that an update uses, and applies the older gradients of all
    others once more: an update without latents would move the Extractor again.
    """
    if engine.zero_optimization_stage() < 3:
        return
    held = getattr(engine.optimizer, "grad_partitions_flat_buffer", None)
    if held is None:
        raise LareError("this version of DeepSpeed holds ZeRO-3's gradients elsewhere than 0.19.8 did; take that one")
    held.zero_()


def _whole(parameter: nn.Parameter) -> Tensor:
    """A parameter's value: the optimiser's own, in fp32, where it trains."""
    from deepspeed import zero
    from deepspeed.utils import safe_get_full_fp32_param

    value: Tensor | None = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
    if value is not None:
        return value.detach().clone()
    with zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
        return parameter.detach().clone().float()


@contextmanager
def _no_code() -> Iterator[None]:
    """Let `torch.load`, which DeepSpeed calls for whole pickles, make tensors, containers and a few classes only."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        with torch.serialization.safe_globals([LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]):
            yield
    finally:
        del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        if before is not None:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before
