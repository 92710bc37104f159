"""A finished run becomes a folder that ships, with every figure in its card; an unfinished one changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator

from lare.errors import LareError
from lare.model import LareForConditionalGeneration, LareProcessor
from lare.training.parts import HISTORY, PARTS
from lare.training.ship import main, ship
from lare.training.trainer import Plan, Trainer
from tests.training.plain import processor, run_config, tiny_model, tiny_plan

DENSE = {"kind": 0.91, "colour": 0.92, "size": 0.93, "direction": 0.94, "label": 0.95}
LAST = {
    "encoder": {"images": 640, "minutes": 1.5, **DENSE},
    "image_tokenizer": {"images": 320, "minutes": 2.5, "psnr": 17.3},
}
FIGURES = ("kind 91.0 %", "17.3 dB", "| I | 32 |", "| 12.5 |", "| colour | 25 |", "61.7%", "Because.", "samples: 32")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ship") / "run"
    config = run_config(out)
    config = replace(config, stages=(replace(config.stages[0], samples=32),), validate_every=1)
    model = tiny_model().float()
    plan = Plan(tiny_plan(model).batches, validate=lambda stage: {"all": 12.5, "family/colour": 25.0})
    assert Trainer(config, model, processor(), plan, Accelerator(cpu=True)).run() == 0
    (out / "run.yaml").write_text(yaml.safe_dump(config.to_dict()))
    for part, entry in LAST.items():
        (out / part).mkdir()
        (out / part / "history.jsonl").write_text(json.dumps({"minutes": 0}) + "\n" + json.dumps(entry) + "\n")
    return out


def test_a_run_ships_with_its_figures(run: Path, tmp_path: Path) -> None:
    results, note = tmp_path / "results.txt", tmp_path / "note.md"
    results.write_text("lare_mini_pope 61.7%\n")
    note.write_text("## Why\nBecause.\n")
    out = tmp_path / "shipped"
    assert main([str(run), "--out", str(out), "--results", str(results), "--note", str(note)]) == 0
    shipped = LareForConditionalGeneration.from_pretrained(out).state_dict()
    trained = LareForConditionalGeneration.from_pretrained(run / "I" / "final").state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in shipped.items())
    assert LareProcessor.from_pretrained(out).lm_grid == 4
    assert json.loads((out / HISTORY).read_text()) == LAST
    card = (out / "README.md").read_text()
    for figure in FIGURES:
        assert figure in card, figure


@pytest.mark.parametrize("missing", [f"{part}/history.jsonl" for part in PARTS] + ["I/final/meta.json", "I/log.jsonl"])
def test_a_run_that_lacks_something_leaves_the_older_checkpoint(run: Path, tmp_path: Path, missing: str) -> None:
    out, aside = tmp_path / "shipped", tmp_path / "aside"
    out.mkdir()
    (out / "model.safetensors").write_text("older")
    (run / missing).rename(aside)
    try:
        with pytest.raises(LareError, match=r"not finished|is missing"):
            ship(run, out)
    finally:
        aside.rename(run / missing)
    assert [(file.name, file.read_text()) for file in out.iterdir()] == [("model.safetensors", "older")]
