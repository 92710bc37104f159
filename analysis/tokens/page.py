"""What an answer costs: text tokens, latent steps and seconds (the token column of the paper's Table 1).

The paper counts tokens of right answers only, so each model is averaged over other questions: a better model answers
harder ones and looks longer. Beside that stand the questions that both got right (fair), and all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy.typing as npt
import pandas as pd

from analysis.shared.cli import Computed, reproduce, run
from analysis.shared.report.answers import answered
from analysis.shared.report.document import Document, Reproduce
from analysis.shared.stats import FEW_CLUSTERS
from analysis.shared.tasks import METHOD, Apart, apart_table
from analysis.shared.traces import described
from analysis.tokens import tables
from analysis.tokens.answer import answer
from analysis.tokens.measure import TOKENS, Measured, TokensOptions, measure
from lare.embedded.world.benchmark import stand_in

__all__ = ["compute", "document", "main"]

_ALL = "Costs of an answer over all tasks, those set aside among them"

TEXT = "text"
"""The setting that stands for chain of thought as text."""


def compute(options: TokensOptions) -> Computed:
    """Costs of the first setting against each of the others.

    Raises:
        LareError: If scores are missing, or settings answered different questions.
    """
    found = measure(options)
    settings = found.settings
    again = reproduce(options, {name: str(one["checkpoint"].iloc[0]) for name, one in settings.items()})
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, one in settings.items():
        ordered = one.sort_values(["task", "doc_id"])
        for column in ("output_tokens", "latent_steps", "seconds", "score"):
            arrays[f"{name}_{column}"] = ordered[column].to_numpy(float)
        arrays["task"], arrays["doc_id"] = ordered["task"].to_numpy(str), ordered["doc_id"].to_numpy()
    return answered(document(found, options, again), answer), arrays


def document(found: Measured, options: TokensOptions, again: Reproduce) -> Document:
    """The report."""
    settings, pairs, apart = found.settings, found.pairs, found.apart
    judged = next(iter(settings))
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
        stand_in=any(stand_in(str(task)) for one in settings.values() for task in set(one["task"])),
        methods=(
            *_METHODS,
            METHOD,
            f"Of text tokens the same holds with a bound of {TOKENS:g} token instead of points.",
        ),
    )


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run(TokensOptions, compute, __doc__, arguments, answer)
