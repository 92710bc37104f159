"""Loads somebody's model: its own transformers class and processor, safetensors only, none of its repository's code."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.utils.hub import cached_file

from lare.errors import LareError
from lare.loading import DTYPES, usable_device
from lare.model.loading import loaded, loaded_whole

__all__ = ["TextProcessor", "digest_of", "extra_weights", "load_reasoner"]

_MEND = (
    "a folder that save_pretrained wrote, with safetensors weights, configuration, tokenizer and processor, or a hub "
    "id that can be reached"
)


class TextProcessor:
    """The processor of a model that sees no image: its tokenizer.

    Args:
        tokenizer: The checkpoint's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.chat_template: str | None = tokenizer.chat_template


def load_reasoner(pretrained: str | None, device: str | None, dtype: str | None) -> tuple[Any, Any]:
    """A model with a language-model head, in evaluation mode on its device, and its processor.

    Args:
        pretrained: Folder or hub id.
        device: Torch device; None takes a GPU if there is one.
        dtype: One of `lare.loading.DTYPES`; None keeps the checkpoint's.

    Raises:
        LareError: If none is named, it can't be loaded whole, or device or dtype are impossible.
    """
    if pretrained is None:
        raise LareError("another project's model has to be named: pretrained=FOLDER, or a hub id")
    if dtype not in (None, "auto", *DTYPES):
        raise LareError(f"dtype is {dtype!r}; choose from {', '.join(DTYPES)}")
    target = usable_device(device)
    folder = Path(pretrained).expanduser()
    place = str(folder) if folder.exists() else pretrained
    config = loaded("a configuration", place, lambda: AutoConfig.from_pretrained(place), _MEND)
    sees = type(config) in AutoModelForImageTextToText._model_mapping
    family: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    kind = "auto" if dtype in (None, "auto") else getattr(torch, str(dtype))
    options: dict[str, Any] = dict(dtype=kind, use_safetensors=True, output_loading_info=True)
    model: Any = loaded_whole("a model", place, lambda: family.from_pretrained(place, **options), _MEND)
    if sees:
        processor = loaded("a processor", place, lambda: AutoProcessor.from_pretrained(place), _MEND)
    else:
        processor = TextProcessor(loaded("a tokenizer", place, lambda: AutoTokenizer.from_pretrained(place), _MEND))
    if getattr(processor, "tokenizer", None) is None:
        raise LareError(f"{pretrained!r} has no tokenizer beside its processor; give a complete checkpoint")
    return model.to(target).eval(), processor


def extra_weights(model: Any, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Weights of a checkpoint that its transformers class has no place for, on the model's device and in its type.

    Args:
        model: A loaded model.
        wanted: Whether a name is one of them.

    Returns:
        Tensors by name; empty where there are none.

    Raises:
        LareError: If the files are damaged.
    """
    found: dict[str, Tensor] = {}
    for path in _weight_files(str(model.config._name_or_path)):
        try:
            with safe_open(path, framework="pt") as file:
                found |= {name: file.get_tensor(name) for name in file.keys() if wanted(name)}  # noqa: SIM118
        except SafetensorError as error:
            raise LareError(f"the weights {path!r} are damaged ({error}); copy the checkpoint again") from None
    return {name: tensor.to(model.device, model.dtype) for name, tensor in sorted(found.items())}


def _weight_files(place: str) -> list[str]:
    folder = Path(place)
    if folder.is_dir():
        return sorted(str(path) for path in folder.glob("*.safetensors"))
    quiet: dict[str, Any] = dict(_raise_exceptions_for_missing_entries=False, local_files_only=True)
    index = cached_file(place, "model.safetensors.index.json", **quiet)
    single = cached_file(place, "model.safetensors", **quiet)
    known = index or single
    return [] if known is None else sorted(str(path) for path in Path(known).parent.glob("*.safetensors"))


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """A short name for exactly these tensors; "" where there are none."""
    if not weights:
        return ""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
