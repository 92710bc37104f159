"""The sweep: one factor a row, runs in processes of their own, and a table that tells a planted effect from noise."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lare import default_checkpoint
from lare.cli import main as lare
from lare.errors import LareError
from lare.experiments.rows import RowRun, read_rows, train_row, train_rows
from lare.experiments.sweep import BASE, ROWS, SweepRow, jobs_of, load_sweep_rows, main, write
from lare.experiments.sweep_tables import csv_table, markdown_table, summarise
from lare.training.plan.run_file import load_run_config

ROOT = Path(__file__).parents[2]
SCENES = 200


def different(one: Any, other: Any, path: str = "") -> set[str]:
    """Names of the values in which two nested settings differ."""
    if isinstance(one, dict):
        return {name for key in one for name in different(one[key], other[key], f"{path}{key}.")}
    if isinstance(one, list):
        pairs = enumerate(zip(one, other, strict=True))
        return {name for key, (mine, theirs) in pairs for name in different(mine, theirs, f"{path}{key}.")}
    return set() if one == other else {path.rstrip(".")}


def test_every_row_changes_one_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    rows = load_sweep_rows()
    assert rows[0].name == "base" and not rows[0].train and rows[0].seeds >= 4
    base = load_run_config(BASE).to_dict()
    factors: dict[str, set[float]] = {}
    for row in rows[1:]:
        changed = different(base, load_run_config(BASE, row.train).to_dict())
        if "rate" in row.name:
            assert changed == {
                "optimiser.matrix_rate",
                *(f"stages.{n}.{kind}learning_rate" for n in (0, 1) for kind in ("", "new_")),
            }
            one = load_run_config(BASE, row.train)
            ratios = {one.optimiser.matrix_rate / base["optimiser"]["matrix_rate"]}
            ratios |= {s.learning_rate / b["learning_rate"] for s, b in zip(one.stages, base["stages"], strict=True)}
            ratios |= {
                s.new_learning_rate / b["new_learning_rate"] for s, b in zip(one.stages, base["stages"], strict=True)
            }
            assert len(ratios) == 1
            factors.setdefault("rate", set()).update(ratios)
        else:
            (name,) = changed
            part = name.partition(".")[2]
            weight = vars(load_run_config(BASE, row.train).losses)[part]
            factors.setdefault(part, set()).add(weight / base["losses"][part])
    assert factors == {name: {0, 4} for name in ("alignment", "image", "text")} | {"rate": {0.5, 2}}


def test_jobs_begin_with_every_rows_first_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    rows = [SweepRow("base", "", seeds=3), SweepRow("x", "", ("losses.text=0",), seeds=1), SweepRow("y", "")]
    jobs = jobs_of(rows, BASE, tmp_path)
    assert [(row.name, seed) for row, seed, _ in jobs] == [
        ("base", 0), ("x", 0), ("y", 0), ("base", 1), ("y", 1), ("base", 2),
    ]  # fmt: skip
    assert jobs[1][2] == RowRun(BASE, tmp_path / "x-0", ("seed=0", "losses.text=0"), "IV")
    with pytest.raises(LareError, match="unknown key 'nonsense'"):
        jobs_of([SweepRow("z", "", ("nonsense=1",))], BASE, tmp_path)
    with pytest.raises(LareError, match="seeds is 0"):
        SweepRow("z", "", seeds=0)


# Judging ------------------------------------------------------------------------------------------------------------


def planted(effects: dict[str, float], spread: float, seeds: int = 3) -> dict[str, Any]:
    """Runs whose accuracy is 0.5 plus the row's effect, and a seed's own luck of this spread."""
    rng = np.random.default_rng(2)
    scenes = np.repeat(np.arange(SCENES), 4)
    hardness = rng.random(len(scenes))
    runs = []
    for number, (name, effect) in enumerate(effects.items()):
        for seed in range(seeds):
            luck = spread * (seed - (seeds - 1) / 2) * (-1) ** number
            right = hardness < 0.5 + effect + luck
            losses = {"lm": 1.0 + seed, "text": 2.0}
            digits = "".join(str(int(one)) for one in right)
            runs.append({"name": name, "title": name, "seed": seed, "right": digits, "losses": losses, "samples": 9})
    return {"runs": runs, "scenes": scenes.tolist(), "majority": "01" * (len(scenes) // 2)}


def test_a_planted_effect_is_found_and_nothing_else() -> None:
    summary = summarise(planted({"base": 0.0, "better": 0.1, "worse": -0.1, "same": 0.0}, spread=0.01))
    rows = {row["name"]: row for row in summary["rows"]}
    assert "difference" not in rows["base"]
    for name, sign in (("better", 1), ("worse", -1)):
        row = rows[name]
        assert row["difference"] == pytest.approx(sign * 0.1, abs=0.03) and row["beyond"]
        low, high = row["difference_interval"]
        assert low < row["difference"] < high
    assert not rows["same"]["beyond"]
    assert rows["base"]["losses"] == {"lm": 2.0, "text": 2.0}
    assert (summary["questions"], summary["scenes"], summary["majority"]) == (4 * SCENES, SCENES, 0.5)


def test_what_seeds_can_explain_decides_nothing() -> None:
    """The same effect, once with seeds alike and once with seeds apart; over scenes it is sure both times."""
    calm, wild = (summarise(planted({"base": 0.0, "x": 0.05}, spread))["rows"][1] for spread in (0.0, 0.06))
    for row in (calm, wild):
        assert row["difference_interval"][0] > 0
    assert calm["beyond"] and not wild["beyond"]


def test_the_deviation_over_seeds_is_pooled_inside_rows() -> None:
    content = planted({"base": 0.0, "x": 0.3}, spread=0.0)
    assert summarise(content)["seed_deviation"] == pytest.approx(0, abs=1e-12)  # rows differ, seeds do not
    content["runs"] = [
        run | {"right": "1" * wrong + "0" * (4 * SCENES - wrong)}
        for run, wrong in zip(content["runs"], (400, 416, 432, 100, 132, 164), strict=True)
    ]
    first, second = (np.array(values) / (4 * SCENES) for values in ((400, 416, 432), (100, 132, 164)))
    expected = np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    summary = summarise(content)
    assert summary["seed_deviation"] == pytest.approx(expected) and summary["seed_freedom"] == 4
    assert summary["rows"][1]["seed_error"] == pytest.approx(2 * expected * np.sqrt(2 / 3))


def test_one_seed_decides_nothing() -> None:
    summary = summarise(planted({"base": 0.0, "x": 0.3}, spread=0.0, seeds=1))
    assert summary["seed_deviation"] is None and not summary["rows"][1]["beyond"]
    assert "not known" in markdown_table(summary)


def test_tables_say_what_the_summary_says() -> None:
    summary = summarise(planted({"base": 0.0, "better": 0.1}, spread=0.01))
    lines = markdown_table(summary).splitlines()
    head, _, *body = [line.split("|")[1:-1] for line in lines if line.startswith("|")]
    assert {len(head)} == {len(line) for line in body}
    better = summary["rows"][1]
    assert f"{100 * better['difference']:+.1f}" in body[1][4] and body[1][6].strip() == "yes"
    rows = list(csv.DictReader(io.StringIO(csv_table(summary))))
    assert [(row["row"], row["seed"]) for row in rows] == [(n, str(s)) for n in ("base", "better") for s in range(3)]
    assert float(rows[3]["right"]) == pytest.approx(better["accuracies"][0], abs=1e-5)
    assert rows[0]["difference"] == "" and float(rows[3]["difference"]) == pytest.approx(better["difference"], abs=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "message"), [("scenes", [1], "different questions"), ("parent", "b", "different weights")]
)
def test_runs_that_do_not_compare(tmp_path: Path, key: str, value: Any, message: str) -> None:
    one = {
        "name": "a",
        "title": "",
        "seed": 0,
        "right": "1",
        "losses": {},
        "scenes": [0],
        "majority": "1",
        "parent": "a",
    }
    with pytest.raises(LareError, match=message):
        write([one, one | {key: value}], tmp_path)
    assert not list(tmp_path.iterdir())


# Running ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two rows of one update on the shipped checkpoint, trained in this process."""
    monkeypatch.setattr("lare.embedded.batches.VARIANTS", 1)
    data = [{"format": "world", "per_image": 4, "limit": 3, "families": {"what_at": 1.0}}]
    stage = {"stage": "IV", "samples": 4, "batch": 4, "data": data, "replaced": 0}
    base = {"model": {"checkpoint": str(default_checkpoint())}, "stages": [stage], "tensorboard": False}
    base["losses"] = {"image": 0, "shared_dim": 8}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    rows = {"base": {"title": "as it is", "seeds": 1}}
    rows["no-text"] = {"title": "t", "train": ["losses.text=0"], "seeds": 1}
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump(rows, sort_keys=False))
    for row, _, run in jobs_of(load_sweep_rows(tmp_path / "rows.yaml"), tmp_path / "base.yaml", tmp_path / "runs"):
        assert lare(["train", str(run.base), f"out={run.out}", *run.words]) == 0 and run.trained, row
    return tmp_path


