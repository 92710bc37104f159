"""The model card of a grid's run says what its files say, and is refused where they are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lare import default_checkpoint
from lare.cli import main as lare
from tests.experiments.grids import World

LOSSES = [4.0, 2.0, 1.0]


def _finish(stage: Path) -> None:
    """What World's training leaves out of a real run: log, machine, configuration, weights."""
    rows = [
        {"step": n, "samples": 4 * n, "losses": {"lm": loss, "total": loss}, "accuracy": 0.25}
        for n, loss in enumerate(LOSSES, 1)
    ]
    (stage / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    final = stage / "final"
    meta = json.loads((final / "meta.json").read_text())
    (final / "meta.json").write_text(json.dumps(meta | {"machine": "a machine", "torch": "2"}))
    (final / "config.json").write_text((default_checkpoint() / "config.json").read_text())
    save_file({"a": torch.zeros(3, 4)}, final / "model.safetensors")


def _trained(world: World) -> None:
    assert lare(world.words("run", "--starts", "1")) == 0
    plan = world.plan
    weights = {
        name: (run.place / "IV/final/model.safetensors").read_text() for name, run in plan.starts.items() if name == "1"
    }
    for stage in (plan.root.parent / "tiny").glob("*/*/IV"):
        _finish(stage)
    for name, text in weights.items():  # an arm is known by the weights it began with
        (plan.starts[name].place / "IV/final/model.safetensors").write_text(text)


def test_a_card_says_what_the_files_say(world: World, capsys: Any) -> None:
    _trained(world)
    out, note = world.folder / "shipped", world.folder / "note.md"
    out.mkdir()
    note.write_text("Nothing failed.")
    assert lare(world.words("card", "--arms", "lare", "--starts", "1", "--out", str(out), "--note", str(note))) == 0
    card = (out / "README.md").read_text()
    row = world.rows["lare__1__0__K4.validation.json"]
    assert "# LaRe, shipped" in card and "embedded`: 16 visual tokens" in card and "Nothing failed." in card
    assert "--arms lare --starts 1`, seed 1 and 0" in card and "16 samples, 2 minutes." in card
    for task, share in row["scores"].items():
        assert f"| `{task}` | all | 40 | {100 * share:.1f} |" in card
    # Three lines of a log, each a part of its own, for the start and for the arm.
    for number, loss in enumerate(LOSSES, 1):
        assert card.count(f"| IV | {4 * number} | {loss:.3f} | 25.0 |") == 2
    assert card.count("- A residual connection around") == 1
    assert "random windows" in card.partition("## Beside it")[2]


def test_a_card_is_of_one_trained_run(world: World, capsys: Any) -> None:
    words = world.words("card", "--out", str(world.folder))
    assert lare(words) == 2 and "4 are chosen" in capsys.readouterr().err
    assert lare([*words, "--arms", "lare", "--starts", "1"]) == 2
    error = capsys.readouterr().err
    assert "lare 1 0 is not trained here" in error and error.count("\n") == 1
    assert not (world.folder / "README.md").exists()
