"""Runners of earlier versions whose comparisons are grids of ``lare experiments`` now."""

from __future__ import annotations

import sys
from collections.abc import Mapping

__all__ = ["REPLACED", "main"]

REPLACED: Mapping[str, str] = {
    "lare_eval.refocus": "lare/configs/experiments/refocus.yaml",
    "lare.experiments.sweep": "lare/configs/experiments/sweep.yaml",
}
"""Module -> the grid that holds its comparison."""


def main(name: str) -> int:
    """Say what to use in place of a module; returns the exit code of a mistake."""
    grid = REPLACED[name]
    print(
        f"lare: python -m {name} is now lare experiments run {grid} (status, table, time beside it; docs/guides/"
        "experiments.md); rows that it wrote are still read by analysis/ablation.py",
        file=sys.stderr,
    )
    return 2
