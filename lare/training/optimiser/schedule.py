"""Learning-rate schedule: linear warm-up, then cosine down to a share of the peak."""

from __future__ import annotations

import math


def learning_rate(peak: float, step: int, steps: int, floor: float = 0.0, warmup: float = 0.03) -> float:
    """Learning rate of a step.

    Args:
        peak: Highest rate.
        step: Current step, from 0.
        steps: Number of steps in all.
        floor: Rate at the end, as a share of `peak` (1 keeps it constant after the warm-up).
        warmup: Share of the steps spent rising (at most 200 steps).
    """
    rise = min(200, max(1, int(steps * warmup)))
    if step < rise:
        return peak * (step + 1) / rise
    progress = (step - rise) / max(1, steps - rise)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
