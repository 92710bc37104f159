"""Optimisers of a stage: AdamW with one rate for trained and one for new weights; Muon for matrices if asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lare.model.lora import LORA_MARK
from lare.training.optimiser.muon import Muon
from lare.training.optimiser.schedule import learning_rate
from lare.training.plan.config import OptimiserConfig, StageConfig
from lare.training.plan.stages import prefixes

__all__ = ["is_inner", "make_optimisers", "set_rates"]

NEW_PARTS = ("extractor", "refocus_projector", "alignment", "unet")
"""Parts that start from nothing, and so learn at the higher rate; low-rank adapters do as well."""

Named = Sequence[tuple[str, nn.Parameter]]


def _is_new(name: str) -> bool:
    return name.startswith(prefixes(NEW_PARTS)) or LORA_MARK in name


def is_inner(name: str, parameter: torch.Tensor) -> bool:
    """Whether a parameter is a matrix inside the network, which Muon takes."""
    return parameter.dim() == 2 and "embed" not in name and "lm_head" not in name


def make_optimisers(named: Named, stage: StageConfig, config: OptimiserConfig) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon where it is asked for; each group carries its peak rate as ``peak``.

    Matrices have weight decay, vectors (norms, biases) none. Muon takes the matrices inside the network; embeddings and
    the LM head stay with AdamW.
    """
    muon: list[nn.Parameter] = []
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        if is_inner(name, parameter) and config.matrices == "muon":
            muon.append(parameter)
            continue
        rate = stage.new_learning_rate if _is_new(name) else stage.learning_rate
        decay = config.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    found: list[torch.optim.Optimizer] = []
    if groups:
        listed = [{"params": p, "lr": r, "peak": r, "weight_decay": d} for (r, d), p in groups.items()]
        found.append(torch.optim.AdamW(listed, betas=config.betas, foreach=True))
    if muon:
        optimiser = Muon(muon, lr=config.matrix_rate, weight_decay=config.weight_decay)
        optimiser.param_groups[0]["peak"] = config.matrix_rate
        found.append(optimiser)
    return found


def set_rates(
    optimisers: Sequence[torch.optim.Optimizer], step: int, steps: int, stage: StageConfig, config: OptimiserConfig
) -> float:
    """Set every group's learning rate for an update.

    Args:
        optimisers: From `make_optimisers`.
        step: Number of the update, from 0.
        steps: Updates of the stage.
        stage: The stage; its floor comes before the optimiser's.
        config: Settings of the optimiser.

    Returns:
        The schedule's factor of the peak rates.
    """
    floor = config.floor if stage.floor is None else stage.floor
    factor = learning_rate(1.0, step, steps, floor, config.warmup)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = factor * group["peak"]
    return factor
