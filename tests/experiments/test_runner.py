"""The runner of grids: what is done is left alone, what was changed is not taken for done, rows are whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lare.cli import main as lare
from lare.experiments import runner, store
from lare.experiments.gather import gather
from lare.experiments.order import Choice, chosen_rate, jobs
from lare.experiments.record import declared_at
from lare.experiments.store import Slot, pack, read_questions, unpack
from lare.experiments.work import Settings
from tests.experiments.grids import FAKE, World

RANDOM = {"K4": {"method": "lare", "window_mode": "random"}}
EVERY = ["lare__0__0", "random__0__0", "lare__1__0", "random__1__0"]


def test_a_whole_grid_and_again(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert lare(world.words("run")) == 0
    assert world.trained() == ["0", "lare__0__0", "random__0__0", "1", "lare__1__0", "random__1__0"]
    rows = world.rows
    assert all(row["measures"] == {task: {"f1": 0.5} for task in row["right"]} for row in rows.values())
    assert sorted(rows) == sorted(
        f"{stem}__{ask}.validation.json" for stem in EVERY for ask in ("K4", "K0") if stem[0] == "l" or ask == "K4"
    )
    assert lare(world.words("run")) == 0  # nothing is left
    assert world.said() == [] and world.rows == rows


def test_a_row_tells_what_it_is_and_its_bits_give_the_scores_again(world: World) -> None:
    assert lare(world.words("run", "--arms", "random", "--starts", "1")) == 0
    (row,) = world.rows.values()
    plan = world.plan
    run = plan.run("random", "1", 0)
    assert (row["arm"], row["start"], row["seed"], row["supervision"]) == ("random", "1", 0, "boxes")
    assert row["options"] == {"method": "lare", "window_mode": "random"}
    assert row["start_hash"] == plan.weights(plan.starts["1"]) and row["weights"] == plan.weights(run)
    assert (row["samples"], row["updates"], row["start_samples"], row["start_updates"]) == (8, 2, 8, 2)
    assert row["settings"]["stages"][0]["window"] == "random" and row["commit"] == "c"
    primary = plan.grid.primary
    assert primary is not None and row["primary"] == {"hash": primary.hash(), "commit": None}
    questions = read_questions(plan.out / "questions", row["questions"])
    for task, score in row["scores"].items():
        right = unpack(row["right"][task], int((questions.task == task).sum()))
        assert right.mean() == pytest.approx(score)
    assert row["by"]["hops"]["1"][0] == 28 and set(row["by"]["family"]) == {"gaze2", "exist"}


def test_bits_come_back() -> None:
    values = np.random.default_rng(0).integers(0, 2, 77)
    assert unpack(pack(values), 77).tolist() == values.tolist()


def test_questions_that_were_changed_are_refused(world: World) -> None:
    digest = store.save_questions({"t": {"doc": [0], "scene": ["a"], "family": [""], "hops": [1], "difficulty": [""]}},
                                  world.folder)  # fmt: skip
    assert read_questions(world.folder, digest).tasks == ["t"]
    path = world.folder / f"{digest}.json"
    path.write_text(path.read_text().replace("[1]", "[2]"))
    store.read_questions.cache_clear()
    with pytest.raises(store.LareError, match="was changed"):
        read_questions(world.folder, digest)


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"arms": {"random": {"change": ["stages.0.window=full"], "asks": RANDOM}}}, 1),
        ({"arms": {"random": {"change": ["stages.0.window=random", "workers=1"], "asks": RANDOM}}}, 0),
        ({"starts": [{"seed": 5, "base": "base.yaml"}]}, None),
    ],
)
def test_a_changed_setting_is_not_taken_for_done(world: World, changes: Any, again: int | None) -> None:
    """What changes weights is trained anew, what does not is not, and another start's weights make other arms."""
    one = ["--arms", "random", "--starts", "0"]
    assert lare(world.words("run", *one)) == 0
    before = world.rows
    world.said()
    if again is None:
        (world.folder / "runs/experiments/tiny/starts/0").rename(world.folder / "moved")
    world.write(**changes, primary=None)
    assert lare(world.words("run", *one)) == 0
    started = world.said()
    trained = [Path(call["train"]).name for call in started if "train" in call]
    if again is None:
        assert trained[0] == "0" and trained[1].startswith("random__0__0-")
    else:
        assert len(trained) == again
    if again != 0:
        (old,), (new,) = before.values(), world.rows.values()
        assert old["weights"] != new["weights"] and old["key"] != new["key"]
        assert len(list((world.folder / "runs/experiments/tiny/arms").glob("random__0__0-*/IV"))) == 2  # both are kept


