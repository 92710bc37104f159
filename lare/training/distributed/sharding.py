"""How a stage's weights lie in the processes.

`Whole`: every process holds the whole model; `run_step` sums gradients in one all-reduce. `FullyShard`: weights,
gradients and optimiser are split by FSDP2. `lare.training.distributed.zero.Zero`: they are split by DeepSpeed. The
trainer treats all alike: ``begin`` a stage, make updates, ``save`` and ``load`` checkpoints, ``end`` with whole weights
in every process again, which the next stage freezes and shards anew.

Checkpoints of `Whole` and `FullyShard` are the same files: a run may go on under another launch or on more processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, InitProcessGroupKwargs
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from lare.errors import LareError
from lare.training.model import TrainingModel
from lare.training.plan.config import OptimiserConfig
from lare.training.saving.checkpoints import lean, load_step, save_step, whole
from lare.training.step import fill_gradients

__all__ = ["FullyShard", "Whole", "check_sharded", "launched_as", "make_accelerator", "replace_parameters"]

LOSS_SCALE = 2.0**16  # at a stage's first update

Make = Callable[[], list[torch.optim.Optimizer]]


def make_accelerator() -> Accelerator:
    """The processes as they were launched; DeepSpeed and FSDP work on CPUs too."""
    deepspeed, cpu = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true", not torch.cuda.is_available()
    # One process may make features for an hour while the others wait.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=12))
    if deepspeed and cpu:  # accelerate drops DeepSpeed if it is told of a CPU, and finds no backend if not
        patience.backend = "gloo"
    accelerator = Accelerator(cpu=cpu and not deepspeed, kwargs_handlers=[patience])
    if deepspeed:
        # Otherwise transformers would split parameters when they are made (zero.Init); loading needs whole ones.
        unset_hf_deepspeed_config()
    return accelerator


def launched_as(accelerator: Accelerator) -> str:
    """``whole``, ``fsdp`` or ``deepspeed``: what the launch asks for.

    accelerate itself takes FSDP on GPUs only; its launcher's word counts on CPUs too.
    """
    if str(accelerator.distributed_type).endswith("DEEPSPEED"):
        return "deepspeed"
    return "fsdp" if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" else "whole"


class Whole:
    """The whole model in every process, for one stage.

    Args:
        accelerator: Devices and processes.
        model: The model that trains.

    Attributes:
        wrapped: Runs the forward passes.
        optimisers: Their groups' rates are set before each update.
        backward: Runs a backward pass, told whether it is the update's last, and averages gradients over processes;
            None leaves both to `run_step`.
        scaler: Scales the loss in fp16 (dynamically: halved at an overflow, doubled after 2000 updates without one).
        skipped: Updates of the stage that were left out since the gradient of the scaled loss overflowed.
    """

    backward: Callable[[Tensor, bool], None] | None = None
    scaler: GradScaler | None = None
    skipped = 0

    def __init__(self, accelerator: Accelerator, model: TrainingModel) -> None:
        self.accelerator, self.model = accelerator, model
        self.wrapped: Any = model
        self.optimisers: list[torch.optim.Optimizer] = []

    def begin(self, make: Make) -> None:
        """Lay the weights out; `make` makes optimisers of what trains then."""
        self.optimisers = make()
        if self.model.precision == "fp16":
            self.scaler = GradScaler(self.accelerator.device.type, init_scale=LOSS_SCALE)

    def clip(self, limit: float) -> float:
        """Clip the gradient after the last backward pass; returns its norm over all processes before clipping.

        The norm is that of the loss itself: a scale is taken out first.
        """
        parameters = fill_gradients(self.model)
        if self.scaler is not None:
            for optimiser in self.optimisers:
                self.scaler.unscale_(optimiser)
        return float(_full(nn.utils.clip_grad_norm_(parameters, limit)))

    def step(self) -> None:
        """Make the update."""
        for optimiser in self.optimisers:
            if self.scaler is None:
                optimiser.step()
            else:
                self.scaler.step(optimiser)
        if self.scaler is not None:
            self.scaler.update()

    def skip(self) -> bool:
        """Leave out an update whose gradient is not finite, all optimisers alike, and halve the loss scale.

        Returns:
            False where a smaller scale can't help: without scaling, or where the scale has fallen below 1.
        """
        if self.scaler is None or self.scaler.get_scale() < 1:
            return False
        self.scaler.update()
        self.skipped += 1
        return True

    def scaling(self) -> dict[str, Any]:
        """The loss scale's state, for a checkpoint's meta; empty without one."""
        if self.scaler is None:
            return {}
        return {"loss_scaling": {"skipped": self.skipped, "scaler": self.scaler.state_dict()}}

    def save(self, stage: Path, step: int, meta: dict[str, Any], keep: int) -> None:
        """Write a checkpoint from the main process; every process calls this.

        Raises:
            LareError: If the disk is full; earlier checkpoints stay.
        """
        if self.accelerator.is_main_process:
            save_step(stage, step, self.model, self.optimisers, meta | self.scaling(), keep, self._lean)

    def _lean(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return lean(state, self.model)

    def _grown(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        own = self.model.state_dict() if self.model.lare.base is not None else {}
        return whole(tensors, self.model, {name: _full(value) for name, value in own.items()})

    def load(self, checkpoint: Path) -> None:
        """Go on from a checkpoint; every process calls this.

        Raises:
            LareError: If it is damaged or another model's.
        """
        saved = load_step(checkpoint, self.model, self.optimisers, self._grown).get("loss_scaling")
        if self.scaler is not None and saved is not None:
            self.skipped = int(saved["skipped"])
            self.scaler.load_state_dict(saved["scaler"])

    def end(self) -> None:
        """Leave whole weights in the model, in every process; here they always are."""

    def clean(self) -> None:
        """Drop what was kept on disk beside checkpoints, after the stage's last one; here nothing was."""


