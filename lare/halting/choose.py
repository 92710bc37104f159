"""Chooses thresholds on validation questions: the most eager one that is shown to lose next to nothing.

A learned rule never takes more steps than the best fixed number K, so the threshold "never" is that number itself. From
there thresholds are tested downwards; the first that can't be shown to lose at most the margin ends the sequence (Learn
then Test, fixed sequence), so no correction for their number is due.

Shapes: N questions, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from lare.halting.collect import Collected

__all__ = ["Choice", "best_fixed", "calibration_error", "choose_threshold", "stop_steps", "upper_bound"]

NEVER = 1.0
_POINTS = 100  # thresholds that are tried
_RISK = 0.05

Values = npt.NDArray[np.float64]
Right = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Choice:
    """A threshold and what it reaches on validation questions.

    Attributes:
        threshold: C; 1 never stops.
        steps: Mean steps.
        accuracy: Share of right answers.
        loss: Accuracy lost against the best fixed number of steps.
        bound: Upper end of its one-sided 95 % interval.
    """

    threshold: float
    steps: float
    accuracy: float
    loss: float
    bound: float


def best_fixed(right: Right) -> int:
    """K, the fixed number of steps, from 1, with the most right answers; the fewest steps among equals."""
    return int(right.mean(0).argmax()) + 1


def stop_steps(values: Values, threshold: float, most: int) -> npt.NDArray[np.int64]:
    """(N,) steps at which a rule with values (N, T) stops: the first above the threshold, `most` at the latest."""
    fired = values[:, :most] > threshold
    fired[:, -1] = True
    found: npt.NDArray[np.int64] = fired.argmax(1) + 1
    return found


def upper_bound(lost: Values, group: npt.NDArray[np.int64]) -> float:
    """Upper end of the one-sided 95 % interval of a mean over questions, cluster-robust over groups.

    It is never below the exact bound for no loss in any group: a few questions show nothing, however they come out.
    """
    _, codes = np.unique(group, return_inverse=True)
    sums = np.bincount(codes, weights=lost - lost.mean())
    count = len(sums)
    error = np.sqrt((sums**2).sum() * count / max(count - 1, 1)) / len(lost)
    none_lost = 1 - _RISK ** (1 / count)
    return float(max(lost.mean() + NormalDist().inv_cdf(1 - _RISK) * error, none_lost))


def choose_threshold(values: Values, data: Collected, margin: float, most: int) -> Choice:
    """The most eager threshold that, with 95 % confidence, loses at most `margin` against the best fixed steps.

    Args:
        values: (N, T) of a head on validation questions.
        data: Those questions.
        margin: Share of accuracy that may be lost.
        most: K, the best fixed number of steps.
    """
    fixed, rows = data.right[:, most - 1], np.arange(len(values))
    inner = np.unique(np.quantile(values[:, :most], np.linspace(0, 1, _POINTS)))
    found = None
    for threshold in (NEVER, *inner[::-1].tolist()):
        steps = stop_steps(values, threshold, most)
        right = data.right[rows, steps - 1]
        lost = fixed.astype(float) - right
        bound = upper_bound(lost, data.group) if found is not None else 0.0  # the fixed number itself loses nothing
        if found is not None and bound > margin:
            break
        found = Choice(threshold, float(steps.mean()), float(right.mean()), float(lost.mean()), bound)
    assert found is not None
    return found


def calibration_error(values: Values, happened: Right, bins: int = 10) -> float:
    """Expected calibration error: mean gap between probability and share, over equally wide bins, by their sizes."""
    places = np.minimum((values * bins).astype(int), bins - 1).ravel()
    gaps = np.bincount(places, weights=values.ravel() - happened.ravel(), minlength=bins)
    return float(np.abs(gaps).sum() / values.size)
