"""The paper's Table 1 as reported, and what "+9.4 % accuracy, -16.5 % tokens" may mean.

No definition that was tried gives both numbers exactly; several are offered by name, for the paper's numbers and for
those measured here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["BENCHMARKS", "CLAIM", "DEFINITIONS", "TABLE1", "Costs", "Definition", "Gain", "gains", "reported"]

BENCHMARKS = ("MMBench", "MMStar", "MMVP", "ScienceQA", "POPE")
"""Order of the columns in `TABLE1`."""

CLAIM = (9.4, -16.5)
"""The abstract's gain in accuracy and change of tokens, in percent (of what is not said)."""

Costs = Mapping[str, tuple[float, float]]
"""Method to (accuracy in percent, tokens), both means over the tasks."""

TABLE1: Mapping[str, Mapping[str, tuple[tuple[float, float], ...]]] = {
    "Qwen2.5-0.5B": {
        "Standard CoT": ((34.7, 265.4), (21.3, 391.1), (14.0, 166.9), (36.3, 281.2), (39.8, 164.2)),
        "MM-CoT": ((31.2, 278.3), (22.1, 420.5), (14.7, 177.6), (36.6, 298.7), (42.5, 170.9)),
        "CCoT": ((38.5, 275.7), (24.1, 372.4), (21.3, 168.2), (41.1, 302.9), (44.7, 170.3)),
        "ICoT": ((39.4, 253.8), (23.6, 361.4), (28.2, 165.7), (40.4, 294.2), (45.1, 161.2)),
        "CoF": ((41.4, 266.2), (24.2, 390.8), (31.9, 173.3), (40.7, 285.6), (49.4, 158.4)),
        "MCOUT": ((34.9, 265.3), (19.9, 405.4), (26.2, 167.6), (32.4, 283.3), (42.3, 157.7)),
        "LVR": ((40.5, 250.3), (25.0, 408.2), (32.4, 162.4), (40.5, 273.2), (48.8, 126.5)),
        "LaRe": ((51.2, 225.1), (32.2, 366.1), (36.2, 153.0), (42.3, 256.9), (52.6, 130.5)),
    },
    "Qwen2.5-1.5B": {
        "Standard CoT": ((43.2, 395.2), (21.6, 521.7), (16.6, 227.1), (38.3, 426.2), (44.2, 179.5)),
        "MM-CoT": ((43.4, 430.7), (22.5, 590.9), (18.8, 229.0), (41.6, 433.8), (44.1, 172.0)),
        "CCoT": ((47.0, 425.6), (27.3, 596.2), (31.4, 235.8), (43.1, 440.3), (50.8, 182.3)),
        "ICoT": ((45.4, 360.5), (27.8, 570.1), (33.8, 219.2), (41.6, 442.7), (53.6, 183.7)),
        "CoF": ((53.7, 330.4), (32.1, 534.5), (40.2, 222.3), (43.3, 445.4), (53.6, 186.1)),
        "MCOUT": ((41.3, 362.3), (24.8, 565.2), (34.4, 197.5), (36.5, 397.2), (51.5, 166.5)),
        "LVR": ((51.2, 340.7), (30.4, 595.3), (39.9, 208.4), (42.4, 370.9), (53.1, 173.4)),
        "LaRe": ((63.3, 256.7), (36.0, 465.1), (42.8, 171.9), (45.6, 330.1), (58.7, 148.9)),
    },
}
"""Table 1 as reported: backbone, method, (accuracy in percent, tokens of right answers) by benchmark."""


@dataclass(frozen=True)
class Definition:
    """One reading of the claim.

    Attributes:
        name: What is compared with what.
        against: "mean" of the baselines, "first" (chain of thought as text), or "best" (by accuracy).
        relative: Whether the gain of accuracy is in percent of the baseline's, not in points.
    """

    name: str
    against: str
    relative: bool


@dataclass(frozen=True)
class Gain:
    """A gain by one definition.

    Attributes:
        accuracy: Gain of accuracy, in points or percent as the definition says.
        tokens: Change of tokens, in percent.
    """

    accuracy: float
    tokens: float


DEFINITIONS = (
    Definition("against the mean of the baselines, points", "mean", False),
    Definition("against the mean of the baselines, percent of it", "mean", True),
    Definition("against chain of thought as text, points", "first", False),
    Definition("against chain of thought as text, percent of it", "first", True),
    Definition("against the most accurate baseline, points", "best", False),
    Definition("against the most accurate baseline, percent of it", "best", True),
)


def reported(backbone: str) -> Costs:
    """Means over the five benchmarks of `TABLE1`."""
    return {
        method: (float(np.mean([one[0] for one in values])), float(np.mean([one[1] for one in values])))
        for method, values in TABLE1[backbone].items()
    }


def gains(costs: Costs, judged: str, first: str) -> Sequence[Gain | None]:
    """The judged method's gain by every definition; None where there is no such baseline.

    Args:
        costs: Accuracy and tokens of every method.
        judged: The method that is judged.
        first: The baseline that stands for chain of thought as text.
    """
    others = {name: values for name, values in costs.items() if name != judged}
    found: list[Gain | None] = []
    for one in DEFINITIONS:
        base = _baseline(others, one.against, first)
        if base is None or not base[0] or not base[1]:
            found.append(None)
            continue
        accuracy, tokens = costs[judged]
        gap = accuracy - base[0]
        found.append(Gain(100 * gap / base[0] if one.relative else gap, 100 * (tokens / base[1] - 1)))
    return found


def _baseline(others: Costs, against: str, first: str) -> tuple[float, float] | None:
    if against == "first":
        return others.get(first)
    if not others:
        return None
    if against == "best":
        return max(others.values())
    return float(np.mean([one[0] for one in others.values()])), float(np.mean([one[1] for one in others.values()]))
