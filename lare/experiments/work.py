"""The work on one run: train it unless it is trained, ask every way that has no row yet, write each row as it ends.

Training and asking are commands in processes of their own, so that a crash takes nothing else with it.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from lare.errors import LareError
from lare.experiments.looks import check_look
from lare.experiments.plan import NOTE, Plan, Run
from lare.experiments.record import make_row
from lare.experiments.store import Slot, done, read_row
from lare.files import save_text

__all__ = ["Command", "Settings", "ask_command", "missing", "steps", "train_command"]

FRESH = 300.0
"""Seconds without a new line after which a log is taken for that of a run that has ended."""


@dataclass(frozen=True)
class Settings:
    """How a grid is run.

    Attributes:
        split: Which questions are asked.
        train: Whether what is not trained is trained.
        again: Ask test questions that were asked already.
        launcher: Command that starts training in place of Python, such as ``accelerate launch --config_file X``.
        keep_weights: Keep every stage's weights and checkpoints of a finished arm; else only what it is asked with.
        keep_traces: Keep the traces of its answers.
    """

    split: str = "validation"
    train: bool = True
    again: bool = False
    launcher: str = ""
    keep_weights: bool = False
    keep_traces: bool = True


@dataclass(frozen=True)
class Command:
    """A process to start.

    Attributes:
        words: Its command line.
        log: File of its output.
        what: What it does, for messages.
    """

    words: Sequence[str]
    log: Path
    what: str


def missing(plan: Plan, run: Run, asks: Sequence[str], settings: Settings) -> list[Slot]:
    """Slots of a run that have no row yet.

    Args:
        plan: The grid.
        run: The run.
        asks: Ways of asking that are wanted.
        settings: How the grid is run.
    """
    slots = [Slot(run, ask, settings.split) for ask in asks]
    return [slot for slot in slots if settings.again or done(plan, slot) is None]


def steps(plan: Plan, run: Run, asks: Sequence[str], settings: Settings) -> Iterator[Command]:
    """Commands that a run needs, one after the other; what each leaves is taken up before the next.

    Args:
        plan: The grid.
        run: The run.
        asks: Ways of asking a finished arm; a start is not asked.
        settings: How the grid is run.

    Raises:
        LareError: If a command did not leave what it should.
    """
    todo = missing(plan, run, asks, settings) if run.arm is not None else []
    if run.arm is not None and not todo:
        return
    if not plan.trained(run):
        yield from _training(plan, run, settings)
    folder = plan.folder(run)
    assert folder is not None
    if run.arm is not None and not settings.keep_weights:
        _tidy(folder, run, plan.grid.arms[str(run.arm)].asks)
    for slot in todo:
        yield from _asking(plan, slot, folder, settings)


def _training(plan: Plan, run: Run, settings: Settings) -> Iterator[Command]:
    if not settings.train:
        raise LareError(f"{run.name} is not trained; leave --no-train out")
    folder = plan.folder(run)
    if folder is None:
        raise LareError(f"{run.name}: its start is not trained; run the grid's starts first")
    parts = run.arm is None and any(one.name == run.start and one.parts == "shipped" for one in plan.grid.starts)
    if parts and not (folder / "encoder").exists():
        words = [sys.executable, "-m", "lare.embedded.parts", "--out", str(folder)]
        yield Command(words, _log(folder, "train"), f"{run.name}: parts")
    if _alive(folder) and not _log(folder, "train").exists():
        raise LareError(f"{run.name}: something else trains in {str(folder)!r}; wait until it has ended")
    prepare(plan, run, folder)
    yield Command(train_command(folder, settings.launcher), _log(folder, "train"), f"{run.name}: training")
    if not plan.trained(run):
        raise LareError(f"{run.name} did not finish; see {_log(folder, 'train')}")


def _alive(folder: Path) -> bool:
    """Whether a training that was begun by hand wrote to a folder's logs in the last minutes."""
    return any(time.time() - path.stat().st_mtime < FRESH for path in folder.glob("*/log.jsonl"))


