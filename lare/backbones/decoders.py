"""Pre-trained decoders with their tokenizers: folders, hub ids and GGUF files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lare.backbones.gguf import keep, kept_folder, plain_weights, unpacking
from lare.errors import LareError
from lare.model.families import attention_of, check_family
from lare.model.loading import _quiet
from lare.registry import BASE_MODELS

__all__ = ["load_decoder", "load_text_config"]

T = TypeVar("T")


def load_text_config(text: str, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration of a decoder, without its weights.

    Raises:
        LareError: If it can't be read.
    """
    place, options = _source(text, trust_remote_code)
    config: PreTrainedConfig = _loaded(
        "a decoder's configuration", text, lambda: AutoConfig.from_pretrained(place, **options)
    )
    return config


def _source(text: str, trust_remote_code: bool) -> tuple[str, dict[str, Any]]:
    """What transformers' `from_pretrained` takes: a place and options."""
    place, separator, file = text.partition("::")
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if separator:
        path = Path(place) / file
        if not path.is_file():
            raise LareError(
                f"there is no GGUF file {file!r} in {place!r}; give FOLDER::FILE.gguf (lare fetch lists files that it "
                "can bring)"
            )
        kept = kept_folder(path)
        if kept is not None:
            return str(kept), options
        options["gguf_file"] = file
    return place, options


def load_decoder(text: str, trust_remote_code: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a decoder with its tokenizer; one from a GGUF file is kept dequantised beside it (`lare.backbones.gguf`).

    Args:
        text: Folder or hub id of a causal language model; ``FOLDER::FILE.gguf`` for GGUF weights.
        trust_remote_code: Whether code from a hub repository may run.

    Raises:
        LareError: If it can't be loaded whole, is quantised, or is of a family that LaRe can't run.
    """
    place, options = _source(text, trust_remote_code)
    config = load_text_config(text, trust_remote_code)
    check_family(config)
    if getattr(config, "quantization_config", None) is not None:
        raise LareError(f"the decoder {text!r} is quantised and can't be trained; give its unquantised checkpoint")
    tokenizer = _loaded("a tokenizer", text, lambda: AutoTokenizer.from_pretrained(place, **options))
    options |= unpacking() if "gguf_file" in options else {}
    options |= dict(dtype=torch.float32, attn_implementation=attention_of(config), output_loading_info=True)
    pair: Any = _loaded("a causal language model", text, lambda: AutoModelForCausalLM.from_pretrained(place, **options))
    decoder, info = cast(tuple[PreTrainedModel, dict[str, Any]], pair)
    missing = sorted([*info.get("missing_keys", ()), *(str(key) for key in info.get("mismatched_keys", ()))])
    if missing:
        raise LareError(f"the decoder {text!r} lacks {len(missing)} weights, such as {missing[0]}; give a complete one")
    if "gguf_file" in options:
        plain_weights(decoder)
        keep(Path(place) / str(options["gguf_file"]), decoder, tokenizer)
    _set_ends(decoder, tokenizer)
    return decoder, tokenizer


def _set_ends(decoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let every token that ends an answer stand in the configuration, and too long prompts be refused."""
    found: list[int] = []
    for source in (decoder.config, decoder.generation_config, tokenizer):
        ids = getattr(source, "eos_token_id", None)
        found += [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    ends = list(dict.fromkeys(found))
    if ends:
        decoder.config.eos_token_id = ends[0] if len(ends) == 1 else ends
    limit = getattr(decoder.config, "max_position_embeddings", None)
    if limit is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, int(limit))


def _loaded(what: str, name: str, load: Callable[[], T]) -> T:
    """Call a loader; whatever goes wrong becomes one sentence."""
    try:
        with _quiet():
            return load()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError) as e:
        raise LareError(
            f"{what} can't be loaded from {name!r} ({' '.join(str(e).split())[:200]}); "
            "give a complete folder, a hub id that can be reached, or a model that the run builds itself: "
            + ", ".join(BASE_MODELS.names())
        ) from e