def words(folder: Path, *more: str) -> list[str]:
    places = ["--base", "base.yaml", "--row-file", "rows.yaml", "--runs", "runs", "--out", "out"]
    return [str(folder / one) if not one.startswith("--") else one for one in places] + ["--scenes", "2", *more]


def test_a_whole_sweep_and_again(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(sweep)) == 0
    assert "| no-text | t | 1 |" in capsys.readouterr().out
    content = json.loads((sweep / "out" / "sweep.json").read_text())
    assert [run["name"] for run in content["runs"]] == ["base", "no-text"]
    assert content["summary"]["questions"] == 8 == len(content["runs"][0]["right"]) == len(content["scenes"])
    assert all({"lm", "text", "alignment", "look"} == run["losses"].keys() for run in content["runs"])
    stamps = {path: path.stat().st_mtime_ns for path in sweep.glob("runs/*/IV/final/meta.json")}
    assert len(stamps) == 2
    assert content["runs"][0]["right"].count("1") > 2  # it is the shipped checkpoint still
    assert main(words(sweep)) == 0  # nothing is trained or asked anew
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert json.loads((sweep / "out" / "sweep.json").read_text()) == content
    assert sorted(one.name for one in (sweep / "out").iterdir()) == ["sweep.csv", "sweep.json", "sweep.md"]


