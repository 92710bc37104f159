"""Tasks apart: a planted task that moves against the rest is caught, and none is where nothing moves so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.shared.stats import cluster_mean, standard_error
from analysis.shared.tasks import BOUND, Apart, apart_table, find_apart
from lare.errors import LareError

TASKS = ("a", "b", "c", "d", "e")
STEPS = [f"{t} steps" for t in range(9)]
RISE = np.array([0.7, 0.82, 0.83, 0.86, 0.87, 0.86, 0.85, 0.83, 0.81])
"""A curve over steps as of a model trained for four."""

ODD = np.where(np.arange(9) % 2 == 1, -0.35, 0.0)


def answers(shares: dict[str, np.ndarray], n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right or wrong (N, S), tasks, scenes: questions of a scene are of like difficulty, and stay so over settings."""
    rng = np.random.default_rng(seed)
    right, tasks, scenes = [], [], []
    for task, curve in shares.items():
        hard = np.argsort(np.argsort(rng.standard_normal(n // 2).repeat(2) + rng.standard_normal(n))) / n
        noise = rng.normal(0, 0.05, (n, len(curve)))
        right.append(hard[:, None] + noise < curve[None])
        tasks += [task] * n
        scenes += [f"{task}{i // 2}" for i in range(n)]
    return np.concatenate(right), np.array(tasks), np.array(scenes)


def found(shares: dict[str, np.ndarray], **more: int) -> Apart:
    return find_apart(*answers(shares, **more), STEPS)


def test_a_task_that_collapses_at_odd_steps_is_set_aside() -> None:
    apart = found({task: RISE + (ODD if task == "c" else 0) for task in TASKS})
    assert apart.aside == ("c",) and apart.kept == ("a", "b", "d", "e") and apart.contested == ()
    assert "turns back and forth" in apart.reasons and "set aside" in apart.warnings[0]
    (row,) = [row for row in apart_table(apart).rows if row["fate"] == "set aside"]
    assert apart.verdict("Kept.", "Whole.") == (
        f"On 4 tasks, without c: Kept. Set aside: {apart.reasons}. Over all 5 tasks: Whole."
    )
    assert row["task"] == "c" and row["low_interval"][1] < -BOUND and row["high_interval"][0] > BOUND


def test_without_the_collapse_none_is() -> None:
    apart = found({task: RISE - 0.1 * place for place, task in enumerate(TASKS)})
    assert apart.aside == () and apart.warnings == () and apart.without == ""
    assert apart.verdict("Kept.", "Whole.") == "Kept."


def test_tasks_that_gain_unlike_are_not_against_one_another() -> None:
    """One gains four times as much, another nothing: averages differ from each, but none goes the other way."""
    gains = dict(zip(TASKS, (0.05, 0.1, 0.1, 0.25, 0.0), strict=True))
    first = np.where(np.arange(9) == 0, -1.0, 0.0)
    assert found({task: 0.8 + gain * first for task, gain in gains.items()}).aside == ()


def test_a_task_that_goes_the_other_way_between_two_settings() -> None:
    shares = {task: np.array([0.5, 0.4 if task == "b" else 0.7]) for task in TASKS}
    apart = find_apart(*answers(shares, n=400), ["A", "B"], [(0, 1)])
    assert apart.aside == ("b",) and "goes the other way (A to B)" in apart.reasons
    mild = {task: np.array([0.5, 0.49 if task == "b" else 0.55]) for task in TASKS}
    assert find_apart(*answers(mild, n=400), ["A", "B"], [(0, 1)]).aside == ()


def test_back_and_forth_counts_along_a_row_of_settings_only() -> None:
    """Unordered settings have no next one: a task that loses more in one and less in another goes the same way."""
    shares = {task: np.array([0.9, 0.7, 0.5]) for task in TASKS} | {"c": np.array([0.9, 0.85, 0.3])}
    assert find_apart(*answers(shares, n=400), ["own", "x", "y"], [(0, 1), (0, 2)]).aside == ()


def test_a_majority_remains() -> None:
    two = found({task: RISE + (ODD if task in "ab" else 0) for task in TASKS})
    assert sorted(two.aside) == ["a", "b"] and two.contested == ()
    three = found({task: RISE + (ODD if task in "abc" else 0) for task in TASKS})
    assert len(three.kept) >= 3
    pair = found({"a": RISE, "b": RISE + ODD})
    assert pair.aside == () and set(pair.contested) == {"a", "b"} and "not set aside" in pair.warnings[0]
    alone = found({"a": RISE + ODD})
    assert alone.aside == alone.contested == ()
    assert apart_table(alone).note == "There is one task, so there is no rest."


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.permutations(TASKS))
def test_neither_names_nor_direction_matter(seed: int, names: list[str]) -> None:
    """Wrong counted in place of right, questions in another order and other names set the same task aside."""
    right, tasks, scenes = answers({task: RISE + (ODD if task == "c" else 0) for task in TASKS}, n=100, seed=seed)
    apart = find_apart(right, tasks, scenes, STEPS)
    assert find_apart(~right, tasks, scenes, STEPS).aside == apart.aside
    order = np.random.default_rng(seed).permutation(len(tasks))
    called = dict(zip(TASKS, names, strict=True))
    renamed = np.array([called[task] for task in tasks])
    again = find_apart(right[order], renamed[order], scenes[order], STEPS)
    assert again.aside == tuple(called[task] for task in apart.aside)


def test_chance_alone_sets_none_aside() -> None:
    """Tasks with one true curve and few questions: intervals hold for all tasks and places at once."""
    caught = sum(bool(found(dict.fromkeys(TASKS, RISE), n=40, seed=seed).aside) for seed in range(60))
    assert caught == 0


def test_intervals_are_those_of_the_cluster_robust_mean() -> None:
    """With the same spread, only wider: one task's own change against statsmodels' standard error."""
    right, tasks, scenes = answers(dict.fromkeys(TASKS, RISE), n=60)
    one = find_apart(right, tasks, scenes, STEPS).every[1]
    mine = tasks == "b"
    errors = []
    for step, move in enumerate(one.moves):
        change = 100.0 * (right[mine, step + 1].astype(float) - right[mine, step])
        known = cluster_mean(change, scenes[mine])
        assert move.own[0] == pytest.approx(known.estimate, abs=1e-9)
        errors.append((move.own[2] - move.own[1]) / 2 / standard_error(known))
    assert np.allclose(errors, errors[0], rtol=1e-6) and 3 < errors[0] < 5


def test_the_gap_has_the_spread_that_a_bootstrap_over_scenes_has() -> None:
    right, tasks, scenes = answers({task: RISE + (0.1 if task == "a" else 0) for task in TASKS}, n=120, seed=3)
    one = find_apart(right, tasks, scenes, STEPS).every[0].moves[0]
    rng, change = np.random.default_rng(0), 100.0 * (right[:, 1].astype(float) - right[:, 0])
    means = {
        task: np.array(
            [change[tasks == task].reshape(-1, 2).mean(1)[rng.integers(0, 60, 60)].mean() for _ in range(999)]
        )
        for task in TASKS
    }
    drawn = means["a"] - np.mean([means[task] for task in TASKS[1:]], axis=0)
    own = find_apart(right, tasks, scenes, STEPS).every[0].moves[0].own
    width = (own[2] - own[1]) / 2 / means["a"].std()
    assert (one.gap[2] - one.gap[1]) / 2 / width == pytest.approx(drawn.std(), rel=0.1)


def test_damaged_values_are_named() -> None:
    with pytest.raises(LareError, match="at least two settings"):
        find_apart(np.ones((3, 1)), ["a"] * 3, ["s"] * 3, ["x"])
    with pytest.raises(LareError, match="a value a question"):
        find_apart(np.ones((3, 2)), ["a"] * 2, ["s"] * 2, ["x", "y"])
