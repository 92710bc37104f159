"""A grid of four runs whose training and asking are replaced by programs of a few milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from lare import default_checkpoint
from lare.experiments.plan import Plan

TRAIN = """
import hashlib, json, pathlib, sys, time
import yaml
out = pathlib.Path(sys.argv[1])
run = yaml.safe_load((out / "run.yaml").read_text())
calls = pathlib.Path(sys.argv[2])
with calls.open("a") as file:
    file.write(json.dumps({"train": str(out), "seed": run["seed"], "start": run["start"]}) + chr(10))
if (calls.parent / "fail").exists() and (calls.parent / "fail").read_text() in str(out):
    sys.exit("broken")
if (calls.parent / "slow").exists():
    time.sleep(60)
for number, stage in enumerate(run["stages"]):
    final = out / stage["name"] / "final"
    final.mkdir(parents=True)
    (out / stage["name"] / "step-00000001").mkdir()
    begin = (pathlib.Path(run["start"]) / "final/model.safetensors").read_text() if run["start"] else ""
    text = json.dumps([run["seed"], run["stages"], run["losses"], run["optimiser"], begin], sort_keys=True)
    (final / "model.safetensors").write_text(text)
    (final / "heads.safetensors").write_text("")
    meta = {"number": number, "samples": stage["samples"], "step": 2, "seconds": 60.0, "config": run, "commit": "c"}
    (final / "meta.json").write_text(json.dumps(meta))
"""

ASK = """
import json, pathlib, random, sys
request = json.loads(pathlib.Path(sys.argv[1]).read_text())
calls = pathlib.Path(sys.argv[2])
with calls.open("a") as file:
    file.write(json.dumps({"ask": request["out"]}) + chr(10))
weights = (pathlib.Path(request["checkpoint"]) / "model.safetensors").read_text()
rate = json.loads(weights)[3]["matrix_rate"]
rng = random.Random(weights + json.dumps(request["options"], sort_keys=True) + request["group"])
questions, answers = {}, {}
for name in ("mmbench", "pope"):
    task, n = f"{request['group']}_{name}", min(40, request["limit"] or 40)
    questions[task] = {"doc": list(range(n)), "scene": [f"s/{i // 2}" for i in range(n)],
        "family": ["exist" if name == "pope" else "gaze2"] * n, "hops": [1 + i % 3 for i in range(n)],
        "difficulty": [""] * n}
    good = 0.9 if abs(rate - 0.006) < 1e-6 else 0.6
    answers[task] = {"score": [float(rng.random() < good) for _ in range(n)], "text_tokens": [7] * n,
        "latent_steps": [4] * n}
out = pathlib.Path(request["out"])
(out / "traces").mkdir()
(out / "answers.json").write_text(json.dumps({"questions": questions, "answers": answers, "costs": {"text_tokens": 7.0},
    "measures": {task: {"f1": 0.5} for task in answers},
    "fingerprint": "f" + str(len(weights)), "time": "2026-01-01T00:00:00Z", "seconds": 6.0}))
"""


def content(**changes: Any) -> dict[str, Any]:
    """A grid of two starts and two arms, one of them asked in two ways."""
    return {
        "title": "A tiny grid",
        "base": "base.yaml",
        "starts": [{"seed": 0, "base": "base.yaml"}, {"seed": 1, "base": "base.yaml"}],
        "arms": {
            "lare": {"title": "LaRe", "asks": {"K4": {"method": "lare", "iterations": 4}, "K0": {"method": "lare"}}},
            "random": {
                "title": "random windows",
                "change": ["stages.0.window=random"],
                "supervision": "boxes",
                "asks": {"K4": {"method": "lare", "window_mode": "random"}},
            },
        },
        "primary": {"arm": "lare", "minus": "random", "exclude_families": ["exist"]},
    } | changes


class World:
    """A folder with a grid, and what was started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "tiny.yaml"
        data = [{"format": "world", "per_image": 4, "limit": 3, "families": {"what_at": 1.0}}]
        stage = {"stage": "IV", "samples": 8, "batch": 4, "data": data, "replaced": 0}
        base = {"model": {"checkpoint": str(default_checkpoint())}, "stages": [stage], "tensorboard": False}
        base |= {"precision": "auto", "losses": {"alignment": 0, "image": 0, "text": 0, "shared_dim": 8}}
        (folder / "base.yaml").write_text(yaml.safe_dump(base))
        (folder / "train.py").write_text(TRAIN)
        (folder / "ask.py").write_text(ASK)
        self.calls = folder / "calls.jsonl"
        self.write()

    def write(self, **changes: Any) -> None:
        self.file.write_text(yaml.safe_dump(content(**changes), sort_keys=False))

    def words(self, command: str, *more: str) -> list[str]:
        places = ["--runs", str(self.folder / "runs"), "--reports", str(self.folder / "reports")]
        return ["experiments", command, str(self.file), *places, *more]

    @property
    def plan(self) -> Plan:
        return Plan(self.file, self.folder / "runs", self.folder / "reports")

    def said(self) -> list[dict[str, Any]]:
        """What was started since the last time."""
        lines = self.calls.read_text().splitlines() if self.calls.is_file() else []
        self.calls.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def trained(self) -> list[str]:
        """Names of the folders that were trained since the last time."""
        return [Path(one["train"]).name.partition("-")[0] for one in self.said() if "train" in one]

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        found = sorted((self.folder / "reports" / "tiny" / "rows").glob("*.json"))
        return {path.name: json.loads(path.read_text()) for path in found}


FAKE = """
import sys
from lare.experiments import work
from lare.cli import main

f, p = {folder!r}, [sys.executable]
work.train_command = lambda folder, launcher="": [*p, f + "/train.py", str(folder), f + "/calls.jsonl"]
work.ask_command = lambda request: [*p, f + "/ask.py", str(request), f + "/calls.jsonl"]
sys.exit(main(sys.argv[1:]))
"""
"""The whole command, whose training and asking are World's scripts."""
