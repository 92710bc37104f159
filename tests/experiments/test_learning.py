"""Learning curves are those of the logs, and outlive the machine that wrote them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lare.cli import main as lare
from lare.errors import LareError
from lare.experiments.learning import reached
from tests.experiments.grids import World


def _log(stage: Path, losses: list[float]) -> None:
    rows: list[dict[str, Any]] = [
        {"step": n, "samples": 8 * n, "losses": {"lm": loss, "total": 9.0}, "counts": {"lm": 1 + n % 2}}
        for n, loss in enumerate(losses, 1)
    ]
    rows.append({"step": len(losses) + 1, "samples": 8 * len(losses) + 8, "losses": {"total": 1.0}})  # text not seen
    (stage / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))


def _trained(world: World, losses: list[float]) -> list[Path]:
    assert lare(world.words("run", "--starts", "1")) == 0
    stages = sorted((world.plan.root.parent / "tiny").glob("*/*/IV"))
    for stage in stages:
        _log(stage, losses)
    return stages


def test_curves_are_written_beside_the_rows_and_kept(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    stages = _trained(world, [1.0, 0.5, 0.3, 0.05])
    assert lare(world.words("learning", "--starts", "1", "--below", "0.4", "0.01")) == 0
    told = capsys.readouterr().out
    path = world.plan.out / "learning.json"
    curves = json.loads(path.read_text())["curves"]
    assert len(curves) == len(world.plan.grid.arms) and all(one["loss"] == [1.0, 0.5, 0.3, 0.05] for one in curves)
    assert curves[0]["samples"] == [8, 16, 24, 32] and "24" in told and "never" in told
    shutil.rmtree(stages[0].parent)  # another machine has but the others
    assert lare(world.words("learning", "--starts", "1")) == 0
    assert json.loads(path.read_text())["curves"] == curves
    gone = curves[0] | {"arm": "renamed"}  # since then
    path.write_text(json.dumps({"curves": [gone, *curves]}))
    assert lare(world.words("learning", "--starts", "1")) == 0
    assert json.loads(path.read_text())["curves"] == [*curves, gone]


def test_parts_are_means_over_tokens(world: World) -> None:
    _trained(world, [float(n) for n in range(56)])
    assert lare(world.words("learning", "--starts", "1")) == 0
    one = json.loads((world.plan.out / "learning.json").read_text())["curves"][0]
    assert len(one["loss"]) == 28 and one["samples"][0] == 16
    assert one["loss"][0] == pytest.approx((2 * 0 + 1 * 1) / 3, abs=1e-5)  # two tokens, then one


def test_nothing_trained_is_one_clear_line(world: World) -> None:
    with pytest.raises(LareError, match="no chosen run is trained here; run lare experiments run"):
        lare_learning = world.words("learning", "--starts", "1")
        from lare.experiments.cli import main

        main(lare_learning[1:])


@given(st.lists(st.floats(0, 2), min_size=1, max_size=12), st.floats(0.01, 2))
def test_a_level_is_reached_where_the_loss_stays_below_it(losses: list[float], level: float) -> None:
    curve = {"loss": losses, "samples": [10 * n for n in range(1, len(losses) + 1)]}
    found = reached(curve, level)
    stays = [n for n in range(len(losses)) if all(loss < level for loss in losses[n:])]
    assert found == (10 * (stays[0] + 1) if stays else None)