class FullyShard(Whole):
    """FSDP2 over all processes, the model as one group.

    One group, since LaRe trains through the decoder's key-value cache: gradient reaches a layer's keys and values
    without passing its output, where FSDP waits to gather that layer's weights.

    Raises:
        LareError: If the launch asks for what this does not do: FSDP1, smaller groups, activation checkpointing, which
            would drop the cache, weights in CPU memory, fp16.
    """

    def __init__(self, accelerator: Accelerator, model: TrainingModel) -> None:
        super().__init__(accelerator, model)
        self.backward = self._backward
        self.plugin = FullyShardedDataParallelPlugin()
        policy = os.environ.get("FSDP_AUTO_WRAP_POLICY", "NO_WRAP")
        offload = os.environ.get("FSDP_OFFLOAD_PARAMS", "false").lower() == "true"
        for wrong, mend in (
            (self.plugin.fsdp_version != 2, "fsdp_version: 2"),
            (policy != "NO_WRAP", "fsdp_auto_wrap_policy: NO_WRAP"),
            (self.plugin.activation_checkpointing, "fsdp_activation_checkpointing: false"),
            (offload, "fsdp_offload_params: false"),
            (accelerator.mixed_precision not in ("no", "bf16"), "mixed_precision: bf16, or no"),
        ):
            if wrong:
                raise LareError(f"FSDP: LaRe needs {mend}; see lare/configs/accelerate/fsdp.yaml")

    def begin(self, make: Make) -> None:
        """Split the weights, then make the optimisers of their shares."""
        kind, processes = self.accelerator.device.type, self.accelerator.num_processes
        half = torch.bfloat16 if self.accelerator.mixed_precision == "bf16" else None
        # The shell takes FSDP's hooks and goes with the stage; the model in it is only given other parameters.
        self.model.whole_graph = True
        self.wrapped = fully_shard(
            _Shell(self.model),
            mesh=init_device_mesh(kind, (processes,)),
            reshard_after_forward=bool(self.plugin.reshard_after_forward),
            mp_policy=MixedPrecisionPolicy(param_dtype=half, reduce_dtype=half),
        )
        self.optimisers = make()

    def _backward(self, loss: Tensor, last: bool) -> None:
        self.wrapped.set_requires_gradient_sync(last)
        loss.backward()

    def save(self, stage: Path, step: int, meta: dict[str, Any], keep: int) -> None:
        """Gather weights and optimiser and write them from the main process."""
        self.wrapped.reshard()
        main = self.accelerator.is_main_process
        model, optimisers = _Gathered(self.model, main), [_Gathered(one, main) for one in self.optimisers]
        if main:
            save_step(stage, step, model, optimisers, meta, keep, self._lean)

    def load(self, checkpoint: Path) -> None:
        """Split a checkpoint's weights and optimiser."""
        optimisers = [_ScatteredOptimiser(one) for one in self.optimisers]
        load_step(checkpoint, _ScatteredModel(self.model), optimisers, self._grown)

    def end(self) -> None:
        """Put whole weights in the place of shares."""
        self.wrapped.reshard()
        replace_parameters(self.model, lambda parameter: _full(parameter.detach()))
        self.model.whole_graph = False
        self.wrapped = self.model


