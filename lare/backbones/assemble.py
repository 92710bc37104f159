"""Put a LaRe model together from a pre-trained decoder and a pre-trained encoder.

Both come in with their weights untouched; projectors and Extractor start from nothing. The model's skeleton is made on
the meta device and its parts are then put into it, so that no second copy of a 7B decoder is ever in memory.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig

from lare.backbones.bases import base_of
from lare.backbones.decoders import load_decoder, load_text_config
from lare.backbones.encoders import load_encoder
from lare.backbones.joining import fill
from lare.backbones.published import FULL_SIZE
from lare.backbones.tokens import add_end, add_rows
from lare.errors import LareError
from lare.model.configuration_lare import LareConfig
from lare.model.loading import check_template, quiet
from lare.model.modeling_lare import LareForConditionalGeneration
from lare.model.processing_lare import LareProcessor

__all__ = ["FULL_SIZE", "assemble", "check_settings", "load_text_config", "meta_model", "with_defaults"]

_IDS = ("image_token_id", "latent_start_id", "latent_end_id")
_OWN = ("self", "kwargs", "text_config", "vision_config", "backbone", "backbone_config", *_IDS)
_SETTINGS = frozenset(inspect.signature(LareConfig.__init__).parameters) - set(_OWN)


def assemble(
    text: str, vision: str, settings: Mapping[str, Any], seed: int = 0, trust_remote_code: bool = False
) -> tuple[LareForConditionalGeneration, LareProcessor]:
    """Load both halves, join them, and make the processor that belongs to them.

    Args:
        text: Folder or hub id of a causal language model; ``FOLDER::FILE.gguf`` for GGUF weights.
        vision: Folder or hub id of a vision transformer (CLIP, SigLIP, DINOv2, ..., or a timm model; of a model of two
            halves, its vision half is taken), or ``efficientnet-lite0``.
        settings: Fields of `LareConfig`. Where they are silent, image_size and grid are the encoder's and the window is
            half of the grid (8 of CLIP's 16).
        seed: Seed of the parts that start from nothing; the global random state is left alone.
        trust_remote_code: Whether code from a hub repository may run.

    Returns:
        The model in float32 and evaluation mode, its encoder frozen; and the processor, padding on the left.

    Raises:
        LareError: If a half can't be loaded whole, is of a kind that LaRe can't use, or a setting is impossible.
    """
    check_settings(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _assemble(text, vision, settings, trust_remote_code)


def _assemble(
    text: str, vision: str, settings: Mapping[str, Any], trust_remote_code: bool
) -> tuple[LareForConditionalGeneration, LareProcessor]:
    """`assemble` with torch's global random state."""
    decoder, tokenizer = load_decoder(text, trust_remote_code)
    encoder = load_encoder(vision, settings)
    values = with_defaults(settings, encoder.image_size, encoder.grid)
    used = len(tokenizer)  # before the special tokens come in
    processor = LareProcessor(encoder.processor, tokenizer, lm_grid=values.get("lm_grid") or values["grid"])
    check_template(processor, text)
    add_rows(decoder, processor, used)
    add_end(decoder.config, processor)
    config = LareConfig(
        text_config=decoder.config,
        vision_config=encoder.model.config,
        image_token_id=processor.image_token_id,
        latent_start_id=processor.latent_start_id,
        latent_end_id=processor.latent_end_id,
        dtype=torch.float32,
        **values,
    )
    with torch.device("meta"):
        model = LareForConditionalGeneration(config)
    model.vision_tower.encoder = encoder.model.requires_grad_(False)
    fill(model, decoder)
    if config.lora is not None:
        model.base = base_of(model, used, text, vision)
    model.train(False)
    return model, processor


def meta_model(
    text_config: PreTrainedConfig, vision_config: PreTrainedConfig, settings: Mapping[str, Any]
) -> LareForConditionalGeneration:
    """A model of shapes without weights, on the meta device; the last three ids are the special tokens.

    Args:
        text_config: The decoder's configuration, special tokens included (see `Published.config`).
        vision_config: The encoder's.
        settings: Fields of `LareConfig`.

    Raises:
        LareError: If a setting is impossible.
    """
    check_settings(settings)
    with torch.device("meta"), quiet():
        return LareForConditionalGeneration(
            LareConfig(text_config=text_config, vision_config=vision_config, dtype=torch.float32, **settings)
        )


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse keys that `LareConfig` would swallow in silence, or that assembling itself decides.

    Raises:
        LareError: If there is one.
    """
    unknown = sorted(set(settings) - _SETTINGS)
    if unknown:
        raise LareError(f"unknown model setting {unknown[0]!r}; known: {', '.join(sorted(_SETTINGS))}")


def with_defaults(settings: Mapping[str, Any], image_size: int, grid: int) -> dict[str, Any]:
    """Settings with the encoder's image size and grid, and a window of half the grid, where they are silent."""
    values = {"image_size": image_size, "grid": grid} | dict(settings)
    if isinstance(values["grid"], int):
        values.setdefault("window", (values["grid"] + 1) // 2)
    return values
