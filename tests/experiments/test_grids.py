"""The grids that are shipped, and how their rows are read by the analyses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from analysis.ablation import page as ablation
from analysis.ablation.measure import AblationOptions
from analysis.ablation.rows import merge, read_rows
from analysis.claims.ledger import RIVALS
from lare.cli import main as lare
from lare.errors import LareError
from lare.experiments.gather import gather
from lare.experiments.identity import definition, definition_hash, same_run
from lare.experiments.looks import split_of
from lare.experiments.order import chosen_rate
from lare.experiments.plan import Plan, scaled
from lare.experiments.work import _tidy
from lare.methods import get_method
from lare.training.plan.config import StageConfig
from lare.training.plan.run_file import run_config_from
from tests.experiments.grids import World

ROOT = Path(__file__).parents[2]
MIXTURE = (("llava", 0.5), ("cot", 0.5))
FILES = sorted((ROOT / "lare/configs/experiments").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_grid_can_be_read_and_its_arms_see_the_same_samples(file: Path, tmp_path: Path) -> None:
    plan = Plan(file, tmp_path / "runs", tmp_path / "reports")
    samples = {sum(stage.samples or 0 for stage in plan.arm_runs(arm)[0].config.stages) for arm in plan.grid.arms}
    assert len(samples) == 1
    for arm in plan.grid.arms.values():
        assert arm.title, "every arm is told in words"


def test_the_smaller_grid_has_the_arms_of_the_other_at_its_own_size(tmp_path: Path) -> None:
    one, small = grid("comparison", tmp_path), grid("comparison_small", tmp_path)
    assert list(one.grid.arms) == list(small.grid.arms) and small.grid.primary is None
    assert not set(one.starts) & set(small.starts)
    for arm in one.grid.arms:
        ours, theirs = (plan.run(arm, next(iter(plan.starts)), 0).config.to_dict() for plan in (small, one))
        sizes = ours["model"].pop("sizes")
        assert sizes == {**theirs["model"].pop("sizes"), "hidden": 96, "layers": 3, "ffn": 288} and ours == {
            **theirs, "seed": ours["seed"]
        }  # fmt: skip
    assert all(start.config.model.sizes["hidden"] == 96 for start in small.starts.values())
    assert small.grid.tuning.rates == (0.5, 1, 2) and not small.grid.tuning.grid, (
        "each arm's rate is chosen at this size"
    )


def test_the_longer_grid_has_twice_the_samples_and_the_rates_of_the_other(tmp_path: Path) -> None:
    reports = ROOT / "reports/experiments"
    one, longer = (
        Plan(ROOT / f"lare/configs/experiments/{name}.yaml", tmp_path, reports) for name in ("comparison", "longer")
    )
    assert list(one.grid.arms) == list(longer.grid.arms) and "neutral2-4" not in longer.starts
    assert {sum(stage.samples or 0 for stage in longer.arm_runs(arm)[0].config.stages) for arm in longer.grid.arms} == {
        96_000
    }
    for arm in ("lare", "random"):
        ours, theirs = (plan.run(arm, "neutral2-1", 0).config for plan in (longer, one))
        assert different(ours.to_dict(), theirs.to_dict()) == {"stages.1.samples"}
        assert chosen_rate(longer, arm) == chosen_rate(one, arm) is not None
    assert longer.tried == one.grid.tuning.rates and not longer.tuning_runs("lare")


def grid(name: str, tmp_path: Path) -> Plan:
    return Plan(ROOT / f"lare/configs/experiments/{name}.yaml", tmp_path, tmp_path)


def test_the_arms_of_committed_rows_are_in_their_grids(tmp_path: Path) -> None:
    for place in ("refocus", "refocus/slim"):
        rows = json.loads((ROOT / f"reports/{place}/rows.json").read_text())["rows"]
        assert {row["name"] for row in rows} <= set(grid("refocus", tmp_path).grid.arms)
    swept = json.loads((ROOT / "reports/sweep/sweep.json").read_text())["runs"]
    assert {run["name"] for run in swept} == set(grid("sweep", tmp_path).grid.arms)


def different(one: Any, other: Any, path: str = "") -> set[str]:
    """Names of the values in which two nested settings differ."""
    if isinstance(one, dict):
        return {name for key in one for name in different(one[key], other[key], f"{path}{key}.")}
    if isinstance(one, list):
        pairs = enumerate(zip(one, other, strict=True))
        return {name for key, (mine, theirs) in pairs for name in different(mine, theirs, f"{path}{key}.")}
    return set() if one == other else {path.rstrip(".")}


RATES = {"optimiser.matrix_rate", *(f"stages.{n}.{kind}learning_rate" for n in (0, 1) for kind in ("", "new_"))}


def test_every_arm_of_the_sweep_changes_one_factor(tmp_path: Path) -> None:
    plan = grid("sweep", tmp_path)
    base = plan.run("base", "I-fetch", 0).config
    for name in list(plan.grid.arms)[1:]:
        config = plan.run(name, "I-fetch", 0).config
        changed = different(base.to_dict(), config.to_dict())
        if name.startswith("rate"):
            assert config == scaled(base, {"rate-half": 0.5, "rate-double": 2.0}[name]) and changed == RATES
        else:
            assert changed == {f"losses.{name.partition('-')[0]}"}


def seen(plan: Plan, arm: str) -> tuple[int, int, set[str], dict[str, Any]]:
    """Samples, updates, their families and the optimiser of an arm's runs."""
    config = plan.arm_runs(arm)[0].config
    families = {name for stage in config.stages for data in stage.data for name in getattr(data, "families", {})}
    updates = sum((stage.samples or 0) // stage.batch for stage in config.stages)
    rates = {
        getattr(stage, name) for stage in config.stages for name in ("learning_rate", "new_learning_rate", "batch")
    }
    optimiser = vars(config.optimiser) | {"rates": rates, "precision": config.precision}
    return sum(stage.samples or 0 for stage in config.stages), updates, families, optimiser


def told(stages: Sequence[StageConfig], look: float) -> str:
    """What methods are told beyond question, rationale and answer."""
    entries = [entry for stage in stages for entry in stage.mixture]
    if any(entry.method == "ccot" for entry in entries):
        return "scene graphs"
    return "boxes" if look or any(entry.training.boxes for entry in entries) else "none"


def test_every_rival_has_lares_starts_samples_and_updates(tmp_path: Path) -> None:
    """Each arm trains one system and asks it in its own way; what it is told stands under supervision."""
    plan = grid("comparison", tmp_path)
    own = {"lare", "random", "paper", "paper_random", "soft", "full", "boxes"}
    assert {*RIVALS, "llava", "coconut", "norefocus", "sft", *own} <= set(plan.grid.arms)
    trained = {"icot": "cot"} | dict.fromkeys(own, "lare")
    for name, arm in plan.grid.arms.items():
        config, system = plan.arm_runs(name)[0].config, "lare" if name in own else name.partition("-")[0]
        assert seen(plan, name) == seen(plan, "lare")
        assert {stage.batch for stage in config.stages} == {32}
        assert {one.method for stage in config.stages for one in stage.mixture} == {trained.get(system, system)}
        assert arm.supervision == told(config.stages, config.losses.look)
        assert arm.asks[arm.own]["method"] == system
        for options in ({**ask} for ask in arm.asks.values()):
            method = options.pop("method")
            get_method(method).options_type.read(method, options)
    assert [stage.from_start for stage in plan.arm_runs("mmcot")[0].config.stages] == [False, False, True, False]


def test_a_rate_scales_every_learning_rate_and_nothing_else(tmp_path: Path) -> None:
    config = grid("refocus", tmp_path).run("fine", "I-fetch", 0).config
    assert scaled(config, 1) is config
    assert different(config.to_dict(), scaled(config, 3).to_dict()) == RATES


def test_a_start_is_trained_up_to_its_stage_and_a_longer_run_is_taken_for_it(tmp_path: Path) -> None:
    plan = grid("refocus", tmp_path)
    start = plan.starts["I-fetch"]
    assert [stage.name for stage in start.config.stages][-1] == "I-fetch" and start.place == tmp_path / "embedded"
    whole = plan._config("lare/configs/embedded.yaml", ())
    assert len(whole.stages) > len(start.config.stages)
    final = start.place / "I-fetch" / "final"
    final.mkdir(parents=True)
    (final / "meta.json").write_text("{}")
    (final / "model.safetensors").write_text("w")
    (start.place / "run.yaml").write_text(json.dumps(whole.to_dict()))
    assert plan.trained(start) and plan.weights(start)
    (start.place / "run.yaml").write_text(json.dumps({**whole.to_dict(), "seed": 9}))
    with pytest.raises(LareError, match="other settings"):
        plan.trained(start)
    assert chosen_rate(plan, "fine") == 1.0  # nothing is tuned: the run file's own


def test_the_split_of_rows() -> None:
    assert split_of({"scores": {"lare_mini_pope": {}}}) == "test"
    assert split_of({"scores": {"lare_mini_val_pope": {}}}) == "validation"
    assert split_of({"scores": {"mmbench": {}}}) == "other"


def test_what_defines_a_run_is_read_back_and_tells_the_order_of_methods(tmp_path: Path) -> None:
    config = grid("refocus", tmp_path).run("text_all", "I-fetch", 0).config
    found = json.loads(json.dumps(definition(config)))
    assert same_run(config, found) and same_run(config, config.to_dict())
    mixed = [replace(config.stages[1], methods=dict(pairs)) for pairs in (MIXTURE, reversed(MIXTURE))]
    one, other = (replace(config, stages=(config.stages[0], stage)) for stage in mixed)
    # The last method of a mixture is the one that is validated, and updates are shared out in order.
    assert not same_run(one, definition(other)) and same_run(one, definition(one))
    assert definition_hash(definition(one)) != definition_hash(definition(other))


def test_keys_of_earlier_versions_are_the_same_run(tmp_path: Path) -> None:
    config = grid("refocus", tmp_path).run("direct_all", "I-fetch", 0).config
    old = json.loads(json.dumps(config.to_dict()))
    for stage in old["stages"]:
        stage["direct_share"] = 1.0
        del stage["methods"]
    assert run_config_from(old).stages[1].methods == {"direct": {"method": "llava", "share": 1.0}}
    named = replace(config, stages=run_config_from(old).stages)
    assert same_run(named, old) and same_run(named, definition(named))


# Rows in the analyses -----------------------------------------------------------------------------------------------


def test_an_experiment_s_folder_is_read_as_rows(world: World) -> None:
    assert lare(world.words("run")) == 0
    place = world.folder / "reports/tiny"
    rows = merge(read_rows([place]))
    assert list(rows) == ["lare/K0", "lare/K4", "random"] and rows["random"].title == "random windows"
    entries = {one.name: one.asked for one in gather(world.plan, "validation")}
    for name, mine in (("lare/K4", "lare"), ("random", "random")):
        assert len(rows[name].seeds) == 2
        assert sorted(rows[name].accuracy) == pytest.approx(
            sorted(
                np.mean([entries[mine].values[:, entries[mine].questions.task == task].mean(1)
                         for task in entries[mine].questions.tasks], axis=0).tolist()
            )
        )  # fmt: skip
    options = AblationOptions(rows=(str(place),), now="never", reference="lare/K4")
    document, _ = ablation.compute(options)
    assert document.title.endswith("validation questions")
    with pytest.raises(LareError, match="holds no test row"):
        read_rows([place], "test")


def test_committed_rows_were_compared_on_test_questions() -> None:
    for name in ("", "slim/"):
        said = ablation._questions(read_rows([ROOT / "reports" / "refocus" / f"{name}rows.json"]))
        assert said == ": test questions; the shipped design was chosen on them"
        assert said in (ROOT / "reports" / f"ablation{'_slim' if name else ''}.html").read_text()


def test_weights_of_a_stage_that_an_arm_is_asked_with_are_kept(tmp_path: Path) -> None:
    for stage in ("R-single", "R", "A"):
        (tmp_path / stage / "final").mkdir(parents=True)
        (tmp_path / stage / "final" / "model.safetensors").write_text("w")
    run: Any = SimpleNamespace(last="A")
    _tidy(tmp_path, run, {"two": {"method": "mmcot", "rationale_from": "../../R/final"}, "one": {"method": "llava"}})
    assert {path.parts[-3] for path in tmp_path.glob("*/final/*.safetensors")} == {"R", "A"}
    _tidy(tmp_path, run, {"one": {"method": "llava"}})
    assert {path.parts[-3] for path in tmp_path.glob("*/final/*.safetensors")} == {"A"}
