"""What a run writes while it goes, and what a resumed run keeps of it."""

from __future__ import annotations

import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from lare.errors import LareError
from lare.training.feeding.batch import Replaced
from lare.training.log import RunLog, describe_replaced, flat
from lare.training.plan.config import DataConfig, ModelConfig, RunConfig, StageConfig


def config(out: Path, **changes: Any) -> RunConfig:
    stages = (StageConfig("III", (DataConfig(path="data.json"),)),)
    return RunConfig(ModelConfig(checkpoint="c"), stages, **{"out": str(out), "tensorboard": False} | changes)


def row(step: int, **changes: Any) -> dict[str, Any]:
    return {"step": step, "losses": {"lm": 1.0 / step, "text": 2.0}, "rate": 0.5} | changes


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]


def write(folder: Path, *numbers: int, first: int = 0, **changes: Any) -> None:
    log = RunLog(config(folder, **changes), folder / "III", "III", first)
    for number in numbers:
        log.write(row(number))


def test_rows_come_back(tmp_path: Path) -> None:
    log = RunLog(config(tmp_path), tmp_path / "III", "III")
    rows = [row(1), row(2, validation={"all": 0.5}, gradient_norm=float("nan"))]
    for one in rows:
        log.write(one)
    found = [json.loads(line) for line in (tmp_path / "III" / "log.jsonl").read_text().splitlines()]
    assert found[0] == rows[0] and math.isnan(found[1].pop("gradient_norm"))
    assert found[1] == {name: value for name, value in rows[1].items() if name != "gradient_norm"}


def test_rows_behind_the_resumed_update_are_dropped(tmp_path: Path) -> None:
    write(tmp_path, 1, 10, 20, 30)
    write(tmp_path, 21, first=20)
    assert steps(tmp_path / "III") == [1, 10, 20, 21]
    write(tmp_path, 1, first=0)  # killed before its first checkpoint
    assert steps(tmp_path / "III") == [1]


@pytest.mark.parametrize("cut", ['{"step": 11, "losses": {"lm": 0.', '{"step": 1', "1", "{}", "\n"])
def test_a_row_that_a_kill_cut_off_is_dropped(tmp_path: Path, cut: str) -> None:
    write(tmp_path, 1, 10)
    path = tmp_path / "III" / "log.jsonl"
    path.write_text(path.read_text() + cut)
    write(tmp_path, 12, first=11)
    assert steps(tmp_path / "III") == [1, 10, 12]
    assert [one.name for one in (tmp_path / "III").iterdir()] == ["log.jsonl"]


def test_a_whole_row_without_its_line_end_stays(tmp_path: Path) -> None:
    write(tmp_path, 1, 10)
    path = tmp_path / "III" / "log.jsonl"
    path.write_text(path.read_text().rstrip("\n"))
    write(tmp_path, 11, first=10)
    assert steps(tmp_path / "III") == [1, 10, 11]


def test_replaced_samples_are_listed_once(tmp_path: Path) -> None:
    folder = tmp_path / "III"
    assert describe_replaced(folder) is None
    log = RunLog(config(tmp_path), folder, "III")
    for step in (2, 5):
        log.write_replaced(step, [Replaced(f"data.json:{step}", "there is no image", "data.json:9")])
    again = RunLog(config(tmp_path), folder, "III", first=3)
    assert again.count_replaced == 1
    again.write_replaced(5, [Replaced(f"data.json:{n}", "there is no image", "data.json:9") for n in range(5, 12)])
    told = describe_replaced(folder)
    assert told is not None and again.count_replaced == 8
    assert "stage III: 8 samples were replaced" in told and "  data.json:2: there is no image" in told
    assert told.count("data.json:5:") == 1 and told.endswith("  ...")


def test_numbers_are_named_by_their_paths() -> None:
    nested = {"step": 3, "losses": {"lm": 1, "deep": {"er": 0.5}}, "done": True, "name": "x", "none": None, "list": [1]}
    assert dict(flat(nested)) == {"step": 3.0, "losses/lm": 1.0, "losses/deep/er": 0.5}


def board(folder: Path) -> Any:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_can_read_what_was_written(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 4, tensorboard=True)
    found = board(tmp_path / "tensorboard" / "III")
    assert set(found.Tags()["scalars"]) == {"step", "losses/lm", "losses/text", "rate"}
    values = [(one.step, one.value) for one in found.Scalars("losses/lm")]
    assert values == [(1, 1.0), (2, 0.5), (4, 0.25)]
    assert [one.value for one in found.Scalars("losses/text")] == [2.0, 2.0, 2.0]


def test_tensorboard_forgets_what_a_resumed_run_makes_anew(tmp_path: Path) -> None:
    write(tmp_path, 1, 10, 20, 30, tensorboard=True)
    write(tmp_path, 21, first=20, tensorboard=True)
    found = board(tmp_path / "tensorboard" / "III")
    assert [one.step for one in found.Scalars("losses/lm")] == [1, 10, 20, 21]


def test_no_board_unless_asked_for(tmp_path: Path) -> None:
    write(tmp_path, 1)
    assert [one.name for one in tmp_path.iterdir()] == ["III"]


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(LareError, match="wandb needs the package wandb; install it with pip install wandb, or leave"):
        write(tmp_path, wandb="lare")
    with pytest.raises(LareError, match=r"install lare\[train\] or give tensorboard=false"):
        write(tmp_path, tensorboard=True)
    write(tmp_path, 1)  # neither is asked for


def test_wandb_gets_the_stages_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[dict[str, Any]] = []
    logged: list[dict[str, float]] = []
    service = types.ModuleType("wandb")
    run = types.SimpleNamespace(log=logged.append)
    service.init = lambda **words: begun.append(words) or run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", service)
    write(tmp_path / "mine", 2, wandb="lare", seed=5)
    assert begun[0]["project"] == "lare" and begun[0]["name"] == "mine-III" and begun[0]["config"]["seed"] == 5
    assert logged == [{"III/step": 2.0, "III/losses/lm": 0.5, "III/losses/text": 2.0, "III/rate": 0.5}]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "III").write_text("a file")
    with pytest.raises(LareError, match=r"III' can't be made \(.*\); change out"):
        write(tmp_path, 1)


def test_a_full_disk(tmp_path: Path) -> None:
    log = RunLog(config(tmp_path), tmp_path / "III", "III")
    log.path = Path("/dev/full")
    with pytest.raises(LareError, match=r"'/dev/full' can't be written \(.*\); free some space and resume"):
        log.write(row(1))