def test_a_row_that_fails_names_its_log(tmp_path: Path) -> None:
    run = RowRun(tmp_path / "nothing.yaml", tmp_path / "row")
    failed = train_row(run)
    assert failed is not None and "ended with 2" in failed and not run.trained
    assert "can't be read" in (tmp_path / "row" / "train.log").read_text()


def test_mistakes_are_one_line(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, message in (
        (["--rows", "nonsense"], "no row 'nonsense'; choose from base, no-text"),
        (["--no-train", "--runs", str(sweep / "nowhere")], "no trained rows"),
        (["--scenes", "0"], "--scenes and --at-once need at least 1"),
        (["--row-file", str(sweep / "none.yaml")], "can't be read"),
    ):
        assert main(words(sweep, *more)) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_a_row_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def note(command: list[str], env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert env["OMP_NUM_THREADS"] == "1"
        asked.append(command[4:])
        (tmp_path / "row" / "run.yaml").touch()
        return subprocess.CompletedProcess(command, 143 if len(asked) == 1 else 0)

    monkeypatch.setattr(subprocess, "run", note)
    run = RowRun(tmp_path / "base.yaml", tmp_path / "row", ("seed=1", "losses.text=0"))
    with pytest.raises(LareError, match="ended with 143"):
        train_rows([run])
    assert train_row(run) is None
    assert asked == [
        [str(run.base), f"out={run.out}", "seed=1", "losses.text=0"],
        ["--resume", str(run.out)],
    ]
    run.checkpoint.mkdir(parents=True)
    (run.checkpoint / "meta.json").touch()
    assert run.trained and train_row(run) is None and len(asked) == 2


def test_row_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.yaml"
    for text in ("- a", "a: {title: t, unknown: 1}", "a: [", "a: 3"):
        path.write_text(text)
        with pytest.raises(LareError, match="is no file of rows"):
            read_rows(path, SweepRow)
    assert ROWS.name in {one.name for one in (ROOT / "lare" / "configs" / "rows").iterdir()}
    train_rows([])  # nothing to do is no mistake
