"""How the rows of an update are answered: by one method of the stage's mixture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lare.methods.layout import Layout
from lare.training.plan.config import StageConfig
from lare.training.plan.mixture import drawn

if TYPE_CHECKING:
    from lare.model import LareConfig

__all__ = ["Mode", "main_layout", "stage_mode"]

Mode = Layout


def stage_mode(stage: StageConfig, config: LareConfig, flip: float) -> Layout:
    """How an update of a stage is answered; `flip` is uniform in [0, 1) and the same on every process."""
    return drawn(stage.mixture, flip).training.layout(stage, config)


def main_layout(stage: StageConfig, config: LareConfig) -> Layout:
    """The layout of a stage's main method, which is the last of its mixture; validation uses it."""
    return stage.mixture[-1].training.layout(stage, config)
