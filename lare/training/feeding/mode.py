"""How the rows of an update are answered: with latents, with the rationale as text, or at once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from lare.training.plan.config import StageConfig

if TYPE_CHECKING:
    from lare.model import LareConfig

__all__ = ["Mode", "stage_mode"]


@dataclass(frozen=True)
class Mode:
    """How the rows of an update are answered.

    Attributes:
        iterations: K; 0 makes no latents.
        delimiters: Whether the latent delimiters are written.
        rationale: Whether the text holds the rationale.
        prefix: P, rationale tokens to reconstruct from the latents.
        replaced: Rationale tokens that the text leaves out.
        window: Where the Extractor looks.
        fetch: Whether visual tokens stand in place of the latents.
        lm_grid: Side of the decoder's visual grid; None is the model's.
    """

    iterations: int = 0
    delimiters: bool = False
    rationale: bool = False
    prefix: int = 0
    replaced: int = 0
    window: str = "saliency"
    fetch: bool = False
    lm_grid: int | None = None


def stage_mode(stage: StageConfig, config: LareConfig, flip: float) -> Mode:
    """How an update of a stage is answered; `flip` is uniform in [0, 1) and the same on every process."""
    shares = (stage.direct_share, stage.text_share, stage.full_share, stage.fetch_share)
    direct, text, full, fetch = (flip < limit for limit in accumulate(shares))
    if direct:
        return Mode(lm_grid=stage.lm_grid)
    if text:
        return Mode(delimiters=True, rationale=True, lm_grid=stage.lm_grid)
    if full:
        return Mode(delimiters=True, rationale=True, lm_grid=config.grid)
    iterations = config.iterations if stage.iterations is None else stage.iterations
    if fetch:
        return Mode(iterations or config.iterations, True, True, fetch=True, lm_grid=stage.lm_grid)
    if stage.stage == "I":
        return Mode(rationale=True, lm_grid=stage.lm_grid)
    replaced = config.text_prefix if stage.replaced is None else stage.replaced
    left_out = replaced if iterations else 0
    return Mode(iterations, True, True, config.text_prefix, left_out, stage.window, lm_grid=stage.lm_grid)
