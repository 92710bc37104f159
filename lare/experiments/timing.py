"""Milliseconds an answer of a grid's arms, by `lare_eval.clock` in a process of its own; kept in ``times.json``."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lare.errors import LareError
from lare.experiments.order import Choice, chosen_rate
from lare.experiments.plan import Plan
from lare.experiments.store import read_row
from lare.files import save_text

__all__ = ["time_arms"]

QUESTIONS, ROUNDS = 64, 7


def time_arms(plan: Plan, choice: Choice, questions: int = QUESTIONS, rounds: int = ROUNDS) -> dict[str, Any]:
    """Time the first trained run of every wanted arm, in every wanted way of asking.

    Args:
        plan: The grid.
        choice: The part of it that is wanted.
        questions: Questions of the validation group.
        rounds: Rounds in which the arms take turns.

    Returns:
        What was found: by ``arm`` or ``arm/ask``, ``batch1`` and ``batch16``, with machine, time and weights. It is
        written to ``times.json`` beside the rows; earlier entries of other arms stay.

    Raises:
        LareError: If nothing is trained, or timing fails.
    """
    rows = []
    for arm in choice.of(plan):
        runs = plan.arm_runs(arm, chosen_rate(plan, arm) or 1.0)
        run = next((one for one in runs if choice.takes(one) and plan.weights(one)), None)
        folder = None if run is None else plan.folder(run)
        if run is None or folder is None:
            continue
        for ask in choice.asked(plan, arm):
            options = dict(plan.grid.arms[arm].asks[ask])
            name = arm if ask == plan.grid.arms[arm].own else f"{arm}/{ask}"
            method, checkpoint = options.pop("method"), str(folder / run.last / "final")
            rows.append({"name": name, "method": method, "options": options, "checkpoint": checkpoint})
    if not rows:
        raise LareError("no wanted arm is trained here; run some first")
    found = _clock({"rows": rows, "group": plan.grid.tasks["validation"], "questions": questions, "rounds": rounds})
    about = {"machine": platform.machine(), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    new = {name: {**values, **about} for name, values in found.items()}
    save_text(plan.out / "times.json", json.dumps({**(read_row(plan.out / "times.json") or {}), **new}, indent=1))
    return new


def _clock(request: dict[str, Any]) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        out, path = Path(folder) / "times.json", Path(folder) / "request.json"
        path.write_text(json.dumps({**request, "out": str(out)}), "utf-8")
        done = subprocess.run([sys.executable, "-m", "lare_eval.clock", str(path)], check=False)
        if done.returncode or not out.is_file():
            raise LareError(f"timing ended with {done.returncode}; its message stands above")
        found: dict[str, Any] = json.loads(out.read_text("utf-8"))
        return found
