"""Pre-trained decoders with their tokenizers: folders, hub ids and GGUF files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lare.backbones.gguf import keep, kept_folder, plain_weights, unpacking
from lare.backbones.tokens import set_ends
from lare.errors import LareError
from lare.model.families import attention_of, check_family
from lare.model.loading import loaded, loaded_whole
from lare.registry import BASE_MODELS

__all__ = ["load_decoder", "load_text_config", "load_tokenizer", "load_weights"]


def load_text_config(text: str, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration of a decoder, without its weights.

    Raises:
        LareError: If it can't be read.
    """
    place, options = _source(text, trust_remote_code)
    load = partial(AutoConfig.from_pretrained, place, **options)
    config: PreTrainedConfig = loaded("a decoder's configuration", text, load, _mend())
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
    decoder, unpacked = _weights(text, trust_remote_code)
    tokenizer = load_tokenizer(text, trust_remote_code)
    if unpacked is not None:
        keep(unpacked, decoder, tokenizer)
    set_ends(decoder.config, decoder.generation_config, tokenizer)
    return decoder, tokenizer


def load_weights(text: str) -> PreTrainedModel:
    """A decoder without its tokenizer, which takes longer to read than weights that lie on disk as they are.

    Raises:
        LareError: As `load_decoder`.
    """
    _, options = _source(text, False)
    return load_decoder(text, False)[0] if "gguf_file" in options else _weights(text, False)[0]


def _weights(text: str, trust_remote_code: bool) -> tuple[PreTrainedModel, Path | None]:
    """A decoder, and the GGUF file whose weights have just been dequantised."""
    place, options = _source(text, trust_remote_code)
    config = load_text_config(text, trust_remote_code)
    check_family(config)
    if getattr(config, "quantization_config", None) is not None:
        raise LareError(f"the decoder {text!r} is quantised and can't be trained; give its unquantised checkpoint")
    unpacked = Path(place) / str(options["gguf_file"]) if "gguf_file" in options else None
    options |= unpacking() if unpacked is not None else {}
    options |= dict(dtype=torch.float32, attn_implementation=attention_of(config), output_loading_info=True)
    load = partial(AutoModelForCausalLM.from_pretrained, place, **options)
    decoder = loaded_whole("a decoder", text, load, _mend())
    if unpacked is not None:
        plain_weights(decoder)
    return decoder, unpacked


def load_tokenizer(text: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """A decoder's tokenizer, without its weights.

    Raises:
        LareError: If it can't be loaded.
    """
    place, options = _source(text, trust_remote_code)
    load = partial(AutoTokenizer.from_pretrained, place, **options)
    tokenizer: PreTrainedTokenizerBase = loaded("a tokenizer", text, load, _mend())
    return tokenizer


def _mend() -> str:
    built = ", ".join(BASE_MODELS.names())
    return f"a complete folder, a hub id that can be reached, or a model that the run builds itself: {built}"
