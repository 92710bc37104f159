"""The permutation test of the pairing: would the fitted probe do as well if test partners were exchanged?

Partners are permuted over all test instances, not within images or questions (which is what `groups` would do in
scikit-learn's permutation test) and not as labels of pairs: an instance stands in a match and in negatives, so the
labels of pairs are not exchangeable, partners are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from analysis.probe.pairs import Pairs

__all__ = ["PERMUTATIONS", "combined_p", "pairing_p"]

PERMUTATIONS = 999
CHUNK = 20_000  # pairs whose features are held at once

Scores = Callable[[Pairs], npt.NDArray[np.float64]]


def pairing_p(scores: Scores, test: Pairs, seed: int, permutations: int = PERMUTATIONS) -> float:
    """Share of pairings, the true one counted, on which the probe is at least as accurate.

    Every latent is scored with every partner once; a permutation only looks scores up.

    Args:
        scores: The fitted probe's scores of pairs, above 0 for a match.
        test: Test pairs.
        seed: Seed of the permutations.
        permutations: How many.
    """
    lefts, left = np.unique(test.left, return_inverse=True)
    rights, right = np.unique(test.right, return_inverse=True)
    every = np.indices((len(lefts), len(rights))).reshape(2, -1)
    none = np.zeros(every.shape[1], dtype=np.int64)
    pairs = Pairs(lefts[every[0]], rights[every[1]], none)
    parts = [np.arange(start, min(start + CHUNK, len(none))) for start in range(0, len(none), CHUNK)]
    matched = np.concatenate([scores(pairs.take(part)) > 0 for part in parts]).reshape(len(lefts), len(rights))
    label = test.label == 1
    right_ones = (matched[left, right] == label).sum()
    rng = np.random.default_rng((seed, 11))
    reached = 0
    for _ in range(permutations):
        taken = rng.permutation(len(rights))
        reached += int((matched[left, taken[right]] == label).sum() >= right_ones)
    return (1 + reached) / (1 + permutations)


def combined_p(values: Sequence[float | None]) -> float | None:
    """One p-value of several seeds' ones, which share instances: twice their mean, valid however they depend.

    Vovk & Wang (2020), "Combining p-values via averaging".
    """
    found = [value for value in values if value is not None]
    if len(found) < 2:
        return found[0] if found else None
    return min(1.0, 2 * float(np.mean(found)))