def test_a_changed_way_of_asking_asks_and_trains_nothing(world: World) -> None:
    one = ["--arms", "random", "--starts", "0"]
    assert lare(world.words("run", *one)) == 0
    world.said()
    arm = {"change": ["stages.0.window=random"], "asks": {"K4": {"method": "lare", "iterations": 2}}}
    world.write(arms={"random": arm}, primary=None)
    assert lare(world.words("run", *one)) == 0
    assert [list(call) for call in world.said()] == [["ask"]]


def test_a_start_s_folder_with_another_run_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert lare(world.words("run", "--arms", "random", "--starts", "0")) == 0
    world.write(starts=[{"seed": 7, "base": "base.yaml"}])
    assert lare(world.words("run")) == 2
    assert "holds a run with other settings than start 0" in capsys.readouterr().err


def test_committed_rows_count_where_the_weights_are_gone(world: World) -> None:
    assert lare(world.words("run", "--starts", "0")) == 0
    world.said()
    (world.folder / "runs").rename(world.folder / "lost")
    assert lare(world.words("run", "--starts", "0")) == 0 and world.said() == []
    name = "lare__0__0__K0.validation.json"
    (world.folder / "reports/tiny/rows" / name).unlink()
    assert lare(world.words("run", "--starts", "0")) == 0
    # The start is trained again, has the same weights again (it is the same program), and one row is made.
    assert [Path(call.get("train", "ask")).name.partition("-")[0] for call in world.said()] == [
        "0",
        "lare__0__0",
        "ask",
    ]