class _Shell(nn.Module):
    """Holds a model and passes its calls on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *given: Any, **named: Any) -> Any:
        return self.model(*given, **named)


def replace_parameters(model: nn.Module, value: Callable[[nn.Parameter], Tensor]) -> None:
    """Give a model new parameters of these values, one for each that it has; shared ones stay shared."""
    made: dict[int, nn.Parameter] = {}
    old = []  # kept, so that no id is given twice
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(parameter) not in made:
                made[id(parameter)] = nn.Parameter(value(parameter), requires_grad=parameter.requires_grad)
                old.append(parameter)
            module.register_parameter(name, made[id(parameter)])


def _full(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value


class _Gathered:
    """The state of a sharded model or optimiser, whole and in the main process's CPU memory; made by all processes."""

    def __init__(self, source: Any, keep: bool) -> None:
        self.content: dict[str, Any] = _gather(source.state_dict(), keep)

    def state_dict(self) -> dict[str, Any]:
        return self.content


def _gather(value: Any, keep: bool) -> Any:
    if isinstance(value, dict):
        return {key: _gather(one, keep) for key, one in value.items()}
    if isinstance(value, DTensor):
        whole = _full(value)  # every process sends its share
        return whole.cpu() if keep else None
    return value


def _share(value: Tensor, like: Any) -> Tensor:
    """This process's share of a whole tensor, laid out like another."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    # Each process has read the file: nothing needs to be sent.
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


class _ScatteredModel:
    """A sharded model that takes whole weights."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def load_state_dict(self, content: dict[str, Tensor]) -> None:
        own = self.model.state_dict()
        self.model.load_state_dict({name: _share(value, own.get(name)) for name, value in content.items()})


class _ScatteredOptimiser:
    """A sharded model's optimiser that takes whole states."""

    def __init__(self, optimiser: torch.optim.Optimizer) -> None:
        self.optimiser = optimiser

    def load_state_dict(self, content: dict[str, Any]) -> None:
        parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        state = {
            index: {name: _share(value, parameters[index]) for name, value in entry.items()}
            for index, entry in content["state"].items()
        }
        self.optimiser.load_state_dict({"state": state, "param_groups": content["param_groups"]})


def check_sharded(
    optimiser: OptimiserConfig, validate_every: int | None, precision: str = "fp32", quantise: str | None = None
) -> None:
    """Refuse what sharded models can't do.

    Raises:
        LareError: It names the setting and another value.
    """
    if optimiser.matrices == "muon":
        raise LareError("optimiser.matrices muon needs whole matrices; give adamw with FSDP or DeepSpeed")
    if precision == "fp16":
        raise LareError(
            "precision fp16 scales the loss of whole models only; with FSDP or DeepSpeed give bf16 or fp32, or launch "
            "with lare/configs/accelerate/ddp.yaml"
        )
    if quantise is not None:
        raise LareError(
            f"model.quantise={quantise} packs weights, which FSDP and DeepSpeed would cut; leave it out, or launch "
            "with lare/configs/accelerate/ddp.yaml"
        )
    if validate_every:
        raise LareError("validate_every asks a whole model in one process; give 0 with FSDP or DeepSpeed")
