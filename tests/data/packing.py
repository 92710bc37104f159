"""Packs small files with the shipped processor."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

import lare
from lare.data import Source
from lare.data.packed import Packed, pack
from lare.model import LareProcessor


@functools.cache
def shipped() -> LareProcessor:
    """The embedded checkpoint's; read only."""
    processor: LareProcessor = LareProcessor.from_pretrained(lare.default_checkpoint())
    return processor


def write(folder: Path, rows: list[Any], name: str = "data.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(rows))
    return path


def packed(folder: Path, rows: list[Any], kind: str = "llava", turns: str = "all", **options: Any) -> Packed:
    return pack(Source(write(folder, rows), kind, turns=turns), shipped(), folder / "run" / "pack", **options)


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run" / "pack" / "report.json").read_text())
    return found


def problems(folder: Path) -> list[tuple[str, str]]:
    lines = (folder / "run" / "pack" / "problems.jsonl").read_text().splitlines()
    return [(one["where"], one["kind"]) for one in map(json.loads, lines)]


def said(processor: LareProcessor, ids: Any) -> str:
    return str(processor.tokenizer.decode(np.asarray(ids).tolist()))
