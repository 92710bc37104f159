"""Rows of an experiment: one small JSON file for each arm, start, seed, way of asking and split, written as it ends.

    reports/experiments/NAME/rows/ARM__START__SEED__ASK.validation.json
    reports/experiments/NAME/questions/HASH.json       what was asked: task, number, scene, family, hops, difficulty

A row tells right from wrong for every question as a packed bit string in the order of its questions' file, so paired
tests can be made again from what is committed.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lare.errors import LareError
from lare.experiments.plan import Plan, Run
from lare.files import save_text

__all__ = ["Questions", "Slot", "done", "pack", "read_questions", "read_row", "rows_of", "save_questions", "unpack"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Slot:
    """Where one row belongs.

    Attributes:
        run: The trained run.
        ask: Name of the way of asking.
        split: ``validation`` or ``test``.
    """

    run: Run
    ask: str
    split: str

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.run.stem}__{self.ask}.{self.split}.json"

    def path(self, plan: Plan) -> Path:
        """Its file."""
        return plan.out / "rows" / self.file


@dataclass(frozen=True)
class Questions:
    """What was asked, in the order of a row's bits; each column has one entry a question.

    Attributes:
        hash: Hash of the file.
        task: Name of the task.
        doc: Number in the task.
        scene: Questions of one scene are not independent of each other.
        family: Kind of question; empty where the task says none.
        hops: Reasoning steps; -1 where the task says none.
        difficulty: Label; empty where the task says none.
    """

    hash: str
    task: Array
    doc: Array
    scene: Array
    family: Array
    hops: Array
    difficulty: Array

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the order of the file."""
        return list(dict.fromkeys(self.task.tolist()))


def save_questions(content: Mapping[str, Any], folder: Path) -> str:
    """Write what was asked, unless it is there; returns its hash."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = folder / f"{digest}.json"
    if not path.is_file():
        save_text(path, text)
    return digest


@lru_cache(maxsize=64)
def read_questions(folder: Path, digest: str) -> Questions:
    """Read what rows were asked.

    Raises:
        LareError: If it is missing or damaged.
    """
    path = folder / f"{digest}.json"
    try:
        text = path.read_text("utf-8").rstrip("\n")
        content = json.loads(text)
        if hashlib.sha256(text.encode()).hexdigest()[:16] != digest:
            raise ValueError("it was changed")
        columns = {name: [] for name in ("task", "doc", "scene", "family", "hops", "difficulty")}  # type: dict[str, list[Any]]
        for task, one in content.items():
            columns["task"] += [task] * len(one["doc"])
            for name in ("doc", "scene", "family", "hops", "difficulty"):
                columns[name] += one[name]
        return Questions(digest, **{name: np.array(values) for name, values in columns.items()})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LareError(f"{str(path)!r} can't be read ({error}); take it from the repository again") from None


def pack(right: npt.ArrayLike) -> str:
    """Right (1) and wrong (0) as base64 of packed bits."""
    return base64.b64encode(np.packbits(np.asarray(right, dtype=bool)).tobytes()).decode("ascii")


def unpack(text: str, count: int) -> npt.NDArray[np.float64]:
    """`count` entries of 0 or 1 from `pack`."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count)
    return bits.astype(np.float64)


def read_row(path: Path) -> dict[str, Any] | None:
    """A row; None if it is not there.

    Raises:
        LareError: If it is damaged.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        assert isinstance(found, dict)
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AssertionError) as error:
        raise LareError(f"the row {str(path)!r} can't be read ({error}); delete it, and it is made again") from None


def done(plan: Plan, slot: Slot) -> dict[str, Any] | None:
    """A slot's row, if run, start, question group and way of asking are still those of the grid; else None."""
    row = read_row(slot.path(plan))
    if row is None:
        return None
    arm = plan.grid.arms[str(slot.run.arm)]
    begin = plan.start_hash(slot.run)
    same = (
        row.get("options") == dict(arm.asks[slot.ask])
        and row.get("group") == plan.grid.tasks[slot.split]
        and row.get("limit") == plan.limit
        # Where the start's weights are not on this machine, the row's word is taken for them.
        and (begin is None or row.get("start_hash") == begin)
        and (slot.run.start is None or plan.starts[slot.run.start].is_that(row.get("start_settings") or {}))
        and slot.run.is_that(row.get("settings") or {})
    )
    return row if same else None


def rows_of(plan: Plan, split: str) -> Iterator[dict[str, Any]]:
    """Every row of a split that lies in the experiment's folder, those of other settings too."""
    for path in sorted((plan.out / "rows").glob(f"*.{split}.json")):
        row = read_row(path)
        if row is not None:
            yield row
