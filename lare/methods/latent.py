"""What methods that make latents without LaRe's window and Extractor have in common: options, controls, the call.

By default the last hidden state is fed back, whatever modules a checkpoint has, so such a method is trained and asked
from the same start as LaRe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from lare.methods.base import option
from lare.methods.intervening import InterveneOptions, Intervening
from lare.model.halting import STOP_HELP, parse_stop

__all__ = ["Latent", "LatentOptions"]


@dataclass(frozen=True)
class LatentOptions(InterveneOptions):
    """Options of latent steps; see `lare.methods.lare.LareOptions`, which has those of the window as well.

    Attributes:
        iterations: Latent steps; None takes the checkpoint's.
        stop: Stop rule; None takes the checkpoint's.
        latents: "own" is the method; "zeros" and "noise" are fed in place of what it makes. `intervene` has these and
            more, with draws that depend on the question alone.
        hide_image: Mask the image once thinking is done; the same as ``intervene=hidden``.
        seed: Seed of noise and of interventions.
    """

    iterations: int | None = option(None, "latent steps; 0 makes no latents", least=0, always=True)
    stop: str | None = option(None, STOP_HELP, check=parse_stop)
    latents: str = option("own", "own, or the controls zeros and noise", choices=("own", "zeros", "noise"))
    hide_image: bool = option(False, "hide the image from the text (control)")
    seed: int = option(0, "seed of noise and of interventions")


class Latent(Intervening):
    """Latents between the delimiters, then text.

    Attributes:
        refocus: Whether the checkpoint's own module makes the latents; else the last hidden state is fed back.
    """

    options_type = LatentOptions
    options: LatentOptions
    refocus: ClassVar[bool] = False

    @property
    def longest_steps(self) -> int:
        """See `Generating.longest_steps`."""
        return max(super().longest_steps, self.options.iterations or 0)

    def arguments_of_generate(self) -> dict[str, Any]:
        """See `Generating.arguments_of_generate`."""
        own = self.options
        made: dict[str, Any] = {"iterations": own.iterations, "stop": own.stop, "refocus": self.refocus}
        if own.latents != "own":
            made |= {"latent_override": own.latents, "generator": torch.Generator().manual_seed(own.seed)}
        return made | ({"hide_image": True} if own.hide_image else {})
