"""Causal controls on latents: does an answer rest on what the latents hold, or only on their being there?

The same weights answer the same questions again while one thing is changed: no latents, latents of another kind or of
another question, windows at random places, the image hidden from the answer. A latent that matters shows in the drop,
paired by question. With no arguments: the shipped checkpoint on all test questions of the mini tasks.

    python analysis/controls.py
    python analysis/controls.py --limit 50 --checkpoint runs/mine/IV/final
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from analysis.asking import Answers, Asker, Question, load_questions
from analysis.cli import Computed, reproduce, run, standard_parser
from analysis.report.document import Column, Document, Figure, Sample, Series, Table, View
from analysis.showing import picture
from analysis.stats import Result, cluster_difference, cluster_mean, holm, mcnemar, wilson
from lare.errors import LareError

__all__ = ["CONTROLS", "Control", "compute", "derange", "main", "replacements", "summarise"]


@dataclass(frozen=True)
class Control:
    """One way of answering.

    Attributes:
        name: Short name.
        title: What is changed.
        against: Name of the setting that it is compared with; empty for the natural run.
        latents: What is fed in place of the latents: a key of `replacements`; empty for the model's own.
        iterations: K; None takes the checkpoint's.
        window: "saliency" or "random".
        hidden: Whether the image is hidden once thinking is done.
    """

    name: str
    title: str
    against: str = "own"
    latents: str = ""
    iterations: int | None = None
    window: str = "saliency"
    hidden: bool = False


CONTROLS = (
    Control("own", "Latents as they are", against=""),
    Control("none", "No latents (K = 0), same delimiters", iterations=0),
    Control("zeros", "Zeros", latents="zeros"),
    Control("noise", "Gaussian noise of the same norm", latents="noise"),
    Control("mean", "Mean latent of the data set, step by step", latents="mean"),
    Control("mean_norm", "The same mean, stretched to the latents' norm", latents="mean_norm"),
    Control("other", "Another question's latents (same task, another scene)", latents="other"),
    Control("window", "Windows at random places", window="random"),
    Control("hidden", "Image hidden from the answer, own latents", hidden=True),
    Control("hidden_none", "Image hidden, no latents", "hidden", iterations=0, hidden=True),
    Control("hidden_other", "Image hidden, another question's latents", "hidden", latents="other", hidden=True),
)
"""The controls, in the order of the table."""


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


# Tables -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """A control against its reference.

    Attributes:
        gap: Paired difference of accuracy, cluster-robust.
        test: McNemar, exact.
        holm: Its p-value after Holm over all controls.
    """

    gap: Result
    test: Result
    holm: float | None


def summarise(answers: dict[str, Answers], scenes: Sequence[str]) -> dict[str, Comparison]:
    """Compare each control with its reference, Holm over all of them."""
    found = []
    for control in CONTROLS[1:]:
        mine, reference = (answers[name].right.astype(float) for name in (control.name, control.against))
        found.append((control.name, cluster_difference(mine, reference, scenes), mcnemar(mine, reference)))
    adjusted = holm([test.p for _, _, test in found])
    return {name: Comparison(gap, test, p) for (name, gap, test), p in zip(found, adjusted, strict=True)}


def _main_table(answers: dict[str, Answers], compared: dict[str, Comparison], scenes: Sequence[str]) -> Table:
    rows = []
    for control in CONTROLS:
        mine = answers[control.name]
        low, high = wilson(int(mine.right.sum()), mine.right.size)
        mean = cluster_mean(mine.right.astype(float), scenes)
        row: dict[str, Any] = {
            "control": control.title,
            "accuracy": 100 * mine.right.mean(),
            "wilson": [100 * low, 100 * high],
            "cluster": [100 * mean.low, 100 * mean.high],
            "unreadable": int((~mine.readable).sum()),
            "tokens": mine.tokens.mean(),
            "against": None,
        }
        if control.name in compared:
            one, reference = compared[control.name], answers[control.against]
            row |= {
                "against": next(other.title for other in CONTROLS if other.name == control.against),
                "gap": 100 * one.gap.estimate,
                "gap_interval": [100 * one.gap.low, 100 * one.gap.high],
                "gained": int((mine.right & ~reference.right).sum()),
                "lost": int((~mine.right & reference.right).sum()),
                "changed": 100 * np.mean([a != b for a, b in zip(mine.replies, reference.replies, strict=True)]),
                "p": one.test.p,
                "holm": one.holm,
            }
        rows.append(row)
    columns = (
        Column("control", "What the answer stands behind"),
        Column("accuracy", "Right, %", "number", 1),
        Column("wilson", "95 % (Wilson)", "interval", 1, "questions taken as independent"),
        Column("cluster", "95 % (scenes)", "interval", 1, "cluster-robust over scenes"),
        Column("against", "Compared with"),
        Column("gap", "Difference, points", "number", 1, "this setting minus the one it is compared with, paired"),
        Column("gap_interval", "95 % (scenes)", "interval", 1, "cluster-robust over scenes"),
        Column("gained", "Gained", "count", help="questions that became right"),
        Column("lost", "Lost", "count", help="questions that became wrong"),
        Column("changed", "Replies changed, %", "number", 1),
        Column("p", "p (McNemar, exact)", "p"),
        Column("holm", "p (Holm)", "p", help="adjusted over all controls of this table"),
        Column("unreadable", "Unreadable", "count", help="replies in which no option could be found; they are wrong"),
        Column("tokens", "Text tokens", "number", 1, "mean per answer"),
    )
    return Table("controls", "Accuracy under each control, paired with its reference", columns, tuple(rows), main=True)


def _by(
    answers: dict[str, Answers], keys: Sequence[Any], scenes: Sequence[str], id: str, caption: str, name: str
) -> Table:
    """Accuracy of each control within groups of questions, and its paired difference to its reference."""
    groups = sorted(set(keys))
    where = {group: np.array([key == group for key in keys]) for group in groups}
    rows = []
    for group in groups:
        chosen = where[group]
        for control in CONTROLS:
            mine = answers[control.name].right[chosen]
            low, high = wilson(int(mine.sum()), mine.size)
            row: dict[str, Any] = {"group": str(group), "control": control.title, "n": int(mine.size)}
            row |= {"accuracy": 100 * mine.mean(), "wilson": [100 * low, 100 * high], "gap": None, "interval": None}
            if control.against and mine.size > 1:
                reference = answers[control.against].right[chosen]
                inside = [scene for scene, take in zip(scenes, chosen, strict=True) if take]
                gap = cluster_difference(mine.astype(float), reference.astype(float), inside)
                row |= {"gap": 100 * gap.estimate, "interval": [100 * gap.low, 100 * gap.high]}
            rows.append(row)
    columns = (
        Column("group", name),
        Column("control", "What the answer stands behind"),
        Column("n", "Questions", "count"),
        Column("accuracy", "Right, %", "number", 1),
        Column("wilson", "95 % (Wilson)", "interval", 1),
        Column("gap", "Difference, points", "number", 1, "to the setting named in the main table"),
        Column("interval", "95 % (scenes)", "interval", 1),
    )
    return Table(id, caption, columns, tuple(rows))


# Figures ------------------------------------------------------------------------------------------------------------


def _figures(answers: dict[str, Answers], compared: dict[str, Comparison], hops: Sequence[int]) -> tuple[Figure, ...]:
    names = [control for control in CONTROLS if control.name in compared]
    gaps = [compared[control.name].gap for control in names]
    drop = Series(
        "difference",
        tuple(control.title for control in names),
        tuple(100 * gap.estimate for gap in gaps),
        tuple(100 * gap.low for gap in gaps),
        tuple(100 * gap.high for gap in gaps),
    )
    shown = ("own", "none", "noise", "other", "window", "hidden", "hidden_none")
    levels = sorted(set(hops))
    lines = []
    for name in shown:
        title = next(control.title for control in CONTROLS if control.name == name)
        marks = [answers[name].right[np.array(hops) == level] for level in levels]
        ends = [wilson(int(mark.sum()), mark.size) for mark in marks]
        lines.append(
            Series(
                title,
                tuple(float(level) for level in levels),
                tuple(100 * float(mark.mean()) for mark in marks),
                tuple(100 * low for low, _ in ends),
                tuple(100 * high for _, high in ends),
            )
        )
    return (
        Figure(
            "drops",
            "What each control costs",
            "Paired difference of accuracy to the setting named in the table, with 95 % intervals over scenes. "
            "An interval across 0 shows no effect of what was changed.",
            "intervals",
            (drop,),
            x_label="difference of accuracy, points",
            reference=0.0,
        ),
        Figure(
            "hops",
            "Accuracy by the facts that a question joins",
            "Share of right answers by number of hops, with 95 % Wilson intervals. If latents carry reasoning, the "
            "gap to the controls should be where there are hops to make.",
            "lines",
            tuple(lines),
            x_label="hops",
            y_label="right, %",
        ),
    )


def _samples(questions: Sequence[Question], answers: dict[str, Answers], count: int, seed: int) -> tuple[Sample, ...]:
    """Questions that own latents get right and another's wrong, or the other way round; a seeded draw of them."""
    own, other = answers["own"], answers["other"]
    differing = np.flatnonzero(own.right != other.right)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(differing)[:count])
    samples = []
    for row in chosen.tolist():
        one = questions[row]
        views = []
        for control in CONTROLS:
            mine = answers[control.name]
            facts = {"text tokens": int(mine.tokens[row]), "latent steps": int(mine.steps[row])}
            if control.name in ("own", "none", "other", "window", "hidden"):
                views.append(
                    View(control.title, mine.replies[row], bool(mine.right[row]), mine.texts[row], facts=facts)
                )
        facts = {"hops": one.hops, "sort": one.sort, "scene": one.scene}
        samples.append(
            Sample(f"s{row:04d}", one.task, one.text, one.target, tuple(views), picture(one.image), facts, "discordant")
        )
    return tuple(samples)


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


