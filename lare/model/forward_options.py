"""Options of a training step's forward: everything beside prompts, images and the text to predict.

Shapes: B rows, I images, K iterations, T target tokens, C crops, N_f fine and N_v decoder tokens of an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from lare.errors import LareError
from lare.model.loop import LoopState
from lare.model.reasoner import Reasoner
from lare.model.thinking import Thoughts, think
from lare.window_modes import soft_temperature

__all__ = ["ForwardOptions", "read_forward_options", "think_in_training"]


@dataclass(frozen=True)
class ForwardOptions:
    """Options of the model's `forward`.

    Attributes:
        iterations: K; None takes the configuration's.
        delimiters: Feed <|latent_end|> before the target. False with iterations=0 is plain LLaVA.
        window_mode: "saliency", "random", "full" or "soft:T" (see `lare.model.thinking.think`).
        generator: Source of random windows.
        fetch: (B, K) numbers of fine tokens in place of the latents, to be read before the Extractor makes any.
        lm_grid: Side of the decoder's visual grid instead of the configured one; the prompt must fit.
        saliency_gradient: Keep the gradient of the saliency, for a loss on where the model looks.
        label_mask: (B, T), 0 where a target token is only read, as in a later turn's question; None means nowhere.
        target_visual: (B, T) number of the visual token to read instead of the target id; -1 where the id counts. The
            I * N_f fine tokens come first in the numbering, then the crops' tokens.
        crop_values: (C, 3, H, W) crops to be encoded for `target_visual`; each has N_v tokens.
        refocus: False makes latents without looking again: the last hidden state is fed back.
    """

    iterations: int | None = None
    delimiters: bool = True
    window_mode: str = "saliency"
    generator: torch.Generator | None = None
    fetch: Tensor | None = None
    lm_grid: int | None = None
    saliency_gradient: bool = False
    label_mask: Tensor | None = None
    target_visual: Tensor | None = None
    crop_values: Tensor | None = None
    refocus: bool = True

    @property
    def keeps_saliency(self) -> bool:
        """Whether the saliency keeps its gradient; soft windows take it from there."""
        return self.saliency_gradient or soft_temperature(self.window_mode) is not None


def read_forward_options(given: Mapping[str, Any], iterations: int, prefix: bool) -> ForwardOptions:
    """Options of one call.

    Args:
        given: The call's keyword arguments.
        iterations: K of the configuration.
        prefix: Whether the rationale's prefix is to be reconstructed (eq. 8).

    Returns:
        The options, with K filled in.

    Raises:
        LareError: If one is unknown, or they do not fit together.
    """
    unknown = given.keys() - {entry.name for entry in fields(ForwardOptions)}
    if unknown:
        raise LareError(f"forward got unknown arguments: {', '.join(sorted(unknown))}; see its documentation.")
    asked = given.get("iterations")
    made = ForwardOptions(**{**given, "iterations": iterations if asked is None else asked})
    if made.iterations and not made.delimiters:
        raise LareError(f"iterations={made.iterations} needs delimiters; set delimiters=True or iterations=0.")
    if prefix and not made.iterations:
        raise LareError("prefix_ids needs latents to reconstruct from; set iterations above 0 or leave prefix_ids out.")
    if made.target_visual is not None and made.label_mask is None:
        raise LareError("target_visual needs label_mask, since visual tokens are read and not answered; give both.")
    return made


def think_in_training(model: Reasoner, state: LoopState, how: ForwardOptions) -> Thoughts:
    """The latents of a training step, always K of them: adaptive stopping is a matter of inference."""
    return think(
        model,
        state,
        how.iterations,
        "fixed",
        how.window_mode,
        generator=how.generator,
        fetch=how.fetch,
        refocus=how.refocus,
    )
