"""``make demo``: the embedded checkpoint on the five mini tasks, thinking, answering at once, and blind.

Three passes over the same questions with the same weights:

- ``K=4``: the checkpoint's latent steps, then text;
- ``K=0``: no latent steps and no delimiters, the way of answering at once that a share of its training batches had
  (empty delimiters were never trained, so a comparison with them would flatter the latents);
- ``blind``: the latent steps again, with a grey picture in place of the image: what the words alone give away.

Every pass writes its traces; the summary is made from lmms-eval's scores and from the traces. A result here is a result
on the embedded world, never on a benchmark whose format a task has.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lare.errors import LareError

if TYPE_CHECKING:
    from lare.methods.base import Method
    from lare.trace import TraceReader

__all__ = ["Cell", "Margin", "main", "margin", "summarise", "table", "wilson"]

OUT = Path("results/demo")
DIRECT, BLIND = "K=0", "blind"
_Z = 1.959964
_LEGEND = (
    "K=0: the same weights answer at once, without latent steps. blind: latent steps, but a grey picture for the image.\n"
    "Intervals: 95 %, Wilson for shares, bootstrap over scenes for differences on the same questions.\n"
    "The tasks are stand-ins made from the embedded world; no number here is a result on a benchmark."
)

Scores = Mapping[int, float]
"""Score (0 or 1) by question number."""


@dataclass(frozen=True)
class Cell:
    """How one pass did on one task.

    Attributes:
        setting: Which pass.
        task: Task, or "all".
        n: Questions.
        accuracy: Share of right answers.
        low: Lower end of its 95 % Wilson interval.
        high: Upper end.
        text_tokens: Mean text tokens of an answer.
        latent_steps: Mean latent steps of an answer.
        seconds: Wall-clock seconds of all answers.
    """

    setting: str
    task: str
    n: int
    accuracy: float
    low: float
    high: float
    text_tokens: float
    latent_steps: float
    seconds: float


@dataclass(frozen=True)
class Margin:
    """Difference of two passes on the same questions.

    Attributes:
        task: Task, or "all".
        left: The pass that is judged.
        right: The pass that it is compared with.
        n: Questions.
        difference: Accuracy of `left` minus accuracy of `right`.
        low: Lower end of the 95 % interval of the mean paired difference (bootstrap over scenes, since questions about
            one scene, such as a pair of near-identical pictures, are not independent).
        high: Upper end.
        gained: Questions that only `left` has right.
        lost: Questions that only `right` has right.
    """

    task: str
    left: str
    right: str
    n: int
    difference: float
    low: float
    high: float
    gained: int
    lost: int


def wilson(right: float, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = right / n, _Z * _Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * float(np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def margin(
    task: str,
    left: str,
    right: str,
    left_scores: npt.ArrayLike,
    right_scores: npt.ArrayLike,
    scenes: Sequence[str] | None = None,
) -> Margin:
    """Compare two passes on the same questions.

    Args:
        task: Name for the row.
        left: Name of the judged pass.
        right: Name of the other.
        left_scores: (n,) scores in the order of the questions.
        right_scores: (n,) scores in the same order.
        scenes: (n,) name of each question's scene; None takes every question for itself.

    Raises:
        LareError: If there are no questions or the numbers differ.
    """
    first, second = np.asarray(left_scores, float), np.asarray(right_scores, float)
    if first.shape != second.shape or first.size == 0:
        raise LareError(f"{left} has {first.size} scores on {task}, {right} has {second.size}; they can't be paired")
    gaps = first - second
    low, high = _interval(gaps, scenes if scenes is not None else [str(number) for number in range(gaps.size)])
    return Margin(
        task=task,
        left=left,
        right=right,
        n=int(gaps.size),
        difference=float(gaps.mean()),
        low=low,
        high=high,
        gained=int((gaps > 0).sum()),
        lost=int((gaps < 0).sum()),
    )


def _interval(gaps: npt.NDArray[np.float64], scenes: Sequence[str]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of `gaps`, whole scenes being drawn."""
    _, scene = np.unique(np.asarray(scenes), return_inverse=True)
    totals, sizes = np.bincount(scene, gaps), np.bincount(scene)
    draws = np.random.default_rng(0).integers(0, totals.size, (4000, totals.size), dtype=np.int32)
    low, high = np.quantile(totals[draws].sum(1) / sizes[draws].sum(1), [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class Pass:
    """What one pass left: scores by task, and the costs of each answer by task.

    Attributes:
        setting: Which pass.
        scores: Task to question number to score.
        costs: Task to rows of (text tokens, latent steps, seconds), one an answer.
        scenes: Task to question number to the name of its scene.
    """

    setting: str
    scores: Mapping[str, Scores]
    costs: Mapping[str, npt.NDArray[np.float64]]
    scenes: Mapping[str, Mapping[int, str]]

    def cell(self, task: str) -> Cell:
        """The row of one task, or of "all"."""
        tasks = list(self.scores) if task == "all" else [task]
        scores = [score for name in tasks for score in self.scores[name].values()]
        costs = np.concatenate([self.costs[name] for name in tasks])
        low, high = wilson(sum(scores), len(scores))
        tokens, steps = costs[:, :2].mean(0) if len(costs) else (0.0, 0.0)
        return Cell(
            setting=self.setting,
            task=task,
            n=len(scores),
            accuracy=sum(scores) / max(len(scores), 1),
            low=low,
            high=high,
            text_tokens=float(tokens),
            latent_steps=float(steps),
            seconds=float(costs[:, 2].sum()),
        )


def summarise(passes: Sequence[Pass]) -> tuple[list[Cell], list[Margin]]:
    """Cells of every pass and task, and what the first pass has over each of the others."""
    tasks = [*passes[0].scores, "all"]
    cells = [one.cell(task) for task in tasks for one in passes]
    first = passes[0]
    margins = []
    for other in passes[1:]:
        for task in tasks:
            rows = [
                (first.scores[name][number], other.scores[name][number], first.scenes[name][number])
                for name in (first.scores if task == "all" else [task])
                for number in sorted(first.scores[name])
            ]
            left, right, scenes = zip(*rows, strict=True)
            margins.append(margin(task, first.setting, other.setting, left, right, scenes))
    return cells, margins


def table(cells: Sequence[Cell], margins: Sequence[Margin]) -> str:
    """Lay the summary out as text."""
    answers = [("task", "setting", "n", "accuracy", "95 % interval", "text tokens", "latent steps", "seconds")]
    for cell in cells:
        interval = f"{cell.low:.1%} - {cell.high:.1%}"
        costs = (f"{cell.text_tokens:.1f}", f"{cell.latent_steps:.1f}", f"{cell.seconds:.1f}")
        answers.append((cell.task, cell.setting, str(cell.n), f"{cell.accuracy:.1%}", interval, *costs))
    gaps = [("task", "difference", "n", "points", "95 % interval", "only left right", "only right right")]
    for gap in margins:
        interval = f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f}"
        name = f"{gap.left} minus {gap.right}"
        points = f"{100 * gap.difference:+.1f}"
        gaps.append((gap.task, name, str(gap.n), points, interval, str(gap.gained), str(gap.lost)))
    return f"{_columns(answers)}\n\n{_columns(gaps)}"


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _blind(method: Method) -> Method:
    """The same model and options, shown a grey picture whatever the image is."""
    from PIL import Image

    from lare.methods.base import Answer, Sampling
    from lare.methods.lare import Lare

    class Blind(Lare):
        """LaRe that is not shown the image."""

        def answer(
            self, images: Sequence[Image.Image], questions: Sequence[str], sampling: Sampling, trace: bool = False
        ) -> list[Answer]:
            grey = [Image.new("RGB", image.size, (128, 128, 128)) for image in images]
            return super().answer(grey, questions, sampling, trace)

    return Blind(method.model, method.processor, iterations=method.iterations)


def _evaluate(setting: str, method: Method, tasks: Sequence[str], options: argparse.Namespace) -> Pass:
    """One pass over the tasks, by lmms-eval."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager
    from loguru import logger

    from lare.trace import TraceReader
    from lare_eval import TASKS
    from lare_eval.adapter import LareAdapter

    logger.remove()
    logger.add(sys.stderr, level="WARNING", format="<level>{level: <8}</level> {message}")
    traces = options.out / "traces" / setting.replace("=", "")
    results = simple_evaluate(
        model=LareAdapter(model=method, batch_size=options.batch_size, trace=str(traces)),
        tasks=list(tasks),
        task_manager=TaskManager("ERROR", include_defaults=False, include_path=[str(TASKS)]),
        limit=options.limit,
        bootstrap_iters=0,
        verbosity="ERROR",
        cli_args=argparse.Namespace(output_path=None, process_with_media=False, reasoning_tags=None),
    )
    samples: Mapping[str, list[dict[str, Any]]] = results["samples"]
    reader = TraceReader(traces)
    scores = {task: {int(row["doc_id"]): float(row["score"]) for row in rows} for task, rows in samples.items()}
    costs = {task: _costs(reader, task) for task in scores}
    return Pass(setting, scores, costs, {task: _scenes(reader, task) for task in scores})


def _costs(reader: TraceReader, task: str) -> npt.NDArray[np.float64]:
    chosen = reader.select(task=task)
    seconds = [sum(phases.values()) for phases in chosen.column("seconds")]
    return np.array([chosen.column("output_tokens"), chosen.column("latent_steps"), seconds], float).reshape(3, -1).T


def _scenes(reader: TraceReader, task: str) -> dict[int, str]:
    chosen = reader.select(task=task)
    numbers = chosen.column("doc_id")
    scenes = chosen.column("meta.scene", default="")
    # A task without scenes has every question for itself.
    return {number: scene or f"{task}/{number}" for number, scene in zip(numbers, scenes, strict=True)}


def _write(
    out: Path, checkpoint: str, cells: Sequence[Cell], margins: Sequence[Margin], text: str, seconds: float
) -> None:
    content = {
        "checkpoint": checkpoint,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds, 1),
        "cells": [asdict(cell) for cell in cells],
        "margins": [asdict(gap) for gap in margins],
    }
    for name, body in (("summary.json", json.dumps(content, indent=2)), ("summary.txt", text)):
        temporary = out / f".{name}.tmp"
        temporary.write_text(body + "\n", encoding="utf-8")
        temporary.replace(out / name)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lare_eval.demo", description=__doc__)
    parser.add_argument("--checkpoint", help="LaRe checkpoint; default: the embedded one")
    parser.add_argument("--tasks", default="lare_mini", help="tasks, separated by commas (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="questions of each task; default: all")
    parser.add_argument("--batch-size", type=int, default=32, help="questions answered at once (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the results (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.limit is not None and options.limit < 1:
        parser.error("--limit needs at least 1")
    return options


def run(options: argparse.Namespace) -> int:
    """Make the three passes, print the summary and where it lies; returns the exit code."""
    from lare.methods import get_method, load_method

    started = time.perf_counter()
    options.out = options.out / time.strftime("%Y%m%d_%H%M%S")
    options.out.mkdir(parents=True)
    thinking = load_method("lare", options.checkpoint)
    direct = get_method("llava")(thinking.model, thinking.processor)
    settings = {f"K={thinking.model.config.iterations}": thinking, DIRECT: direct, BLIND: _blind(thinking)}
    passes = []
    for setting, method in settings.items():
        print(f"demo: {setting} ...", file=sys.stderr, flush=True)
        passes.append(_evaluate(setting, method, options.tasks.split(","), options))
    cells, margins = summarise(passes)
    text = table(cells, margins)
    _write(options.out, thinking.fingerprint(), cells, margins, text, time.perf_counter() - started)
    print(f"\n{text}\n\n{_LEGEND}")
    print(f"{time.perf_counter() - started:.0f} s; results: {options.out / 'summary.json'}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo from the command line; returns the exit code."""
    options = _options(arguments)
    try:
        return run(options)
    except LareError as error:
        print(f"lare: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
