"""How alike two spaces are without any projection: linear CKA and mutual nearest neighbours.

Both compare distances among latents with distances among partners, so nothing is fitted and widths may differ.

Shapes: N instances, d and d' widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

from analysis.probe.experiment import MODALITIES, Model
from analysis.shared.stats import LEVEL, cluster_mean

__all__ = ["NEIGHBOURS", "Similar", "linear_cka", "mutual_neighbours", "similarities"]

NEIGHBOURS = 10
GROUPS = 20
"""Groups of images that the jackknife leaves out in turn."""

Array = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Similar:
    """How alike a model's latents and partners are.

    Attributes:
        backbone: Name of the model's backbone.
        role: Role of the model: with the Extractor, without it, or untrained.
        modality: What the partners are, "vision" or "text".
        cka: Linear CKA, from 0 to 1.
        cka_interval: Its 95 % interval over images.
        cka_shuffled: The same with partners permuted over all instances.
        neighbours: Share of the nearest instances that both spaces agree on.
        neighbours_interval: Its 95 % interval over images.
        neighbours_shuffled: The same with partners permuted over all instances.
    """

    backbone: str
    role: str
    modality: str
    cka: float
    cka_interval: tuple[float, float]
    cka_shuffled: float
    neighbours: float
    neighbours_interval: tuple[float, float]
    neighbours_shuffled: float


def similarities(models: Sequence[Model], modalities: Sequence[str] = MODALITIES) -> list[Similar]:
    """Both measures of every model and modality.

    Args:
        models: What comes from `analysis.probe.models.gather`.
        modalities: Partners to compare with.
    """
    found = []
    for model in models:
        own = model.instances
        image = np.unique(own.image, return_inverse=True)[1].astype(np.int64)
        for modality in modalities:
            partner = own.vision if modality == "vision" else own.text
            taken = np.random.default_rng((0, 12)).permutation(len(own))
            near = mutual_neighbours(own.latent, partner, image)
            mean = cluster_mean(near, own.image)
            found.append(
                Similar(
                    *model.key,
                    modality,
                    linear_cka(own.latent, partner),
                    _jackknife(own.latent, partner, image),
                    linear_cka(own.latent, partner[taken]),
                    mean.estimate,
                    (mean.low, mean.high),
                    float(mutual_neighbours(own.latent, partner[taken], image, image[taken]).mean()),
                )
            )
    return found


def linear_cka(left: Array, right: Array) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019), from 0 to 1; 0 where a side does not vary.

    Args:
        left: (N, d).
        right: (N, d'); row i belongs to row i of `left`.
    """
    return float(_cka(_moments(left.astype(np.float64), right.astype(np.float64))))


@dataclass(frozen=True)
class _Moments:
    """Sums over instances, so that leaving a group out is a subtraction."""

    count: float
    sums: tuple[Doubles, Doubles]
    products: tuple[Doubles, Doubles, Doubles]

    def without(self, other: _Moments) -> _Moments:
        return _Moments(
            self.count - other.count,
            (self.sums[0] - other.sums[0], self.sums[1] - other.sums[1]),
            (
                self.products[0] - other.products[0],
                self.products[1] - other.products[1],
                self.products[2] - other.products[2],
            ),
        )


def _moments(left: Doubles, right: Doubles) -> _Moments:
    return _Moments(len(left), (left.sum(0), right.sum(0)), (left.T @ left, right.T @ right, left.T @ right))


def _cka(moments: _Moments) -> float:
    x, y = moments.sums
    pairs = ((x, x), (y, y), (x, y))
    own, other, both = (
        float(np.linalg.norm(product - np.outer(a, b) / moments.count))
        for product, (a, b) in zip(moments.products, pairs, strict=True)
    )
    return both**2 / (own * other) if own * other > 1e-12 else 0.0


def _jackknife(left: Array, right: Array, image: Ints) -> tuple[float, float]:
    """95 % interval of CKA: groups of images are left out in turn. A bootstrap would repeat rows, which raises CKA."""
    order = np.random.default_rng((0, 13)).permutation(image.max() + 1)
    count = min(GROUPS, len(order))
    group = (order % count)[image]
    centre, other = (side.astype(np.float64) - side.mean(0, dtype=np.float64) for side in (left, right))
    whole = _moments(centre, other)
    values = np.array([_cka(whole.without(_moments(centre[group == g], other[group == g]))) for g in range(count)])
    error = float(np.sqrt((count - 1) / count * np.square(values - values.mean()).sum()))
    half = float(scipy_stats.t.ppf(0.5 + LEVEL / 2, count - 1)) * error
    value = _cka(whole)
    return max(0.0, value - half), min(1.0, value + half)


def mutual_neighbours(left: Array, right: Array, image: Ints, other: Ints | None = None) -> Doubles:
    """(N,) share of an instance's nearest ones, by cosine, that both spaces agree on (Huh et al. 2024).

    Only instances of other images are candidates: those of the same image are near in both spaces for its sake alone.

    Args:
        left: (N, d).
        right: (N, d').
        image: (N,) numbers of the latents' images.
        other: (N,) numbers of the partners' images where they are not the latents'.
    """
    apart = image[:, None] == image[None]
    if other is not None:
        apart |= other[:, None] == other[None]
    sides = [_nearest(side, apart) for side in (left, right)]
    return np.asarray([len(set(a) & set(b)) / len(a) for a, b in zip(*(side.tolist() for side in sides), strict=True)])


def _nearest(rows: Array, apart: npt.NDArray[np.bool_]) -> Ints:
    """(N, k) the nearest instances by cosine of centred rows, none of those that are kept apart."""
    centred = rows - rows.mean(0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    scores = np.where(apart, -np.inf, unit @ unit.T)
    count = min(NEIGHBOURS, int((~apart).sum(1).min()))
    return np.argpartition(-scores, max(0, count - 1), axis=1)[:, :count].astype(np.int64)
