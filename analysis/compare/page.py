"""Any two evaluations, paired question by question, for every task (the paper's Table 1 without its uncertainty).

``python analysis/compare.py --runs JUDGED OTHER``: two folders of ``lmms-eval --log_samples``, two log files, or two
``scores/SETTING.json`` of a demo run. Without arguments: the newest demo run, latent steps against answering at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.compare import tables
from analysis.compare.answer import answer
from analysis.compare.measure import CompareOptions, Measured, measure
from analysis.shared.cli import Computed, reproduce, run
from analysis.shared.pictures import Looks, mini_pictures, paired_views
from analysis.shared.report.answers import answered
from analysis.shared.report.document import Document, Picture, Reproduce, Sample
from analysis.shared.stats import FEW_CLUSTERS, Result, cluster_difference, format_p
from analysis.shared.tasks import METHOD, Apart, apart_table
from analysis.shared.traces import described
from lare.trace import TraceReader

__all__ = ["compute", "document", "main"]


def compute(options: CompareOptions) -> Computed:
    """Compare two runs.

    Raises:
        LareError: If the runs can't be paired; differing questions are listed.
    """
    found = measure(options)
    items = found.items
    again = reproduce(options, {})
    arrays: dict[str, npt.NDArray[Any]] = {
        "task": items["task"].to_numpy(str),
        "doc_id": items["doc_id"].to_numpy(),
        "score_a": items["score_a"].to_numpy(float),
        "score_b": items["score_b"].to_numpy(float),
    }
    return answered(document(found, options, again), answer), arrays


def document(found: Measured, options: CompareOptions, again: Reproduce) -> Document:
    """The report of one comparison."""
    names, items, readers, apart = found.names, found.items, found.readers, found.apart
    samples, discordant = _samples(items, names, options.samples, options.seeds[0], readers)
    shown = (
        tables.accuracies(items, names, apart.aside),
        tables.tests(items, names, apart.aside),
        tables.cells(items, names),
        tables.by_category(items, names),
        tables.by_hops(items, names),
        apart_table(apart),
        tables.five_points(items, names),
    )
    return Document(
        name="compare",
        title=f"{names[1]} against {names[0]}, question by question",
        verdict=_verdict(items, names, apart),
        reproduce=again,
        warnings=(*apart.warnings, *_warnings(items, names)),
        tables=tuple(table for table in shown if table is not None),
        figures=tables.figures(items, names, apart.aside),
        samples=samples,
        sampling=(
            f"{len(samples)} of {len(items)} questions: at most {options.samples}, discordant ones first ({discordant} "
            f"exist), the rest drawn with seed {options.seeds[0]}."
        ),
        methods=(*_METHODS, METHOD),
        stand_in=bool(items["task"].astype(str).str.startswith("lare_mini").any()),
    )


def _verdict(items: pd.DataFrame, names: tuple[str, str], apart: Apart) -> str:
    kept = items[apart.of(items["task"].to_numpy(str))]
    gap = tables.macro(kept)
    parts = []
    for task, rows in items.groupby("task"):
        one = cluster_difference(rows["score_b"], rows["score_a"], rows["cluster"])
        parts.append((str(task), one))
    above = [task for task, one in parts if one.low > 0]
    below = [task for task, one in parts if one.high < 0]
    told = (
        f"{described(names[1])} against {described(names[0])}: {_points(gap)}, as the mean of {len(apart.kept)} tasks"
        f"{', ' + apart.without if apart.aside else ''}, {gap.n} questions in {gap.clusters} clusters, "
        f"p = {format_p(gap.log10_p)}. "
    )
    if apart.aside:
        whole = tables.macro(items)
        told += f"Set aside: {apart.reasons}. With it, as the mean of all {len(parts)} tasks: {_points(whole)}. "
    told += (
        f"The interval lies above 0 on {', '.join(above) or 'no task'}, below 0 on {', '.join(below) or 'no task'}. "
    )
    return (
        told + "It says how far the two differ on these questions, not why, nor what another training run would give."
    )


def _points(gap: Result) -> str:
    return f"{100 * gap.estimate:+.1f} points, 95 % interval {100 * gap.low:+.1f} to {100 * gap.high:+.1f}"


def _warnings(items: pd.DataFrame, names: tuple[str, str]) -> tuple[str, ...]:
    found = []
    for mark, name in zip("ab", names, strict=True):
        share = items[f"unreadable_{mark}"].mean()
        if share > 0.01:
            count = int(items[f"unreadable_{mark}"].sum())
            found.append(
                f"{count} answers of {name} ({share:.1%}) could not be read as an option; they count as wrong."
            )
        silent = int(items[f"unanswered_{mark}"].sum())
        if silent:
            found.append(f"{silent} questions could not be answered by {name}; they count as wrong.")
    unknown = items[~items["clustered"].astype(bool)]
    if len(unknown):
        where = ", ".join(sorted(set(unknown["task"])))
        found.append(
            f"Nothing says which of {len(unknown)} questions share a picture ({where}): they are taken as "
            "independent, and intervals are too narrow where they are not. Give --traces."
        )
    for task, rows in items.groupby("task"):
        if rows["cluster"].nunique() < FEW_CLUSTERS:
            found.append(f"{task} has only {rows['cluster'].nunique()} clusters: its interval is rough.")
        if not rows[["score_a", "score_b"]].isin([0, 1]).all(axis=None):
            found.append(f"{task} has scores other than right and wrong: no McNemar test, no Wilson interval.")
    return tuple(found)


def _samples(
    items: pd.DataFrame, names: tuple[str, str], most: int, seed: int, readers: Sequence[TraceReader | None]
) -> tuple[tuple[Sample, ...], int]:
    """Discordant questions first, then a random rest; with how many are discordant at all."""
    rng = np.random.default_rng(seed)
    differ = np.flatnonzero((items["score_a"] != items["score_b"]).to_numpy())
    same = np.flatnonzero((items["score_a"] == items["score_b"]).to_numpy())
    first = np.sort(rng.permutation(differ)[: max(most - most // 4, 0)])
    rest = np.sort(rng.permutation(same)[: max(most - len(first), 0)])
    chosen = [(int(row), "discordant") for row in first] + [(int(row), "random") for row in rest]
    rows = [items.iloc[row] for row, _ in chosen]
    looks = [Looks(reader) for reader in readers]
    pictures = mini_pictures((str(item["task"]), int(item["doc_id"]), item.get("scene")) for item in rows)
    samples = tuple(
        _sample(item, row, names, why, looks, pictures.get((str(item["task"]), int(item["doc_id"]))))
        for item, (row, why) in zip(rows, chosen, strict=True)
    )
    return samples, len(differ)


def _sample(
    item: pd.Series, row: int, names: tuple[str, str], why: str, looks: Sequence[Looks], picture: Picture | None
) -> Sample:
    scores = [float(item[f"score_{mark}"]) for mark in "ab"]
    facts = [
        {"score": score, "text tokens": _count(item[f"tokens_{mark}"]), "latent steps": _count(item[f"steps_{mark}"])}
        for mark, score in zip("ab", scores, strict=True)
    ]
    views = paired_views(item, names, looks, [score >= 1 for score in scores], facts)
    return Sample(
        id=f"s{row:05d}",
        task=str(item["task"]),
        question=str(item["question_a"]),
        target=str(item["target"]),
        views=views,
        picture=picture,
        facts={
            "question": int(item["doc_id"]),
            **{name: item[name] for name in ("hops", "sort", "category") if item.get(name) is not None},
        },
        chosen=why,
    )


def _count(value: Any) -> int | None:
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else int(value)


_METHODS = (
    "Questions are paired by task and number, never by the order of lines; where the two runs answered different ones "
    "nothing is computed.",
    "Accuracies have Wilson intervals (questions as independent); differences have cluster-robust intervals "
    "(statsmodels, t with clusters - 1 degrees), clusters being questions on one picture or pair. McNemar's test takes "
    "questions as independent. Holm's adjustment is over the tasks; the rows over all tasks are not in its family.",
    "Mean of tasks: every task counts alike, its standard error combined from the tasks' own, which are independent. "
    "All questions: every question counts alike.",
    "Smallest difference seen: true difference that a comparison with this spread and these clusters finds with 80 % "
    "power at 5 %.",
    "Five points after Miller (2024), 'Adding error bars to evals': standard errors, clusters, less variance by "
    "resampled answers (not possible from one answer a question), paired differences, power.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run(CompareOptions, compute, __doc__, arguments, answer)