def test_a_failure_costs_its_own_run_only(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    (world.folder / "fail").write_text("lare__0__0")
    assert lare(world.words("run", "--starts", "0")) == 2
    error = capsys.readouterr().err
    assert "lare 0 0: training ended with 1; see" in error
    assert list(world.rows) == ["random__0__0__K4.validation.json"]
    (world.folder / "fail").unlink()
    world.said()
    assert lare(world.words("run", "--starts", "0")) == 0
    assert world.trained() == ["lare__0__0"] and len(world.rows) == 3


def test_what_is_not_needed_is_dropped_unless_kept(world: World) -> None:
    assert lare(world.words("run", "--starts", "0", "--arms", "random")) == 0
    root = world.folder / "runs/experiments/tiny"
    assert (root / "starts/0/IV/final/model.safetensors").is_file() and (root / "starts/0/IV/step-00000001").is_dir()
    (arm,) = root.glob("arms/random*/IV")
    assert not (arm / "step-00000001").exists() and (arm / "final/model.safetensors").is_file()
    assert lare(world.words("run", "--starts", "1", "--arms", "random", "--keep-weights", "--drop-traces")) == 0
    (arm,) = root.glob("arms/random__1*/IV")
    assert (arm / "step-00000001").is_dir()
    assert [path.parts[-4].partition("-")[0] for path in root.glob("arms/*/asks/*/traces")] == ["random__0__0"]


def test_several_at_once_and_one_lock_a_run(world: World) -> None:
    assert lare(world.words("run", "--at-once", "3")) == 0
    assert sorted(world.trained()) == sorted(["0", "1", *EVERY])
    held = runner._lock(world.folder / "some.lock")
    assert held is not None and runner.locked(world.folder / "some.lock")
    os.close(held)
    assert not runner.locked(world.folder / "some.lock")


def test_a_run_that_another_process_works_on_is_left_alone(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    held = runner._lock(world.folder / "runs/experiments/tiny/arms/lare__0__0.lock")
    assert held is not None
    try:
        assert lare(world.words("run", "--starts", "0")) == 0
        assert "worked on by another process: lare 0 0" in capsys.readouterr().err
        assert lare(world.words("status")) == 0
        assert "1 running" in capsys.readouterr().out
    finally:
        os.close(held)
    assert list(world.rows) == ["random__0__0__K4.validation.json"]


def test_a_training_that_was_begun_by_hand_is_not_disturbed(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.write(starts=[{"seed": 0, "base": "base.yaml", "folder": "mine"}])
    plan = world.plan
    start = plan.starts["0"]
    assert start.place == world.folder / "runs/mine"
    (start.place / "IV").mkdir(parents=True)
    (start.place / "run.yaml").write_text(yaml.safe_dump({**start.config.to_dict(), "out": "elsewhere"}))
    log = start.place / "IV/log.jsonl"
    log.write_text("")
    assert lare(world.words("run", "--arms", "random")) == 2
    assert "something else trains in" in capsys.readouterr().err and world.said() == []
    os.utime(log, (0, 0))
    assert lare(world.words("run", "--arms", "random")) == 0
    assert world.trained() == ["mine", "random__0__0"]


def test_every_arm_tries_the_same_rates_and_the_best_is_taken(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.write(tuning={"rates": [1.0, 2.0]})
    assert chosen_rate(world.plan, "lare") is None
    assert lare(world.words("run")) == 0
    plan = world.plan
    assert chosen_rate(plan, "lare") == chosen_rate(plan, "random") == 2.0  # the program asks for 0.006
    trained = world.trained()
    assert trained == [
        "0", "lare__0__0", "lare__0__0__x2", "random__0__0", "random__0__0__x2",
        "1", "lare__1__0__x2", "random__1__0__x2",
    ]  # fmt: skip
    names = set(world.rows)
    assert "lare__0__0__x2__K0.validation.json" in names  # the chosen rate is asked in every way
    assert "lare__0__0__K0.validation.json" not in names
    row = world.rows["lare__1__0__x2__K4.validation.json"]
    assert row["tried"] == [1.0, 2.0] and row["rate"] == 2.0
    assert row["settings"]["optimiser"]["matrix_rate"] == pytest.approx(0.006)
    assert row["settings"]["stages"][0]["learning_rate"] == pytest.approx(4e-5)
    assert lare(world.words("status")) == 0
    assert "rates x 2 of 2 tried" in capsys.readouterr().out
    assert not jobs(plan, Choice(), Settings())


def test_a_rate_that_is_tried_later_counts_for_rows_of_before(world: World) -> None:
    world.write(tuning={"rates": [1.0, 2.0]})
    assert lare(world.words("run")) == 0
    world.write(tuning={"rates": [1.0, 2.0, 0.5]})
    assert {one.rates for one in gather(world.plan, "validation")} == {2}  # not tried yet
    assert lare(world.words("run")) == 0
    assert {one.rates for one in gather(world.plan, "validation")} == {3}


def test_test_questions_are_asked_once(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    one = ["--starts", "0", "--arms", "random"]
    assert lare(world.words("run", *one, "--test")) == 2
    assert "is not trained" in capsys.readouterr().err
    assert lare(world.words("run", *one)) == 0
    world.said()
    assert lare(world.words("run", *one, "--test")) == 0
    name = "random__0__0__K4.test.json"
    look = {"time": "2026-01-01T00:00:00Z", "weights": world.rows[name]["fingerprint"]}
    assert world.rows[name]["asked"] == [look] and world.rows[name]["group"] == "lare_mini"
    assert [list(call) for call in world.said()] == [["ask"]]
    assert lare(world.words("run", *one, "--test")) == 2
    assert "asked already (random 0 0, K4: 2026-01-01T00:00:00Z)" in capsys.readouterr().err
    assert world.said() == []
    assert lare(world.words("run", *one, "--test", "--again")) == 0
    assert world.rows[name]["asked"] == [look, look]


def test_other_weights_are_a_second_look_too(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    one = ["--starts", "0", "--arms", "random"]
    assert lare(world.words("run", *one)) == 0 and lare(world.words("run", *one, "--test")) == 0
    world.write(arms={"random": {"change": ["losses.text=0.1"], "asks": RANDOM}}, primary=None)
    assert lare(world.words("run", *one)) == 0
    world.said()
    capsys.readouterr()
    assert lare(world.words("run", *one, "--test")) == 2
    assert "asked already (random 0 0, K4: 2026-01-01T00:00:00Z)" in capsys.readouterr().err and world.said() == []


def test_a_row_that_a_kill_kept_from_the_file_is_no_second_look(world: World) -> None:
    one = ["--starts", "0", "--arms", "random"]
    assert lare(world.words("run", *one)) == 0 and lare(world.words("run", *one, "--test")) == 0
    name = "random__0__0__K4.test.json"
    first = world.rows[name]
    (world.folder / "reports/tiny/rows" / name).unlink()
    world.said()
    assert lare(world.words("run", *one, "--test")) == 0
    assert world.said() == [] and world.rows[name] == first


def _background(world: World) -> subprocess.Popen[bytes]:
    """The runner in a process of its own, with the same programs in place of training and asking."""
    code = FAKE.format(folder=str(world.folder))
    return subprocess.Popen([sys.executable, "-c", code, *world.words("run")], stderr=subprocess.PIPE)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_runner_goes_on(world: World, number: signal.Signals) -> None:
    (world.folder / "slow").write_text("")
    process = _background(world)
    deadline = time.monotonic() + 60
    while not world.calls.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    lock = world.folder / "runs/experiments/tiny/starts/0.lock"
    assert runner.locked(lock)
    process.send_signal(number)
    assert process.wait(30) == (143 if number == signal.SIGTERM else -9)
    # A training that outlives its runner keeps the lock; one that was asked to end gives it back.
    assert runner.locked(lock) == (number == signal.SIGKILL)
    (world.folder / "slow").unlink()
    if number == signal.SIGKILL:
        (begun,) = [json.loads(line) for line in world.calls.read_text().splitlines()]
        _end_training(begun["train"])
    world.said()
    assert lare(world.words("run")) == 0
    assert len(world.rows) == 6


def _end_training(folder: str) -> None:
    """End the orphan that works in a folder, found by its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().decode().split("\0")
        if folder in words:
            os.kill(int(path.parent.name), signal.SIGKILL)
    time.sleep(0.5)


def test_a_contrast_counts_from_the_commit_that_declared_it(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", "-C", str(world.folder), *who, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def declared() -> str | None:
        plan = world.plan
        return declared_at(plan.file, plan.grid.primary)

    assert declared() is None
    git("init", "-q")
    primary = {"arm": "lare", "minus": "random"}
    commits = []
    for changes in ({}, {"primary": primary}, {"primary": primary, "title": "another title"}):
        assert declared() is None or commits
        world.write(**changes)
        git("add", "tiny.yaml")
        git("commit", "-qm", "a")
        commits.append(git("rev-parse", "HEAD"))
    assert declared() == commits[1]  # a title declares nothing
    assert lare(world.words("run", "--starts", "0", "--arms", "random")) == 0
    assert {row["primary"]["commit"] for row in world.rows.values()} == {commits[1]}
    assert lare(world.words("status")) == 0
    assert f"lare minus random, accuracy on test questions [{world.plan.grid.primary.hash()}, declared in commit" in (
        capsys.readouterr().out
    )
    world.write(primary=primary | {"exclude_families": ["exist"]})
    assert declared() is None
    assert lare(world.words("status")) == 0
    assert "NOT committed" in capsys.readouterr().out


def test_a_limited_run_has_rows_of_its_own(world: World) -> None:
    one = ["--starts", "0", "--arms", "random"]
    assert lare(world.words("run", *one, "--limit", "4")) == 0
    assert world.rows == {}
    assert len(list((world.folder / "reports/tiny-first-4/rows").iterdir())) == 1
    world.said()
    assert lare(world.words("run", *one, "--limit", "4")) == 0 and world.said() == []
    assert lare(world.words("run", *one)) == 0
    assert [list(call) for call in world.said()] == [["ask"]]
    assert Slot(world.plan.run("random", "0", 0), "K4", "validation").file in world.rows
