"""Two evaluations paired question by question.

From Python::

    from analysis.compare.measure import CompareOptions, measure

    found = measure(CompareOptions(runs=("results/lare", "results/llava")))
    (found.items["score_b"] - found.items["score_a"]).mean()
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.shared.options import Options, option
from analysis.shared.runs import Run, read_run
from analysis.shared.tasks import Apart, find_apart
from analysis.shared.traces import demo_run, pair
from lare.errors import LareError
from lare.trace import TraceReader

__all__ = ["CompareOptions", "Measured", "Readers", "measure", "merge", "moves_between"]

Readers = tuple[TraceReader | None, TraceReader | None]
"""The traces of (other, judged), where there are any."""


@dataclass(frozen=True)
class CompareOptions(Options):
    """Options of a comparison.

    Attributes:
        traces: Traces that say which questions share a picture.
        runs: The judged run and the other; none takes the newest demo run's K4 and K0.
        tasks: Tasks to compare; none takes all, which both must have.
        samples: Questions in the sample table.
    """

    name = "compare"
    example = "python analysis/compare.py --runs results/lare results/llava"

    traces: tuple[str, ...] = option((), "traces that say which questions share a picture", metavar="DIR")
    runs: tuple[str, ...] = option((), "the judged run and the other: folders, logs, or scores of a demo run",
                                   metavar="RUN", count=2)  # fmt: skip
    tasks: tuple[str, ...] = option((), "tasks to compare (default: all, which both must have)", metavar="TASK")
    samples: int = option(200, "questions in the sample table", metavar="N")


@dataclass(frozen=True)
class Measured:
    """Two runs, paired.

    Attributes:
        names: (other, judged).
        items: One row a question, columns ``_a`` (other) and ``_b`` (judged).
        readers: Their traces, where there are any.
        apart: Tasks apart.
    """

    names: tuple[str, str]
    items: pd.DataFrame
    readers: Readers
    apart: Apart


def measure(options: CompareOptions) -> Measured:
    """Read and pair two runs.

    Raises:
        LareError: If the runs can't be paired; differing questions are listed.
    """
    paths = options.runs or [demo_run() / "scores" / f"{setting}.json" for setting in ("K4", "K0")]
    judged, other = (read_run(path, traces=options.traces) for path in paths)
    names = (other.name, judged.name)
    if names[0] == names[1]:
        names = (f"{names[0]} (other)", f"{names[1]} (judged)")
    items = merge(judged, other, names, options.tasks)
    return Measured(names, items, (other.reader, judged.reader), moves_between(items, names))


def merge(judged: Run, other: Run, names: tuple[str, str], tasks: Sequence[str] | None = None) -> pd.DataFrame:
    """One row a question, columns ``_a`` (other) and ``_b`` (judged).

    Raises:
        LareError: If the two have other tasks or questions.
    """
    wanted = sorted(tasks or set(judged.tasks) | set(other.tasks))
    for run_, name in ((judged, names[1]), (other, names[0])):
        lacking = sorted(set(wanted) - set(run_.tasks))
        if lacking:
            raise LareError(f"{name} has no {', '.join(lacking)} (it has {', '.join(run_.tasks)}); choose with --tasks")
    left, right = (one.rows[one.rows["task"].isin(wanted)] for one in (other, judged))
    return pair(left, right.drop(columns="clustered"), names)


def moves_between(items: pd.DataFrame, names: tuple[str, str]) -> Apart:
    """Which tasks move against the rest from the other run to the judged one."""
    scores = items[["score_a", "score_b"]].to_numpy(float)
    return find_apart(scores, items["task"].astype(str).tolist(), items["cluster"], names, [(0, 1)])