def _verdict(compared: dict[str, Comparison], answers: dict[str, Answers], clusters: int) -> str:
    parts = []
    for name, words in (("other", "another question's latents"), ("none", "no latents"), ("window", "random windows")):
        gap = compared[name].gap
        parts.append(f"{100 * gap.estimate:+.1f} points [{100 * gap.low:.1f}, {100 * gap.high:.1f}] with {words}")
    own = answers["own"].right
    return (
        f"Own latents: {100 * own.mean():.1f} % of {own.size} questions right. Against that: {'; '.join(parts)} "
        f"(95 %, paired, {clusters} scenes). A drop says that latents are used, not how."
    )


def _warnings(answers: dict[str, Answers], compared: dict[str, Comparison]) -> tuple[str, ...]:
    found = []
    for control in CONTROLS[1:]:
        mine, reference = answers[control.name], answers[control.against]
        more = 100 * (reference.readable.mean() - mine.readable.mean())
        if more > 2:
            found.append(
                f"{control.title}: {int((~mine.readable).sum())} replies name none of the options, against "
                f"{int((~reference.readable).sum())}; up to {more:.1f} points of its drop are broken text, not wrong "
                "reasoning"
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
    compared = summarise(answers, scenes)
    hops = [one.hops for one in questions]
    samples = _samples(questions, answers, options.samples, seed)
    document = Document(
        name="controls",
        title="Causal controls on latents",
        verdict=_verdict(compared, answers, len(set(scenes))),
        reproduce=reproduce(options, {"checkpoint": asker.fingerprint}),
        warnings=_warnings(answers, compared),
        tables=(
            _main_table(answers, compared, scenes),
            _by(answers, [one.task for one in questions], scenes, "tasks", "Accuracy by task", "Task"),
            _by(answers, hops, scenes, "by-hops", "Accuracy by hops, facts that a question joins", "Hops"),
        ),
        figures=_figures(answers, compared, hops),
        samples=samples,
        sampling=f"{len(samples)} drawn by seed {seed} from the "
        f"{int((answers['own'].right != answers['other'].right).sum())} of {len(questions)} questions on which own and "
        "another question's latents differ in being right.",
        methods=_METHODS,
    )
    arrays = {f"right_{name}": one.right for name, one in answers.items()}
    arrays |= {"doc_id": np.array([one.doc_id for one in questions]), "task": np.array([one.task for one in questions])}
    return document, arrays


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
    return run(parser(), compute, arguments)


if __name__ == "__main__":
    sys.exit(main())
