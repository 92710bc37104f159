"""One pass over tasks with one way of answering: lmms-eval's scores, what each answer cost, and its traces."""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lare.files import save_text
from lare_eval.summary import Pass

if TYPE_CHECKING:
    from lare.methods.base import Method
    from lare.trace import TraceReader

__all__ = ["evaluate_pass", "own_bar"]


def evaluate_pass(
    setting: str,
    method: Method,
    tasks: Sequence[str],
    out: Path,
    batch_size: int = 32,
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Pass:
    """One pass over tasks, by lmms-eval; traces go to ``out/traces/<setting>``, scores to ``out/scores``.

    Args:
        setting: Name of the pass; equals signs are left out of the folder's name.
        method: What answers.
        tasks: lmms-eval's task names.
        out: Folder.
        batch_size: Questions answered at once.
        limit: Questions of each task; None for all.
        progress: Called with the number of questions that were just answered, in place of a bar.
    """
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager
    from loguru import logger

    from lare.trace import TraceReader
    from lare_eval import TASKS
    from lare_eval.adapter import LareAdapter

    logger.remove()
    logger.add(sys.stderr, level="WARNING", format=f"<level>{{level: <8}}</level> {setting}: {{message}}")
    traces = out / "traces" / setting.replace("=", "")
    with redirect_stdout(io.StringIO()), own_bar(progress):  # scorers print tables of their own
        results = simple_evaluate(
            model=LareAdapter(model=method, batch_size=batch_size, trace=str(traces), progress=progress),
            tasks=list(tasks),
            task_manager=TaskManager("ERROR", include_defaults=False, include_path=[str(TASKS)]),
            limit=limit,
            bootstrap_iters=0,
            verbosity="ERROR",
            cli_args=argparse.Namespace(output_path=None, process_with_media=False, reasoning_tags=None),
        )
    samples: Mapping[str, list[dict[str, Any]]] = results["samples"]
    reader = TraceReader(traces)
    scores = {task: {int(row["doc_id"]): float(row["score"]) for row in rows} for task, rows in samples.items()}
    costs = {task: _costs(reader, task) for task in scores}
    save_text(out / "scores" / f"{traces.name}.json", json.dumps(scores))
    measures = {task: _measures(results["results"][task]) for task in scores}
    return Pass(setting, scores, costs, {task: _scenes(reader, task) for task in scores}, measures)


def _measures(reported: Mapping[str, Any]) -> dict[str, float]:
    """Numbers among what lmms-eval reports of a task; not those that it could not know, nor its standard errors."""
    numbers = {name.removesuffix(",none"): value for name, value in reported.items() if isinstance(value, float | int)}
    return {name: float(one) for name, one in numbers.items() if "stderr" not in name and math.isfinite(one)}


@contextmanager
def own_bar(progress: Callable[[int], None] | None) -> Iterator[None]:
    """Keep lmms-eval's progress bars away where somebody else shows one."""
    from lmms_eval import evaluator
    from lmms_eval.api import task

    before = [(module, module.tqdm) for module in (evaluator, task)]
    for module, bar in before if progress is not None else ():
        module.tqdm = partial(_hidden, bar)
    try:
        yield
    finally:
        for module, bar in before:
            module.tqdm = bar


def _hidden(bar: Callable[..., Any], *given: Any, **options: Any) -> Any:
    return bar(*given, **{**options, "disable": True})


def _costs(reader: TraceReader, task: str) -> npt.NDArray[np.float64]:
    chosen = reader.select(task=task)
    seconds = [sum(phases.values()) for phases in chosen.column("seconds")]
    columns = [chosen.column("output_tokens"), chosen.column("latent_steps"), seconds]
    return np.array(columns, float).reshape(3, -1).T[np.argsort(chosen.column("doc_id"))]


def _scenes(reader: TraceReader, task: str) -> dict[int, str]:
    chosen = reader.select(task=task)
    numbers = chosen.column("doc_id")
    scenes = chosen.column("meta.scene", default="")
    # A task without scenes has every question for itself.
    return {number: scene or f"{task}/{number}" for number, scene in zip(numbers, scenes, strict=True)}
