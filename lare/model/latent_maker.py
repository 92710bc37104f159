"""A method's own way of making latents, in the place of the Extractor; its weights lie in the checkpoint.

A checkpoint whose configuration has ``latent_maker: NAME`` carries the module that the method NAME declares. The loop
stays the same: state in, latent tokens out, fed back over the cache. Shapes: B rows, I images, d width, m latents a
step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lare.errors import LareError
from lare.model.configuration_lare import LareConfig
from lare.registry import method_class

if TYPE_CHECKING:
    from lare.model.loop import LoopState
    from lare.model.vision import VisualTokens

__all__ = ["LatentMaker", "build_latent_maker"]


class LatentMaker(nn.Module, ABC):
    """Makes the next latent tokens of a row from what its last position saw.

    Linear layers, embeddings and norms inside are initialised as the model's are. With the configuration's `rms_scale`
    the loop rescales what is made to the length of token embeddings; `latent_maker_settings` hold a method's own sizes.

    Args:
        config: The model's.
    """

    def __init__(self, config: LareConfig) -> None:
        super().__init__()
        self.config = config

    def remember(self, visual: VisualTokens) -> Any:
        """What is computed of the images once for all steps, such as keys and values; nothing by default."""
        return None

    @abstractmethod
    def forward(self, state: LoopState, memory: Any, mask: Tensor | None) -> Tensor:
        """The next latents.

        Args:
            state: After the prompt or the last latent: `last_hidden` (B, d), `layer_hidden` (B, L, d), and the visual
                tokens of the I images; row b belongs to image b // `questions_per_image`.
            memory: What `remember` has returned.
            mask: (B, g * g) which fine tokens the window holds; None without a window.

        Returns:
            (B, m, d).
        """


def build_latent_maker(config: LareConfig) -> LatentMaker | None:
    """The module that a configuration names, with fresh weights; None where it names none.

    Raises:
        LareError: If there is no such method, or it has no module of its own.
    """
    if config.latent_maker is None:
        return None
    made = method_class(config.latent_maker).latent_maker
    if made is None:
        raise LareError(
            f"latent_maker is {config.latent_maker!r}, but that method has no module of its own; leave it out"
        )
    built: LatentMaker = made(config)
    return built
