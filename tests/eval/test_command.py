"""`lare eval` tells the truth with its exit code, and the plain `lmms-eval` command runs with LaRe."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lare import LareError
from lare.checkpoints import default_checkpoint
from lare.trace import TraceReader
from lare_eval import TASKS
from lare_eval.cli import UNANSWERED, main
from tests.methods.tiny_checkpoint import write_checkpoint

from . import hub_cache
from .conftest import rows_a_task


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def quick(monkeypatch):
    """A task index of this package's tasks and pope alone: lmms-eval's own takes five seconds and more."""
    import lmms_eval.__main__
    import lmms_eval.tasks

    own = Path(lmms_eval.tasks.__file__).parent

    class Few(lmms_eval.tasks.TaskManager):
        def __init__(self, verbosity, include_path=None, model_name=None):
            super().__init__(verbosity, [str(own / "pope"), *include_path], include_defaults=False)

    monkeypatch.setattr(lmms_eval.__main__, "TaskManager", Few)
    with rows_a_task(monkeypatch, 4):
        yield


def arguments(checkpoint: Path, *more: str) -> list[str]:
    """Options of a quick run."""
    return ["--model_args", f"pretrained={checkpoint},max_new_tokens=4,batch_size=8", *more]


def test_a_good_run_writes_results_and_ends_with_zero(quick, checkpoint, tmp_path, capsys):
    more = ["--tasks", "lare_mini", "--output_path", str(tmp_path / "out"), "--log_samples"]
    assert main(arguments(checkpoint, *more)) == 0
    printed = capsys.readouterr()
    assert "lare_mini_mmvp" in printed.out and "stand-in" in printed.out
    assert "Traceback" not in printed.out + printed.err
    (file,) = (tmp_path / "out").rglob("[0-9]*_results.json")
    results = json.loads(file.read_text())
    assert set(results["n-samples"]) == {
        f"lare_mini_{name}" for name in ("mmbench", "mmstar", "mmvp", "scienceqa", "pope")
    }
    assert results["config"]["model"] == "lare" and str(checkpoint) in results["config"]["model_args"]
    assert results["throughput"]["avg_latent_steps"] == 2  # a mean over the 20 answers, as its name says
    samples = [json.loads(line) for line in next((tmp_path / "out").rglob("*samples_lare_mini_pope.jsonl")).open()]
    assert all(sample["token_counts"][0]["reasoning_tokens"] == 2 for sample in samples)
    kinds = [sample["categories"][0][:2] for sample in samples]
    assert kinds == [["kind", kind] for kind in ("random", "popular", "adversarial", "random")]
    found = {(one["task"], one["category"]): one for one in results["categories"]}
    assert found["lare_mini_pope", "random"]["n"] == 2 and found["lare_mini_mmvp", "both of a pair"]["n"] == 2
    assert {task for task, _ in found} == set(results["n-samples"])
    assert "|lare_mini_pope     |kind" in printed.out


def test_an_intervention_shows_in_results_and_traces(quick, checkpoint, tmp_path):
    """The same questions under own latents, zeros, and others' latents out of the first run's traces."""

    def ask(name, *more):
        out = tmp_path / name
        model_args = [f"pretrained={checkpoint}", "max_new_tokens=8", "batch_size=8", f"trace={out / 'trace'}"]
        words = ["--tasks", "lare_mini_pope", "--output_path", str(out), "--log_samples"]
        # One folder of kept answers for all: those under another setting must not be found in it.
        assert main(["--model_args", ",".join([*model_args, f"resume={tmp_path / 'kept'}", *more]), *words]) == 0
        (file,) = out.rglob("[0-9]*_results.json")
        results, traces = json.loads(file.read_text()), TraceReader(out / "trace")
        assert results["throughput"]["avg_resumed"] == 0 and len(traces) == 4
        with next(out.rglob("*samples_lare_mini_pope.jsonl")).open() as lines:
            scored = [json.loads(line)["filtered_resps"] for line in lines]
        return results["config"]["model_args"], traces, scored

    told, own, scored = ask("own")
    assert "intervene" not in told and "intervene" not in own.infos[0]["arguments"]
    latents = np.stack(own.column("latents"))
    assert latents.any((1, 2, 3)).all()
    told, zeros, zeroed = ask("zeros", "intervene=zeros")
    assert "intervene=zeros" in told and zeros.infos[0]["arguments"]["intervene"] == "zeros"
    assert not np.stack(zeros.column("latents")).any(), "what was fed is what is kept"
    assert set(zeros.column("key")).isdisjoint(own.column("key"))
    assert zeros.column("doc_id") == own.column("doc_id") and zeros.column("question") == own.column("question")
    assert zeros.column("text") != own.column("text") and zeroed != scored
    told, other, _ = ask("other", "intervene=other", f"intervene_from={tmp_path / 'own' / 'trace'}")
    assert "intervene=other" in told
    for mine, fed in zip(latents, other.column("latents"), strict=True):
        assert not np.allclose(mine, fed), "not the question's own"
        assert any(np.allclose(one, fed, atol=1e-6) for one in latents), "but one of the run's"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model_args", "colour=red"], "unknown --model_args colour; known are pretrained"),
        (["--model_args", "pretrained=/nowhere/to/be"], "no checkpoint folder '/nowhere/to/be'"),
        (["--model_args", "pretrained"], "can't be read; write name=value"),
        (["--model", "lare_nothing"], "lare_nothing.* not found"),
        (["--tasks", "lare_mini_chess"], "no tasks lare_mini_chess"),
        (["--config", "x.yaml"], "does not take --config"),
        (["--log_samples"], "output_path"),
    ],
)
def test_failures_are_one_message(quick, words, message):
    with pytest.raises(LareError, match=message):
        main(words)


def test_missing_data_names_the_data_set(quick, checkpoint, tmp_path, monkeypatch):
    import datasets
    from lmms_eval.api import task

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path / "empty"))
    task._resolve_hf_datasets_cache_dir.cache_clear()
    try:
        with pytest.raises(LareError, match=r"lmms-lab-encoder/POPE.*\n.*empty.*\n.*--tasks lare_mini"):
            main(arguments(checkpoint, "--tasks", "pope"))
    finally:
        task._resolve_hf_datasets_cache_dir.cache_clear()


def test_unanswered_questions_show_in_the_exit_code(quick, checkpoint, monkeypatch, capsys):
    from lare_eval import run

    whole = run.read_question

    def damaged(request, documents):
        if request.doc_id == 1:
            raise LareError("its picture can't be opened (made so)")
        return whole(request, documents)

    monkeypatch.setattr(run, "read_question", damaged)
    assert main(arguments(checkpoint, "--tasks", "lare_mini_pope")) == UNANSWERED
    printed = capsys.readouterr()
    assert "1 questions could not be answered" in printed.err
    assert "lare_mini_pope document 1: its picture can't be opened" in printed.err


def test_a_run_without_results_is_a_failure(quick, checkpoint, monkeypatch):
    import lmms_eval.__main__

    monkeypatch.setattr(lmms_eval.__main__, "cli_evaluate_single", lambda options: ({"n-samples": {}}, None))
    with pytest.raises(LareError, match="without results"):
        main(arguments(checkpoint))


def test_help_is_quick_and_tells_the_exit_codes(capsys):
    assert main(["--help"]) == 0
    assert "Exit code: 0 done; 2 failed" in capsys.readouterr().out


def test_the_tasks_are_offered_without_a_flag():
    from lmms_eval.tasks import TaskManager

    from lare_eval.hooks import offer_tasks

    before = TaskManager.initialize_tasks
    try:
        offer_tasks()
        offer_tasks()  # once is enough
        seen = []
        index = functools.partial(TaskManager.initialize_tasks, include_path="mine", include_defaults=True)
        fake = type("Fake", (), {"_get_task_and_group": lambda self, folder: seen.append(folder) or {}})()
        index(fake)
        assert seen[1:] == ["mine", str(TASKS)]
        seen.clear()
        TaskManager.initialize_tasks(fake, include_defaults=False)
        assert seen == []
    finally:
        TaskManager.initialize_tasks = before


def shipped() -> bool:
    """Whether the installation has the embedded checkpoint, which is what the bare command uses."""
    try:
        return default_checkpoint().is_dir()
    except LareError:
        return False


def test_lmms_eval_itself_runs_mmbench_and_pope(checkpoint, tmp_path):
    """The command as a user types it, in a process of its own, on unmodified task files and a local cache."""
    cache = hub_cache.write_cache(tmp_path / "cache", 2)
    command = Path(sys.executable).with_name("lmms-eval")
    words = ["--model", "lare", "--tasks", "mmbench,pope", "--output_path", "out", "--verbosity", "WARNING"]
    if not shipped():
        words += ["--model_args", f"pretrained={checkpoint},max_new_tokens=4"]
    done = subprocess.run(
        [command, *words],
        env={**hub_cache.environment(cache, tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr, done.stderr[-2000:]
    (file,) = (tmp_path / "out").rglob("[0-9]*_results.json")
    results = json.loads(file.read_text())["results"]
    assert set(results) >= {"pope", "mmbench_en_dev", "mmbench_cn_dev", "mmbench_ru_dev", "mmbench_cn_cc"}
    assert results["pope"]["pope_accuracy,none"] >= 0
