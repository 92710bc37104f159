"""The benchmarks' own, unmodified task files run offline on a local cache, and missing data is said clearly."""

from __future__ import annotations

from pathlib import Path

import pytest

from lare import LareError

from . import hub_cache
from .conftest import FakeMethod, evaluate

ROWS = 4


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return hub_cache.write_cache(tmp_path_factory.mktemp("hub"), ROWS)


@pytest.fixture
def look_in(monkeypatch):
    """Sets the cache that tasks look in; lmms-eval remembers the first one it resolves."""
    from lmms_eval.api import task

    def look(folder):
        monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(folder))
        task._resolve_hf_datasets_cache_dir.cache_clear()

    yield look
    task._resolve_hf_datasets_cache_dir.cache_clear()


@pytest.fixture
def offline(cache, monkeypatch, look_in):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    look_in(cache)


def own_tasks(*names: str) -> list[str]:
    import lmms_eval.tasks

    return [str(Path(lmms_eval.tasks.__file__).parent / name) for name in names]


def right_answer(image, question: str) -> str:
    """Right for the first row of every made-up table."""
    return "It is. Answer: yes" if "Is there" in question else "Look. Answer: thing (A)"


def test_unmodified_task_files_run_offline(offline):
    from lare_eval.adapter import LareAdapter

    method = FakeMethod(right_answer)
    adapter = LareAdapter(model=method, batch_size=8)
    names = ["pope", "mmbench_en_dev_static", "mmbench_cn_dev", "mmstar", "mmvp", "scienceqa_img"]
    folders = own_tasks("pope", "mmbench", "mmstar", "mmvp", "scienceqa")
    scores = evaluate(adapter, names, folders, log_samples=True)["results"]
    assert scores["pope"]["pope_accuracy,none"] == 0.5
    assert scores["mmbench_en_dev_static"]["gpt_eval_score,none"] == 25.0
    assert scores["mmbench_cn_dev"]["gpt_eval_score,none"] == 25.0
    assert scores["mmstar"]["average,none"] == 0.25
    assert scores["mmvp"]["mmvp_accuracy,none"] == 0.5 and scores["mmvp"]["mmvp_pair_accuracy,none"] == 0.0
    assert scores["scienceqa_img"]["exact_match,none"] == 0.5
    limits = {sampling.max_new_tokens for _, sampling in method.calls}
    assert limits == {16, 128, 256, 1024}  # each task's own; 256 where MMStar names none
    assert all(len(questions) <= 8 for questions, _ in method.calls)


def test_missing_data_is_one_clear_message(offline, look_in, tmp_path):
    from lare_eval.adapter import LareAdapter

    look_in(tmp_path / "empty")
    with pytest.raises(LareError) as caught:
        evaluate(LareAdapter(model=FakeMethod()), ["pope"], own_tasks("pope"))
    message = str(caught.value)
    for part in ("lmms-lab-encoder/POPE", "'pope'", str(tmp_path / "empty"), "--tasks lare_mini", "HF_HOME", "offline"):
        assert part in message
    assert caught.value.__suppress_context__


def test_missing_data_ends_the_lmms_eval_command_with_code_one(offline, look_in, monkeypatch, tmp_path):
    from lare_eval.adapter import LareAdapter

    look_in(tmp_path / "empty")
    monkeypatch.setattr("sys.argv", ["/usr/bin/lmms-eval"])
    with pytest.raises(SystemExit, match="lare: error: .*lmms-lab-encoder/MMBench"):
        evaluate(LareAdapter(model=FakeMethod()), ["mmbench_en_dev_static"], own_tasks("mmbench"))
    with pytest.raises(SystemExit, match="lare: error: unknown --model_args colour"):
        LareAdapter.create_from_arg_string("colour=red", {"batch_size": 1})
