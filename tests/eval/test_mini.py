"""The lare_mini stand-ins: made offline, asked as the benchmarks ask, scored by lmms-eval's own functions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lare_eval import TASKS

from .conftest import FakeMethod, evaluate, rows_a_task

NAMES = ("mmbench", "mmstar", "mmvp", "scienceqa", "pope")
ROWS = 12


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """A few rows a task."""
    with rows_a_task(monkeypatch, ROWS):
        yield


def right_answers(version: int = 1) -> dict[tuple[bytes, str], str]:
    """What a perfect model would write, by picture and question."""
    from lare.embedded.world.benchmark import make_task
    from lare.embedded.world.prompts import task_prompt

    right = {}
    for name in NAMES:
        for row in make_task(name, version=version):
            answer = row["Correct Answer"] if name == "mmvp" else row["answer"]
            if name == "scienceqa":
                answer = "ABCDE"[answer]
            if name != "pope":
                answer = f"thing ({answer.strip('()').upper()})"
            right[row["image"].convert("RGB").tobytes(), task_prompt(name, row)] = f"So it is. Answer: {answer}"
    return right


@pytest.fixture
def oracle():
    right = right_answers()
    return FakeMethod(lambda image, question: right[image.tobytes(), question])


@pytest.fixture
def adapter(oracle):
    from lare_eval.adapter import LareAdapter

    return LareAdapter(model=oracle, batch_size=16)


def test_right_answers_score_one_everywhere(adapter, oracle, tmp_path):
    results = evaluate(adapter, ["lare_mini"], str(TASKS), log_samples=True, output_path=str(tmp_path))
    scores = results["results"]
    for name in NAMES:
        assert scores[f"lare_mini_{name}"]["score,none"] == 1.0, name
        assert "stand-in" in scores[f"lare_mini_{name}"]["alias"]
    assert scores["lare_mini_mmbench"]["mmbench_accuracy,none"] == 1.0
    assert scores["lare_mini_mmstar"]["average,none"] == 1.0
    assert scores["lare_mini_mmvp"]["mmvp_pair_accuracy,none"] == 1.0
    assert scores["lare_mini_scienceqa"]["exact_match,none"] == 1.0
    assert scores["lare_mini_pope"]["pope_f1_score,none"] == 1.0
    assert results["groups"]["lare_mini"]["score,none"] == 1.0
    assert oracle.asked <= 5 * ROWS
    counts = results["samples"]["lare_mini_mmstar"][0]["token_counts"][0]
    assert counts["reasoning_tokens"] == 2 and counts["output_tokens"] == 6
    # The mean text tokens of right answers can be had for every task, which lmms-eval manages for pope alone otherwise.
    per_task = results["efficiency"]["by_task"]
    assert all(per_task[f"lare_mini_{name}"]["total_correct_score"] == ROWS for name in NAMES)
    assert results["throughput"]["avg_unanswered"] == 0 and results["throughput"]["avg_latent_steps"] > 0


def test_wrong_answers_score_zero_and_nobody_is_asked(oracle, monkeypatch):
    import requests

    from lare_eval.adapter import LareAdapter

    def no_network(*arguments, **options):
        raise AssertionError("the scorer asked the network")

    monkeypatch.setattr(requests, "post", no_network)
    adapter = LareAdapter(model=FakeMethod(lambda image, question: "I can't tell"), batch_size=16)
    scores = evaluate(adapter, ["lare_mini"], str(TASKS))["results"]
    assert all(scores[f"lare_mini_{name}"]["score,none"] == 0.0 for name in NAMES)
    assert scores["lare_mini_mmbench"]["mmbench_accuracy,none"] == 0.0


def test_pair_accuracy_needs_both_of_a_pair(oracle):
    from lare_eval.adapter import LareAdapter

    always_a = FakeMethod(lambda image, question: "Answer: thing (A)")
    scores = evaluate(LareAdapter(model=always_a), ["lare_mini_mmvp"], str(TASKS))["results"]["lare_mini_mmvp"]
    assert scores["mmvp_pair_accuracy,none"] == 0.0
    assert scores["mmvp_accuracy,none"] == 0.5


def test_prompts_are_what_lmms_evals_own_tasks_write():
    from lmms_eval.tasks.mmstar.utils import mmstar_doc_to_text
    from lmms_eval.tasks.mmvp.utils import mmvp_doc_to_text
    from lmms_eval.tasks.pope.utils import pope_doc_to_text
    from lmms_eval.tasks.scienceqa.utils import sqa_doc_to_text

    from lare.embedded.world.benchmark import make_task
    from lare.embedded.world.prompts import POST_PROMPTS, task_prompt

    own = {"mmstar": mmstar_doc_to_text, "mmvp": mmvp_doc_to_text, "pope": pope_doc_to_text,
           "scienceqa": sqa_doc_to_text}  # fmt: skip
    for name, write in own.items():
        for row in make_task(name):
            arguments = {"pre_prompt": "", "post_prompt": POST_PROMPTS[name], "format": "default"}
            assert task_prompt(name, row) == write(row, arguments)


def test_rows_carry_what_analyses_need(oracle, tmp_path):
    from lare.trace import TraceReader
    from lare_eval.adapter import LareAdapter

    adapter = LareAdapter(model=oracle, batch_size=16, trace=str(tmp_path / "t"))
    evaluate(adapter, ["lare_mini_pope"], str(TASKS), limit=4)
    reader = TraceReader(tmp_path / "t")
    assert len(reader) == 4
    assert set(reader.column("meta.answer")) == {"yes", "no"}
    assert all(isinstance(hops, int) for hops in reader.column("meta.hops"))
    assert all(isinstance(json.loads(boxes), list) for boxes in reader.column("meta.boxes"))


def test_every_stand_in_says_so():
    for file in Path(TASKS, "lare_mini").glob("*.yaml"):
        text = file.read_text()
        assert file.stem.startswith("lare_mini") and "tand-in" in text.splitlines()[0], file


def test_the_validation_split_has_its_own_tasks(tmp_path):
    """Same formats and sizes, other scenes; whatever is chosen is chosen on these, never on the test split."""
    from lmms_eval.tasks import TaskManager, get_task_dict

    manager = TaskManager("ERROR", include_defaults=False, include_path=[str(TASKS)])
    assert manager.task_index["lare_mini_val"]["type"] == "group"
    (task,) = get_task_dict(["lare_mini_val_mmvp"], manager, "chat").values()
    assert list(task.dataset) == ["validation"] and task.config.test_split == "validation"
    rows = list(task.test_docs())
    assert {row["scene"].split("/")[0] for row in rows} == {"validation"} and len(rows) == ROWS
    assert {row["task"] for row in rows} == {"lare_mini_val_mmvp"}
    assert task.config.task_alias == "lare_mini_val_mmvp (stand-in)"


def test_version_2_has_tasks_of_its_own(tmp_path):
    """A perfect model has them all right; hops and difficulty are in the trace."""
    from lare.trace import TraceReader
    from lare_eval.adapter import LareAdapter

    right = right_answers(version=2)
    method = FakeMethod(lambda image, question: right[image.tobytes(), question])
    scores = evaluate(LareAdapter(model=method, batch_size=16, trace=str(tmp_path)), ["lare_mini2"], str(TASKS))
    assert all(scores["results"][f"lare_mini2_{name}"]["score,none"] == 1.0 for name in NAMES)
    assert scores["groups"]["lare_mini2"]["score,none"] == 1.0
    reader = TraceReader(tmp_path)
    assert len(reader) == len(NAMES) * ROWS
    assert set(reader.column("meta.difficulty")) <= {"easy", "medium", "hard"}
    assert all(scene.startswith("test@2/") for scene in reader.column("meta.scene"))


def test_the_validation_split_of_version_2(tmp_path):
    from lmms_eval.tasks import TaskManager, get_task_dict

    manager = TaskManager("ERROR", include_defaults=False, include_path=[str(TASKS)])
    assert manager.task_index["lare_mini2_val"]["type"] == "group"
    for name in NAMES:
        (task,) = get_task_dict([f"lare_mini2_val_{name}"], manager, "chat").values()
        assert {row["scene"].split("/")[0] for row in task.test_docs()} == {"validation@2"}
        assert task.config.task_alias == f"lare_mini2_val_{name} (stand-in)"
