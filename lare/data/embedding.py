"""Image embeddings for finding near-duplicates: CLIP as in the paper, or a small ImageNet model that pip brings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lare.backbones.encoders import efficientnet_weights
from lare.backbones.published import EFFICIENTNET
from lare.errors import LareError

__all__ = ["EFFICIENTNET", "Embedder", "load_embedder"]

_SIDE = 48  # pixels

Embedder = Callable[[Sequence[Image.Image]], Tensor]
"""RGB images to unit vectors (n, d), float32."""


def load_embedder(name: str) -> Embedder:
    """Load an embedder.

    Args:
        name: `EFFICIENTNET`, or the folder or hub id of a CLIP checkpoint, such as openai/clip-vit-large-patch14 (the
            paper's choice).

    Raises:
        LareError: If the model can't be loaded.
    """
    if name == EFFICIENTNET:
        return _Efficientnet()
    try:
        return _Clip(name)
    except (OSError, ValueError, KeyError) as error:
        raise LareError(
            f"no CLIP checkpoint can be loaded from {name!r} ({' '.join(str(error).split())[:200]}); give a folder, a "
            f"hub id that is at hand, or {EFFICIENTNET}"
        ) from None


class _Clip:
    """Projected image embeddings of a CLIP checkpoint."""

    def __init__(self, name: str) -> None:
        from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

        self.model = CLIPVisionModelWithProjection.from_pretrained(name).eval()
        self.processor = CLIPImageProcessor.from_pretrained(name)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = self.processor(list(images), return_tensors="pt")["pixel_values"]
        return nn.functional.normalize(self.model(pixel_values=pixels).image_embeds.float(), dim=-1)


class _Efficientnet:
    """Features of EfficientNet-Lite0 with ImageNet weights, averaged over each quarter of a small copy of the picture.

    Small, since compression and resizing change fine texture, which ImageNet features follow: of 213-pixel photographs,
    the least cosine to a JPEG or WebP copy at quality 50, a half-size or a cropped copy was 0.91 with 48 pixels and
    0.78 with 224. By quarters, since the order of a picture's parts tells it from its likes: the greatest cosine of two
    different photographs was 0.72, and 0.87 without.
    """

    def __init__(self) -> None:
        weights = efficientnet_weights()
        import timm
        from timm.data.config import resolve_data_config
        from timm.data.transforms_factory import create_transform

        model: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        model.load_state_dict(dict(zip(model.state_dict(), weights, strict=True)))  # their order is timm's
        self.model = model.eval()
        # The whole picture, squeezed into a square: a crop of the middle would not see what lies at the edges.
        self.transform = create_transform(**resolve_data_config(model.pretrained_cfg) | {"crop_pct": 1.0})

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        small = [image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC) for image in images]
        pixels = torch.stack([self.transform(one.resize((224, 224), Image.Resampling.BICUBIC)) for one in small])
        maps = self.model.forward_intermediates(pixels, indices=[-1], intermediates_only=True)[0]
        return nn.functional.normalize(nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1).float(), dim=-1)
