"""Causal controls on latents: does an answer rest on what the latents hold, or only on their being there?

The same weights answer the same questions again while one thing is changed: no latents, latents of another kind or of
another question, windows at random places, the image hidden from the answer. A latent that matters shows in the drop,
paired by question. With no arguments: the shipped checkpoint on all test questions of the mini tasks.

    python analysis/controls.py
    python analysis/controls.py --limit 50 --checkpoint runs/mine/IV/final
    python analysis/controls.py --checkpoint my/7b --tasks mmbench_en_dev_static,pope --limit 200
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import numpy as np

from analysis.controls.answer import answer
from analysis.controls.measure import ControlsOptions, measure, moves_by_control
from analysis.controls.tables import (
    CONTROLS,
    Comparison,
    all_tasks,
    by_group,
    figures,
    main_tables,
    samples,
    summarise,
)
from analysis.shared.asking import Answers
from analysis.shared.cli import Computed, reproduce, run
from analysis.shared.questions import Question, stand_ins
from analysis.shared.report.answers import answered
from analysis.shared.report.document import Document
from analysis.shared.tasks import METHOD, Apart, apart_table

__all__ = ["compute", "main"]


# Report -------------------------------------------------------------------------------------------------------------

_METHODS = (
    "Every setting asks the same weights the same questions with greedy decoding; own latents, kept from the first "
    "run, are what replacements are made from. Scores are those of the evaluation's scorers.",
    "Noise: Gaussian, each token as long as the latent it replaces. Mean: over all questions, for each step; being an "
    "average it is shorter than a latent, so it is also given at the latents' length. Another question's: a draw in "
    "which each question gets latents of the same task and of another scene.",
    "Windows at random places change where the Extractor looks, and nothing else. Image hidden: once thinking is done, "
    "the decoder's image tokens are masked. The question's own tokens stand after the image and have read it, so a "
    "hidden image alone does not make the latents the only carrier; compare the hidden rows with each other.",
    "Intervals: 95 %; Wilson for shares, cluster-robust over scenes for shares and paired differences. McNemar takes "
    "questions as independent; where several questions share a scene (pope, mmvp), trust the interval. Holm runs over "
    "all controls of the main table.",
    "A drop shows that what was changed is used, not that it is used for reasoning; no drop shows that the answer does "
    "not need it. Replaced latents are also unusual inputs: part of a drop may be surprise.",
)


def _verdict(answers: dict[str, Answers], questions: Sequence[Question], apart: Apart) -> str:
    """The verdict over the tasks that remain; where one is set aside, the same over all tasks follows."""
    kept = _told(*_kept(answers, questions, apart))
    say = "A drop says that latents are used, not how."
    return apart.verdict(f"{kept} {say}", _told(answers, questions))


def _kept(
    answers: dict[str, Answers], questions: Sequence[Question], apart: Apart
) -> tuple[dict[str, Answers], list[Question]]:
    """Answers and questions of the tasks that remain."""
    rows = apart.of([one.task for one in questions])
    return {name: one.take(rows) for name, one in answers.items()}, list(compress(questions, rows))


def _told(answers: dict[str, Answers], questions: Sequence[Question]) -> str:
    scenes = [one.scene for one in questions]
    compared = summarise(answers, scenes)
    parts = []
    for name, words in (("other", "another question's latents"), ("none", "no latents"), ("window", "random windows")):
        gap = compared[name].gap
        parts.append(f"{100 * gap.estimate:+.1f} points [{100 * gap.low:.1f}, {100 * gap.high:.1f}] with {words}")
    own = answers["own"].right
    return (
        f"Own latents: {100 * own.mean():.1f} % of {own.size} questions right. Against that: {'; '.join(parts)} "
        f"(95 %, paired, {len(set(scenes))} scenes). With the image hidden from the answer, own latents give "
        f"{100 * answers['hidden'].right.mean():.1f} %, none {100 * answers['hidden_none'].right.mean():.1f} %."
    )


def _warnings(answers: dict[str, Answers], compared: dict[str, Comparison]) -> tuple[str, ...]:
    found = []
    more = {
        control.title: 100 * float(answers[control.against].readable.mean() - answers[control.name].readable.mean())
        for control in CONTROLS[1:]
    }
    broken = {title: share for title, share in more.items() if share > 2}
    if broken:
        worst = max(broken, key=broken.__getitem__)
        found.append(
            f"Replies that name none of the options are wrong, and more frequent under {len(broken)} controls: at most "
            f"{min(broken.values()):.1f} to {broken[worst]:.1f} points of their drops (most: {worst}) are broken text "
            "instead of a wrong choice"
        )
    gap = compared["hidden_none"].gap
    if gap.low <= 0 <= gap.high:
        found.append("With the image hidden, leaving the latents out makes no difference that can be seen")
    return tuple(found)


def compute(options: ControlsOptions) -> Computed:
    """Ask under every control and compare.

    Raises:
        LareError: If the questions can't be had, or the checkpoint can't be loaded or makes no latents.
    """
    found = measure(options)
    questions, answers, seed = found.gathered.questions, found.answers, options.seeds[0]
    scenes, hops = [one.scene for one in questions], [one.hops for one in questions]
    shown = samples(questions, answers, options.samples, seed)
    apart = moves_by_control(answers, questions)
    kept, rest = _kept(answers, questions, apart)
    inside = [one.scene for one in rest]
    compared = summarise(kept, inside)
    by_hops = by_group(answers, hops, scenes, "by-hops", "Accuracy by hops, facts that a question joins", "Hops")
    document = Document(
        name="controls",
        title="Causal controls on latents",
        verdict=_verdict(answers, questions, apart),
        reproduce=reproduce(options, {"checkpoint": found.checkpoint}),
        warnings=(*found.gathered.warnings, *apart.warnings, *_warnings(kept, compared)),
        tables=(
            *main_tables(kept, compared, inside),
            *([all_tasks(answers, scenes)] if apart.aside else []),
            by_group(answers, [one.task for one in questions], scenes, "tasks", "Accuracy by task", "Task"),
            apart_table(apart),
            *([by_hops] if found.gathered.told_hops else []),
        ),
        figures=figures(kept, compared, [one.hops for one in rest]),
        samples=shown,
        sampling=f"{len(shown)} drawn by seed {seed} from the "
        f"{int((answers['own'].right != answers['other'].right).sum())} of {len(questions)} questions on which own and "
        "another question's latents differ in being right.",
        methods=(*_METHODS, METHOD),
        stand_in=stand_ins(questions),
    )
    arrays = {f"right_{name}": one.right for name, one in answers.items()}
    arrays |= {"doc_id": np.array([one.doc_id for one in questions]), "task": np.array([one.task for one in questions])}
    return answered(document, answer), arrays


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run(ControlsOptions, compute, __doc__, arguments, answer)
