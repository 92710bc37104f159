"""What defines a run: its resolved settings and the weights that it begins with, and how two runs are told apart.

Settings at their defaults are left out, so that a new setting of a later version does not make finished runs look
undone, and settings that can't change the weights don't count.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lare.errors import LareError
from lare.files import file_hash
from lare.training.plan.config import RunConfig, plain
from lare.training.plan.run_file import run_config_from

__all__ = ["definition", "definition_hash", "same_run", "same_settings", "weights_hash"]

_FREE = ("out", "start", "workers", "save_every", "keep", "log_every", "validate_every", "tensorboard", "wandb")
_ALWAYS = ("format", "stage")


def definition(config: RunConfig) -> dict[str, Any]:
    """The settings that decide a run's weights, without those at their defaults; the start's weights apart."""
    return {name: value for name, value in _set(config).items() if name not in _FREE}


def _set(value: Any) -> Any:
    if not dataclasses.is_dataclass(value):
        return [_set(one) for one in value] if isinstance(value, (list, tuple)) else plain(value)
    found = {}
    for one in dataclasses.fields(value):
        mine = getattr(value, one.name)
        default = one.default_factory() if callable(one.default_factory) else one.default
        if one.name in _ALWAYS or mine != default:
            found[one.name] = _set(mine)
    return found


def definition_hash(content: Mapping[str, Any]) -> str:
    """Short SHA-256 of a definition."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def same_run(wanted: RunConfig, found: Mapping[str, Any]) -> bool:
    """Whether settings that were written down, maybe by an earlier version, are those of a run.

    Args:
        wanted: The run.
        found: Plain settings: a definition, or a whole run file. ``precision: auto`` is any.
    """
    try:
        other = run_config_from(found)
    except LareError:
        return False
    if wanted.precision == "auto":
        other = dataclasses.replace(other, precision="auto")
    return same_settings(definition(wanted), definition(other))


def same_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two definitions are the same, the order of keys too: the last method of a mixture is its main one."""
    return json.dumps(one) == json.dumps(other)


def weights_hash(folder: Path) -> str | None:
    """Short SHA-256 of the weights in a checkpoint's folder; None if there are none."""
    whole = folder / "model.safetensors"
    if whole.is_file():
        return file_hash(whole)
    shards = sorted(folder.glob("model-*.safetensors"))
    return hashlib.sha256("".join(map(file_hash, shards)).encode()).hexdigest()[:16] if shards else None
