"""The mini tasks: the imitated columns, real pairs, and no answer that can be had blind."""

import numpy as np
import pytest

from lare.embedded.world.benchmark import SIZES_BY_TASK, TASKS, make_task
from lare.embedded.world.blind import Blind, BlindBaseline, blind_score, blind_view
from lare.embedded.world.prompts import task_prompt
from lare.errors import LareError


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_deterministic_and_have_prompts(task: str) -> None:
    one, two = make_task(task, "validation", 24), make_task(task, "validation", 24)
    assert len(one) == 24
    for a, b in zip(one, two, strict=True):
        assert task_prompt(task, a) == task_prompt(task, b)
        assert np.array_equal(np.asarray(a["image"]), np.asarray(b["image"]))
        assert a["rationale"] and isinstance(a["boxes"], list)
    assert len({str(r["question_id"]) for r in one}) == 24
    assert [task_prompt(task, r) for r in make_task(task, "validation", 24, seed=1)] != [
        task_prompt(task, r) for r in one
    ]


def test_default_sizes_make_at_least_2000_questions() -> None:
    assert set(SIZES_BY_TASK) == set(TASKS) and sum(SIZES_BY_TASK.values()) >= 2000


def test_pairs_share_the_question_and_differ_in_one_spot_and_in_the_answer() -> None:
    rows = make_task("mmvp", "test", 60)
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert first["Question"] == second["Question"] and first["Options"] == second["Options"]
        assert first["Correct Answer"] != second["Correct Answer"]
        changed = np.abs(np.asarray(first["image"]).astype(int) - np.asarray(second["image"]).astype(int)).sum(-1) > 0
        rows_changed, columns_changed = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert 0 < np.ptp(rows_changed) < 32 and 0 < np.ptp(columns_changed) < 32


def test_pope_has_three_negative_kinds_in_equal_numbers() -> None:
    rows = make_task("pope", "test", 90)
    assert [sum(r["category"] == c for r in rows) for c in ("random", "popular", "adversarial")] == [30, 30, 30]
    assert 0.3 < np.mean([r["answer"] == "yes" for r in rows]) < 0.7


@pytest.mark.parametrize("task", TASKS)
def test_no_format_is_answerable_blind(task: str) -> None:
    score = blind_score(task, make_task(task, "test", images=False), n_train=1200)
    assert score.blind <= score.chance + 0.05, score


def test_the_blind_baseline_finds_a_planted_leak() -> None:
    leaky = [Blind("What is it?", ("cat", "dog"), int(i % 5 == 0)) for i in range(500)]
    baseline = BlindBaseline().fit(leaky)
    assert baseline.answer(Blind("What is it?", ("dog", "cat"), 0)) == 1


def test_unknown_task_and_split_are_named() -> None:
    with pytest.raises(LareError, match="vqa"):
        make_task("vqa")
    with pytest.raises(LareError, match="dev"):
        make_task("pope", "dev")


def test_blind_view_strips_to_text() -> None:
    row = make_task("mmstar", "test", 1)[0]
    view = blind_view("mmstar", row)
    assert "Options" not in view.stem and len(view.options) in (2, 4)


@pytest.mark.parametrize("task", TASKS)
def test_questions_are_the_same_without_pictures(task):
    with_images, without = make_task(task, "test", 12), make_task(task, "test", 12, images=False)
    assert [{key: value for key, value in row.items() if key != "image"} for row in with_images] == without
