"""A tiny grid in earnest: real trainings of a few updates, real answers; killed in the middle and resumed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lare.cli import main as lare
from lare.experiments.gather import gather
from lare.experiments.plan import Plan
from lare.experiments.store import read_questions, unpack
from tests.experiments.grids import World


@pytest.mark.slow
def test_a_real_grid_is_killed_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    base = yaml.safe_load((tmp_path / "base.yaml").read_text())
    base["stages"][0]["samples"] = 80
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base | {"save_every": 1}))
    arms = {
        "lare": {"title": "LaRe", "asks": {"K2": {"method": "lare", "iterations": 2}}},
        "text": {"title": "Text", "change": ["stages.0.window=random"], "asks": {"now": {"method": "llava"}}},
    }
    world.write(arms=arms, primary={"arm": "lare", "minus": "text", "split": "validation"})
    words = world.words("run", "--limit", "2")
    process = subprocess.Popen([sys.executable, "-m", "lare", *words])
    start = tmp_path / "runs/experiments/tiny/starts/0"
    _wait(lambda: any(start.glob("IV/step-*/meta.json")))
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 143
    assert not (start / "IV/final").exists() and any(start.glob("IV/step-*/meta.json"))

    log = start.with_name("0.train.log")
    before = log.read_text()
    assert subprocess.run([sys.executable, "-m", "lare", *words]).returncode == 0
    assert log.read_text().startswith(before)
    plan = Plan(world.file, tmp_path / "runs", tmp_path / "reports", 2)
    rows = {path.name: json.loads(path.read_text()) for path in (plan.out / "rows").iterdir()}
    assert len(rows) == 4
    for row in rows.values():
        questions = read_questions(plan.out / "questions", row["questions"])
        for task, score in row["scores"].items():
            assert unpack(row["right"][task], int((questions.task == task).sum())).mean() == score
        assert (row["samples"], row["updates"], row["start_samples"]) == (80, 20, 80)
        assert row["costs"]["latent_steps"] == (2 if row["arm"] == "lare" else 0)
    assert len({row["start_hash"] for row in rows.values()}) == len({row["weights"] for row in rows.values()}) / 2 == 2
    entries = {one.name: one for one in gather(plan, "validation")}
    assert entries["lare"].asked.values.shape == (2, 10)
    logs = {line["step"] for line in map(json.loads, (start / "IV/log.jsonl").read_text().splitlines())}
    assert max(logs) == 20

    # Nothing is left; a planted change is seen, and asks for one arm on both starts.
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("meta.json")}
    assert lare(words) == 0
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    arms["text"]["change"] = ["stages.0.window=full"]
    world.write(arms=arms, primary=None)
    capsys.readouterr()
    assert lare(world.words("status", "--limit", "2")) == 0
    out = capsys.readouterr().out
    assert "2 of 2 done" in out and "0 of 2 done" in out and "missing: 0 starts, 2 arms, 2 rows" in out


def _wait(there: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not there() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert there()
