"""Muon in float32: momentum whose update matrices are orthogonalised by Newton-Schulz iterations.

torch.optim.Muon computes the iterations in bfloat16, which a CPU without AVX512-BF16 multiplies a hundred times slower
than float32; this one keeps float32 and treats matrices of one shape as one batch. Use it for the matrices inside the
network and AdamW for embeddings, norms and biases.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices_NRC: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of each matrix (N, R, C) near 1 (quintic Newton-Schulz)."""
    a, b, c = _COEFFICIENTS
    wide = matrices_NRC.mT if matrices_NRC.shape[1] > matrices_NRC.shape[2] else matrices_NRC
    x = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    out: Tensor = x.mT if matrices_NRC.shape[1] > matrices_NRC.shape[2] else x
    return out


class Muon(torch.optim.Optimizer):
    """Muon for two-dimensional parameters.

    Args:
        params: matrices.
        lr: learning rate on AdamW's scale (updates are brought to a root mean square of 0.2 times `lr`).
        momentum: decay of the momentum, Nesterov style.
        weight_decay: decoupled weight decay.
        steps: Newton-Schulz iterations.

    Raises:
        ValueError: a parameter is no matrix.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.05,
        steps: int = 5,
    ) -> None:
        chosen = list(params)
        if any(p.dim() != 2 for p in chosen):
            raise ValueError("Muon takes matrices only; give embeddings, norms and biases to AdamW")
        super().__init__(chosen, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": steps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            by_shape: defaultdict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                updates = torch.stack([self._direction(p, group["momentum"]) for p in parameters])
                scale = 0.2 * max(shape) ** 0.5
                for parameter, update in zip(parameters, orthogonalise(updates, group["steps"]), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-group["lr"] * scale)
        return loss

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return torch.lerp(parameter.grad, state["momentum"], momentum)
