"""From pixels to visual tokens: a frozen encoder, a feature grid, and the projectors into the decoder's space.

The decoder and the Extractor may see different things: with `refocus_source="fine"` the decoder reads a mean-pooled
grid, and the Extractor attends to the full one, so that a refocus step brings what the decoder does not have. On a
vision-language model it looks at crops that are encoded anew (`lare.model.closer`).

Shapes: B images, N_f = g * g fine tokens, N_v = lm_grid * lm_grid decoder tokens, d_vis encoder width, d decoder width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig

from lare.errors import LareError
from lare.model.configuration_lare import LareConfig
from lare.model.patch_grids import TIMM, own_grid, width_of
from lare.registry import MODEL_TYPES

if TYPE_CHECKING:
    from lare.model.pictures import Pictures

__all__ = ["Projector", "Shape", "VisionTower", "VisualTokens", "pool_grid"]


Shape = tuple[int, int]
"""Rows and columns of a grid."""


@dataclass
class VisualTokens:
    """Visual tokens in the decoder's space.

    Grids are laid out on a canvas, which all images of a batch share: R rows and C columns, row by row. An image that
    is smaller than the canvas lies at its top left, and the cells beyond it hold nothing. So a cell has the same row
    and column in every batch.

    Attributes:
        lm: What the decoder reads, (B, N_v, d), in the order of the prompt; zeros after an image's last token.
        refocus: What the Extractor looks at, (B, R * C, d); with refocus_source "lm" the tokens of `lm`, on their grid.
        lm_shape: Rows and columns of the canvas on which the saliency of `lm` is laid out.
        shape: R and C, of the canvas of `refocus`.
        counts: (B,) tokens of `lm` that are the image's; None where all are.
        places: (B, rows * columns of `lm_shape`) which token of `lm` stands in a cell, -1 for none; None where the
            tokens are the cells, row by row.
        sizes: (B, 2) rows and columns that an image takes of the canvas of `refocus`; None where each fills it.
        extra: Further values of the images that a backbone's prefill reads.
        pictures: The images as they came, where the Extractor looks at crops of them (`lare.model.closer`).
    """

    lm: Tensor
    refocus: Tensor
    lm_shape: Shape
    shape: Shape
    counts: Tensor | None = None
    places: Tensor | None = None
    sizes: Tensor | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    pictures: Pictures | None = None

    @property
    def lm_grid(self) -> int:
        """Side of the decoder's grid.

        Raises:
            LareError: If it is no square.
        """
        return _side(self.lm_shape)

    @property
    def grid(self) -> int:
        """Side of the fine grid.

        Raises:
            LareError: If it is no square.
        """
        return _side(self.shape)


def _side(shape: Shape) -> int:
    if shape[0] != shape[1]:
        raise LareError(f"the visual grid is {shape[0]} x {shape[1]}; what is asked for here needs a square one.")
    return shape[0]


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
