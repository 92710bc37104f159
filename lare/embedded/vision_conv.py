"""The small convolutional encoder of the embedded world, as a transformers model (``model_type = "lare_vision"``).

A stride-16 residual network of about 0.8 M parameters: image in, a g x g grid of patch features out. Convolutions know
no absolute place, so the row and the column of each patch are appended to its feature as one-hot channels; a decoder
that receives the tokens in any order, or through a window, can then still tell where each came from.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class LareVisionConfig(PreTrainedConfig):
    """Configuration of `LareVisionModel`.

    Args:
        image_size: side of the square input in pixels; a multiple of 16.
        widths: channels after each of the four stride-2 stages.
        blocks: residual blocks in each stage.
        feature_scale: factor on the convolutional channels of the output.
        place_scale: height of the one-hot row and column channels. At 1 beside raw features (norm 23) a decoder did
            not find places within 100,000 questions; the defaults bring both to the same order of size.

    Raises:
        ValueError: `image_size` is no multiple of 16, or `widths` and `blocks` are not four numbers each.
    """

    model_type = "lare_vision"
    base_config_key = "vision_config"

    def __init__(
        self,
        image_size: int = 128,
        widths: tuple[int, ...] = (24, 48, 96, 160),
        blocks: tuple[int, ...] = (0, 0, 1, 1),
        feature_scale: float = 0.5,
        place_scale: float = 4.0,
        **kwargs: Any,
    ) -> None:
        if image_size % 16:
            raise ValueError(f"image_size={image_size} must be a multiple of 16, the encoder's stride")
        if len(widths) != 4 or len(blocks) != 4:
            raise ValueError(f"widths={widths} and blocks={blocks} must name four stages each")
        self.image_size = image_size
        self.widths = list(widths)
        self.blocks = list(blocks)
        self.feature_scale = feature_scale
        self.place_scale = place_scale
        self.grid = image_size // 16
        self.hidden_size = self.widths[-1] + 2 * self.grid
        kwargs.pop("grid", None), kwargs.pop("hidden_size", None)
        super().__init__(**kwargs)


class _Residual(nn.Module):
    """x + conv-norm-relu-conv-norm, then relu."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.relu(x + self.body(x))
        return out


class LareVisionModel(PreTrainedModel):
    """Patch features of an image: ``last_hidden_state`` is (B, g*g, widths[-1] + 2 g), rows first."""

    config_class = LareVisionConfig
    base_model_prefix = "vision"
    main_input_name = "pixel_values"

    def __init__(self, config: LareVisionConfig) -> None:
        super().__init__(config)
        layers: list[nn.Module] = []
        channels = 3
        for width, blocks in zip(config.widths, config.blocks, strict=True):
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [_Residual(width) for _ in range(blocks)]
            channels = width
        self.body = nn.Sequential(*layers)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Keep torch's own initialisation of convolutions and norms (He-like, fit for ReLU)."""

    def place(self, features_BNd: Tensor, feature_scale: float, place_scale: float) -> Tensor:
        """Scale and append one-hot row and column channels: (B, g*g, c) -> (B, g*g, c + 2 g)."""
        g = self.config.grid
        eye = torch.eye(g, dtype=features_BNd.dtype, device=features_BNd.device) * place_scale
        code = torch.cat([eye.repeat_interleave(g, 0), eye.repeat(g, 1)], dim=1)
        return torch.cat([features_BNd * feature_scale, code.expand(features_BNd.shape[0], -1, -1)], dim=2)

    def patches(self, pixel_values: Tensor) -> Tensor:
        """Convolutional features (B, g*g, c) of normalised images, rows first.

        Raises:
            ValueError: the images have another size than the configuration's.
        """
        size = self.config.image_size
        if tuple(pixel_values.shape[1:]) != (3, size, size):
            raise ValueError(f"pixel_values must be (B, 3, {size}, {size}), got {tuple(pixel_values.shape)}")
        pixels = pixel_values.to(next(self.body.parameters()).dtype).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.body(pixels).flatten(2).transpose(1, 2)
        return features

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutput:
        """Encode images.

        Args:
            pixel_values: (B, 3, image_size, image_size), normalised.
            **kwargs: Ignored; transformers passes options of other encoders.

        Returns:
            `last_hidden_state` (B, g*g, hidden_size).

        Raises:
            ValueError: the images have another size than the configuration's.
        """
        features = self.patches(pixel_values)
        return BaseModelOutput(
            last_hidden_state=self.place(features, self.config.feature_scale, self.config.place_scale)
        )


AutoConfig.register("lare_vision", LareVisionConfig, exist_ok=True)
AutoModel.register(LareVisionConfig, LareVisionModel, exist_ok=True)
