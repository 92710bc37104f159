"""Loads a checkpoint, with one clear message where transformers would give a page, and names its weights."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lare.errors import LareError
from lare.registry import BACKBONES, vision_language_loader

if TYPE_CHECKING:
    import torch

    from lare.model import LareForConditionalGeneration, LareProcessor

__all__ = ["DTYPES", "fingerprint", "load_checkpoint", "resolve_checkpoint", "usable_device"]

DTYPES = ("float32", "bfloat16", "float16")


def resolve_checkpoint(checkpoint: str | None) -> str:
    """Return the folder or hub id to load; the embedded checkpoint when None, and shipped ones by their names.

    Raises:
        LareError: If a folder is named that doesn't exist or holds no checkpoint.
    """
    if checkpoint is None:
        from lare.checkpoints import default_checkpoint

        return str(default_checkpoint())
    path = Path(checkpoint).expanduser()
    if not path.exists():
        from lare.checkpoints import shipped_checkpoints

        if checkpoint in shipped_checkpoints():
            return str(shipped_checkpoints()[checkpoint])
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise LareError(
                f"the folder {checkpoint!r} holds no config.json; give the folder that save_pretrained made"
            )
        return str(path)
    if path.exists() or checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") > 1:
        raise LareError(f"there is no checkpoint folder {checkpoint!r}; check the path")
    return checkpoint


def load_checkpoint(
    checkpoint: str | None, device: str | None = None, dtype: str | None = None
) -> tuple[LareForConditionalGeneration, LareProcessor, torch.device]:
    """Load model and processor, ready to answer.

    Args:
        checkpoint: Folder or hub id; None for the embedded checkpoint. That of a vision-language model that LaRe has a
            backbone for is taken as it is, with an Extractor that has learnt nothing, for methods without latents.
        device: A torch device such as "cpu" or "cuda:0"; None takes a GPU if there is one.
        dtype: One of `DTYPES`; None or "auto" keeps the checkpoint's.

    Returns:
        The model in evaluation mode on the device, its processor, and the device.

    Raises:
        LareError: If there is no such checkpoint, device or dtype, or the files are not a LaRe checkpoint.
    """
    if dtype not in (None, "auto", *DTYPES):
        raise LareError(f"dtype is {dtype!r}; choose from {', '.join(DTYPES)}")
    import torch

    from lare.model import LareForConditionalGeneration, LareProcessor
    from lare.model.loading import check_template

    place = resolve_checkpoint(checkpoint)
    target = usable_device(device)
    try:
        with _no_progress_bar():
            if _is_backbone(place):
                model, processor = vision_language_loader()(place)
            else:
                processor = LareProcessor.from_pretrained(place)
                check_template(processor, place)
                model = LareForConditionalGeneration.from_pretrained(place)
    except LareError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LareError(
            f"{place!r} can't be loaded as a LaRe checkpoint ({reason}); give a folder that save_pretrained made, or a "
            "hub id that can be reached"
        ) from None
    model = model.to(target).eval()
    return model if dtype in (None, "auto") else model.to(getattr(torch, dtype)), processor, target


def _is_backbone(place: str) -> bool:
    """Whether a folder or hub id is a vision-language model's own, as its publisher wrote it."""
    from transformers import PreTrainedConfig

    values, _ = PreTrainedConfig.get_config_dict(place)
    return isinstance(values, dict) and values.get("model_type") in BACKBONES


def usable_device(device: str | None) -> torch.device:
    """The device of that name, or a GPU if there is one, after it has computed a sum.

    Raises:
        LareError: If it is not there, or can't compute (as "meta" can't, whose tensors hold no numbers).
    """
    import torch

    name = "cuda" if torch.cuda.is_available() else "cpu"
    name = name if device is None else device
    try:
        target = torch.device(name)
        right = float(torch.ones(2, device=target).sum()) == 2
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0][:160]
        raise LareError(f"the device {name!r} can't be used ({reason}); try --device cpu") from None
    if not right:
        raise LareError(f"the device {name!r} adds 1 and 1 up wrongly; try --device cpu")
    return target


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers' bar for loaded weights out of the terminal, and leave its setting as it was."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def fingerprint(model: Any, processor: Any) -> str:
    """A short name for exactly these weights, this configuration and this tokenizer.

    It is taken from the tensors in memory, so it knows retrained weights at an old path, weights that were never
    saved, and one checkpoint at two paths. About one second per gigabyte.
    """
    import torch

    settings = _settings(model.config.to_dict(), _later_defaults())
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode("utf-8"))
    tokenizer = getattr(processor.tokenizer, "backend_tokenizer", None)
    if tokenizer is not None:
        digest.update(tokenizer.to_str().encode("utf-8"))
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


_FIRST = {
    "text_config", "vision_config", "image_size", "grid", "lm_grid", "refocus_source", "shared_projector",
    "lm_token_scale", "iterations", "latents_per_iteration", "window", "use_extractor", "use_window",
    "extractor_dim", "extractor_layers", "extractor_heads", "extractor_output_init", "residual_feedback",
    "rms_scale", "stop", "max_iterations", "vision_feature_layer", "text_prefix", "projector_dim", "image_token_id",
    "latent_start_id", "latent_end_id", "initializer_range",
}  # fmt: skip
"""`LareConfig`'s settings when fingerprints were first taken. They always count; nothing is ever added here."""


def _later_defaults() -> dict[str, Any]:
    """Default of each setting that `LareConfig` got later.

    At its default such a setting counts for nothing, so that fingerprints in traces and beside answers still hold.
    """
    from lare.model import LareConfig

    later = inspect.signature(LareConfig.__init__).parameters.keys() - _FIRST - {"self", "kwargs"}
    return {name: value for name, value in LareConfig().to_dict().items() if name in later}


def _settings(config: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """A configuration without later settings at their default, its place, and the version of transformers."""
    unset = {name for name, default in later.items() if name in config and config[name] == default}
    dropped = {"_name_or_path", "transformers_version", *unset}
    return {
        name: _settings(value, {}) if isinstance(value, dict) else value
        for name, value in config.items()
        if name not in dropped
    }
