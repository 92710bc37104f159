"""Loads somebody's model: its own transformers class and processor, safetensors only, none of its repository's code."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.utils.hub import cached_file

from lare.errors import LareError
from lare.loading import DTYPES, usable_device
from lare.model.loading import _quiet

__all__ = ["TextProcessor", "digest_of", "extra_weights", "load_reasoner"]

T = TypeVar("T")


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
    place, target = str(Path(pretrained).expanduser()) if Path(pretrained).expanduser().exists() else pretrained, None
    target = usable_device(device)
    config = _loaded(pretrained, lambda: AutoConfig.from_pretrained(place))
    sees = type(config) in AutoModelForImageTextToText._model_mapping
    family: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    kind = "auto" if dtype in (None, "auto") else getattr(torch, str(dtype))
    options: dict[str, Any] = dict(dtype=kind, use_safetensors=True, output_loading_info=True)
    model, info = _loaded(pretrained, lambda: family.from_pretrained(place, **options))
    missing = sorted([*info.get("missing_keys", ()), *(str(key) for key in info.get("mismatched_keys", ()))])
    if missing:
        raise LareError(
            f"{pretrained!r} lacks {len(missing)} weights, such as {missing[0]}; give a complete checkpoint"
        )
    if sees:
        processor = _loaded(pretrained, lambda: AutoProcessor.from_pretrained(place))
    else:
        processor = TextProcessor(_loaded(pretrained, lambda: AutoTokenizer.from_pretrained(place)))
    if getattr(processor, "tokenizer", None) is None:
        raise LareError(f"{pretrained!r} has no tokenizer beside its processor; give a complete checkpoint")
    return model.to(target).eval(), processor


def _loaded(place: str, load: Callable[[], T]) -> T:
    try:
        with _quiet():
            return load()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError) as e:
        raise LareError(
            f"{place!r} can't be loaded ({' '.join(str(e).split())[:200]}); give a folder that save_pretrained wrote, "
            "with safetensors weights, configuration, tokenizer and processor"
        ) from None


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
