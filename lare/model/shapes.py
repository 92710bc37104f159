"""Does a checkpoint's configuration describe its weights? Asked of file headers, before anything is allocated.

A configuration that has lost its `text_config` describes a 7B decoder; transformers would fill 23 GB of memory before
it compared the first shape. Here the configured model is made on the meta device, where tensors have shapes and no
memory, and compared with what the safetensors headers say (some kilobytes).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from lare.errors import LareError
from lare.files import read_header

__all__ = ["check_shapes", "stored_shapes", "weight_files"]

Shape = tuple[int, ...]
_SHOWN = 3  # names listed in a message
_HALVES = {"language_model": "text_config", "vision_tower": "vision_config"}


def stored_shapes(place: str, hub: Mapping[str, Any]) -> dict[str, Shape]:
    """Shape of every tensor of a checkpoint, by name; empty if it has no safetensors weights.

    Args:
        place: Folder or hub id.
        hub: Options of the hub (revision, subfolder, ...).

    Raises:
        SafetensorError: If a header is damaged.
    """
    return {name: shape for file in weight_files(place, hub) for name, (_, shape) in read_header(file).items()}


def weight_files(place: str, hub: Mapping[str, Any]) -> list[str]:
    """Paths of a checkpoint's safetensors files; none if it has no such weights.

    Args:
        place: Folder or hub id.
        hub: Options of the hub (revision, subfolder, ...).
    """
    asked: dict[str, Any] = {**hub, "_raise_exceptions_for_missing_entries": False}
    single = cached_file(place, SAFE_WEIGHTS_NAME, **asked)
    if single is not None:
        return [single]
    index = cached_file(place, SAFE_WEIGHTS_INDEX_NAME, **asked)
    if index is not None and not isinstance(json.loads(Path(index).read_text(encoding="utf-8")), dict):
        raise LareError(f"{index} is no index of weights; copy the checkpoint again")
    return [] if index is None else list(get_checkpoint_shard_files(place, index, **hub)[0])


def check_shapes(kind: type[PreTrainedModel], place: str, config: PreTrainedConfig, hub: Mapping[str, Any]) -> None:
    """Compare the configured model with the headers of the weights.

    Args:
        kind: Class of the model.
        place: Folder or hub id of its checkpoint.
        config: Its configuration; left as it is.
        hub: Options of the hub.

    Raises:
        LareError: If a tensor has another shape, or weights must be missing; it names the first such tensor.
    """
    stored = stored_shapes(place, hub)
    if not stored:
        return  # transformers says what is missing
    with torch.device("meta"):
        model = kind(copy.deepcopy(config))
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    # The halves come first: LaRe's own parts take their sizes from them.
    for name in sorted(wanted, key=lambda name: not name.startswith(tuple(_HALVES))):
        if stored.get(name, wanted[name]) != wanted[name]:
            raise _misfit(place, f"misshapen weights: {name} is {stored[name]} in its file and {wanted[name]} by", name)
    # Names alone do not tell: tied tables are stored once, and some families store their experts one by one.
    described = sum({id(value): value.numel() for value in model.state_dict(keep_vars=True).values()}.values())
    held = sum(torch.Size(shape).numel() for shape in stored.values())
    missing = sorted(set(wanted) - set(stored), key=lambda name: (not name.startswith(tuple(_HALVES)), name))
    if missing and described > held:
        shown = ", ".join(missing[:_SHOWN]) + (f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else "")
        told = f"missing weights {shown}; its files hold {held:,} weights, and {described:,} are described by"
        raise _misfit(place, told, missing[0])


def _misfit(place: str, told: str, name: str) -> LareError:
    part = _HALVES.get(name.partition(".")[0])
    wrong = f"the {part} in it" if part else "it"
    return LareError(
        f"The checkpoint {place} does not fit its configuration: {told} config.json; put {wrong} back as "
        "save_pretrained wrote it, or load the checkpoint that belongs to it."
    )
