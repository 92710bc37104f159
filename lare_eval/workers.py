"""Runs the demo's passes side by side, one thread a process, and tells how far they are.

On a small model two processes are far ahead of two threads. Each process keeps one model and the features of the
pictures that it has seen (`lare_eval.sharing`), and takes one setting after the other; a batch holds the same questions
whichever process answers it, so answers do not depend on how many there are.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from lare_eval.settings import AGAINST, MAJORITY, guess, make_method
from lare_eval.summary import Pass

if TYPE_CHECKING:
    from lare.methods.base import Method
    from lare_eval.sharing import SharedFeatures

__all__ = ["Estimate", "Plan", "Workers", "cores"]

_PRELOAD = ["lmms_eval.evaluator", "lmms_eval.tasks", "lare_eval.adapter", "lare_eval.mini", "lare.model"]
_CALM = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Plan:
    """What all passes have in common.

    Attributes:
        checkpoint: LaRe checkpoint; None for the shipped one.
        against: Another, for the setting ``against``.
        tasks: lmms-eval's task names.
        out: Folder of the run.
        batch_size: Questions answered at once.
        limit: Questions of each task; None for all.
    """

    checkpoint: str | None
    against: str | None
    tasks: tuple[str, ...]
    out: Path
    batch_size: int
    limit: int | None


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Estimate:
    """When the work will be done, by how fast its first part went.

    Args:
        total: Units of work.
        share: Part of them after which it is said, once.
    """

    def __init__(self, total: int, share: float = 0.05, clock: Callable[[], float] = time.perf_counter) -> None:
        self._total, self._least, self._clock = total, max(1, round(share * total)), clock
        self._started: float | None = None
        self._first = self._done = 0
        self.seconds: float | None = None

    def add(self, units: int) -> float | None:
        """Count finished units; the seconds that are left, at the call that first knows them."""
        now = self._clock()
        self._done += units
        if self._started is None:  # what came before the first units (imports, drawing) is not repeated
            self._started, self._first = now, self._done
            return None
        if self.seconds is not None or self._done < self._least or self._done == self._first:
            return None
        self.seconds = (self._total - self._done) * (now - self._started) / (self._done - self._first)
        return self.seconds


class Workers:
    """Processes that make passes; as a context manager, so that none outlives it.

    Args:
        plan: What to ask.
        processes: How many; 1 works in this process, with the model that `run` is given.
    """

    def __init__(self, plan: Plan, processes: int) -> None:
        self._plan, self._processes = plan, processes
        self._pool: ProcessPoolExecutor | None = None
        self._ticks: Any = None

    def __enter__(self) -> Workers:
        if self._processes > 1:
            method = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
            context: Any = get_context(method)
            if method == "forkserver":
                context.set_forkserver_preload(_PRELOAD)
            self._ticks = context.Queue()
            self._pool = ProcessPoolExecutor(self._processes, context, _begin, (self._plan, self._ticks))
            with _environment(_CALM):  # what a process imports reads these
                for _ in range(self._processes):
                    self._pool.submit(_nothing)
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, settings: Sequence[str], thinking: Method, tick: Callable[[int], None]) -> dict[str, Any]:
        """Make the passes.

        Args:
            settings: Their names; ``majority`` gives `lare_eval.settings.Guesses` instead of a pass.
            thinking: The model, for work in this process.
            tick: Called with the number of questions that were just answered.
        """
        if self._pool is None:
            worker = _Worker(self._plan, tick, thinking)
            return {setting: worker.make(setting) for setting in settings}
        listener = threading.Thread(target=_listen, args=(self._ticks, tick), daemon=True)
        listener.start()
        waiting = {setting: self._pool.submit(_make, setting) for setting in settings}
        try:
            return {setting: future.result() for setting, future in waiting.items()}
        finally:
            self._ticks.put(None)
            listener.join(5)


def _listen(ticks: Any, tick: Callable[[int], None]) -> None:
    while (count := ticks.get()) is not None:
        tick(count)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


class _Worker:
    """One process's model, and the features that it has made."""

    def __init__(self, plan: Plan, tick: Callable[[int], None], thinking: Method | None = None) -> None:
        self.plan, self.tick, self._thinking = plan, tick, thinking
        self._features: dict[bool, SharedFeatures] = {}

    def make(self, setting: str) -> Any:
        """A pass, or the guesses."""
        if setting == MAJORITY:
            return guess(self.plan.tasks)
        return self._pass(setting)

    def _pass(self, setting: str) -> Pass:
        from lare.methods import load_method
        from lare_eval.passes import evaluate_pass
        from lare_eval.sharing import SharedFeatures

        plan = self.plan
        if self._thinking is None:
            self._thinking = load_method("lare", plan.checkpoint)
        method = make_method(setting, self._thinking, plan.against)
        # Another checkpoint has another encoder.
        features = self._features.setdefault(setting == AGAINST, SharedFeatures())
        with features.of(method):
            return evaluate_pass(setting, method, plan.tasks, plan.out, plan.batch_size, plan.limit, self.tick)


_WORKER: _Worker | None = None


def _begin(plan: Plan, ticks: Any) -> None:
    """First thing in a new process."""
    import torch

    global _WORKER
    torch.set_num_threads(1)
    _WORKER = _Worker(plan, ticks.put)


def _nothing() -> None:
    """Make the pool start a process."""


def _make(setting: str) -> Any:
    assert _WORKER is not None
    return _WORKER.make(setting)


def progress_bar(total: int) -> tqdm[Any]:
    """A bar over all questions of all settings."""
    return tqdm(total=total, desc="demo", unit="answer", file=sys.stderr, smoothing=0.05, disable=None)
