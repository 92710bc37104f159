"""Checkpoints that name their base instead of holding it: weights that adapters leave as they were are known by hashes.

A model with low-rank adapters differs from the pre-trained parts it is made of in the adapters, the projectors, the
Extractor and a few rows of the token tables. `StrictLoading.save_pretrained` then writes these, and ``base.json``:
where the base was, how it can be had, and the SHA-256 of each of its tensors. `from_pretrained` finds the base, checks
every tensor, and puts both together again, bit for bit. A tensor that is no longer the base's is written as any other.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils.hub import cached_file

from lare.errors import LareError
from lare.model.lora import LORA_MARK

__all__ = ["BASE_FILE", "Base", "digest_of", "find_base", "read_base", "read_own", "tokenizer_hash"]

BASE_FILE = "base.json"
ROWS = "::rows"
"""Ends the name of a tensor that holds the last rows of a table, after those of the base."""
_ENCODER = "vision_tower.encoder."
_BASES = ("language_model.", _ENCODER)
_SHOWN = 3  # names listed in a message


@dataclass(frozen=True)
class Base:
    """The pre-trained parts of a model with adapters.

    Attributes:
        kind: "assembly" (a decoder and an encoder), or "vlm" (a vision-language model).
        text: Where the decoder was, as a run's ``model.text``; the vision-language model's folder or hub id.
        vision: Where the encoder was, as ``model.vision``; empty where the checkpoint holds it, and for a
            vision-language model.
        file: Name and SHA-256 of the decoder's file, and how it can be had, where it is a file.
        tokenizer: SHA-256 of the tokenizer with LaRe's tokens and its longest text, where the checkpoint leaves the
            tokenizer to the base too; else empty.
        rows: By table, the rows that are the base's; LaRe's tokens have the others.
        hashes: SHA-256 of each tensor of the base, by its name in the LaRe model.
    """

    kind: str
    text: str
    vision: str = ""
    file: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: Any, used: int, kind: str, text: str, vision: str = "", file: Mapping[str, Any] | None = None
    ) -> Base:
        """Take the hashes of a model whose base has just been loaded; about half a second a gigabyte.

        Args:
            model: The LaRe model, adapters on.
            used: Rows of the token tables that are the base's.
            kind: See `Base`.
            text: See `Base`.
            vision: See `Base`.
            file: See `Base`.
        """
        kept = model.state_dict(keep_vars=True)
        tables = [one for one in (model.get_input_embeddings(), model.get_output_embeddings()) if one is not None]
        owned = {id(value) for table in tables for value in table.parameters(recurse=False)}
        rows, hashes, seen = {}, {}, set[int]()
        for name, value in kept.items():
            if not name.startswith(_BASES) or LORA_MARK in name or id(value) in seen:
                continue  # tied tables are one tensor
            seen.add(id(value))
            if id(value) in owned:
                rows[name] = min(used, len(value))
            hashes[name] = digest_of(value, rows.get(name))
        return cls(kind, text, vision, dict(file or {}), {}, rows, hashes)

    @property
    def identity(self) -> str:
        """One short hash for all tensors of the base, wherever it lies."""
        told = json.dumps([dict(sorted(self.rows.items())), dict(sorted(self.hashes.items()))])
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def within(self, other: Base) -> bool:
        """Whether another base has all tensors of this one."""
        return self.hashes.items() <= other.hashes.items() and self.rows.items() <= other.rows.items()

    def own(self, state: Mapping[str, Tensor], keeps: Callable[[str], bool] | None = None) -> dict[str, Tensor]:
        """The part of a model's state that is not the base's.

        Args:
            state: The whole state.
            keeps: Names of base tensors that are to be kept all the same; None keeps those that have changed.
        """
        found: dict[str, Tensor] = {}
        tied = self.frozen(state).keys() - self.hashes.keys()
        for name, value in state.items():
            rows = self.rows.get(name)
            if name in tied:
                continue
            if name not in self.hashes or (
                keeps(name) if keeps is not None else digest_of(value, rows) != self.hashes[name]
            ):
                found[name] = value
            elif rows is not None and rows < len(value):
                found[name + ROWS] = value[rows:].clone()
        return found

    def frozen(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a model's whole state that are the base's, under all their names where tables are tied."""
        places = {state[name].data_ptr() for name in self.hashes if name in state}
        return {n: value for n, value in state.items() if n in self.hashes or value.data_ptr() in places}

    def part(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Base | None]:
        """What of a model's state has to be saved, and the base of what is not.

        Args:
            state: The whole state.

        Returns:
            As `own`, with the tensors that are left out; or the whole state and None, where most of the base has
            changed (as in another type).
        """
        own = self.own(state)
        left = {name: value for name, value in self.hashes.items() if name not in own}
        if 2 * sum(state[name].numel() for name in left) < sum(state[name].numel() for name in self.hashes):
            return dict(state), None
        return own, replace(self, hashes=left, rows={name: one for name, one in self.rows.items() if name in left})

    def whole(self, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Undo `own`.

        Args:
            state: Tensors of the base by their names in the model; rows of tables are written into them.
            own: What `own` has returned.
        """
        made = dict(state) | {name: value for name, value in own.items() if not name.endswith(ROWS)}
        for name in (name for name in own if name.endswith(ROWS)):
            table, rows = name.removesuffix(ROWS), own[name]
            used = self.rows[table]
            value = made[table]
            if value.shape == (used + len(rows), *rows.shape[1:]):
                value[used:] = rows.to(value.device, value.dtype)
            else:
                made[table] = torch.cat((value[:used], rows.to(value.dtype)))
        return made

    def without_encoder(self) -> Base:
        """The base of a model whose encoder belongs to its run and to nobody else."""
        kept = {name: value for name, value in self.hashes.items() if not name.startswith(_ENCODER)}
        return replace(self, vision="", hashes=kept)

    def check(self, tensors: Mapping[str, Tensor], place: str, found: str) -> None:
        """Refuse a base that is not the one that is meant.

        Args:
            tensors: Its tensors, by their names in the model.
            place: The checkpoint, for the message.
            found: Where the base was found.

        Raises:
            LareError: If a tensor is missing or has another hash.
        """
        wrong = [
            name
            for name, right in self.hashes.items()
            if name not in tensors or digest_of(tensors[name], self.rows.get(name)) != right
        ]
        if wrong:
            shown = ", ".join(wrong[:_SHOWN]) + (f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else "")
            raise LareError(
                f"the base of {place!r} is {self.name}, and what lies at {found!r} has other weights ({shown}); "
                f"{self.mend}"
            )

    @property
    def name(self) -> str:
        """The base in a message."""
        file = self.file
        return f"{file['name']} (sha256 {file['sha256']})" if file else repr(self.text)

    @property
    def mend(self) -> str:
        """How the base can be had."""
        if self.file.get("fetch"):
            return f"get it by: lare fetch {self.file['fetch']}"
        return "get that very file" if self.file else "put it there as it was, or connect to the hub"

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``base.json``."""
        Path(folder, BASE_FILE).write_text(json.dumps({"format": 1, **asdict(self)}, indent=1), encoding="utf8")


def digest_of(value: Tensor, rows: int | None = None) -> str:
    """SHA-256 of a tensor's type, shape and bytes, or of those of its first rows."""
    flat = value.detach()[:rows].cpu().contiguous() if rows is not None else value.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{flat.dtype} {tuple(flat.shape)}".encode())
    if flat.numel():
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of what a fast tokenizer does with text, its added tokens too; not of padding and truncation."""
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    told = {name: value for name, value in whole.items() if name not in ("version", "padding", "truncation")}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def read_base(place: str | os.PathLike[str], hub: Mapping[str, Any]) -> Base | None:
    """The base that a checkpoint names; None for one that holds all its weights.

    Args:
        place: Folder or hub id.
        hub: Options of the hub (revision, ...).

    Raises:
        LareError: If ``base.json`` is damaged.
    """
    path = find_base(place, hub)
    if path is None:
        return None
    try:
        found = json.loads(Path(path).read_text(encoding="utf8"))
        if found.pop("format") != 1:
            raise ValueError("a later version of LaRe has written it")
        return Base(**found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise LareError(f"{path!r} can't be read ({error}); copy the checkpoint again, or update LaRe") from None


def find_base(place: str | os.PathLike[str], hub: Mapping[str, Any]) -> str | None:
    """The path of a checkpoint's ``base.json``; None where there is none."""
    if os.path.isdir(place) and not hub.get("subfolder"):
        own = os.path.join(place, BASE_FILE)
        return own if os.path.isfile(own) else None
    asked: dict[str, Any] = {name: value for name, value in hub.items() if name != "force_download"}
    missing = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    found: str | None = cached_file(os.fspath(place), BASE_FILE, **asked, **missing)
    return found


def read_own(files: list[str]) -> dict[str, Tensor]:
    """A checkpoint's own tensors.

    Args:
        files: Its safetensors files.

    Raises:
        SafetensorError: If one is damaged.
    """
    return {name: value for file in files for name, value in load_file(file).items()}
