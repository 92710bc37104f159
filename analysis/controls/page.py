"""Causal controls on latents: does an answer rest on what the latents hold, or only on their being there?

The same weights answer the same questions again while one thing is changed: no latents, latents of another kind or of
another question, windows at random places, the image hidden from the answer. A latent that matters shows in the drop,
paired by question. With no arguments: the shipped checkpoint on all test questions of the mini tasks.

    python analysis/controls.py
    python analysis/controls.py --limit 50 --checkpoint runs/mine/IV/final
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import compress

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from analysis.controls.answer import answer
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
from analysis.shared.asking import Answers, Asker, Question, load_questions
from analysis.shared.cli import Computed, reproduce, run, standard_parser
from analysis.shared.report.answers import answered
from analysis.shared.report.document import Document
from analysis.shared.tasks import METHOD, Apart, apart_table, find_apart
from lare.errors import LareError

__all__ = ["compute", "derange", "main", "moves_by_control", "replacements"]


def derange(questions: Sequence[Question], seed: int) -> npt.NDArray[np.int64]:
    """A partner for each question: of the same task and another scene, each used once where that is possible.

    Args:
        questions: N questions.
        seed: Of the draw.

    Returns:
        (N,) numbers of the partners.

    Raises:
        LareError: If a task has questions about one scene only.
    """
    rng = np.random.default_rng(seed)
    partner = np.full(len(questions), -1, np.int64)
    scenes = np.array([one.scene for one in questions])
    tasks = np.array([one.task for one in questions])
    for task in sorted(set(tasks)):
        rows = np.flatnonzero(tasks == task)
        if len(set(scenes[rows])) < 2:
            raise LareError(f"{task} has one scene only, so no question has another's latents; raise --limit")
        # Scenes in random order, each one's questions side by side: a shift by the largest scene leaves every scene.
        drawn = rng.permutation(sorted(set(scenes[rows])))
        ordered = np.concatenate([rows[scenes[rows] == scene] for scene in drawn])
        partner[ordered] = np.roll(ordered, int(max(np.bincount(np.unique(scenes[rows], return_inverse=True)[1]))))
        for row in rows[scenes[partner[rows]] == scenes[rows]]:  # one scene holds half of a tiny task
            partner[row] = rng.choice(rows[scenes[rows] != scenes[row]])
    return partner


def replacements(latents: Tensor, questions: Sequence[Question], seed: int) -> dict[str, Tensor]:
    """What is fed in place of latents (N, K, m, d), each of that shape.

    Args:
        latents: Of the natural run.
        questions: Their questions.
        seed: Of noise and partners.

    Returns:
        "zeros"; "noise", Gaussian, each token as long as the latent it stands for; "mean" over all questions, step by
        step; "mean_norm", as long as the latents; "other", another question's.
    """
    generator = torch.Generator().manual_seed(seed)
    length = latents.norm(dim=-1, keepdim=True)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    mean = latents.mean(0, keepdim=True).expand_as(latents)
    return {
        "zeros": torch.zeros_like(latents),
        "noise": noise / noise.norm(dim=-1, keepdim=True) * length,
        "mean": mean,
        "mean_norm": mean / mean.norm(dim=-1, keepdim=True).clamp_min(1e-12) * length,
        "other": latents[torch.from_numpy(derange(questions, seed))],
    }


def ask_all(asker: Asker, seed: int) -> dict[str, Answers]:
    """Ask under every control.

    Raises:
        LareError: If the checkpoint makes no latents.
    """
    natural = asker.ask("own", keep_latents=True)
    if natural.latents is None or not natural.latents.shape[1]:
        raise LareError("the checkpoint makes no latents (iterations 0), so there is nothing to control; give another")
    instead = replacements(natural.latents, asker.questions, seed)
    answers = {"own": natural}
    for control in CONTROLS[1:]:
        answers[control.name] = asker.ask(
            control.name,
            latents=instead.get(control.latents),
            seed=seed,
            iterations=control.iterations,
            window_mode=control.window,
            hide_image=control.hidden,
        )
    return answers


# Report -------------------------------------------------------------------------------------------------------------

_METHODS = (
    "Every setting asks the same weights the same questions with greedy decoding; own latents, kept from the first "
    "run, are what replacements are made from. Scores are those of the evaluation's scorers.",
    "Noise: Gaussian, each token as long as the latent it replaces. Mean: over all questions, for each step; being an "
    "average it is shorter than a latent, so it is also given at the latents' length. Another question's: a draw in "
    "which each question gets latents of the same task and of another scene.",
    "Windows at random places change where the Extractor looks, and nothing else. Image hidden: once thinking is done, "
    "the decoder's image tokens are masked. The question's own tokens stand behind the image and have read it, so a "
    "hidden image alone does not make the latents the only carrier; compare the hidden rows with each other.",
    "Intervals: 95 %; Wilson for shares, cluster-robust over scenes for shares and paired differences. McNemar takes "
    "questions as independent; where several questions share a scene (pope, mmvp), trust the interval. Holm runs over "
    "all controls of the main table.",
    "A drop shows that what was changed is used, not that it is used for reasoning; no drop shows that the answer does "
    "not need it. Replaced latents are also unusual inputs: part of a drop may be surprise.",
)


def moves_by_control(answers: dict[str, Answers], questions: Sequence[Question]) -> Apart:
    """Which tasks move against the rest from a control's reference to the control."""
    names = [control.name for control in CONTROLS]
    pairs = [(names.index(control.against), place) for place, control in enumerate(CONTROLS) if control.against]
    right = np.stack([answers[name].right.astype(float) for name in names], 1)
    tasks, scenes = [one.task for one in questions], [one.scene for one in questions]
    return find_apart(right, tasks, scenes, names, pairs)


