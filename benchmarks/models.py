"""Models with random weights and prompts of given lengths, so that both sides of a comparison have equal sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig

from lare.model import LareConfig, LareForConditionalGeneration

__all__ = [
    "BASE",
    "EMBEDDED",
    "SMALL",
    "Batch",
    "Size",
    "lare_config",
    "lare_model",
    "make_batch",
    "text_config",
    "vision_config",
]

GRID = 16  # visual tokens a side: 256, as CLIP-ViT-L/14 has at 224 pixels


@dataclass(frozen=True)
class Size:
    """A decoder's sizes.

    Attributes:
        hidden: Width d.
        layers: Decoder layers.
        heads: Attention heads.
        inner: Width of the feed-forward layers.
        vocabulary: Tokens.
    """

    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int


BASE = Size(hidden=512, layers=8, heads=8, inner=1536, vocabulary=8192)
"""A decoder of 36 million parameters."""

SMALL = Size(hidden=256, layers=6, heads=4, inner=704, vocabulary=4096)
"""A decoder of 7 million parameters."""

EMBEDDED = Size(hidden=128, layers=4, heads=4, inner=384, vocabulary=1024)
"""The embedded model's decoder, of 1 million parameters."""


def text_config(size: Size) -> LlamaConfig:
    """The decoder's configuration."""
    return LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        tie_word_embeddings=False,
    )


def vision_config() -> CLIPVisionConfig:
    """A small CLIP tower with CLIP-ViT-L/14's grid."""
    return CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=14 * GRID,
        patch_size=14,
        projection_dim=128,
    )


def lare_config(size: Size, **changes: Any) -> LareConfig:
    """LaRe's configuration at a decoder's size, K = 4 and one latent token an iteration."""
    values: dict[str, Any] = {
        "text_config": text_config(size),
        "vision_config": vision_config(),
        "image_size": 14 * GRID,
        "grid": GRID,
        "iterations": 4,
        "extractor_dim": size.hidden,
        "extractor_heads": size.heads,
        "extractor_output_init": 0.25,
    }
    return LareConfig(**(values | changes))


def lare_model(size: Size, **changes: Any) -> LareForConditionalGeneration:
    """A LaRe model with random weights, in evaluation mode."""
    torch.manual_seed(0)
    return LareForConditionalGeneration(lare_config(size, **changes)).eval()


@dataclass(frozen=True)
class Batch:
    """Prompts of equal length and their images.

    Attributes:
        input_ids: (B, S): text, the image's tokens, text.
        attention_mask: (B, S), all ones.
        pixel_values: (B, 3, H, W).
    """

    input_ids: Tensor
    attention_mask: Tensor
    pixel_values: Tensor

    def ending_in(self, token: int) -> Batch:
        """The same prompts with another last token."""
        ids = self.input_ids.clone()
        ids[:, -1] = token
        return Batch(ids, self.attention_mask, self.pixel_values)


def make_batch(config: LareConfig, batch: int, text_tokens: int = 64, seed: int = 0) -> Batch:
    """Make `batch` random prompts: 8 text tokens, the visual tokens, and the rest of `text_tokens`."""
    generator = torch.Generator().manual_seed(seed)
    # Ids from 8 on and below the special ones at the end of the vocabulary.
    text = torch.randint(8, config.text_config.vocab_size - 8, (batch, text_tokens), generator=generator)
    image = torch.full((batch, config.lm_grid**2), config.image_token_id)
    ids = torch.cat([text[:, :8], image, text[:, 8:]], dim=1)
    pixels = torch.randn(batch, 3, config.image_size, config.image_size, generator=generator)
    return Batch(ids, torch.ones_like(ids), pixels)
