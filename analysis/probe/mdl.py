"""Two measures beside accuracy: how short the labels become (MDL, online code), and retrieval among many.

Online code (Voita & Titov 2020): the labels are sent in growing blocks, each coded by the probe that was fitted on all
blocks before; what is easy to learn from few pairs makes a short code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.probe.classifiers import fit_mlp, scaled

__all__ = ["PREFIXES", "OnlineCode", "online_code", "retrieval"]

PREFIXES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Ends of the blocks, as shares of the training pairs."""

Array = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class OnlineCode:
    """An online code of n labels.

    Attributes:
        bits: Its length.
        n: Labels, which is also their length in bits without a probe.
        blocks: Bits of each block.
        ends: Labels sent after each block.
    """

    bits: float
    n: int
    blocks: tuple[float, ...]
    ends: tuple[int, ...]

    @property
    def compression(self) -> float:
        """Labels by bits; 1 where the probe learns nothing."""
        return self.n / self.bits


def online_code(features: Array, labels: Ints, fit: Ints, held: Ints, seed: int) -> OnlineCode:
    """Code the labels of the rows `fit` with the MLP, which stops by the rows `held` (not coded) at every prefix.

    Args:
        features: (P, F), not scaled.
        labels: (P,) 0 or 1.
        fit: Rows to code.
        held: Rows to stop by.
        seed: Seed of the order and of the probes.
    """
    order = np.random.default_rng((seed, 8)).permutation(fit)
    ends = sorted({max(1, round(share * len(order))) for share in PREFIXES})
    blocks = [float(ends[0])]  # nothing is known before the first block: one bit a label
    for start, end in zip(ends, ends[1:], strict=False):
        block = order[start:end]
        seen = labels[order[:start]]
        if len(set(seen.tolist())) < 2:  # one label only: a fit would be sure of it, so the code stays uniform
            blocks.append(float(len(block)))
            continue
        known = np.concatenate((order[:start], held))
        rows, coming = scaled(features[known], features[block])
        places = np.arange(len(known))
        probe = fit_mlp(rows, labels[known], places[:start], places[start:], seed)
        signs = 2.0 * labels[block] - 1.0
        blocks.append(float(np.logaddexp(0.0, -signs * probe.scores(coming)).sum() / np.log(2)))
    return OnlineCode(sum(blocks), len(order), tuple(blocks), tuple(ends))


def retrieval(z: Array, v: Array, alike: Ints) -> tuple[float, ...]:
    """Share of latents whose own partner is among the nearest k of all, k = 1 and 5, by cosine.

    Args:
        z: (N, e) unit vectors.
        v: (N, e) unit vectors.
        alike: (N,) partners of equal number are the same thing; any of them counts as found, and they take one place.
    """
    first = np.unique(alike, return_index=True)[1]
    scores = z @ v[first].T
    own = np.searchsorted(alike[first], alike)
    place = (scores > scores[np.arange(len(z)), own][:, None]).sum(1)
    return tuple(float((place < k).mean()) for k in (1, 5))
