"""Sizes of a stage that answers in several ways: their rows are the trainer's, and their work is what torch counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lare.cli import main as lare
from lare.cost.flops import Row
from lare.cost.sizes import Lengths, assumed_lengths, run_report, stage_row, stage_rows
from lare.cost.skeleton import skeleton
from lare.embedded.batches import WorldBatches
from lare.embedded.ship import build_processor
from lare.model import LareForConditionalGeneration
from lare.training.feeding.loader import Mode, Split, stage_mode
from lare.training.plan.run_file import run_config_from
from lare.training.plan.stages import STAGES
from tests.cost.test_sizes import counted_and_told, tiny

LATENTS = Row(prompt=13, target=9, iterations=3, prefix=5, rationale=8)
FETCHED = Row(prompt=13, target=9, iterations=3, fetch=True)
WORDS = ("projector", "language_model")


@pytest.mark.parametrize(
    ("row", "parts", "changes"),
    [
        (FETCHED, WORDS, {}),
        (replace(FETCHED, look=True), WORDS, {"shared_projector": True}),
        (replace(FETCHED, look=True), STAGES["III"].parts, {}),
        (replace(LATENTS, look=True), STAGES["III"].parts, {}),
        (replace(LATENTS, look=True), STAGES["III"].parts, {"latents_per_iteration": 2}),
        (replace(LATENTS, look=True), (*STAGES["II"].parts, "projector"), {"shared_projector": True}),
        (Row(prompt=25, target=9, lm_grid=4), STAGES["III"].parts, {}),
        (Row(prompt=25, target=9, lm_grid=4), WORDS, {"shared_projector": True}),
        (Row(prompt=24, target=4, lm_grid=4, delimiters=False), STAGES["III"].parts, {}),
        (replace(LATENTS, prompt=25, lm_grid=4), STAGES["III"].parts, {}),
    ],
    ids=str,
)
def test_flops_of_other_ways_of_answering(row: Row, parts: tuple[str, ...], changes: dict[str, Any]) -> None:
    """Fetched tokens, the whole grid in the prompt, and the loss on looks."""
    model = tiny("llama", refocus_source="fine", lm_grid=2, **changes)
    forward, total, counted, both = counted_and_told(model, row, parts)
    assert counted == pytest.approx(forward, rel=2e-3)
    assert both == pytest.approx(total, rel=0.01)


@pytest.mark.parametrize(
    ("row", "changes"),
    [(LATENTS, {}), (LATENTS, {"latents_per_iteration": 2}), (FETCHED, {})],
    ids=["latents", "pairs", "fetched"],
)
def test_what_the_loss_on_looks_adds(row: Row, changes: dict[str, Any]) -> None:
    """Too little to show in the whole, so the difference is counted."""
    found = []
    for look in (False, True):
        model = tiny("llama", refocus_source="fine", lm_grid=2, **changes)
        _, total, _, told = counted_and_told(model, replace(row, look=look), STAGES["III"].parts)
        found.append((total, told))
    (without, told_without), (pulled, told_pulled) = found
    assert pulled > without
    assert told_pulled - told_without == pytest.approx(pulled - without, rel=0.02)


def world_run(**changes: Any) -> Any:
    """A run of the embedded model whose stage answers in every way."""
    data = [{"format": "world", "per_image": 4}]
    shares = {"direct_share": 0.1, "text_share": 0.2, "full_share": 0.15, "fetch_share": 0.25, "replaced": 2}
    stage = {"stage": "IV", "data": data, "batch": 32, "micro_batch": 16} | shares | changes
    sizes = {"hidden": 32, "layers": 2, "heads": 2, "ffn": 48, "projector": 24, "lm_grid": 2}
    losses = {"image": 0.0, "look": 0.3}
    return run_config_from({"model": {"text": "embedded", "vision": "embedded", "sizes": sizes}, "stages": [stage],
                            "losses": losses})  # fmt: skip


def measured_lengths(config: Any, model: LareForConditionalGeneration, mode: Mode, updates: int) -> dict[str, float]:
    """Mean tokens of a row, counted in batches that the trainer would get."""
    stage = config.stages[0]
    features = np.zeros((60, model.config.grid**2, 3), np.float16)
    processor = build_processor(model.config.image_size, model.config.lm_grid)
    batches = WorldBatches(stage.data[0], stage, processor, model.config, Split(), 0, features)
    found: dict[str, list[float]] = {"prompt": [], "target": [], "prefix": [], "rationale": []}
    for step in range(updates):
        scenes, items, _ = batches.draw(step)
        batch = batches.encode(scenes, items, 0, mode)
        inputs = batch.inputs
        shared = inputs["shared_ids"].shape[1]
        found["prompt"].append(shared + float(inputs["attention_mask"].sum(1).float().mean()))
        found["target"].append(float(inputs["target_mask"].sum(1).float().mean()))
        for name, mask in (("prefix", inputs.get("prefix_mask")), ("rationale", batch.rationale_mask)):
            found[name].append(0.0 if mask is None else float(mask.sum(1).float().mean()))
    return {name: sum(values) / len(values) for name, values in found.items()}


def test_rows_have_the_lengths_of_the_trainers_batches() -> None:
    """Each way of answering: its share, its tokens, and what is done with them."""
    config = world_run()
    model = skeleton(config.model)
    rows = stage_rows(config, config.stages[0], model, assumed_lengths(config.stages[0]))
    assert [round(share, 6) for share, _ in rows] == [0.1, 0.2, 0.15, 0.25, 0.3]
    direct, text, full, fetch, latents = (row for _, row in rows)
    assert [row.iterations for _, row in rows] == [0, 0, 0, model.config.iterations, model.config.iterations]
    assert full.prompt - text.prompt == model.config.grid**2 - model.config.lm_grid**2
    assert text.prompt == direct.prompt + 1 and latents.target == text.target - 2
    assert (fetch.fetch, latents.fetch, fetch.prefix, fetch.rationale) == (True, False, 0, 0)
    assert [row.look for _, row in rows] == [False, False, False, True, True]
    flip = 0.0
    for share, row in rows:
        mode = stage_mode(config.stages[0], model.config, flip + share / 2)
        flip += share
        measured_row = measured_lengths(config, model, mode, 24)
        assert row.prompt == pytest.approx(measured_row["prompt"], abs=2.5)
        assert row.target == pytest.approx(measured_row["target"], abs=1.5)
        if not row.fetch:
            assert row.rationale == pytest.approx(measured_row["rationale"], abs=1.5)
            assert row.prefix == pytest.approx(measured_row["prefix"], abs=1.5)


def test_an_update_costs_the_mean_of_its_ways() -> None:
    """Shares of 1 each by themselves, weighed, give the mixed stage; memory is the largest row's."""
    names = ("direct_share", "text_share", "full_share", "fetch_share")
    none = dict.fromkeys(names, 0.0)
    mixed = run_report(world_run())["stages"][0]
    alone = [run_report(world_run(**none | ({name: 1.0} if name else {})))["stages"][0] for name in (*names, None)]
    shares = (0.1, 0.2, 0.15, 0.25, 0.3)
    for way in ("forward", "backward"):
        for part, count in mixed["flops"][way].items():
            each = [one["flops"][way].get(part, 0) for one in alone]
            assert count == pytest.approx(sum(a * b for a, b in zip(shares, each, strict=True)), rel=1e-6), part
    assert mixed["memory"]["total"] == max(one["memory"]["total"] for one in alone)
    assert mixed["row"] | {"question": 0, "answer": 0} == alone[-1]["row"] | {"question": 0, "answer": 0}
    assert alone[2]["row"]["prompt"] > alone[1]["row"]["prompt"]  # the whole grid, also as the stage's only way
    assert "extractor" not in alone[3]["flops"]["forward"] and "extractor" in alone[4]["flops"]["forward"]


def test_a_stages_own_grid_and_the_models() -> None:
    for grid, changes in ((2, {}), (4, {"lm_grid": 4})):
        config = world_run(**changes)
        model = skeleton(config.model)
        row = stage_row(config, config.stages[0], model, Lengths(30, 10, 5))
        assert model.config.lm_grid == 2 and row.prompt == 30 + grid**2 + 1


def test_info_tells_each_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(world_run().to_dict()))  # JSON is YAML
    assert lare(["info", str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("target tokens") == 6 and "4 tokens fetched" in printed
    assert [f"{share:3} %" in printed for share in (10, 20, 15, 25, 30)] == [True] * 5
    assert lare(["info", str(path), "stages.0.methods={}"]) == 0
    assert capsys.readouterr().out.count("target tokens") == 1
