"""Does a latent reasoner use its latents? One report, on any method and any lmms-eval task.

The same weights answer the same questions under every intervention that means something to the method: latents
replaced at their own number, moved, left out, their marks alone, the picture or the question exchanged before them, or
hidden after them. A reasoner passes if every replacement costs accuracy, and if its latents move with the picture. A
killed run goes on where it stopped when the same command is given again. With no arguments: the shipped checkpoint on
the validation questions of the mini tasks.

    python analysis/validate.py --limit 60
    python analysis/validate.py --model coconut --checkpoint runs/mine/IV/final --option iterations=4
    python analysis/validate.py --model lare --checkpoint my/7b --tasks mmbench_en_dev_static,pope --limit 200
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from analysis.shared.cli import Computed, reproduce, run
from analysis.shared.report.answers import answered
from analysis.shared.report.document import Document
from analysis.shared.stats import FEW_CLUSTERS, Result
from analysis.validate.answer import QUESTION, answer, sentence
from analysis.validate.judge import MARGIN, MOVES, OPEN, RELEVANT, Prediction
from analysis.validate.measure import Measured, ValidateOptions, measure
from analysis.validate.summary import summarise
from analysis.validate.tables import (
    collapse_table,
    figures,
    kept_table,
    mediation_table,
    predictions_table,
    replaced_table,
    settings_table,
    spent_table,
)
from lare import __version__
from lare.files import save_text

__all__ = ["compute", "document_of", "main"]

_METHODS = (
    "An effect is seen if its paired difference is significant at 5 % after Holm over all predictions and at least "
    f"{100 * RELEVANT:.0f} points; it fails if its 95 % interval lies below {100 * MARGIN:.0f} points (the wider "
    "one of the cluster-robust and Bonett and Price's); else it is unclear. Latents move if exchanging the picture "
    f"changes them by more than {100 * MOVES:.0f} % of their length. The verdict needs every replacement of the "
    "latents' content at their own number, and the movement. That latents are ignored needs intervals on both sides of "
    f"0: between -{100 * MARGIN:.0f} and {100 * MARGIN:.0f} points.",
    "Prompt, picture, number of latents and decoding (greedy) are held fixed but for what the table names. Others' "
    "latents, means and spreads are of the natural run on the same questions; partners are of the same task and of "
    "another scene. Draws are a function of the seed and the question.",
    "Intervals: 95 %, cluster-robust over scenes; shares of a gain and mediation by a bootstrap over scenes. p-values: "
    "McNemar, exact, where every question has a scene of its own; else that of the cluster-robust difference.",
    "A drop under zeros or noise may be surprise: such vectors are unlike any latent. Another question's latents are "
    "not, so they are the test that counts most. No verdict says what latents are used for.",
    "The suite is tested on planted models whose verdict is known by construction (analysis/validate/planted.py; "
    "reports/validate/power.json holds its error rates).",
)


def document_of(found: Measured, options: ValidateOptions) -> Document:
    """The report of a validation."""
    outcomes = found.outcomes
    said = sentence(found.judgement, len(found.gathered.questions))
    tables = (
        predictions_table(found.judgement),
        replaced_table(found),
        kept_table(found),
        mediation_table(found),
        collapse_table(found),
        spent_table(found),
        settings_table(found),
    )
    return Document(
        name="validate",
        title=f"{QUESTION.removesuffix('?')}: {found.label}",
        verdict=said,
        reproduce=reproduce(options, found.hashes),
        warnings=_warnings(found),
        tables=tuple(one for one in tables if one is not None),
        figures=figures(found),
        details=_details(found),
        methods=(*_METHODS, *(f"Not asked: {name} ({why})." for name, why in sorted(outcomes.left_out.items()))),
        stand_in=found.stand_in,
    )


def _details(found: Measured) -> tuple[str, ...]:
    """What the verdict leaves out: the gain and who keeps it, and what goes through the latents."""
    told = []
    gain, kept, share = found.judgement.prediction("none"), found.kept, found.mediation.get("share")
    if gain is not None and gain.gap is not None and gain.gap.estimate > 0 and "marks" in kept:
        parts = [f"{name} {_percent(kept[name])}" for name in ("marks", "format", "dummy") if name in kept]
        lost = 100 * gain.gap.estimate
        told.append(f"Of {lost:.1f} points of gain over no latents and no marks are kept: {', '.join(parts)}.")
    if share is not None:
        told.append(f"Of what another picture costs, {_percent(share)} goes through the latents.")
    return tuple(told)


def _percent(one: Result) -> str:
    return f"{100 * one.estimate:.0f} % [{100 * one.low:.0f}, {100 * one.high:.0f}]"


def _warnings(found: Measured) -> tuple[str, ...]:
    scenes = len(set(found.outcomes.scenes))
    warnings = list(found.gathered.warnings)
    if scenes < FEW_CLUSTERS:
        warnings.append(f"Only {scenes} scenes: intervals lean on few degrees of freedom")
    if found.judgement.verdict in OPEN:
        open_ones = [one.text for one in found.judgement.predictions if _is_open(one, found.judgement.verdict)]
        warnings.append(f"Too few questions to tell: {'; '.join(open_ones) or 'see the predictions'}")
    return tuple(warnings)


def _is_open(one: Prediction, verdict: str) -> bool:
    """Whether a verdict leaves something open because this prediction is unclear."""
    return one.status == "unclear" and (one.needed if verdict == "undecided" else one.name in ("marks", "none"))


def _compute(options: ValidateOptions) -> tuple[Computed, str]:
    """The report, and the summary's text."""
    found = measure(options)
    document = document_of(found, options)
    arrays = {f"right_{name}": one.right for name, one in found.outcomes.by_name.items()}
    summary = summarise(found, document.verdict, document.reproduce.commit, __version__)
    return (answered(document, answer), arrays), json.dumps(summary, indent=1, ensure_ascii=False)


def compute(options: ValidateOptions) -> Computed:
    """Ask and judge.

    Raises:
        LareError: If the questions or the checkpoint can't be had, or the method makes no latents.
    """
    return _compute(options)[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code. The summary is written beside the report."""
    summaries: list[str] = []

    def computed(options: ValidateOptions) -> Computed:
        made, summary = _compute(options)
        summaries.append(summary)
        return made

    def write_summary(out: Path) -> None:
        for text in summaries:
            save_text(out.with_suffix(".summary.json"), text)

    return run(ValidateOptions, computed, __doc__, arguments, answer, write_summary)
