"""A finished run becomes a folder that ships, with every figure in its card; an unfinished one changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator

from lare.embedded.card_answers import family_section, read_evaluation
from lare.embedded.parts import HISTORY, PARTS
from lare.embedded.ship import build_processor, main, renew_card, ship
from lare.embedded.world.benchmark import make_task, stand_in
from lare.embedded.world.blind import blind_answers, blind_view
from lare.errors import LareError
from lare.loading import fingerprint
from lare.model import LareForConditionalGeneration, LareProcessor
from lare.model.stop_head import StopHead, StopHeads, inputs_of
from lare.trace import AnswerRecord, TraceWriter
from lare.training.trainer import Plan, Trainer
from tests.training.plain import processor, run_config, tiny_model, tiny_plan

DENSE = {"kind": 0.91, "colour": 0.92, "size": 0.93, "direction": 0.94, "label": 0.95}
LAST = {
    "encoder": {"images": 640, "minutes": 1.5, **DENSE},
    "image_tokenizer": {"images": 320, "minutes": 2.5, "psnr": 17.3},
}
FIGURES = (
    "kind 91.0 %",
    "17.3 dB",
    "| I | 32 |",
    "| 12.5 |",
    "Because.",
    "samples: 32",
    "## Validation results\n30 validation questions.",
    "lare_mini_val_pope 61.7%",
    "| exist | 30 | 57 [",
    "- A residual connection around the Extractor's feed-forward network.",
)


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


def evaluated(folder: Path, weights: str, right: Sequence[float], task: str = "lare_mini_val_pope") -> Path:
    """A folder as `lare_eval.demo` leaves it, with these scores."""
    name, split, version = stand_in(task) or ("", "", 1)
    rows = make_task(name, split, n=len(right), images=False, version=version)
    with TraceWriter(folder / "traces" / "K2") as writer:
        for number, row in reversed(list(enumerate(rows))):
            facts = {"scene": row["scene"], "sort": row["sort"]}
            writer.append(
                AnswerRecord(
                    "lare", weights, task, number, "?", "", "yes", 9, 1, 2, "fixed", meta=facts, key=str(number)
                )
            )
    (folder / "scores").mkdir()
    (folder / "scores" / "K2.json").write_text(json.dumps({task: dict(enumerate(right))}))
    (folder / "summary.txt").write_text(f"{task} 61.7%\n")
    content = {"checkpoint": weights, "time": "2026-11-28T12:00:00Z", "cells": [{"setting": "K=2"}]}
    (folder / "summary.json").write_text(json.dumps(content))
    return folder


def weights_of(run: Path) -> str:
    model = LareForConditionalGeneration.from_pretrained(run / "I" / "final")
    return fingerprint(model, build_processor(model.config.image_size, model.config.lm_grid))


RIGHT = [1.0] * 17 + [0.0] * 13


def test_a_run_ships_with_its_figures(run: Path, tmp_path: Path) -> None:
    results, note = evaluated(tmp_path / "results", weights_of(run), RIGHT), tmp_path / "note.md"
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


def test_results_of_other_weights_leave_the_older_card(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "shipped"
    ship(run, out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    foreign = evaluated(tmp_path / "foreign", "0123456789abcdef", RIGHT)
    for work in (lambda: ship(run, out, [foreign]), lambda: renew_card(out, [foreign])):
        with pytest.raises(LareError, match="validation evaluation is of other weights"):
            work()
    own = evaluated(tmp_path / "own", weights_of(run), RIGHT)
    with pytest.raises(LareError, match="two evaluations of one split"):
        renew_card(out, [own, own])
    with pytest.raises(LareError, match="is no finished evaluation"):
        renew_card(out, [tmp_path])
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_a_card_is_made_anew_and_nothing_else(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "shipped"
    ship(run, out, note="## Why\nBecause.")
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    results = [evaluated(tmp_path / "val", weights_of(run), RIGHT)]
    results.append(evaluated(tmp_path / "test", weights_of(run), [1.0] * 12, "lare_mini_pope"))
    assert main(["--card", str(out), "--results", *map(str, results)]) == 0
    card = (out / "README.md").read_text()
    assert "| exist | 30 | 57 [" in card and "| 12 | 100 [76, 100]" in card and card.count("## Answers by") == 1
    assert card.index("## Validation results") > card.index("## Answers by question family")
    assert "## Why\nBecause." in card and "| I | 32 |" in card
    figures = tmp_path / "families.json"
    assert main(["--card", str(out), "--results", *map(str, results), "--figures", str(figures)]) == 0
    assert (out / "README.md").read_text() == card  # once more changes nothing
    found = json.loads(figures.read_text())
    assert found["validation"]["families"]["exist"]["right"] == pytest.approx(17 / 30)
    assert found["test"]["families"]["all"]["n"] == 12
    after = {file.name: file.read_bytes() for file in out.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"README.md"}
    with pytest.raises(SystemExit):
        main(["--out", str(out)])


def test_stop_heads_beside_the_weights_have_a_section(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "shipped"
    ship(run, out)
    results = evaluated(tmp_path / "val", weights_of(run), RIGHT)
    assert main(["--card", str(out), "--results", str(results)]) == 0
    before = (out / "README.md").read_text()
    hidden = LareForConditionalGeneration.from_pretrained(out).config.text_config.hidden_size
    head = StopHead("ponder", inputs_of("ponder", hidden), 3, threshold=0.75)
    reached = {"threshold": 0.75, "steps": 1.5, "passes": 1.5, "accuracy": 0.5, "loss": 0.01, "bound": 0.02}
    facts = {"questions": 70, "validation": 80, "accuracy": [0.4, 0.5, 0.51], "best_fixed": 3}
    facts["heads"] = {"ponder": {**reached, "calibration_error": None}}
    StopHeads({"ponder": head}, "ponder", 3, facts).save(out)
    assert main(["--card", str(out)]) == 0
    card = (out / "README.md").read_text()
    body = card.split("## Learned stop rules\n")[1].split("\n## ")[0]
    assert "--limit 70 --validation 80 --steps 3" in body and "ponder *       0.750    1.50" in body
    assert card.replace(f"## Learned stop rules\n{body}\n", "") == before  # what it says of answers stays


def test_families_are_counted_and_those_not_above_the_guess_named(tmp_path: Path) -> None:
    task = "lare_mini_val_mmvp"
    rows = make_task("mmvp", "validation", n=120, images=False)
    right = [float(row["sort"] != "colour") for row in rows]
    found = read_evaluation(evaluated(tmp_path / "e", "x", right, task))
    assert found.split == "validation" and len(found.total.right) == 120
    guesses = blind_answers("mmvp", rows)
    for name, family in found.families.items():
        own = [n for n, row in enumerate(rows) if row["sort"] == name]
        assert sorted(family.right) == sorted(right[n] for n in own) and set(family.chance) == {0.5}
        assert sum(family.guessed) == sum(guesses[n] == blind_view("mmvp", rows[n]).index for n in own)
    table = family_section([found]).splitlines()
    assert {len(line.split("|")) for line in table if line.startswith("|")} == {8}
    assert table[-1].endswith("validation: colour.")  # nobody guesses a pair, so every other family is above


def test_a_run_that_began_with_another_ships_with_both(run: Path, tmp_path: Path) -> None:
    out, later = tmp_path / "shipped", tmp_path / "later"
    shutil.copytree(run / "I", later / "I")
    log = later / "I" / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    last = {name: value for name, value in rows[-1].items() if name != "validation"} | {"samples": 77}
    log.write_text("".join(json.dumps(one) + "\n" for one in [{**last, "samples": 76}, last]))
    config = yaml.safe_load((run / "run.yaml").read_text())
    (later / "run.yaml").write_text(yaml.safe_dump(config | {"start": str(run / "I"), "seed": 5, "validate_every": 0}))
    assert main([str(later), "--out", str(out), "--command", "lare experiments run GRID --arms one"]) == 0
    card = (out / "README.md").read_text()
    assert "`lare experiments run GRID --arms one`, seed 0 and 5" in card
    assert "| I | 32 |" in card and "| I | 77 |" in card and "| I | 76 |" not in card
    assert json.loads((out / HISTORY).read_text()) == LAST  # encoder and image tokenizer are those of the first run
    before = card
    (run / "run.yaml").rename(tmp_path / "aside")
    try:
        with pytest.raises(LareError, match=r"run\.yaml"):
            ship(later, out)
    finally:
        (tmp_path / "aside").rename(run / "run.yaml")
    assert (out / "README.md").read_text() == before


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
