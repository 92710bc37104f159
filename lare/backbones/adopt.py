"""Put LaRe on a pre-trained vision-language model of transformers.

The model comes in with its weights untouched, its image processor, tokenizer and chat template as they are; two tokens
that delimit the latents are added (see `lare.backbones.tokens`), and the Extractor starts from nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from lare.backbones.assemble import check_settings
from lare.backbones.joining import fill
from lare.backbones.tokens import add_end, add_rows
from lare.errors import LareError
from lare.model.backbone import OWN, VisionLanguage, backbone_of
from lare.model.configuration_lare import LareConfig
from lare.model.loading import _quiet, check_template
from lare.model.modeling_lare import LareForConditionalGeneration
from lare.model.processing_lare import LareProcessor
from lare.registry import BACKBONES

__all__ = ["adopt", "adopted_config", "family_of"]

T = TypeVar("T")


def adopt(
    place: str,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
    dtype: torch.dtype = torch.float32,
) -> tuple[LareForConditionalGeneration, LareProcessor]:
    """Load a vision-language model with its processor, and make LaRe of both.

    Args:
        place: Its folder or hub id, such as ``Qwen/Qwen2.5-VL-3B-Instruct``.
        settings: Fields of `LareConfig`. Where they are silent, the window is half of a usual picture's grid.
        seed: Of the Extractor; the global random state is left alone.
        trust_remote_code: Whether code from a hub repository may run.
        dtype: Of the weights.

    Returns:
        The model in evaluation mode, its encoder frozen; and the processor, padding on the left.

    Raises:
        LareError: If it can't be loaded whole, is of a family that LaRe does not know, or a setting is impossible.
    """
    options = {"trust_remote_code": trust_remote_code}
    config: PreTrainedConfig = _loaded("a configuration", place, lambda: AutoConfig.from_pretrained(place, **options))
    family = family_of(config)
    family.check(config)
    own = _loaded("a processor", place, lambda: _own_processor(place, options))
    if getattr(own, "image_processor", None) is None:
        raise LareError(f"the processor of {place!r} has no image processor; copy preprocessor_config.json there")
    tokenizer = own.tokenizer
    used = len(tokenizer)  # before the special tokens come in
    template = getattr(own, "chat_template", None)
    processor = LareProcessor(own.image_processor, tokenizer, template, 1, config.model_type, family.settings(config))
    check_template(processor, place)
    whole = family.adapted(_weights(place, options | {"dtype": dtype, "attn_implementation": "sdpa"}))
    add_rows(whole, processor, used)
    _set_ends(whole, processor)
    made = adopted_config(whole.config, settings or {}, processor, dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with torch.device("meta"), _quiet():
            model = LareForConditionalGeneration(made)
        fill(model, whole)
    model.freeze_encoder()
    cast(torch.nn.Module, model).to(dtype)
    model.train(False)
    return model, processor


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
    """LaRe's configuration on a vision-language model's.

    Args:
        config: The model's, special tokens included.
        settings: Fields of `LareConfig`.
        processor: Tells the special tokens' ids; without one, they are the last of the vocabulary.
        dtype: Of the weights.

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


def _own_processor(place: str, options: dict[str, Any]) -> Any:
    """The model's own processor, or its parts where it asks for a package that pictures do not need (as for videos)."""
    try:
        return AutoProcessor.from_pretrained(place, **options)
    except ImportError:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        images = AutoImageProcessor.from_pretrained(place, **options)
        return SimpleNamespace(image_processor=images, tokenizer=tokenizer, chat_template=tokenizer.chat_template)


def _weights(place: str, options: dict[str, Any]) -> PreTrainedModel:
    pair: Any = _loaded(
        "a vision-language model",
        place,
        lambda: AutoModelForImageTextToText.from_pretrained(place, output_loading_info=True, **options),
    )
    made, info = cast(tuple[PreTrainedModel, dict[str, Any]], pair)
    missing = sorted([*info.get("missing_keys", ()), *(str(key) for key in info.get("mismatched_keys", ()))])
    if missing:
        raise LareError(f"the model {place!r} lacks {len(missing)} weights, such as {missing[0]}; give a complete one")
    return made


def _set_ends(whole: PreTrainedModel, processor: LareProcessor) -> None:
    """Let every token that ends an answer stand in the decoder's configuration, and too long prompts be refused."""
    text, tokenizer = whole.config.get_text_config(decoder=True), processor.tokenizer
    found: list[int] = []
    for source in (text, whole.generation_config, tokenizer):
        ids = getattr(source, "eos_token_id", None)
        found += [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    ends = list(dict.fromkeys(found))
    if ends:
        text.eos_token_id = ends[0] if len(ends) == 1 else ends
    add_end(text, processor)
    limit = getattr(text, "max_position_embeddings", None)
    if limit is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, int(limit))


def _loaded(what: str, name: str, load: Callable[[], T]) -> T:
    """Call a loader; whatever goes wrong becomes one sentence."""
    try:
        with _quiet():
            return load()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError) as e:
        raise LareError(
            f"{what} can't be loaded from {name!r} ({' '.join(str(e).split())[:200]}); give a complete folder of a "
            "vision-language model, or a hub id that can be reached"
        ) from e
