"""One optimiser update's gradients, however its samples are split over micro-batches and processes.

Every loss is normalised once, by its count over the whole global batch: a mean of means would weigh short rows more.
The alignment (eq. 6) does not split over micro-batches, so its embeddings' gradients are cached (Gao et al. 2021,
"GradCache"): pass 1 makes all embeddings without gradient, the loss over the whole global batch gives the gradient with
respect to each, and pass 2 makes each micro-batch's again and backpropagates its slice of that gradient. Loss and
gradients are those of one large batch. With one micro-batch a process there is one pass only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from lare.errors import LareError
from lare.losses.base import Contrastive, active, loss_names
from lare.training.feeding.batch import Draws, MicroBatch
from lare.training.model import StepOutput

__all__ = ["CachedContrast", "StepResult", "counts", "fill_gradients", "gathered", "run_step"]

T = TypeVar("T")


@dataclass
class StepResult:
    """What an update reports, over the whole global batch.

    Attributes:
        losses: Mean of each loss, by name, and ``total``.
        counts: Tokens or rows by which each was divided.
        negatives: Rows that each row was contrasted with; 0 without a contrastive loss.
        accuracy: Share of target tokens that are the arg-max.
        replaced: Samples that others stood in for.
    """

    losses: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    negatives: int = 0
    accuracy: float = 0.0
    replaced: int = 0


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _sum_over_processes(values: Tensor) -> Tensor:
    if _processes() > 1:
        dist.all_reduce(values)
    return values


def gathered(found: list[T]) -> list[T]:
    """What all processes have found, in their order; every process calls this."""
    if _processes() == 1:
        return found
    parts: list[list[T]] = [[] for _ in range(_processes())]
    dist.all_gather_object(parts, found)
    return [one for part in parts for one in part]


def counts(batches: Sequence[MicroBatch], weights: Mapping[str, float], draws: Sequence[Draws]) -> dict[str, int]:
    """What each loss is divided by: its tokens or rows over all micro-batches and processes."""
    losses = active(weights, batches)
    local = dict.fromkeys([*loss_names(), *losses], 0)
    for batch, draw in zip(batches, draws, strict=True):
        for name, loss in losses.items():
            local[name] += loss.count(batch, draw)
    device = batches[0].inputs["input_ids"].device
    total = _sum_over_processes(torch.tensor(list(local.values()), dtype=torch.long, device=device))
    return dict(zip(local, total.tolist(), strict=True))


def run_step(
    model: Any,
    batches: Sequence[MicroBatch],
    weights: Mapping[str, float],
    draws: Sequence[Draws],
    temperature: float,
    backward: Callable[[Tensor, bool], None] | None = None,
    scaler: GradScaler | None = None,
) -> StepResult:
    """Leave the gradients of one update in the parameters.

    In fp16 they are those of the scaled loss: small gradients would vanish in a backward pass in half precision. The
    alignment's cached gradients are made in float32 and unscaled; the scale joins them in the second pass, with the
    rest of the loss.

    Args:
        model: A `TrainingModel`, wrapped or not.
        batches: This process's micro-batches.
        weights: Weight of each loss but L_lm.
        draws: Each micro-batch's random numbers.
        temperature: Temperature of contrastive losses, such as the alignment.
        backward: Runs a backward pass of a sharded model (FSDP, DeepSpeed), given the loss and whether it is the
            update's last, and averages gradients over processes; None sums them here.
        scaler: Scales the loss of each backward pass (fp16); its caller takes the scale out of the gradients.

    Returns:
        The losses of the whole global batch, unscaled.

    Raises:
        LareError: If a loss is not finite; it names the samples. With a scaler nothing is raised: the gradients are
            then not finite either, as after an overflow in the backward pass, and by that every process knows.
    """
    weights = _weights(weights, batches)
    divisors = counts(batches, weights, draws)
    factor = 1 if backward is None else _processes()
    scale = {name: factor * weights[name] / max(1, n) for name, n in divisors.items()}
    contrasts = {
        name: CachedContrast(loss, batches, scale[name], temperature)
        for name, loss in active(weights, batches).items()
        if isinstance(loss, Contrastive) and divisors[name]
    }
    if contrasts and len(batches) > 1:
        with torch.no_grad():
            made = [_forward(model, b, weights, d, True).embedded for b, d in zip(batches, draws, strict=True)]
        for name, contrast in contrasts.items():
            contrast.cache([one.get(name) for one in made])
    sums, right = dict.fromkeys(divisors, 0.0), 0
    for number, (batch, draw) in enumerate(zip(batches, draws, strict=True)):
        out = _forward(model, batch, weights, draw, False)
        loss = sum((value * scale[name] for name, value in out.sums.items()), torch.zeros((), device=draw.pick.device))
        for name, contrast in contrasts.items():
            if name in out.embedded:
                loss = loss + contrast.loss(out.embedded[name], number)
        _pull(loss, out, batch, backward, scaler, number + 1 == len(batches))
        right += out.right
        sums |= {name: sums[name] + float(value.detach()) for name, value in out.sums.items()}
    if backward is None:
        _sum_gradients(model)
    sums |= {name: contrast.total for name, contrast in contrasts.items()}
    return _result(sums, divisors, weights, right, batches)


def _weights(weights: Mapping[str, float], batches: Sequence[MicroBatch]) -> dict[str, float]:
    """Weights of an update: the stage's, those of its method's losses, 1 for L_lm, and 0 for what is not named."""
    own = {loss.name: weight for batch in batches for loss, weight in batch.losses.items()}
    return dict.fromkeys(loss_names(), 0.0) | {loss_names()[0]: 1.0} | dict(weights) | own


def _pull(
    loss: Tensor,
    out: StepOutput,
    batch: MicroBatch,
    backward: Callable[[Tensor, bool], None] | None,
    scaler: GradScaler | None,
    last: bool,
) -> None:
    """Run one micro-batch's backward pass; see `run_step`."""
    if scaler is not None:
        _backward_scaled(scaler, loss)
        return
    _check_finite(loss, out, batch)
    if backward is None:
        loss.backward()
    else:
        backward(loss, last)


