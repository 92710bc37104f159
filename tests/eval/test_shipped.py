"""The shipped checkpoint: small, described, and as good as its card says, on a part of the test questions.

`make demo` measures all of them in every setting; here 48 of each task in the settings that are judged below keep the
default suite quick, and the printed table can be read with ``pytest -s``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lare import default_checkpoint
from lare.checkpoints import shipped_checkpoints
from lare.embedded.card import _sections, beyond
from lare.embedded.world import benchmark
from lare.loading import resolve_checkpoint
from lare.methods import load_method
from lare.training.plan.run_file import run_config_from
from lare_eval import demo, mini
from lare_eval.settings import names

QUESTIONS = 48
JUDGED = ("K=4", "K=0", "text")
"""The settings asked: what the tests below read. test_workers.py answers in all settings of this checkpoint, and
test_demo.py makes whole passes, all but ``fine``, with a tiny one."""


@pytest.fixture(scope="module")
def summary(tmp_path_factory) -> dict[str, Any]:
    out, whole = tmp_path_factory.mktemp("demo"), benchmark.make_task

    def first_rows(name: str, split: str = "test", n: int | None = None, **more: Any) -> list[dict[str, Any]]:
        return whole(name, split, QUESTIONS if n is None else n, **more)

    with pytest.MonkeyPatch.context() as patch:  # a task's first rows are the same however many are made
        patch.setattr(benchmark, "make_task", first_rows)
        patch.setattr(demo, "names", lambda config, against: [one for one in names(config, against) if one in JUDGED])
        mini.mini_rows.cache_clear()
        assert demo.main(["--limit", str(QUESTIONS), "--out", str(out)]) == 0
    mini.mini_rows.cache_clear()
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
        "## Validation results",
        "## Test results",
        "lare_mini_mmbench",
        "lare_mini_val_mmbench",
        "chosen on the test questions",
    ):
        assert part in card


def test_its_card_says_what_is_beyond_the_paper_and_answers_by_family():
    """The computed sections are those that this version writes, and the words agree with the numbers."""
    folder = default_checkpoint()
    sections = dict(_sections((folder / "README.md").read_text()))
    config = run_config_from(yaml.safe_load(sections["Run file"].strip("`\n").removeprefix("yaml\n")))
    assert beyond(config) in sections["Beyond the paper"]
    for part in ("labels", "regressed", "`losses.look`", "`fetch`", "Muon", "mimetic", "FP16", "normalised"):
        assert part in beyond(config), part
    answers = sections["Answers by question family"]
    rows = [line.split("|") for line in answers.splitlines() if line.startswith("| ")]
    assert len(rows) == 24 and all(len(row) == len(rows[0]) for row in rows)
    figures = json.loads((Path(__file__).parents[2] / "reports" / "demo" / "families.json").read_text())
    for split, found in figures.items():
        assert found["weights"] == load_method("lare", None, "cpu").fingerprint(), split
        assert f"| {found['families']['count']['n']} | {100 * found['families']['count']['right']:.0f} [" in answers
    weak = answers.rpartition("the words (95 %): ")[2]
    assert weak == "validation: further, more; test: further, more."
    assert "is not surely above the guess" in sections["What did not learn on the way to the first checkpoint"]


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
