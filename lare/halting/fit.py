"""Fits one stop head on what a frozen model saw and answered.

``agreement`` and ``confidence`` learn by binary cross-entropy whether the answer after a step is as good as the best
over all steps. ``ponder`` learns the least expected loss: with lambda_k its output after step k, a run stops there with
p_k = lambda_k prod_{j<k} (1 - lambda_j), and what is left stops at step T (PonderNet, Banino et al. 2021, eqs. 1-5);
the loss is sum_k p_k (error_k + price k) + weight KL(p || truncated geometric prior).

Shapes: N questions, T steps, F inputs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lare.errors import require
from lare.halting.collect import Collected
from lare.model.stop_head import LOOKS_AHEAD, StopHead

__all__ = ["FitOptions", "fit_head", "ponder_loss", "stopping"]

_HELD = 10  # every tenth group says when to end


@dataclass(frozen=True)
class FitOptions:
    """How heads are fitted.

    Attributes:
        width: Units of the hidden layer of heads over latents; the head of the look ahead is linear, a calibration.
        epochs: Most passes over the questions; the best on a held-out tenth of the groups is taken.
        batch: Questions an update.
        rate: Learning rate of AdamW.
        decay: Its weight decay.
        price: What a step costs "ponder", in points of accuracy (0.01 is one).
        prior: Chance of stopping at a step of its geometric prior.
        weight: Of the divergence from that prior.
        seed: Of first weights and order.

    Raises:
        LareError: If a value is impossible.
    """

    width: int = 64
    epochs: int = 40
    batch: int = 256
    rate: float = 1e-3
    decay: float = 0.05
    price: float = 0.01
    prior: float = 0.3
    weight: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "epochs", "batch"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; give at least 1")
        for name in ("rate", "decay", "price", "weight"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; give 0 or more")
        require(0 < self.prior < 1, f"prior is {self.prior}; give a chance between 0 and 1")


def stopping(logits: Tensor) -> Tensor:
    """Logits (N, T) of stopping at a step, having come so far -> chances (N, T) of stopping there; they sum to 1."""
    going = torch.nn.functional.logsigmoid(-logits).cumsum(1)
    reached = torch.nn.functional.pad(going[:, :-1], (1, 0))
    stop = torch.nn.functional.logsigmoid(logits)
    return torch.cat((stop[:, :-1], torch.zeros_like(stop[:, -1:])), 1).add(reached).exp()


def ponder_loss(logits: Tensor, wrong: Tensor, options: FitOptions) -> Tensor:
    """Mean expected loss of stopping where the head would.

    Args:
        logits: (N, T).
        wrong: (N, T), 1 where the answer after a step is wrong.
        options: `price`, `prior`, `weight`.
    """
    chances = stopping(logits)
    steps = torch.arange(1, logits.shape[1] + 1, device=logits.device)
    prior = torch.tensor(options.prior) * (1 - options.prior) ** (steps - 1)
    prior = prior / prior.sum()
    cost = (chances * (wrong + options.price * steps)).sum(1)
    divergence = (chances * (chances.clamp_min(1e-9).log() - prior.log())).sum(1)
    return (cost + options.weight * divergence).mean()


def fit_head(kind: str, data: Collected, options: FitOptions | None = None) -> StopHead:
    """Fit one head; the same data and options give the same head.

    Args:
        kind: One of `lare.model.stop_head.KINDS`.
        data: Training questions.
        options: How.

    Returns:
        The head, with the threshold that never stops.
    """
    options = options or FitOptions()
    inputs, linear = data.inputs[kind], kind in LOOKS_AHEAD
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        head = StopHead(kind, inputs.shape[2], inputs.shape[1], 0 if linear else options.width)
    held = torch.from_numpy(data.group % _HELD == 0)
    if bool(held.all()) or not bool(held.any()):
        held = torch.arange(len(inputs)) % _HELD == 0
    targets = torch.from_numpy((~data.right if kind == "ponder" else data.as_good).astype(np.float32))
    rate = options.rate * (10 if linear else 1)  # a handful of parameters
    optimiser = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=options.decay)
    steps = torch.arange(1, inputs.shape[1] + 1)

    def loss(rows: Tensor) -> Tensor:
        logits = head(inputs[rows], steps)
        if kind == "ponder":
            return ponder_loss(logits, targets[rows], options)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets[rows])

    train, test = (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)
    train = train if len(train) else test
    generator = torch.Generator().manual_seed(options.seed)
    best, kept = float("inf"), copy.deepcopy(head.state_dict())
    for _ in range(options.epochs):
        for rows in train[torch.randperm(len(train), generator=generator)].split(options.batch):
            optimiser.zero_grad()
            loss(rows).backward()
            optimiser.step()
        with torch.no_grad():
            reached = float(loss(test))
        if reached < best:
            best, kept = reached, copy.deepcopy(head.state_dict())
    head.load_state_dict(kept)
    return head.eval()
