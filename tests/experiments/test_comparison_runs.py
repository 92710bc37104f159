"""Every arm that LaRe is compared with, shrunk to one update a stage: it trains from a start, and answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lare.cli import main as lare
from lare.embedded import parts
from lare.experiments.plan import Plan
from lare.experiments.work import prepare
from lare.methods import load_method
from lare.methods.base import Sampling
from lare.training.prepare import Prepared
from lare.training.saving.checkpoints import save_final
from tests.methods.tiny_checkpoint import pictures

pytestmark = pytest.mark.slow
FOLDER = Path(__file__).parents[2] / "lare/configs/experiments"
GRIDS = ("comparison", "own")
ARMS: list[tuple[str, str]] = [
    (grid, arm) for grid in GRIDS for arm in yaml.safe_load((FOLDER / f"{grid}.yaml").read_text())["arms"]
]
QUESTIONS = ["What is left of the red square?", "How many birds are there?"]


def shrunk(config: Any) -> Any:
    """One update of 16 samples a stage, on few scenes."""
    stages = tuple(replace(stage, samples=16, batch=16) for stage in config.stages)
    model = replace(config.model, sizes={**config.model.sizes, "scenes": 16})
    return replace(config, stages=stages, model=model, precision="fp32")


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plan]:
    """The grids, and their first start, untrained."""
    runs = tmp_path_factory.mktemp("runs")
    made = {grid: Plan(FOLDER / f"{grid}.yaml", runs, runs / "reports") for grid in GRIDS}
    start = next(iter(made["own"].starts.values()))
    assert start.place == next(iter(made["comparison"].starts.values())).place
    parts.main(["--out", str(start.place)])
    prepared = Prepared(replace(shrunk(start.config), out=str(start.place)))
    save_final(start.place / start.last, prepared.model, prepared.processor, {"step": 0})
    return made


@pytest.mark.parametrize(("grid", "arm"), ARMS)
def test_an_arm_trains_and_answers(grid: str, arm: str, plans: dict[str, Plan]) -> None:
    plan = plans[grid]
    run = plan.arm_runs(arm)[0]
    folder = plan.root / "arms" / arm
    prepare(plan, replace(run, config=shrunk(run.config)), folder)
    assert lare(["train", "--resume", str(folder)]) == 0
    for ask in plan.grid.arms[arm].asks.values():
        options: dict[str, Any] = {**ask}
        method = load_method(options.pop("method"), str(folder / run.last / "final"), device="cpu", **options)
        answers = method.answer(pictures(2), QUESTIONS, Sampling(max_new_tokens=4))
        assert [one.latent_steps for one in answers] == [ask.get("iterations", 0)] * 2
