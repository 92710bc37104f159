"""Decoders and encoders as other projects publish them, tiny, and what an assembled model is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionModel,
)

from lare.backbones.assemble import FULL_SIZE
from lare.model import LareProcessor
from tests.methods.tiny_checkpoint import pictures, tiny_tokenizer

from .tiny import clip_vision

DECODERS = [name for name, one in FULL_SIZE.items() if one.tokens]
SETTINGS: dict[str, Any] = dict(iterations=2, extractor_dim=24, extractor_heads=3, extractor_output_init=0.5)
SMALL = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=256,
    pad_token_id=None,
    bos_token_id=1,
    eos_token_id=2,
)
HEADER_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write_decoder(folder: Path, name: str, template: str | None = None, spare: int = 0, **changes: Any) -> Path:
    """A small random decoder of a published family, with its tokenizer."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    config = FULL_SIZE[name].config()
    small = SMALL | {"vocab_size": len(tokenizer) + spare} | changes
    if "original_max_position_embeddings" in config.rope_parameters:  # keep the scaling inside the short context
        small["rope_parameters"] = config.rope_parameters | {"original_max_position_embeddings": 64}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(type(config)(**(dict(FULL_SIZE[name].values) | small)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_clip(folder: Path) -> Path:
    """The vision half of a small CLIP."""
    torch.manual_seed(1)
    CLIPVisionModel(clip_vision()).save_pretrained(folder)
    return folder


def inputs_of(processor: LareProcessor) -> dict[str, torch.Tensor]:
    prompts = processor.build_prompts(["Is there a dog?", "Is there a cat in it?"])
    return dict(processor(images=pictures(2), text=prompts))
