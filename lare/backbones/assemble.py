"""Put a LaRe model together from a pre-trained decoder and a pre-trained encoder.

Both come in with their weights untouched; projectors and Extractor start from nothing. The model's skeleton is made on
the meta device and its parts are then put into it, so that no second copy of a 7B decoder is ever in memory.

The decoder's embedding tables grow by the special tokens, unless they have spare rows (Qwen2.5's have). New rows are
the mean of the rows that the tokenizer uses, which keeps their logits far below any likely token's. The input rows of
the two latent delimiters start as the mean of the embeddings of the assistant's header (what the chat template writes
before an answer, such as ``<|im_start|>assistant``), or of the end-of-text token where a template has none: they open
and close what the assistant says. A header of one token is averaged with the vocabulary's mean, since in tied tables a
copy of it would be as likely as the token itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from jinja2 import TemplateError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from lare.backbones.decoders import load_decoder, load_text_config
from lare.backbones.encoders import load_encoder
from lare.backbones.published import FULL_SIZE
from lare.errors import LareError
from lare.model.attention import layer_output_hook
from lare.model.configuration_lare import LareConfig
from lare.model.latent_maker import build_latent_maker
from lare.model.loading import _quiet, check_template
from lare.model.modeling_lare import LareForConditionalGeneration
from lare.model.processing_lare import LareProcessor
from lare.model.vision import Projector, VisionTower

__all__ = ["FULL_SIZE", "assemble", "check_settings", "load_text_config", "meta_model", "with_defaults"]

_OWN = ("self", "kwargs", "text_config", "vision_config", "image_token_id", "latent_start_id", "latent_end_id")
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
        seed: Of the parts that start from nothing; the global random state is left alone.
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
    _add_rows(decoder, processor, used)
    _add_end(decoder, processor)
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
    _fill(model, decoder, encoder.model)
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
    with torch.device("meta"), _quiet():
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


def _add_end(decoder: PreTrainedModel, processor: LareProcessor) -> None:
    """Let the token that the chat template writes behind an answer, which training teaches, end a generated one."""
    try:
        end = processor.tokenizer.get_vocab().get(processor.answer_end())
    except TemplateError:  # no template for conversations; prompts will say what is wrong with it
        return
    known = decoder.config.eos_token_id
    ends = [] if known is None else [known] if isinstance(known, int) else list(known)
    if end is not None and end not in ends:
        decoder.config.eos_token_id = [*ends, end] if ends else end


# Special tokens -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def _add_rows(decoder: PreTrainedModel, processor: LareProcessor, used: int) -> None:
    """Give the special tokens rows in both tables (see the module's text); `used` rows belong to other tokens."""
    if processor.new_tokens == 0:
        return  # the decoder was trained with them
    rows, size = cast(nn.Embedding, decoder.get_input_embeddings()).num_embeddings, len(processor.tokenizer)
    # Some tokenizers hold tokens that the table has no row for; those are new as well.
    new = list(range(min(used, rows), size))
    if size > rows:
        decoder.resize_token_embeddings(size, mean_resizing=False)
    table = cast(nn.Embedding, decoder.get_input_embeddings()).weight
    outputs = cast(nn.Linear, decoder.get_output_embeddings())
    used = min(used, rows)
    mean = table[:used].mean(0)
    header = _header_ids(processor)
    start = table[header].mean(0) if header else mean
    if len(header) == 1:
        start = 0.5 * (start + mean)
    if outputs.weight is not table:
        outputs.weight[new] = outputs.weight[:used].mean(0)
    if outputs.bias is not None:
        outputs.bias[new] = outputs.bias[:used].mean(0)
    table[new] = mean
    table[[processor.latent_start_id, processor.latent_end_id]] = start


def _header_ids(processor: LareProcessor) -> list[int]:
    """Ids that the chat template writes before an answer, or the end-of-text token, or none."""
    tokenizer = processor.tokenizer
    question = [{"role": "user", "content": "?"}]
    with_header = processor.apply_chat_template(question, add_generation_prompt=True)
    without = processor.apply_chat_template(question)
    if with_header.startswith(without):
        ids = tokenizer(with_header[len(without) :], add_special_tokens=False)["input_ids"]
        if ids:
            return [int(one) for one in ids]
    return [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]


# Joining ------------------------------------------------------------------------------------------------------------


def _fill(model: LareForConditionalGeneration, decoder: PreTrainedModel, encoder: PreTrainedModel) -> None:
    """Put the loaded halves into a meta skeleton, and draw the parts that start from nothing."""
    model.language_model = decoder
    for layer in model._decoder_layers():
        layer.register_forward_hook(layer_output_hook, with_kwargs=True)
    model.vision_tower.encoder = encoder.requires_grad_(False)
    config = model.config
    width, hidden = VisionTower.width(config.vision_config), int(config.text_config.hidden_size)
    parts: dict[str, nn.Module] = {"projector": Projector(width, hidden, config.projector_dim)}
    if model.refocus_projector is not None:
        parts["refocus_projector"] = Projector(width, hidden, config.projector_dim)
    if model.extractor is not None:
        parts["extractor"] = model._make_extractor(config, hidden, model.num_layers)
    own = build_latent_maker(config)
    if own is not None:
        parts["latent_maker"] = own
    for name, part in parts.items():
        setattr(model, name, part.apply(model._init_weights))
