"""Projection to 256 dimensions: a linear layer fitted by InfoNCE on training instances only (Appendix B).

Fitting it on all pairs gives 100 % on shuffled pairings with nothing to learn; hence training instances, and early
stopping on held-out training images.

Shapes: N instances, d width of a vector, e = 256 projected dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from analysis.probe.classifiers import keep_best, validation_rows
from analysis.probe.heads import Head
from lare.errors import LareError
from lare.losses.alignment import info_nce

__all__ = ["HEADS", "PROJECTIONS", "project"]

PROJECTIONS = ("infonce", "none", "random", "pca", "model")
"""model: the alignment heads that were trained with the model (eq. 6), as they are; nothing is fitted here."""

HEADS = ("auto", "shared", "own")
"""One layer for both sides (auto: where their widths are equal), or one for each."""

TEMPERATURE = 0.07
BATCH = 256
RATE = 1e-3

Array = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Scale:
    """Centre and one common scale of a side's training vectors; a linear layer could do the same."""

    centre: Array
    size: float

    @classmethod
    def of(cls, rows: Array) -> _Scale:
        centre = rows.mean(0)
        return cls(centre, float(np.sqrt(np.square(rows - centre).sum(1).mean())) or 1.0)

    def __call__(self, rows: Array) -> Array:
        return np.asarray((rows - self.centre) / self.size, dtype=np.float32)


def project(
    left: Array,
    right: Array,
    train: Ints,
    groups: npt.NDArray[np.str_],
    seed: int,
    kind: str = "infonce",
    heads: str = "auto",
    dim: int = 256,
    trained: tuple[Head, Head] | None = None,
) -> tuple[Array, Array]:
    """Project and normalise both sides.

    Args:
        left: (N, d) latents.
        right: (N, d') partners; row i belongs to row i of `left`.
        train: Instances that anything may be fitted on.
        groups: (N,) images.
        seed: Seed of the layer's start and of the draws.
        kind: One of `PROJECTIONS`.
        heads: One of `HEADS`.
        dim: e; with "model" that of its heads.
        trained: The model's own heads of the left and the right side, for "model".

    Returns:
        Unit vectors (N, e), (N, e); (N, d) with "none".

    Raises:
        LareError: If an option is unknown, needs equal widths and has none, or needs heads and has none.
    """
    if kind not in PROJECTIONS or heads not in HEADS:
        raise LareError(f"projection {kind!r} or heads {heads!r} is unknown; see --help")
    if kind == "model":
        if trained is None:
            raise LareError("the model has no alignment heads of its own; choose another --projection")
        return _unit(trained[0](left)), _unit(trained[1](right))
    equal = left.shape[1] == right.shape[1]
    if not equal and (kind != "infonce" or heads == "shared"):
        raise LareError(
            f"latents have width {left.shape[1]} and their partners {right.shape[1]}; give --projection infonce with "
            "--heads own"
        )
    if kind == "none":
        return _unit(left), _unit(right)
    scales = _Scale.of(left[train]), _Scale.of(right[train])
    both = scales[0](left), scales[1](right)
    if kind == "random":
        matrix = np.random.default_rng((seed, 1)).normal(size=(left.shape[1], dim)).astype(np.float32)
        return _unit(both[0] @ matrix), _unit(both[1] @ matrix)
    if kind == "pca":
        rows = np.concatenate([side[train] for side in both])
        pca = PCA(min(dim, *rows.shape), random_state=seed).fit(rows)
        return _unit(pca.transform(both[0])), _unit(pca.transform(both[1]))
    shared = equal and heads != "own"
    layers = _fit(both, train, groups, seed, shared, dim)
    with torch.no_grad():
        made = [_normal(layer(torch.from_numpy(side))).numpy() for layer, side in zip(layers, both, strict=True)]
    return made[0], made[1]


def _unit(rows: npt.NDArray[np.floating]) -> Array:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, 1e-12), dtype=np.float32)


def _normal(rows: Tensor) -> Tensor:
    return nn.functional.normalize(rows, dim=-1)


def _fit(
    both: tuple[Array, Array], train: Ints, groups: npt.NDArray[np.str_], seed: int, shared: bool, dim: int
) -> tuple[nn.Linear, nn.Linear]:
    """Symmetric InfoNCE; partners that are equal to the last digit are no negatives of one another."""
    generator = torch.Generator().manual_seed(seed)
    layers = [_layer(side.shape[1], dim, generator) for side in both]
    if shared:
        layers[1] = layers[0]
    parameters = list({id(p): p for layer in layers for p in layer.parameters()}.values())
    optimiser = torch.optim.Adam(parameters, lr=RATE, fused=True)
    alike = torch.from_numpy(np.unique(both[1], axis=0, return_inverse=True)[1].reshape(-1))
    fit, held = (torch.from_numpy(train[part]) for part in validation_rows(groups[train], seed))
    sides = torch.from_numpy(both[0]), torch.from_numpy(both[1])

    def loss(rows: Tensor) -> Tensor:
        z, other = (_normal(layer(side[rows])) for layer, side in zip(layers, sides, strict=True))
        total, count = info_nce(z, other, TEMPERATURE, alike[rows])
        return total / count

    def epoch() -> float:
        order = fit[torch.randperm(len(fit), generator=generator)]
        for rows in order.split(BATCH):
            if len(rows) < 2:
                continue
            optimiser.zero_grad()
            loss(rows).backward()
            optimiser.step()
        with torch.no_grad():
            return float(torch.stack([loss(rows) for rows in held.split(BATCH)]).mean())

    keep_best(parameters, epoch, 1e-4)
    return layers[0], layers[1]


def _layer(width: int, dim: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(width, dim)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(dim, width, generator=generator) / width**0.5)
        layer.bias.zero_()
    return layer
