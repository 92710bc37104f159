"""Fixtures of the plug-in's tests: a method without a model, tasks without files, and in-process evaluations."""

from __future__ import annotations

import argparse
import hashlib
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lare import LareError
from lare.methods.base import Answer

torch.set_num_threads(1)


class FakeMethod:
    """Answers by a hash of picture and question: fast, and any mix-up of rows changes a text."""

    name = "fake"
    columns: dict = {}

    def __init__(self, answer=None, version: str = "1", spoiled: str = "SPOILED") -> None:
        self.processor = None
        self.model = SimpleNamespace(device=torch.device("cpu"), config=SimpleNamespace(to_dict=dict))
        self.calls: list[tuple[list[str], object]] = []
        self.version, self.spoiled = version, spoiled
        self._answer = answer or self.default_answer

    def arguments(self) -> dict:
        return {"method": self.name}

    def fingerprint(self) -> str:
        return f"weights{self.version}"

    @staticmethod
    def default_answer(image: Image.Image, question: str) -> str:
        number = int(hashlib.sha256(image.tobytes() + question.encode()).hexdigest(), 16)
        final = ["yes", "no"][number % 2] if "yes or no" in question.lower() else f"thing ({'ABCD'[number % 4]})"
        return f"So it is {number % 1000}. Answer: {final}"

    def answer(self, images, questions, sampling, trace=False):
        self.calls.append((list(questions), sampling))
        if any(self.spoiled in question for question in questions):
            raise LareError("the question is too long: 9999 tokens; shorten it")
        rng = np.random.default_rng(0)
        arrays = {
            "prompt_ids": np.arange(5),
            "latents": rng.normal(size=(2, 1, 8)),
            "windows": np.ones((2, 2)),
            "saliency": rng.random((2, 3, 3)),
            "cross_attention": rng.random((2, 4)),
            "attention_shares": rng.random((2, 2, 2, 4)),
        }
        return [
            Answer(
                text=(text := self._answer(image, question)),
                input_tokens=9,
                output_tokens=len(text.split()),
                latent_steps=2,
                seconds={"decode": 0.001},
                arrays=arrays if trace else {},
                cut=len(text.split()) >= sampling.max_new_tokens,
            )
            for image, question in zip(images, questions, strict=True)
        ]

    @property
    def asked(self) -> int:
        return sum(len(questions) for questions, _ in self.calls)


@pytest.fixture
def fake_method():
    return FakeMethod()


class Rows(list):
    """Rows of an in-memory task; a row that is an exception is raised when it is read."""

    def __getitem__(self, index):
        row = super().__getitem__(index)
        if isinstance(row, Exception):
            raise row
        return row


class FakeRequest:
    """What the adapter needs of an lmms-eval Instance."""

    def __init__(self, task: str, doc_id: int, rows: Rows, generation: dict | None = None) -> None:
        row = list.__getitem__(rows, doc_id)
        context = row["question"] if isinstance(row, dict) else "a question whose row is damaged"
        self.args = (context, to_messages, generation or {"until": ["\n\n"]}, doc_id, task, "test")


def to_messages(row: dict) -> list[dict]:
    pictures = [{"type": "image", "url": image} for image in row.get("images", [row.get("image")]) if image is not None]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": row["question"]}]}]


def make_rows(count: int, name: str = "pope") -> Rows:
    rng = np.random.default_rng(len(name))
    ask = "Is there a thing? Answer yes or no." if name == "pope" else "Which?\nA. a\nB. b\nC. c\nD. d"
    return Rows(
        {
            "question": f"{ask} {'very ' * (n % 7)}{n}" if name == "pope" else f"{n}: {ask}",
            "image": Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)),
            "category": "random",
            "hops": n % 3,
        }
        for n in range(count)
    )


@pytest.fixture
def adapter_of():
    """Makes an adapter over in-memory rows: ``adapter_of(method, {"task": rows}, resume=..., ...)``."""

    def make(method, tables, **options):
        from lare_eval.adapter import LareAdapter

        adapter = LareAdapter(model=method, **options)
        adapter.task_dict = {task: {"test": rows} for task, rows in tables.items()}
        return adapter

    return make


def requests_for(tables: dict[str, Rows], generation: dict | None = None) -> list[FakeRequest]:
    return [FakeRequest(task, doc, rows, generation) for task, rows in tables.items() for doc in range(len(rows))]


def evaluate(model, tasks: list[str], include_path: list[str] | str, limit: int | None = None, **options) -> dict:
    """One lmms-eval evaluation in this process, over the given task folders only (their index takes 0.1 s)."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    manager = TaskManager("ERROR", include_defaults=False, include_path=include_path)
    arguments = argparse.Namespace(
        output_path=options.pop("output_path", None), process_with_media=False, reasoning_tags=None
    )
    return simple_evaluate(
        model=model, tasks=tasks, task_manager=manager, limit=limit, cli_args=arguments, bootstrap_iters=0, **options
    )


@pytest.fixture(autouse=True)
def _stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tasks write submissions into the current directory."""
    monkeypatch.chdir(tmp_path)


@contextmanager
def rows_a_task(monkeypatch: pytest.MonkeyPatch, n: int):
    """The mini tasks with that many questions each."""
    from lare.embedded.world import benchmark
    from lare_eval import mini

    whole = benchmark.make_task

    def few(name, split="test", _=None, **more):
        return whole(name, split, **(more | {"n": n}))

    monkeypatch.setattr(benchmark, "make_task", few)
    mini.mini_rows.cache_clear()
    yield
    mini.mini_rows.cache_clear()


@pytest.fixture
def few_rows(monkeypatch):
    """Four questions a task."""
    with rows_a_task(monkeypatch, 4):
        yield
