"""What `lare halting fit` is told to fit: a checkpoint, and where its questions come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lare.data.questions import Question, file_questions
from lare.data.source import Source
from lare.errors import LareError
from lare.loading import resolve_checkpoint
from lare.methods.options import parse_options
from lare.registry import DATA_FORMATS
from lare.training.plan.run_file import load_run_config, typed
from lare.training.plan.stage_config import DataConfig

__all__ = ["Target", "find_target"]


@dataclass(frozen=True)
class Target:
    """A checkpoint and its questions.

    Attributes:
        checkpoint: Its folder.
        data: Where questions come from; the first of several sources.
    """

    checkpoint: Path
    data: DataConfig

    def questions(self, split: str, count: int) -> Iterator[Question]:
        """Questions of a split.

        Raises:
            LareError: If they can't be had.
        """
        if self.data.format in DATA_FORMATS:
            found: Iterator[Question] = DATA_FORMATS.get(self.data.format).questions(self.data, split, count)
            return found
        images = Path(self.data.images) if self.data.images else None
        return file_questions(Source(Path(str(self.data.path)), self.data.format, images, take=self.data.take), split)

    @property
    def facts(self) -> dict[str, Any]:
        """The source's settings that are set; JSON-able."""
        return {name: value for name, value in asdict(self.data).items() if value not in (None, {}, ())}


def find_target(place: str, words: Sequence[str]) -> Target:
    """Find the checkpoint of a run or a folder, and its questions.

    Args:
        place: Folder of a finished run, whose last stage counts; or of a checkpoint, or the name of a shipped one.
        words: A data file or the name of a data format, then its settings as NAME=VALUE; none takes the data of the
            run's last stage.

    Raises:
        LareError: If there is no such checkpoint, or nothing says where questions come from.
    """
    run = Path(place).expanduser() / "run.yaml"
    if not run.is_file():
        folder = Path(resolve_checkpoint(place))
        if not folder.is_dir():
            raise LareError(f"{place!r} is on the hub; download it, and give its folder, where the heads are written")
        if not words:
            raise LareError("a checkpoint does not say what it was trained on; give --data FILE or --data world")
        return Target(folder, _data(words))
    config = load_run_config(run)
    folder = run.parent / config.stages[-1].name / "final"
    if not (folder / "config.json").is_file():
        raise LareError(f"the run {place!r} is not finished; go on with lare train --resume {place}")
    return Target(folder, _data(words) if words else config.stages[-1].data[0])


def _data(words: Sequence[str]) -> DataConfig:
    name, settings = words[0], parse_options(words[1:])
    where = {"format": name} if name in DATA_FORMATS else {"format": "auto", "path": name}
    return typed(DataConfig, {**where, **settings}, "--data ")
