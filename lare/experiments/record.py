"""A row of an experiment: what tables and tests need of one trained and asked model, in a few kilobytes."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lare.errors import LareError
from lare.experiments.grid import Primary
from lare.experiments.plan import Plan
from lare.experiments.store import Slot, pack, save_questions
from lare.training.plan.run_file import typed

__all__ = ["declared_at", "finished", "make_row"]

_CIRCUMSTANCES = ("lare", "torch", "transformers", "python", "machine", "commit")


def finished(folder: Path, last: str) -> dict[str, Any]:
    """What a finished run's checkpoints say: samples, updates and seconds up to its last stage, commit and versions.

    Args:
        folder: The run's folder.
        last: The stage whose weights count.
    """
    final = _meta(folder / last / "final" / "meta.json")
    metas = [_meta(path) for path in folder.glob("*/final/meta.json")]
    metas = [one for one in metas if int(one["number"]) <= int(final["number"])]
    return {
        "samples": sum(int(one["samples"]) for one in metas),
        "updates": sum(int(one["step"]) for one in metas),
        "seconds": round(sum(float(one["seconds"]) for one in metas), 1),
        "precision": final["config"]["precision"],
        **{name: final.get(name) for name in _CIRCUMSTANCES},
    }


def _meta(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return found
    except (OSError, ValueError) as error:
        raise LareError(f"{str(path)!r} can't be read ({error}); delete that checkpoint") from None


def declared_at(file: Path, primary: Primary | None) -> str | None:
    """Commit in which the primary contrast got the form that it has now; None where it is not committed.

    Args:
        file: The grid's file.
        primary: Its contrast.
    """
    if primary is None:
        return None
    folder, name = file.resolve().parent, file.name
    found = None
    for commit in (_git(folder, "log", "--format=%H", "--", name) or "").split():
        if _hash_in(_git(folder, "show", f"{commit}:./{name}")) != primary.hash():
            break
        found = commit
    return found


def _hash_in(text: str | None) -> str | None:
    """Hash of the primary contrast that an earlier version of the file declares."""
    try:
        return typed(Primary, yaml.safe_load(text or "")["primary"], "primary.").hash()
    except (yaml.YAMLError, LareError, KeyError, TypeError):
        return None


def _git(folder: Path, *words: str) -> str | None:
    if shutil.which("git") is None:
        return None
    command = ["git", "-C", str(folder), "--no-optional-locks", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def make_row(plan: Plan, slot: Slot, found: Mapping[str, Any], asked: Sequence[Any]) -> dict[str, Any]:
    """The row of a slot; its questions are written beside it.

    Args:
        plan: The grid.
        slot: The slot that the row fills.
        found: Results of asking (``answers.json`` of `lare_eval.asking`).
        asked: When test questions were asked and by which weights, earlier times first.
    """
    run, grid = slot.run, plan.grid
    arm, folder = grid.arms[str(run.arm)], plan.folder(run)
    assert folder is not None
    answers = found["answers"]
    right = {task: np.array(one["score"], bool) for task, one in answers.items()}
    start = None if run.start is None else plan.starts[run.start]
    begun = None if start is None else finished(start.place, start.last)
    done = finished(folder, run.last)
    row = {
        "experiment": grid.name,
        "arm": run.arm,
        "title": arm.title or run.arm,
        "ask": slot.ask,
        "split": slot.split,
        "group": grid.tasks[slot.split],
        "limit": plan.limit,
        "start": run.start,
        "start_hash": plan.start_hash(run),
        "start_settings": None if start is None else start.settings,
        "seed": run.seed,
        "rate": run.rate,
        "tried": list(plan.tried),
        "supervision": arm.supervision,
        "options": dict(arm.asks[slot.ask]),
        "settings": run.settings,
        "key": plan.key(run, plan.start_hash(run)),
        "weights": plan.weights(run),
        "fingerprint": found["fingerprint"],
        **done,
        "start_samples": begun["samples"] if begun else 0,
        "start_updates": begun["updates"] if begun else 0,
        "asking_seconds": found["seconds"],
        "asked": list(asked),
        "primary": None
        if grid.primary is None
        else {"hash": grid.primary.hash(), "commit": declared_at(plan.file, grid.primary)},
        "questions": save_questions(found["questions"], plan.out / "questions"),
        "right": {task: pack(one) for task, one in right.items()},
        "scores": {task: float(one.mean()) for task, one in right.items()},
        "measures": found.get("measures", {}),
        "tokens": _tokens(answers, right),
        "by": _by(found["questions"], right),
        "costs": found["costs"],
    }
    return row


def _tokens(answers: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """By task: mean text tokens and latent steps of all answers, and of those that are right (None without any)."""
    found: dict[str, dict[str, float | None]] = {}
    for task, one in answers.items():
        found[task] = {}
        for name in ("text_tokens", "latent_steps"):
            values = np.array(one[name], float)
            found[task][name] = float(values.mean())
            found[task][f"{name}_right"] = float(values[right[task]].mean()) if right[task].any() else None
    return found


def _by(questions: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Questions and share of right answers by family, by hops and by difficulty, over all tasks."""
    every = np.concatenate([right[task] for task in questions])
    found: dict[str, dict[str, list[float]]] = {}
    for name in ("family", "hops", "difficulty"):
        labels = np.array([str(label) for one in questions.values() for label in one[name]])
        kinds = [label for label in np.unique(labels) if label not in ("", "-1")]
        if kinds:
            counts = {str(kind): every[labels == kind] for kind in kinds}
            found[name] = {kind: [len(one), round(float(one.mean()), 5)] for kind, one in counts.items()}
    return found
