"""What the latent loop needs of a model, as a protocol.

So `loop`, `thinking`, `losses` and `generation` are plain functions, and their imports run one way.
`lare.model.modeling_lare.LareForConditionalGeneration` fulfils it. Shapes: B rows, S or T positions, d decoder width, V
vocabulary, I images, N_f fine visual cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lare.model.configuration_lare import LareConfig
from lare.model.extractor import Extractor, VisualMemory
from lare.model.reading import Reading
from lare.model.stop_head import StopHeads
from lare.model.vision import VisualTokens

__all__ = ["Reasoner"]


class Reasoner(Protocol):
    """A causal decoder over text, visual tokens and latents.

    Attributes:
        num_layers: L, decoder layers.
        extractor: Makes latents of a window (eqs. 3-5); None feeds the last hidden state back.
        stop_heads: Learned stop rules; None without.
    """

    num_layers: int
    extractor: Extractor | None
    stop_heads: StopHeads | None

    @property
    def config(self) -> LareConfig:
        """The model's configuration."""

    @property
    def latent_maker(self) -> nn.Module | None:
        """A method's own `lare.model.latent_maker.LatentMaker`, in the place of the Extractor; None as a rule."""

    @property
    def backbone(self) -> Any:
        """What it runs on, a `lare.model.backbone.Backbone`."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    @property
    def decoder(self) -> nn.Module:
        """The decoder without its LM head."""

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings (B, S, d) of token ids (B, S)."""

    def embed_token(self, token: int, batch: int) -> Tensor:
        """One token's embedding for each row, (B, 1, d)."""

    def embedding_rms(self) -> Tensor:
        """Root mean square of input embeddings, a scalar."""

    def lm_head(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of decoder outputs (..., d)."""

    def visual_tokens(
        self,
        pixel_values: Tensor | None,
        visual_features: Tensor | None,
        lm_grid: int | None = None,
        image_inputs: Mapping[str, Tensor] | None = None,
    ) -> VisualTokens:
        """Visual tokens of I images, from pixels (I, 3, H, W) or from cached encoder features (I, N_f, d_vis)."""

    def read(self, input_ids: Tensor, mask: Tensor | None, visual: VisualTokens) -> Reading:
        """Prompts (B, S), with their mask (B, S) of booleans, as the decoder reads them."""

    def remember(self, visual: VisualTokens) -> VisualMemory | Any:
        """What the Extractor, or a method's own module, computes of the images once for all iterations."""
