"""What a run writes while it goes: ``log.jsonl``, TensorBoard's event files, and Weights & Biases if asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lare.errors import LareError
from lare.files import write_whole
from lare.training.feeding.batch import Replaced
from lare.training.plan.config import RunConfig

__all__ = ["RunLog", "describe_replaced", "flat"]


_SHOWN = 5  # replaced samples that are told one by one


def flat(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested mappings, named by their paths."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)


class RunLog:
    """Writes the rows of one stage.

    Args:
        config: The run.
        folder: The stage's folder.
        name: The stage's name.
        first: Updates already made; rows after it, of a run that was killed, are dropped.

    Raises:
        LareError: If a writer is asked for whose package is missing, or the folder can't be written.
    """

    def __init__(self, config: RunConfig, folder: Path, name: str, first: int = 0) -> None:
        self.path, self.name = folder / "log.jsonl", name
        self.replaced = folder / "replaced.jsonl"
        self._board: Any = None
        self._wandb: Any = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _trim(self.path, first)
            self.count_replaced = _trim(self.replaced, first)
        except OSError as error:
            raise LareError(f"{str(folder)!r} can't be made ({error}); change out") from None
        if config.tensorboard:
            self._board = _tensorboard(Path(config.out) / "tensorboard" / name, first)
        if config.wandb is not None:
            self._wandb = _wandb(config, name)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one row.

        Raises:
            LareError: If the disk is full.
        """
        _append(self.path, [row])
        step = int(row["step"])
        if self._board is not None:
            for name, value in flat(row):
                self._board.add_scalar(name, value, step)
            self._board.flush()
        if self._wandb is not None:
            self._wandb.log({f"{self.name}/{name}": value for name, value in flat(row)})

    def write_replaced(self, step: int, found: Sequence[Replaced]) -> None:
        """List the samples that others stood in for in an update.

        Raises:
            LareError: If the disk is full.
        """
        _append(self.replaced, [{"step": step} | one._asdict() for one in found])
        self.count_replaced += len(found)


def describe_replaced(stage: Path) -> str | None:
    """A stage's samples that others stood in for, counted, and the first of them; None without any."""
    path = stage / "replaced.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf8").splitlines()] if path.is_file() else []
    if not rows:
        return None
    reasons = list({row["where"]: f"  {row['where']}: {row['reason']}" for row in rows}.values())
    first = f"stage {stage.name}: {len(rows):,} samples were replaced, since their image could not be read; see {path}"
    return "\n".join([first, *reasons[:_SHOWN], *(["  ..."] if len(reasons) > _SHOWN else [])])


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    try:
        with open(path, "a", encoding="utf8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    except OSError as error:
        raise LareError(f"{str(path)!r} can't be written ({error}); free some space and resume") from None


def _trim(path: Path, last: int) -> int:
    """Keep rows up to an update, and tell how many; a row that a kill has cut off goes too."""
    if not path.is_file():
        return 0
    kept = []
    for line in path.read_text("utf8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("step", last + 1) <= last:
            kept.append(line + "\n")
    write_whole(path, "".join(kept), "change out")
    return len(kept)


def _tensorboard(folder: Path, last: int) -> Any:
    """A writer after update `last`; TensorBoard hides what a killed run had written after it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise LareError(
            "tensorboard=true needs the package tensorboard; install lare[train] or give tensorboard=false"
        ) from None
    return SummaryWriter(str(folder), purge_step=last + 1)


def _wandb(config: RunConfig, name: str) -> Any:
    try:
        import wandb
    except ImportError:
        raise LareError("wandb needs the package wandb; install it with pip install wandb, or leave it out") from None
    return wandb.init(project=config.wandb, name=f"{Path(config.out).name}-{name}", config=config.to_dict())
