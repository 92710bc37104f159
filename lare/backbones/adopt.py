"""Put LaRe on a pre-trained vision-language model of transformers.

The model comes in with its weights untouched, its image processor, tokenizer and chat template as they are; two tokens
that delimit the latents are added (see `lare.backbones.tokens`), and the Extractor starts from nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
)

from lare.backbones.assemble import check_settings
from lare.backbones.joining import fill
from lare.backbones.quantised import check_quantised, keep_quantised, quantisation
from lare.backbones.tokens import add_end, add_rows, set_ends
from lare.errors import LareError
from lare.model.backbone import OWN, VisionLanguage, backbone_of
from lare.model.base_weights import Base
from lare.model.configuration_lare import LareConfig
from lare.model.loading import check_template, loaded, loaded_whole, quiet
from lare.model.modeling_lare import LareForConditionalGeneration
from lare.model.pictures import FINER
from lare.model.processing_lare import LareProcessor
from lare.registry import BACKBONES

__all__ = ["adopt", "adopted_config", "family_of"]

_MEND = "a complete folder of a vision-language model, or a hub id that can be reached"


def adopt(
    place: str,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
    dtype: torch.dtype = torch.float32,
    quantise: str | None = None,
    products: torch.dtype | None = None,
) -> tuple[LareForConditionalGeneration, LareProcessor]:
    """Load a vision-language model with its processor, and make LaRe of both.

    Args:
        place: Its folder or hub id, such as ``Qwen/Qwen2.5-VL-3B-Instruct``.
        settings: Fields of `LareConfig`. Where they are silent, the window is half of a usual picture's grid.
        seed: Seed of the Extractor's first weights; the global random state is left alone.
        trust_remote_code: Whether code from a hub repository may run.
        dtype: Type of the weights.
        quantise: ``8bit`` or ``4bit`` holds the decoder's linear layers so (`lare.backbones.quantised`).
        products: Type in which layers of 4 bits multiply; None is `dtype`.

    Returns:
        The model in evaluation mode, its encoder frozen; and the processor, padding on the left.

    Raises:
        LareError: If it can't be loaded whole, is of a family that LaRe does not know, or a setting is impossible.
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    config: PreTrainedConfig = loaded(
        "a configuration", place, lambda: AutoConfig.from_pretrained(place, **options), _MEND
    )
    family = family_of(config)
    family.check(config)
    processor, used = _adopted_processor(place, family, config, options)
    if quantise is not None:
        check_quantised(quantise)
        options["quantization_config"] = quantisation(quantise, family, products or dtype)
    options |= {"dtype": dtype, "attn_implementation": "sdpa", "output_loading_info": True}
    load = partial(AutoModelForImageTextToText.from_pretrained, place, **options)
    whole = family.adapted(loaded_whole("a vision-language model", place, load, _MEND))
    if quantise is not None:
        keep_quantised(whole)
    add_rows(whole, processor, used)
    text = whole.config.get_text_config(decoder=True)
    set_ends(text, whole.generation_config, processor.tokenizer)
    add_end(text, processor)
    made = adopted_config(whole.config, settings or {}, processor, dtype)
    if made.looks_closer:
        processor.backbone_settings[FINER] = made.fine_scale
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with torch.device("meta"), quiet():
            model = LareForConditionalGeneration(made)
        fill(model, whole)
    model.freeze_encoder()
    cast(torch.nn.Module, model).to(dtype)
    if made.lora is not None and quantise is None:  # a quantised base is another than the published one, and is kept
        model.base = Base.of(model, used, "vlm", place)
    model.train(False)
    return model, processor


def _adopted_processor(
    place: str, family: VisionLanguage, config: PreTrainedConfig, options: Mapping[str, Any]
) -> tuple[LareProcessor, int]:
    """LaRe's processor of a model's own, and how many tokens that one had before the special ones came in.

    Raises:
        LareError: If it can't be loaded, or has no image processor.
    """
    own = loaded("a processor", place, lambda: _own_processor(place, options), _MEND)
    if getattr(own, "image_processor", None) is None:
        raise LareError(f"the processor of {place!r} has no image processor; copy preprocessor_config.json there")
    tokenizer, template = own.tokenizer, getattr(own, "chat_template", None)
    used = len(tokenizer)
    processor = LareProcessor(own.image_processor, tokenizer, template, 1, config.model_type, family.settings(config))
    check_template(processor, place)
    return processor, used


def family_of(config: PreTrainedConfig) -> VisionLanguage:
    """The backbone of a configuration.

    Raises:
        LareError: If LaRe knows none.
    """
    name = str(config.model_type)
    if name == OWN or name not in BACKBONES:
        known = ", ".join(one for one in BACKBONES.names() if one != OWN)
        raise LareError(f"LaRe knows no backbone for models of type {name!r}; known: {known}")
    family: VisionLanguage = backbone_of(name)
    return family


def adopted_config(
    config: PreTrainedConfig,
    settings: Mapping[str, Any],
    processor: LareProcessor | None = None,
    dtype: torch.dtype = torch.float32,
) -> LareConfig:
    """The configuration of a LaRe model on a vision-language model.

    Args:
        config: The model's, special tokens included.
        settings: Fields of `LareConfig`.
        processor: Tells the special tokens' ids; without one, they are the last of the vocabulary.
        dtype: Type of the weights.

    Raises:
        LareError: If a setting is impossible.
    """
    check_settings(settings)
    side, grid = family_of(config).nominal(config)
    values: dict[str, Any] = {"image_size": side, "grid": grid, "window": (grid + 1) // 2} | dict(settings)
    if processor is not None:
        for name in ("image_token_id", "latent_start_id", "latent_end_id"):
            values[name] = getattr(processor, name)
    return LareConfig(backbone_config=config, dtype=dtype, **values)


def _own_processor(place: str, options: Mapping[str, Any]) -> Any:
    """The model's own processor, or its parts where it asks for a package that pictures do not need (as for videos)."""
    try:
        return AutoProcessor.from_pretrained(place, **options)
    except ImportError:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        images = AutoImageProcessor.from_pretrained(place, **options)
        return SimpleNamespace(image_processor=images, tokenizer=tokenizer, chat_template=tokenizer.chat_template)
