"""Rows of a comparison: run files that differ in a few values, each trained by ``lare train`` in a process of its own.

A row that is trained already is left as it is, and one that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml

from lare.errors import LareError
from lare.progress import progress

__all__ = ["RowRun", "read_rows", "train_row", "train_rows"]

T = TypeVar("T")

_THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def read_rows(path: Path, kind: Callable[..., T]) -> list[T]:
    """Read a YAML file of rows by name.

    Args:
        path: The file.
        kind: Makes a row of its name and its keys; ``train``, the ``key=value`` words, comes as a tuple.

    Raises:
        LareError: If the file can't be read or a row has unknown keys.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return [kind(name, **{**row, "train": tuple(row.get("train", ()))}) for name, row in content.items()]
    except OSError as error:
        raise LareError(f"{str(path)!r} can't be read ({error.strerror}); start in the repository") from None
    except (TypeError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:160]
        raise LareError(f"{str(path)!r} is no file of rows ({reason}); see those in lare/configs/rows") from None


@dataclass(frozen=True)
class RowRun:
    """One training run of a comparison.

    Attributes:
        base: The run file.
        out: Its folder.
        words: ``key=value`` words that make the row, its seed among them.
        last: Name of the plan's last stage.
    """

    base: Path
    out: Path
    words: tuple[str, ...] = ()
    last: str = "IV"

    @property
    def checkpoint(self) -> Path:
        """Folder of the finished last stage."""
        return self.out / self.last / "final"

    @property
    def trained(self) -> bool:
        """Whether that is there."""
        return (self.checkpoint / "meta.json").is_file()


def train_row(run: RowRun) -> str | None:
    """Train a row unless it is done, on one thread, with its output in ``train.log``; returns what went wrong."""
    if run.trained:
        return None
    run.out.mkdir(parents=True, exist_ok=True)
    started = (run.out / "run.yaml").is_file()
    words = ["--resume", str(run.out)] if started else [str(run.base), f"out={run.out}", *run.words]
    log = run.out / "train.log"
    with log.open("a", encoding="utf-8") as file:
        command = [sys.executable, "-m", "lare", "train", *words]
        done = subprocess.run(command, env=os.environ | _THREADS, stdout=file, stderr=file, check=False)
    return None if done.returncode == 0 else f"{run.out}: ended with {done.returncode}; see {log}"


def train_rows(runs: Sequence[RowRun], at_once: int = 1) -> None:
    """Train what is missing, some side by side.

    Raises:
        LareError: If a row failed; the others are trained first.
    """
    with ThreadPoolExecutor(at_once) as pool:
        done = progress(pool.map(train_row, runs), total=len(runs), desc="rows", unit="run")
        failures = [one for one in done if one]
    if failures:
        raise LareError("; ".join(failures))