def fill_gradients(model: nn.Module) -> list[nn.Parameter]:
    """Give zero gradients to parameters that this update did not use, and return all that train.

    An optimiser skips a parameter without gradient, its decay and momentum too. Which parts an update uses depends on
    the rows that a process has; what the optimiser does must not.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return parameters


def _sum_gradients(model: nn.Module) -> None:
    """Add up gradients over processes in one all-reduce."""
    parameters = fill_gradients(model)
    if _processes() == 1:
        return
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    dist.all_reduce(flat)
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


def _forward(
    model: Any, batch: MicroBatch, weights: Mapping[str, float], draw: Draws, vectors_only: bool
) -> StepOutput:
    output: StepOutput = model(batch, weights, draw, vectors_only=vectors_only)
    return output


def _backward_scaled(scaler: GradScaler, loss: Tensor) -> None:
    # A loss may be infinite and its gradient not, where a label's probability has rounded to 0.
    finite = bool(torch.isfinite(loss))
    scaler.scale(loss if finite else loss * float("nan")).backward()


def _check_finite(loss: Tensor, out: StepOutput, batch: MicroBatch) -> None:
    if bool(torch.isfinite(loss)):
        return
    parts = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in out.sums.items())
    samples = ", ".join(batch.where[:4]) + (f" and {len(batch.where) - 4} more" if len(batch.where) > 4 else "")
    raise LareError(
        f"the loss is not finite ({parts}) on the samples {samples}; look at them, lower the learning rate, or train "
        "with precision=fp32"
    )


class CachedContrast:
    """A contrastive loss over a global batch, for one or several micro-batches."""

    def __init__(self, loss: Contrastive, batches: Sequence[MicroBatch], scale: float, temperature: float) -> None:
        self.own, self.batches, self.scale, self.temperature = loss, batches, scale, temperature
        self.gradients: list[tuple[Tensor, ...]] | None = None
        self.total = 0.0

    def cache(self, made: Sequence[tuple[Tensor, ...] | None]) -> None:
        """Take the embeddings of all micro-batches and keep the loss's gradient with respect to each."""
        found = [one for one in made if one is not None]
        leaves = [torch.cat(rows).detach().requires_grad_() for rows in zip(*found, strict=True)]
        with torch.enable_grad():
            total = self._value(leaves) * self.scale
        gradients = torch.autograd.grad(total, leaves)
        sizes = [len(one[0]) for one in found]
        self.gradients = list(zip(*(gradient.split(sizes) for gradient in gradients), strict=True))

    def _value(self, made: Sequence[Tensor]) -> Tensor:
        total = self.own.contrast(made, self.batches, self.temperature)
        self.total = float(total.detach())
        return total

    def loss(self, made: tuple[Tensor, ...], number: int) -> Tensor:
        """A scalar whose gradient is the cached one, for a micro-batch's backward pass."""
        if self.gradients is None:
            return self._value(made) * self.scale
        pairs = zip(made, self.gradients[number], strict=True)
        return torch.stack([(own * gradient).sum() for own, gradient in pairs]).sum()


def _result(
    sums: dict[str, float],
    divisors: dict[str, int],
    weights: Mapping[str, float],
    right: int,
    batches: Sequence[MicroBatch],
) -> StepResult:
    device = batches[0].inputs["input_ids"].device
    replaced = sum(len(batch.replaced) for batch in batches)
    values = torch.tensor([*sums.values(), float(right), float(replaced)], dtype=torch.float64, device=device)
    *totals, hits, missed = _sum_over_processes(values).tolist()
    means = {name: total / divisors[name] for name, total in zip(sums, totals, strict=True) if divisors[name]}
    means["total"] = sum(weights[name] * value for name, value in means.items())
    contrasted = [divisors[name] for name, loss in active(weights, batches).items() if isinstance(loss, Contrastive)]
    negatives = max(0, max(contrasted, default=0) - 1)
    used = {name: count for name, count in divisors.items() if count}
    return StepResult(means, used, negatives, hits / max(1, divisors[loss_names()[0]]), int(missed))
