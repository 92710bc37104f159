"""``lare train`` on a data file from a checkpoint: packing, cached features, stages, and what is left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import lare
from lare.cli import main
from lare.embedded.world.benchmark import render_image
from lare.embedded.world.scene import sample_scene


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    rows = []
    for number in range(12):
        render_image(sample_scene("train", number)).save(tmp_path / f"{number}.png")
        reply = f"<think>One sees {number} things.</think> <answer>{number}</answer>"
        turns = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": reply}]
        rows.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    (tmp_path / "r1.json").write_text(json.dumps([*rows, "malformed"]))
    data = [{"format": "vision_r1", "path": str(tmp_path / "r1.json")}]
    stage = {"batch": 4, "samples": 8, "data": data}
    content = {
        "out": str(tmp_path / "run"),
        "model": {"checkpoint": str(lare.default_checkpoint())},
        "losses": {"image": 0.0},
        "tensorboard": False,
        "cache_features": True,
        "stages": [{"stage": "II", **stage}, {"stage": "III", "micro_batch": 2, **stage}, {"stage": "IV", **stage}],
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_run_on_a_data_file(run_file: Path, capsys) -> None:
    assert main(["train", str(run_file)]) == 0
    out = run_file.parent / "run"
    assert capsys.readouterr().out.strip().endswith(str(out / "IV" / "final"))
    (packed,) = (out / "data").glob("*")
    report = json.loads((packed / "report.json").read_text())
    assert report["samples"] == 12 and report["left_out"] == {"not_object": 1}
    assert len(list(packed.glob("features_*.npy"))) == 1
    for stage in ("II", "III", "IV"):
        last = json.loads((out / stage / "log.jsonl").read_text().splitlines()[-1])
        assert last["step"] == 2 and last["negatives"] == 3
        assert {"lm", "alignment", "text", "total"} == last["losses"].keys()
    model = lare.LareForConditionalGeneration.from_pretrained(out / "IV" / "final")
    assert model.config.lm_grid == lare.LareProcessor.from_pretrained(out / "IV" / "final").lm_grid
    # The same command again has nothing to do.
    assert main(["train", str(run_file)]) == 0


def test_an_image_that_cannot_be_read_does_not_end_a_run(run_file: Path, capsys) -> None:
    """One is missing from the start, one is damaged inside."""
    folder = run_file.parent
    (folder / "3.png").unlink()
    (folder / "7.png").write_bytes((folder / "7.png").read_bytes()[:500])
    words = ["train", str(run_file), "cache_features=false", "log_every=1"]
    assert main([*words, *(f"stages.{stage}.samples=24" for stage in range(3))]) == 0
    printed = capsys.readouterr()
    out = folder / "run"
    (packed,) = (out / "data").glob("*")
    assert json.loads((packed / "report.json").read_text())["left_out"] == {"image_missing": 1, "not_object": 1}
    assert "left out: 1 image_missing" in printed.err
    total = 0
    for stage in ("II", "III", "IV"):
        listed = [json.loads(line) for line in (out / stage / "replaced.jsonl").read_text().splitlines()]
        total += len(listed)
        assert {one["where"] for one in listed} == {"r1.json:8"} and f"stage {stage}: " in printed.err
        last = json.loads((out / stage / "log.jsonl").read_text().splitlines()[-1])
        assert last["step"] == 6 and last["replaced"] == len(listed)
    assert total >= 3 and "r1.json:8: the image '7.png': the given bytes is damaged" in printed.err


def test_strict_data_end_a_run(run_file: Path, capsys) -> None:
    (run_file.parent / "3.png").unlink()
    assert main(["train", str(run_file), *(f"stages.{stage}.data.0.on_bad=refuse" for stage in range(3))]) == 2
    assert "no image '3.png'" in capsys.readouterr().err


def test_a_missing_data_file_is_one_line(run_file: Path, capsys) -> None:
    words = ["train", str(run_file), "stages.0.data.0.path=missing.json"]
    assert main(words) == 2
    assert "missing.json" in capsys.readouterr().err
