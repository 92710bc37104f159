"""Grids and options that make no sense are told in one line, before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest

from lare.cli import main as lare
from tests.experiments.grids import World


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"armss": {}}, "unknown key 'armss'"),
        ({"arms": {}}, "no arms"),
        ({"arms": {"a__b": {}}}, "names files"),
        ({"arms": {"a": {"asks": {"K": {}}}}, "primary": None}, "names no method"),
        ({"arms": {"a": {"change": ["seed=1"]}}, "primary": None}, "sets seed; the grid does that itself"),
        ({"arms": {"a": {"change": ["nonsense=1"]}}, "primary": None}, "unknown key 'nonsense'"),
        ({"arms": {"a": {"starts": ["9"]}}, "primary": None}, "there is no start 9; choose from 0, 1"),
        ({"tasks": {"test": "x"}}, "tasks has no validation"),
        ({"tuning": {"rates": [1, 1]}}, "give different factors"),
        ({"tuning": {"rates": [1, 2], "grid": "grid.yaml"}}, "leave one out"),
        ({"tuning": {"grid": "none.yaml"}}, "names 'none.yaml', which is not there"),
        ({"primary": {"arm": "lare", "minus": "nobody"}}, "there is no arm 'nobody'"),
        ({"primary": {"arm": "lare", "minus": "random", "measure": "luck"}}, "primary.measure is 'luck'"),
        ({"change": ["losses.text=0"]}, "has change but not like"),
        ({"like": "none.yaml"}, "names 'none.yaml', which is not there"),
        ({"base": "none.yaml"}, "names 'none.yaml', which is not there"),
        ({"starts": [{"seed": 0, "base": "base.yaml", "folder": "../x"}]}, "give one under the runs' folder"),
        ({"starts": [{"seed": 0, "base": "base.yaml", "stage": "II"}]}, "has no stage 'II'; choose from IV"),
    ],
)
def test_impossible_grids_are_one_line(world: World, changes: Any, message: str, capsys: Any) -> None:
    world.write(**changes)
    assert lare(world.words("status")) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--arms", "nobody"], "there is no arm 'nobody'; choose from lare, random"),
        (["--arms", "lare,nobody"], "there is no arm 'nobody'; choose from lare, random"),
        (["--again"], "--again goes with --test"),
        (["--test"], "--test wants --arms"),
        (["--limit", "0"], "--limit is 0"),
    ],
)
def test_impossible_options_are_one_line(world: World, more: list[str], message: str, capsys: Any) -> None:
    assert lare(world.words("run", *more)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and world.said() == []


def test_methods_are_checked_before_anything_is_trained(world: World, capsys: Any) -> None:
    world.write(arms={"a": {"asks": {"K": {"method": "lare", "iteration": 3}}}}, primary=None)
    assert lare(world.words("run")) == 2
    assert "has no option 'iteration'" in capsys.readouterr().err and world.said() == []


def test_an_ask_s_precision_is_checked_too(world: World, capsys: Any) -> None:
    world.write(arms={"a": {"asks": {"K": {"method": "lare", "dtype": "half"}}}}, primary=None)
    assert lare(world.words("run")) == 2
    assert "arm 'a', ask 'K': dtype is 'half'; choose from float32" in capsys.readouterr().err and world.said() == []
    world.write(arms={"a": {"asks": {"K": {"method": "lare", "dtype": "bfloat16"}}}}, primary=None)
    assert lare(world.words("run")) == 0
    assert {row["options"]["dtype"] for row in world.rows.values()} == {"bfloat16"}