def prepare(plan: Plan, run: Run, folder: Path) -> None:
    """Write a run's settings, unless it has begun, and what defines it."""
    from lare.training.precision import settled

    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "run.yaml").is_file():
        return
    begin = None
    if run.arm is not None:
        save_text(folder / NOTE, json.dumps({"start": plan.start_hash(run), "settings": run.settings}))
        if run.start is not None:
            start = plan.starts[run.start]
            begin = str(start.place / start.last)
    config = replace(settled(run.config), out=str(folder), start=begin)
    save_text(folder / "run.yaml", yaml.safe_dump(config.to_dict(), sort_keys=False))


def train_command(folder: Path, launcher: str = "") -> list[str]:
    """Command that trains the run of a folder, from where it is."""
    first = shlex.split(launcher) if launcher else [sys.executable]
    return [*first, "-m", "lare", "train", "--resume", str(folder)]


def ask_command(request: Path) -> list[str]:
    """Command that asks; `lare` imports nothing of the evaluation's, it starts it."""
    return [sys.executable, "-m", "lare_eval.asking", str(request)]


def _log(folder: Path, name: str) -> Path:
    """Beside the folder: a run's folder holds what `lare train` knows."""
    return folder.with_name(f"{folder.name}.{name}.log")


def _tidy(folder: Path, run: Run, asks: Mapping[str, Mapping[str, Any]]) -> None:
    """Drop what a finished arm is not asked with: optimisers' states, and weights of the stages before its last.

    A stage that an option names in a path (``../../R/final``) is asked with, too.
    """
    words = [value for options in asks.values() for value in options.values() if isinstance(value, str)]
    kept = {run.last, *(part for word in words if "/" in word for part in Path(word).parts)}
    for stage in (path.parent for path in folder.glob("*/final")):
        for step in stage.glob("step-*"):
            shutil.rmtree(step, ignore_errors=True)
        if stage.name not in kept:
            for file in (stage / "final").glob("*.safetensors"):
                file.unlink()


def _asking(plan: Plan, slot: Slot, folder: Path, settings: Settings) -> Iterator[Command]:
    earlier = check_look(plan, slot, settings.again)
    options = dict(plan.grid.arms[str(slot.run.arm)].asks[slot.ask])
    method, weights = options.pop("method"), plan.weights(slot.run)
    place = folder / "asks" / f"{slot.ask}-{slot.split}{'' if plan.limit is None else f'-first-{plan.limit}'}"
    wanted = {
        "checkpoint": str(folder / slot.run.last / "final"),
        "method": method,
        "options": options,
        "group": plan.grid.tasks[slot.split],
        "batch": plan.grid.batch,
        "limit": plan.limit,
    }
    identity = {**{name: value for name, value in wanted.items() if name != "checkpoint"}, "weights": weights}
    found = None if settings.again else _answered(place, identity)
    if found is None:
        shutil.rmtree(place, ignore_errors=True)
        # Before it is asked: a kill after the last answer must not make a second look.
        save_text(place / "identity.json", json.dumps(identity))
        save_text(place / "request.json", json.dumps({**wanted, "out": str(place)}))
        yield Command(
            ask_command(place / "request.json"), place / "ask.log", f"{slot.run.name}: asked {slot.ask}, {slot.split}"
        )
        found = _answered(place, identity)
    if found is None:
        raise LareError(f"{slot.run.name}: asking {slot.ask} left no answers; see {place / 'ask.log'}")
    looks = [*earlier, {"time": found["time"], "weights": found["fingerprint"]}] if slot.split == "test" else []
    row = make_row(plan, slot, found, looks)
    save_text(slot.path(plan), json.dumps(row, separators=(",", ":")))
    if not settings.keep_traces:
        shutil.rmtree(place / "traces", ignore_errors=True)


def _answered(place: Path, identity: Any) -> Any:
    """What was found when these weights were asked in this way; None where they were not, or not to the end."""
    if not (place / "answers.json").is_file() or read_row(place / "identity.json") != identity:
        return None
    return read_row(place / "answers.json")
