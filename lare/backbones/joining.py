"""Loaded weights into a model whose skeleton was made on the meta device, so that no second copy is ever in memory."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from lare.model.attention import layer_output_hook
from lare.model.extractor import build_extractor
from lare.model.latent_maker import build_latent_maker
from lare.model.lora import add_lora
from lare.model.modeling_lare import LareForConditionalGeneration
from lare.model.vision import Projector, VisionTower

__all__ = ["fill"]


def fill(model: LareForConditionalGeneration, language_model: PreTrainedModel) -> None:
    """Put a loaded language model into a meta skeleton, and draw the parts that start from nothing."""
    model.language_model = language_model
    if model.config.lora is not None:
        add_lora(language_model, model.decoder, model.config.lora)
    for layer in model._decoder_layers():
        layer.register_forward_hook(layer_output_hook, with_kwargs=True)
    config, hidden = model.config, int(model.config.text_config.hidden_size)
    parts: dict[str, nn.Module] = {}
    for name in ("projector", "refocus_projector"):
        if getattr(model, name, None) is not None:
            parts[name] = Projector(VisionTower.width(config.vision_config), hidden, config.projector_dim)
    if model.extractor is not None:
        parts["extractor"] = build_extractor(config)
    own = build_latent_maker(config)
    if own is not None:
        parts["latent_maker"] = own
    for name, part in parts.items():
        setattr(model, name, part.apply(model._init_weights))
