"""The interval of a share."""

from __future__ import annotations

import math

__all__ = ["wilson"]

_Z = 1.959964  # two-sided 95 % of the normal distribution


def wilson(right: float, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = right / n, _Z * _Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)
