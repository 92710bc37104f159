"""Curves of a run: every logged line, the stages in order, and held-out figures of each stage's weights."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lare import default_checkpoint
from lare.cli import main as lare
from lare.errors import LareError
from lare.experiments.curves import WIDTH, draw_curves, main, read_curves, smoothed


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two stages on the shipped checkpoint, three and two updates."""
    folder = tmp_path_factory.mktemp("curves")
    data = [{"format": "world", "per_image": 4, "limit": 3, "families": {"what_at": 1.0}}]
    stages = [{"stage": name, "samples": count, "batch": 4, "data": data} for name, count in (("III", 12), ("IV", 8))]
    stages[1] |= {"learning_rate": 3e-2, "losses": {"alignment": 0.0}}
    config = {"model": {"checkpoint": str(default_checkpoint())}, "stages": stages, "out": str(folder / "run")}
    config |= {"tensorboard": False, "log_every": 1, "losses": {"image": 0, "shared_dim": 8}}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lare.embedded.batches.VARIANTS", 1)  # making all drawings takes seconds
        assert lare(["train", str(folder / "run.yaml")]) == 0
    return folder / "run"


def test_every_line_of_the_log_is_kept(finished: Path) -> None:
    rows = read_curves(finished, ["III", "IV"])
    assert [(row["stage"], row["update"]) for row in rows] == [
        ("III", 1), ("III", 2), ("III", 3), ("IV", 4), ("IV", 5),
    ]  # fmt: skip
    line = json.loads((finished / "IV" / "log.jsonl").read_text().splitlines()[1])
    assert rows[-1]["losses/lm"] == line["losses"]["lm"] and rows[-1]["samples"] == 8
    assert "losses/alignment" in rows[0] and "losses/alignment" not in rows[-1]
    with pytest.raises(LareError, match="name the folder of a run"):
        read_curves(finished, ["II"])


def test_files_and_held_out_figures(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(finished), "--out", str(tmp_path), "--questions", "8"]) == 0
    assert "written" in capsys.readouterr().out
    content = json.loads((tmp_path / "curves.json").read_text())
    after = content["held_out"]["after"]
    assert list(after) == ["start", "III", "IV"] and content["held_out"]["questions"] == 8
    # A rate of 0.03 wrecks the weights: stage IV's are other weights than stage III's, and worse.
    assert after["IV"]["losses"]["lm"] != pytest.approx(after["III"]["losses"]["lm"], rel=1e-3)
    assert after["III"]["losses"]["lm"] != pytest.approx(after["start"]["losses"]["lm"], rel=1e-6)
    assert content["finished"] is True
    assert content["stages"]["III"]["updates"] == 3 and content["run"]["out"] == "run"
    first = read_curves(finished, ["III"])
    mean = np.mean([row["losses/lm"] for row in first])
    assert content["stages"]["III"]["losses"]["lm"] == [pytest.approx(mean)] * 2
    with open(tmp_path / "curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 and rows[4]["losses/alignment"] == ""
    assert float(rows[0]["losses/total"]) == pytest.approx(first[0]["losses/total"], rel=1e-5)
    # Without --questions the figures stay, and the drawing is the same to the byte.
    drawn = (tmp_path / "curves.svg").read_bytes()
    assert main([str(finished), "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "curves.json").read_text()) == content
    assert (tmp_path / "curves.svg").read_bytes() == drawn


def test_a_run_that_is_not_finished(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(finished, tmp_path / "run")
    out = str(tmp_path / "out")
    shutil.rmtree(tmp_path / "run" / "IV" / "final")
    assert main([str(tmp_path / "run"), "--out", out]) == 0
    content = json.loads((tmp_path / "out" / "curves.json").read_text())
    assert content["finished"] is False and list(content["stages"]) == ["III", "IV"]
    shutil.rmtree(tmp_path / "run" / "III" / "final")
    capsys.readouterr()
    assert main([str(tmp_path / "run"), "--out", out]) == 2
    assert "no finished stage yet" in capsys.readouterr().err


def test_the_drawing_has_a_panel_a_loss_and_a_name_a_stage(finished: Path) -> None:
    rows = read_curves(finished, ["III", "IV"])
    held = {"after": {"start": {"losses": {"lm": 5.0}}, "IV": {"losses": {"lm": 2.0}}}}
    texts = [one.text for one in ElementTree.fromstring(draw_curves(rows, held)).iter() if one.tag.endswith("text")]
    assert {"L_lm", "L_align", "L_text", "III", "IV", "update", "held out"} <= set(texts)
    assert "L_image" not in texts
    assert "held out" not in draw_curves(rows)


@given(values=st.lists(st.floats(-9, 9), min_size=1, max_size=40))
def test_smoothing_keeps_length_and_bounds(values: list[float]) -> None:
    found = smoothed(np.array(values))
    assert len(found) == len(values)
    assert found.min() >= min(values) - 1e-9 and found.max() <= max(values) + 1e-9
    half = WIDTH // 2
    for at in range(half, len(values) - half):
        assert found[at] == pytest.approx(np.mean(values[at - half : at + half + 1]), abs=1e-9)


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing"), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "can't be read" in error and error.count("\n") == 1
