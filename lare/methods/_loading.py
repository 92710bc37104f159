"""Loads a checkpoint for a method, and names its weights."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch

from lare.cli.loading import load_checkpoint
from lare.errors import LareError

if TYPE_CHECKING:
    from lare.model import LareForConditionalGeneration, LareProcessor

__all__ = ["DTYPES", "fingerprint", "load_model"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    pretrained: str | None, device: str | None, dtype: str | None
) -> tuple[LareForConditionalGeneration, LareProcessor]:
    """Load model and processor; see `lare.methods.load_method`.

    Raises:
        LareError: If the checkpoint, device or dtype is impossible.
    """
    if dtype not in (None, "auto", *DTYPES):
        raise LareError(f"dtype is {dtype!r}; choose from {', '.join(DTYPES)}")
    model, processor, _ = load_checkpoint(pretrained, device)
    if dtype in DTYPES:
        model = model.to(DTYPES[dtype])  # type: ignore[arg-type]
    return model, processor


def fingerprint(model: Any, processor: Any) -> str:
    """A short name for exactly these weights, this configuration and this tokenizer.

    It is taken from the tensors in memory, so it knows retrained weights at an old path, weights that were never
    saved, and one checkpoint at two paths. About one second per gigabyte.
    """
    digest = hashlib.sha256(json.dumps(_settings(model.config.to_dict()), sort_keys=True, default=str).encode("utf-8"))
    tokenizer = getattr(processor.tokenizer, "backend_tokenizer", None)
    if tokenizer is not None:
        digest.update(tokenizer.to_str().encode("utf-8"))
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what tells where a checkpoint lies and which version of transformers has read it."""
    kept = {name: value for name, value in config.items() if name not in ("_name_or_path", "transformers_version")}
    return {name: _settings(value) if isinstance(value, dict) else value for name, value in kept.items()}
