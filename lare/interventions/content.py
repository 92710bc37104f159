"""What is fed in place of a step's latents. Shapes: B rows, K steps, m latents a step, d width."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lare.errors import LareError

if TYPE_CHECKING:
    from lare.interventions.replacing import Step

__all__ = ["at_norm", "distribution", "dummy", "first", "given", "mean", "mean_norm", "noise", "zeros"]


def at_norm(values: Tensor, like: Tensor) -> Tensor:
    """Values (..., d) scaled to the norm of `like` (..., d)."""
    scaled: Tensor = values / values.norm(dim=-1, keepdim=True).clamp_min(1e-12) * like.norm(dim=-1, keepdim=True)
    return scaled


def zeros(step: Step) -> Tensor:
    """Zeros."""
    return torch.zeros_like(step.made)


def noise(step: Step) -> Tensor:
    """Gaussian noise at each latent's own norm."""
    return at_norm(step.normal(), step.made)


def distribution(step: Step) -> Tensor:
    """Gaussian with the mean and the spread that each dimension has over the questions at this step."""
    center, spread = step.bank.moments()
    at = min(step.number, len(center) - 1)
    return center[at].to(step.made) + spread[at].to(step.made) * step.normal()


def mean(step: Step) -> Tensor:
    """The mean over the questions at this step."""
    center = step.bank.moments()[0]
    return center[min(step.number, len(center) - 1)].to(step.made).expand_as(step.made)


def mean_norm(step: Step) -> Tensor:
    """The mean over the questions at this step, at each latent's own norm."""
    return at_norm(mean(step), step.made)


def first(step: Step) -> Tensor:
    """What the first step made."""
    return step.first


def dummy(step: Step) -> Tensor:
    """One embedding everywhere.

    Raises:
        LareError: If the method gives none.
    """
    if step.dummy is None:
        raise LareError("this method names no padding token, so there is no dummy; choose another intervention")
    return step.dummy.to(step.made).expand_as(step.made)


def given(step: Step) -> Tensor:
    """Latents that were looked up before the first step; the last of them is repeated where there are fewer.

    Raises:
        LareError: If none were.
    """
    if step.given is None:
        raise LareError("the latents to feed are missing; ask with analysis/validate.py, which makes them")
    return step.given[:, min(step.number, step.given.shape[1] - 1)].to(step.made).expand_as(step.made)
