"""From pixels to visual tokens: a frozen encoder, a feature grid, and the projectors into the decoder's space.

The decoder and the Extractor may see different things: with `refocus_source="fine"` the decoder reads a mean-pooled
grid, and the Extractor looks at the full one, so that a look again brings what the decoder does not have.

Shapes: B images, N_f = g * g fine tokens, N_v = lm_grid * lm_grid decoder tokens, d_vis encoder width, d decoder width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig

from lare.errors import LareError
from lare.model.configuration_lare import LareConfig
from lare.model.patch_grids import TIMM, own_grid, width_of
from lare.registry import MODEL_TYPES

__all__ = ["Projector", "VisionTower", "VisualTokens", "pool_grid"]


@dataclass
class VisualTokens:
    """Visual tokens in the decoder's space.

    Attributes:
        lm: What the decoder reads, (B, N_v, d).
        refocus: What the Extractor looks at, (B, N_f, d); the same tensor as `lm` when refocus_source is "lm".
        lm_grid: Side of the grid of `lm`.
        grid: Side of the grid of `refocus`.
    """

    lm: Tensor
    refocus: Tensor
    lm_grid: int
    grid: int


def pool_grid(tokens: Tensor, grid: int, target: int) -> Tensor:
    """Mean-pool tokens on a grid: (B, grid * grid, d) -> (B, target * target, d), `target` dividing `grid`."""
    if grid == target:
        return tokens
    factor = grid // target
    cells = tokens.reshape(tokens.shape[0], target, factor, target, factor, tokens.shape[-1])
    return cells.mean((2, 4)).flatten(1, 2)


class Projector(nn.Module):
    """Two-layer MLP with GELU from encoder features (B, N, d_vis) to decoder space (B, N, d), as LLaVA-1.5 has.

    Args:
        inner_dim: Width between the layers; None takes d, as LLaVA-1.5 does.
    """

    def __init__(self, visual_dim: int, hidden_dim: int, inner_dim: int | None = None) -> None:
        super().__init__()
        inner = inner_dim or hidden_dim
        self.linear_1 = nn.Linear(visual_dim, inner)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(inner, hidden_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Project features."""
        out: Tensor = self.linear_2(self.act(self.linear_1(features)))
        return out


class VisionTower(nn.Module):
    """The frozen encoder: pixels (B, 3, H, W) -> features on the fine grid (B, N_f, d_vis).

    Handles ViTs (patch tokens of a chosen hidden state, what stands before them dropped), timm models through
    transformers (the last tokens, or the last feature map pooled to the grid) and those of
    `lare.registry.MODEL_TYPES`, whose last hidden state is the grid.

    Raises:
        LareError: If the encoder is of an unknown type, or does not give the configured grid.
    """

    def __init__(self, config: LareConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.layer = config.vision_feature_layer
        self.model_type = config.vision_config.model_type
        self.layered = self.model_type not in MODEL_TYPES  # else the last hidden state is the grid
        self.own_grid = own_grid(config.vision_config, config.image_size)
        self.encoder = AutoModel.from_config(config.vision_config).train(False)
        for parameter in self.encoder.parameters():
            parameter.requires_grad_(False)

    @staticmethod
    def width(config: PreTrainedConfig) -> int:
        """d_vis of an encoder configuration.

        Raises:
            LareError: If the configuration does not tell it.
        """
        return width_of(config)

    def train(self, mode: bool = True) -> VisionTower:
        """Stay in evaluation mode: a frozen encoder keeps its batch statistics and drops nothing out."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images; no gradient flows into the encoder."""
        pixels = pixel_values.to(next(self.encoder.parameters()).dtype)
        if self.model_type in TIMM:
            return self._from_map(self.encoder(pixels))
        if not self.layered:
            features: Tensor = self.encoder(pixels).last_hidden_state
        else:
            features = self.encoder(pixels, output_hidden_states=True).hidden_states[self.layer]
        return self._patches(features)

    def _from_map(self, output: Any) -> Tensor:
        maps = getattr(output, "feature_maps", None)
        features: Tensor = output.last_hidden_state if maps is None else maps[-1]
        if features.dim() == 4:
            timm_model = getattr(self.encoder, "timm_model", None)
            if maps is None and getattr(timm_model, "output_fmt", "NCHW") == "NHWC":
                features = features.permute(0, 3, 1, 2)
            return nn.functional.adaptive_avg_pool2d(features, self.grid).flatten(2).transpose(1, 2)
        return self._patches(features)

    def _patches(self, features: Tensor) -> Tensor:
        """Leave out what stands before the patches: class, distillation and register tokens."""
        expected = self.grid * self.grid
        if features.shape[1] < expected or self.own_grid != self.grid:
            raise LareError(
                f"The vision encoder gives {features.shape[1]} tokens on a grid of {self.own_grid}, not "
                f"grid * grid = {expected}; set grid and image_size to what the encoder has."
            )
        return features[:, features.shape[1] - expected :]