def _verdict(answers: dict[str, Answers], questions: Sequence[Question], apart: Apart) -> str:
    """Of the tasks that remain, with the same over all tasks after it where one is set aside."""
    kept = _told(*_kept(answers, questions, apart))
    say = "A drop says that latents are used, not how."
    if not apart.aside:
        return f"{kept} {say}"
    return (
        f"On {len(apart.kept)} tasks, {apart.without}: {kept} {say} Set aside: {apart.reasons}. Over all "
        f"{len(apart.every)} tasks: {_told(answers, questions)}"
    )


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


def compute(options: argparse.Namespace) -> Computed:
    """Ask under every control and compare.

    Args:
        options: `checkpoint`, `limit`, `batch_size`, `samples`, `seeds` (the first is used).

    Raises:
        LareError: If the checkpoint can't be loaded or makes no latents.
    """
    if options.traces:
        raise LareError("controls runs the model itself and reads no traces; leave --traces out")
    questions = load_questions(limit=options.limit)
    asker = Asker(questions, options.checkpoint, options.batch_size)
    seed = int(options.seeds[0])
    answers = ask_all(asker, seed)
    scenes = [one.scene for one in questions]
    hops = [one.hops for one in questions]
    shown = samples(questions, answers, options.samples, seed)
    apart = moves_by_control(answers, questions)
    kept, rest = _kept(answers, questions, apart)
    inside = [one.scene for one in rest]
    compared = summarise(kept, inside)
    document = Document(
        name="controls",
        title="Causal controls on latents",
        verdict=_verdict(answers, questions, apart),
        reproduce=reproduce(options, {"checkpoint": asker.fingerprint}),
        warnings=(*apart.warnings, *_warnings(kept, compared)),
        tables=(
            *main_tables(kept, compared, inside),
            *([all_tasks(answers, scenes)] if apart.aside else []),
            by_group(answers, [one.task for one in questions], scenes, "tasks", "Accuracy by task", "Task"),
            apart_table(apart),
            by_group(answers, hops, scenes, "by-hops", "Accuracy by hops, facts that a question joins", "Hops"),
        ),
        figures=figures(kept, compared, [one.hops for one in rest]),
        samples=shown,
        sampling=f"{len(shown)} drawn by seed {seed} from the "
        f"{int((answers['own'].right != answers['other'].right).sum())} of {len(questions)} questions on which own and "
        "another question's latents differ in being right.",
        methods=(*_METHODS, METHOD),
    )
    arrays = {f"right_{name}": one.right for name, one in answers.items()}
    arrays |= {"doc_id": np.array([one.doc_id for one in questions]), "task": np.array([one.task for one in questions])}
    return answered(document, answer), arrays


def parser() -> argparse.ArgumentParser:
    """Command line."""
    made = standard_parser("controls", (__doc__ or "").split("\n\n")[1], "python analysis/controls.py --limit 50")
    made.add_argument("--checkpoint", help="LaRe checkpoint; default: the shipped one")
    made.add_argument("--limit", type=int, help="first questions of each task (default: all)")
    made.add_argument("--batch-size", type=int, default=64, help="questions answered at once (default: %(default)s)")
    made.add_argument("--samples", type=int, default=24, help="questions to show (default: %(default)s)")
    made.set_defaults(seeds=[0])
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run(parser(), compute, arguments, answer)
