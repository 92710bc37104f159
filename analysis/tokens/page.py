"""What an answer costs: text tokens, latent steps and seconds (the token column of the paper's Table 1).

The paper counts tokens of right answers only, so each model is averaged over other questions: a better model answers
harder ones and looks longer. Beside that stand the questions that both got right (fair), and all.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pandas as pd

from analysis.shared.cli import Computed, reproduce, run, standard_parser
from analysis.shared.report.answers import answered
from analysis.shared.report.document import Document, Reproduce
from analysis.shared.stats import FEW_CLUSTERS
from analysis.shared.tasks import METHOD, Apart, apart_table, find_apart
from analysis.shared.traces import demo_run, demo_traces, described, frame, open_traces, pair, scores_beside, setting_of
from analysis.tokens import tables
from analysis.tokens.answer import answer
from lare.errors import LareError

__all__ = ["compute", "document", "main", "moves_of_tokens", "read_settings"]

DEMO = ("K4", "K0", "text", "fine")
"""Settings of a demo run that are compared by default: the first is judged."""

_ALL = "Costs of an answer over all tasks, those set aside among them"

TOKENS = 1.0
"""Text tokens by which a task must move otherwise than the rest to be set aside: the least that a reader can see."""

TEXT = "text"
"""The setting that stands for chain of thought as text."""


def compute(options: argparse.Namespace) -> Computed:
    """Costs of the first setting against each of the others.

    Args:
        options: traces (judged first; None for the demo's), seeds.

    Raises:
        LareError: If scores are missing, or settings answered different questions.
    """
    settings = read_settings(options.traces or _demo())
    names = list(settings)
    pairs = {name: pair(settings[name], settings[names[0]], (name, names[0])) for name in names[1:]}
    again = reproduce(options, {name: str(one["checkpoint"].iloc[0]) for name, one in settings.items()})
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, one in settings.items():
        ordered = one.sort_values(["task", "doc_id"])
        for column in ("output_tokens", "latent_steps", "seconds", "score"):
            arrays[f"{name}_{column}"] = ordered[column].to_numpy(float)
        arrays["task"], arrays["doc_id"] = ordered["task"].to_numpy(str), ordered["doc_id"].to_numpy()
    return answered(document(settings, pairs, options, again), answer), arrays


def _demo() -> list[Path]:
    traces = demo_run() / "traces"
    return [demo_traces(name) for name in DEMO if name in DEMO[:2] or (traces / name).is_dir()]


def read_settings(paths: Sequence[str | Path]) -> dict[str, pd.DataFrame]:
    """Frames by setting's name, with scores.

    Raises:
        LareError: If there are fewer than two settings, two of one name, or no scores beside the traces.
    """
    if len(paths) < 2:
        raise LareError("tokens needs two settings or more: --traces JUDGED OTHER [OTHER ...]")
    settings: dict[str, pd.DataFrame] = {}
    for path in paths:
        name = setting_of(path)
        if name in settings:
            raise LareError(f"two of the trace directories are called {name!r}; rename one, the reports go by names")
        scores = scores_beside([path])
        if scores is None:
            raise LareError(
                f"there are no scores beside {str(path)!r} (looked for ../../scores/{name}.json): right and wrong are "
                "needed; run `make demo`, or put the scores there"
            )
        settings[name] = frame(open_traces([path]), scores)
    return settings


def document(
    settings: Mapping[str, pd.DataFrame],
    pairs: Mapping[str, pd.DataFrame],
    options: argparse.Namespace,
    again: Reproduce,
) -> Document:
    """The report."""
    judged = next(iter(settings))
    apart = {name: moves_of_tokens(items, (name, judged)) for name, items in pairs.items()}
    rows = tables.costs(pairs, judged, options.seeds[0])
    left = {name: items[apart[name].of(items["task"].to_numpy(str))] for name, items in pairs.items()}
    kept = {name: tables.whole(name, left[name], options.seeds[0]) for name, one in apart.items() if one.aside}
    remaining = [one for one in rows if one.task != tables.ALL or one.other not in kept]
    remaining = [one for name in pairs for one in (*kept.get(name, ()), *(c for c in remaining if c.other == name))]
    return Document(
        name="tokens",
        title=f"What an answer costs: {judged} against {', '.join(pairs)}",
        verdict=_verdict(rows, judged, apart, kept),
        reproduce=again,
        warnings=(
            *(f"Against {name}: {told}" for name, one in apart.items() for told in one.warnings),
            *_warnings(settings),
        ),
        tables=(
            tables.overall(remaining, judged),
            *([replace(tables.overall(rows, judged), id="costs-all", caption=_ALL, main=False)] if kept else []),
            tables.by_task(rows, judged),
            *(
                replace(apart_table(one, f"{judged} against {name}, text tokens, both right"), id=f"apart-{place}")
                for place, (name, one) in enumerate(apart.items())
                if one.every
            ),
            tables.claim(settings, judged, TEXT),
        ),
        figures=tables.figures(rows, judged),
        methods=(
            *_METHODS,
            METHOD,
            f"Of text tokens the same holds with a bound of {TOKENS:g} token instead of points.",
        ),
    )


def moves_of_tokens(items: pd.DataFrame, names: tuple[str, str]) -> Apart:
    """Which tasks' text tokens move against the rest from another setting to the judged one; both right."""
    both = items[(items["score_a"] >= 1) & (items["score_b"] >= 1)]
    if both.empty:
        return Apart((), ())
    tokens = both[["output_tokens_a", "output_tokens_b"]].to_numpy(float)
    tasks = both["task"].astype(str).tolist()
    return find_apart(tokens, tasks, both["cluster"], names, [(0, 1)], TOKENS, "tokens")


def _verdict(
    rows: Sequence[tables.Cost],
    judged: str,
    apart: Mapping[str, Apart],
    kept: Mapping[str, Sequence[tables.Cost]],
) -> str:
    """Over all tasks, or those that remain where one is set aside, with all tasks after it."""
    parts = []
    for other, one in apart.items():
        whole = _told([cost for cost in rows if cost.other == other and cost.task == tables.ALL])
        if one.aside:
            parts.append(
                f"Against {described(other)}, {one.without}, {_told(kept[other])}; set aside: {one.reasons}; over all "
                f"tasks {whole}"
            )
        else:
            parts.append(f"Against {described(other)} {whole}")
    return (
        f"{described(judged)}. "
        + ". ".join(parts)
        + ". Fewer tokens say nothing about quality: read them beside the accuracies."
    )


def _told(rows: Sequence[tables.Cost]) -> str:
    found = {(one.counting, one.quantity): one for one in rows}
    fair, own = found.get(("both right", "text tokens")), found.get(("own right", "text tokens"))
    if fair is None or own is None:
        return "there is no question that both got right"
    return (
        f"{fair.gap.estimate:+.2f} text tokens on the {fair.n_judged} questions that both got right (95 % interval "
        f"{fair.gap.low:+.2f} to {fair.gap.high:+.2f}), {own.gap.estimate:+.2f} as the paper counts (each over its own "
        f"right answers), {found['both right', 'text + latent'].gap.estimate:+.2f} with latent steps counted as tokens"
    )


def _warnings(settings: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    found = []
    checkpoints = {name: set(one["checkpoint"]) for name, one in settings.items()}
    if len(set().union(*checkpoints.values())) > 1:
        found.append("The settings are of different weights: differences may come from training.")
    for name, one in settings.items():
        if one["failed"].any():
            found.append(
                f"{int(one['failed'].sum())} questions could not be answered by {name}: they count as 0 tokens."
            )
        few = [task for task, rows in one.groupby("task") if rows["cluster"].nunique() < FEW_CLUSTERS]
        if few:
            found.append(
                f"Fewer than {FEW_CLUSTERS} clusters in {', '.join(map(str, few))}: their intervals are rough."
            )
            break
    found.append(
        "Seconds are wall-clock times of batches, shared evenly among their answers, on a machine that may have had "
        "other work: they compare settings of one run only, roughly."
    )
    return tuple(found)


_METHODS = (
    "Own right: each setting over the questions that it answered rightly, as in the paper. The sets differ, so a "
    "difference mixes length with which questions were answered. Interval: cluster-robust over both sets.",
    "Both right: the same questions in both, paired; cluster-robust interval of the mean difference. All: all.",
    "Changes in percent are ratios of means less 1, with bootstrap intervals over clusters (2,000 draws).",
    "Text tokens are counted up to and without the end token; padding never counts. A latent step is not a token that "
    "is read, but costs a pass through the decoder like one: hence the sum beside the text tokens.",
    "The abstract's '+9.4 % accuracy, -16.5 % tokens' has no stated definition; six are shown on the paper's own table "
    "and on these settings. Means are over tasks. Chain of thought as text is the setting 'text' here.",
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return standard_parser(
        "tokens",
        "Text tokens, latent steps and seconds of an answer, by setting (paper, Table 1).",
        "python analysis/tokens.py --traces results/demo/RUN/traces/K4 results/demo/RUN/traces/text",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run(parser(), compute, arguments, answer)
