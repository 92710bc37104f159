"""Training states on disk: tensors as safetensors, everything else as JSON, both replaced atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lare.errors import LareError
from lare.files import open_up


class HasState(Protocol):
    """A module, an optimiser, or what stands for one that is sharded."""

    def state_dict(self) -> dict[str, Any]:
        """Its state, whole."""


class TakesState(Protocol):
    """A module, an optimiser, or what stands for one that is sharded."""

    def load_state_dict(self, content: dict[str, Any], /) -> Any:
        """Take over a whole state."""


def _flatten_optimisers(optimisers: Sequence[HasState]) -> tuple[dict[str, Tensor], list[Any]]:
    tensors, groups = {}, []
    for number, optimiser in enumerate(optimisers):
        saved = optimiser.state_dict()
        groups.append(saved["param_groups"])
        for index, entry in saved["state"].items():
            for name, value in entry.items():
                if isinstance(value, Tensor):
                    tensors[f"optimiser.{number}.{index}.{name}"] = value
    return tensors, groups


def save_state(folder: Path, model: Mapping[str, Tensor], optimisers: Sequence[HasState], meta: dict[str, Any]) -> None:
    """Write ``state.safetensors`` (model and optimisers) and ``state.json`` (`meta`) into `folder`.

    The JSON rides inside the tensor file as well, so that the two never disagree after a kill between two renames.

    Raises:
        LareError: the disk is full or the folder cannot be written; the earlier state is untouched.
    """
    tensors, groups = _flatten_optimisers(optimisers)
    tensors |= {f"model.{name}": value for name, value in model.items()}
    text = json.dumps({"meta": meta, "param_groups": groups})
    temporary = folder / "state.safetensors.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, temporary, {"json": text})
        open_up(temporary)
        os.replace(temporary, folder / "state.safetensors")
        (folder / "state.json.tmp").write_text(json.dumps(meta, indent=1))
        os.replace(folder / "state.json.tmp", folder / "state.json")
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise LareError(f"cannot write the training state to {folder} ({error}); free some space") from error


def load_state(folder: Path, optimisers: Sequence[TakesState]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Restore the optimisers, unless training is done, and read the rest.

    Returns:
        (Model tensors by name, meta); None if there is no state.

    Raises:
        LareError: the file is damaged.
    """
    path = folder / "state.safetensors"
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            saved = json.loads(file.metadata()["json"])
        tensors = load_file(path)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise LareError(f"{path} is damaged ({error}); delete it to train this phase anew") from error
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimisers]
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, number, index, key = name.split(".", 3)
            states[int(number)].setdefault(int(index), {})[key] = value
    if not saved["meta"].get("done"):  # a finished training's state may be without optimisers
        for optimiser, state, groups in zip(optimisers, states, saved["param_groups"], strict=True):
            optimiser.load_state_dict({"state": state, "param_groups": groups})
    model = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    return model, saved["meta"]
