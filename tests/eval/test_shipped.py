"""The shipped checkpoint: small, described, and as good as its card says, on a part of the test questions.

`make demo` measures all of them; here 60 of each task keep the default suite quick, and the printed table can be read
with ``pytest -s``.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from lare import default_checkpoint
from lare.checkpoints import shipped_checkpoints
from lare.cli.loading import resolve_checkpoint
from lare_eval import demo

QUESTIONS = 60


@pytest.fixture(scope="module")
def summary(tmp_path_factory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("demo")
    assert demo.main(["--limit", str(QUESTIONS), "--out", str(out)]) == 0
    (folder,) = out.iterdir()
    print((folder / "summary.txt").read_text())
    return json.loads((folder / "summary.json").read_text())


def accuracies(summary: dict[str, Any], setting: str) -> dict[str, float]:
    return {cell["task"]: cell["accuracy"] for cell in summary["cells"] if cell["setting"] == setting}


def test_it_is_small_and_described():
    folder = default_checkpoint()
    assert (folder / "model.safetensors").stat().st_size <= 25e6
    assert not [file for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pkl", ".py")]
    card = (folder / "README.md").read_text()
    for part in (
        "seed",
        "minutes",
        "## Run file",
        "lare train lare/configs/embedded.yaml",
        "## Test results",
        "lare_mini_mmbench",
    ):
        assert part in card


def test_shipped_checkpoints_have_names(tmp_path, monkeypatch):
    assert shipped_checkpoints()["embedded"] == default_checkpoint()
    monkeypatch.chdir(tmp_path)
    for name, folder in shipped_checkpoints().items():
        assert resolve_checkpoint(name) == str(folder)
        assert (folder / "model.safetensors").stat().st_size <= 25e6 and (folder / "README.md").is_file()
    (tmp_path / "embedded").mkdir()  # one's own folder of that name comes first
    (tmp_path / "embedded" / "config.json").write_text("{}")
    assert resolve_checkpoint("embedded") == "embedded"


def test_it_answers_most_questions(summary):
    thinking = accuracies(summary, "K=4")
    assert thinking["all"] >= 0.65
    for task, blind in accuracies(summary, "majority").items():
        assert thinking[task] >= blind + 0.15, task


def test_latent_steps_and_their_text_beat_an_answer_at_once(summary):
    (gap,) = (gap for gap in summary["margins"] if gap["task"] == "all" and gap["right"] == "K=0")
    assert gap["n"] == 5 * QUESTIONS and gap["low"] > 0


def test_the_all_text_control_is_reported(summary):
    (gap,) = (gap for gap in summary["margins"] if gap["task"] == "all" and gap["right"] == "text")
    assert gap["low"] <= gap["difference"] <= gap["high"]
