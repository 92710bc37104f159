"""Whole evaluations with a tiny real model: batches, processes, kills, bad pictures, the trace's cost."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import time
import traceback
from pathlib import Path

import pytest
import torch
from PIL import Image

from lare.trace import TraceReader
from lare_eval import TASKS
from tests.methods.tiny_checkpoint import tiny_parts

from .conftest import Rows, evaluate, requests_for, rows_a_task

NAMES = ["lare_mini_pope", "lare_mini_mmstar", "lare_mini_mmvp"]


@pytest.fixture(scope="module")
def method():
    from lare.methods.lare import Lare

    return Lare(*tiny_parts())


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    with rows_a_task(monkeypatch, 6):
        yield


def run(method, **options):
    """Samples by (task, document), and the results."""
    from lare_eval.adapter import LareAdapter

    adapter = LareAdapter(model=method, max_new_tokens=8, **options)
    results = evaluate(adapter, NAMES, str(TASKS), log_samples=True)
    if results is None:
        return {}, {}
    samples = {
        f"{task} {sample['doc_id']}": (sample["filtered_resps"], sample["token_counts"])
        for task, rows in results["samples"].items()
        for sample in rows
    }
    return samples, results["results"]


def test_batch_size_changes_no_reply_and_no_count(method):
    single, scores = run(method, batch_size=1)
    batched, batched_scores = run(method, batch_size=16)
    assert len(single) == 18 and single == batched
    assert scores == batched_scores


def test_two_processes_give_what_one_gives(method, tmp_path):
    expected, scores = run(method, batch_size=4)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = [_fork(rank, port, method, tmp_path) for rank in range(2)]
    codes = [os.waitpid(child, 0)[1] for child in children]
    assert codes == [0, 0], (tmp_path / "error").read_text() if (tmp_path / "error").exists() else codes
    samples, two_scores = json.loads((tmp_path / "samples.json").read_text())
    assert samples == json.loads(json.dumps(expected))
    assert two_scores == json.loads(json.dumps(scores, default=str))
    trace = TraceReader(tmp_path / "trace")
    assert len(trace) == 18 and len(list((tmp_path / "trace").glob("shard-*"))) == 2


def _fork(rank: int, port: int, method, folder: Path) -> int:
    """Rank `rank` of two; forked, since importing lmms-eval anew takes longer than everything else here."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:  # pragma: no cover - runs in the child
        from accelerate.state import AcceleratorState, GradientState, PartialState

        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
                          MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")  # fmt: skip
        torch.set_num_threads(1)
        samples, scores = run(method, batch_size=4, trace=str(folder / "trace"))
        if rank == 0:
            (folder / "samples.json").write_text(json.dumps([samples, scores], default=str))
        torch.distributed.destroy_process_group()
        code = 0
    except BaseException:
        (folder / "error").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def test_killed_evaluation_resumes(method, tmp_path):
    options = {"batch_size": 4, "resume": str(tmp_path / "answers"), "trace": str(tmp_path / "trace")}
    child = os.fork()
    if child == 0:  # pragma: no cover - dies by SIGKILL
        calls = []
        whole = method.answer

        def answer(*arguments, **more):
            calls.append(1)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(*arguments, **more)

        method.answer = answer
        try:
            run(method, **options)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert len(TraceReader(tmp_path / "trace")) == 8
    asked = []
    whole = method.answer
    method.answer = lambda images, questions, *more, **and_more: (
        asked.extend(questions),
        whole(images, questions, *more, **and_more),
    )[1]
    try:
        resumed, _ = run(method, **options)
    finally:
        del method.answer
    assert len(asked) == 18 - 8
    assert resumed == run(method, batch_size=4)[0]
    assert len(TraceReader(tmp_path / "trace")) == 18


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_every_sort_of_picture_is_answered_or_named(method, adapter_of, tmp_path):
    good = Image.effect_mandelbrot((40, 40), (-2, -1.5, 1, 1.5), 30).convert("RGB")
    png = encoded(good, "PNG")
    frames = [good.rotate(90 * n) for n in range(3)]
    answered = {
        "plain": good,
        "cmyk": encoded(good.convert("CMYK"), "JPEG"),
        "deep": Image.fromarray(torch.arange(1600).reshape(40, 40).numpy().astype("uint16")),
        "animated": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "one pixel": Image.new("RGB", (1, 1), "red"),
        "20,000 pixels": Image.new("L", (20_000, 2), 90),
    }
    refused = {
        "cut": png[: len(png) // 2],
        "nothing": b"",
        "no picture": b"hello",
        "bomb": Image.new("1", (20_000, 20_000)),
    }
    pictures = {**answered, **refused}
    rows = Rows({"question": "Is it red? Answer yes or no.", "image": picture} for picture in pictures.values())
    adapter = adapter_of(method, {"pope": rows}, batch_size=16, max_new_tokens=4, trace=str(tmp_path / "t"))
    replies = dict(zip(pictures, adapter.generate_until(requests_for({"pope": rows})), strict=True))
    assert all(replies[name][1]["reasoning_tokens"] == 2 for name in answered)
    assert all(replies[name][0] == "" and replies[name][1]["unanswered"] == 1 for name in refused)
    reasons = TraceReader(tmp_path / "t").column("stop_reason")
    assert sum(reason.startswith("error: ") for reason in reasons) == len(refused)


def test_writing_the_trace_takes_a_small_part_of_the_time(method, adapter_of, tmp_path):
    """The writer's share is what the trace adds on disk; a tiny model is the hardest case, as it answers fastest."""
    from .conftest import make_rows

    tables = {"pope": make_rows(64)}
    adapter = adapter_of(method, tables, batch_size=16, max_new_tokens=32, trace=str(tmp_path))
    from lmms_eval.models.model_utils.gen_metrics import reset_logged_metrics, summarize_logged_metrics

    shares = []
    for _ in range(2):
        reset_logged_metrics()
        started = time.perf_counter()
        adapter.generate_until(requests_for(tables))
        spent = time.perf_counter() - started
        shares.append(64 * summarize_logged_metrics()["avg_trace_seconds"] / spent)
    assert min(shares) <= 0.05, shares
