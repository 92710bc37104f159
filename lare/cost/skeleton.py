"""The shapes of a run's parts without weights: the model, and what training adds to it, on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from lare.backbones.adopt import adopted_config, family_of
from lare.backbones.assemble import load_text_config, meta_model, with_defaults
from lare.backbones.encoders import encoder_defaults, load_vision_config
from lare.backbones.published import published
from lare.backbones.published_vlms import published_vlm
from lare.cost.flops import ENCODER, encoder_cost, measured
from lare.model import LareConfig, LareForConditionalGeneration
from lare.model.loading import quiet
from lare.model.lora import LORA_MARK
from lare.registry import BASE_MODELS, IMAGE_AUTOENCODERS
from lare.training.plan.config import ModelConfig, RunConfig

__all__ = ["extra_modules", "measured_costs", "named_parts", "skeleton"]


def skeleton(model: ModelConfig) -> LareForConditionalGeneration:
    """The run's model on the meta device (one that the run itself builds, being small, for real).

    Raises:
        LareError: If neither its parts' configurations nor published ones of their names are at hand.
    """
    if model.checkpoint is not None:
        with torch.device("meta"):
            return LareForConditionalGeneration(LareConfig.from_pretrained(model.checkpoint))
    if model.text in BASE_MODELS:
        built: LareForConditionalGeneration = BASE_MODELS.get(str(model.text)).skeleton(model)
        return built
    if model.vlm is not None:
        return _vlm_skeleton(model, model.vlm)
    assert model.text is not None and model.vision is not None
    known = published(model.text)
    text = known.config(added=True) if known else load_text_config(model.text, model.trust_remote_code)
    if known is None:
        text.vocab_size += 3  # at most: spare rows of the table would be used first
    known = published(model.vision)
    vision = known.config() if known else load_vision_config(model.vision)
    return meta_model(text, vision, with_defaults(model.settings, *encoder_defaults(vision, model.settings)))


def _vlm_skeleton(model: ModelConfig, name: str) -> LareForConditionalGeneration:
    known = published_vlm(name)
    whole = known.config(added=True) if known else load_text_config(name, model.trust_remote_code)
    family_of(whole).check(whole)
    with torch.device("meta"), quiet():
        return LareForConditionalGeneration(adopted_config(whole, model.settings))


def extra_modules(config: RunConfig, hidden: int) -> dict[str, nn.Module]:
    """What training adds to the model, on the meta device: alignment heads, U-Net with its projection, tokenizer."""
    from lare.losses.alignment import AlignmentHeads
    from lare.losses.image import build_unet
    from lare.losses.image_codes import build_tokenizer, downscaling

    used = {name for stage in config.stages for name, weight in config.weights(stage).items() if weight}
    found: dict[str, nn.Module] = {}
    with torch.device("meta"):
        if "alignment" in used:
            found["alignment"] = AlignmentHeads(hidden, hidden, config.losses.shared_dim)
        if "image" in used:
            name = config.image.tokenizer
            # KL-16's shape stands for any pre-trained tokenizer.
            own = name in IMAGE_AUTOENCODERS
            tokenizer = IMAGE_AUTOENCODERS.get(name).skeleton() if own else build_tokenizer("kl16")
            channels = int(tokenizer.config["latent_channels"])
            unet = build_unet(config.image.unet, channels, config.image.size // downscaling(tokenizer))
            project = nn.Linear(hidden, int(unet.config["cross_attention_dim"]))
            found["unet"] = nn.ModuleDict({"unet": unet, "project": project})
            found["image_tokenizer"] = tokenizer
    return found


def named_parts(model: LareForConditionalGeneration, extras: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """All parts by the names that `lare.training.plan.config.PARTS` gives them, with the frozen ones."""
    if model.config.backbone_config is not None:
        return _parts_of_backbone(model) | dict(extras)
    own = {name: getattr(model, name) for name in ("projector", "refocus_projector", "extractor", "language_model")}
    every = {"vision_encoder": model.vision_tower, **own, **extras}
    return {name: module for name, module in every.items() if module is not None}


def _parts_of_backbone(model: LareForConditionalGeneration) -> dict[str, nn.Module]:
    """A vision-language model's parts; under low-rank adapters these are the decoder's trained part."""
    backbone = model.backbone
    inside = dict(model.named_modules())
    projectors = [inside[path.removesuffix(".")] for path in backbone.projector]
    held = {id(weight) for one in projectors for weight in one.parameters()}
    tower = [
        weight
        for name, weight in model.named_parameters()
        if name.startswith(backbone.encoder) and id(weight) not in held
    ]
    adapters = [weight for name, weight in model.language_model.named_parameters() if LORA_MARK in name]
    frozen = {id(weight) for weight in (*tower, *adapters)} | held
    base = [weight for weight in model.language_model.parameters() if id(weight) not in frozen]
    found: dict[str, nn.Module] = {"vision_encoder": nn.ParameterList(tower), "projector": nn.ModuleList(projectors)}
    if model.extractor is not None:
        found["extractor"] = model.extractor
    if model.config.lora is None:
        return found | {"language_model": nn.ParameterList(base)}
    return found | {"base": nn.ParameterList(base), "language_model": nn.ParameterList(adapters)}


def measured_costs(model: LareForConditionalGeneration, extras: Mapping[str, nn.Module], size: int) -> dict[str, float]:
    """Forward multiply-adds of the convolutional and transformer parts that torch counts itself, one image each."""
    costs = {ENCODER: encoder_cost(model)}
    if "unet" in extras:
        unet = cast(Any, extras["unet"])["unet"]
        tokenizer = cast(Any, extras["image_tokenizer"])
        crop = torch.empty(1, 3, size, size, device="meta")
        costs["image_tokenizer"] = measured(tokenizer.encoder, crop)
        side = int(unet.config.sample_size)
        code = torch.empty(1, unet.config.in_channels, side, side, device="meta")
        latents = model.config.latents_per_iteration
        condition = torch.empty(1, latents, unet.config.cross_attention_dim, device="meta")
        costs["unet"] = measured(unet, code, torch.zeros(1, device="meta"), encoder_hidden_states=condition)
    return costs
