"""Tables, figures and samples of `analysis.controls.page`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.shared.asking import Answers
from analysis.shared.cells import cells, interval, only, question_sample, series, share, with_interval
from analysis.shared.questions import Question
from analysis.shared.report.document import Column, Figure, Sample, Series, Table, View
from analysis.shared.stats import Result, cluster_difference, cluster_mean, holm, mcnemar, wilson

__all__ = [
    "CONTROLS",
    "Comparison",
    "Control",
    "all_tasks",
    "by_group",
    "figures",
    "main_tables",
    "samples",
    "summarise",
]


@dataclass(frozen=True)
class Control:
    """One way of answering.

    Attributes:
        name: Short name.
        title: What is changed.
        against: Name of the setting that it is compared with; empty for the natural run.
        latents: What is fed in place of the latents: "zeros", or a key of `replacements`; empty for the model's own.
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


def main_tables(
    answers: dict[str, Answers], compared: dict[str, Comparison], scenes: Sequence[str]
) -> tuple[Table, Table]:
    """The main table, and what else is to be known of the same runs."""
    rows = []
    for control in CONTROLS:
        mine = answers[control.name]
        mean = cluster_mean(mine.right.astype(float), scenes)
        row: dict[str, Any] = {
            "control": control.title,
            "accuracy": 100 * mine.right.mean(),
            "wilson": share(int(mine.right.sum()), mine.right.size),
            "cluster": interval(mean, 100),
            "unreadable": int((~mine.readable).sum()),
            "tokens": mine.tokens.mean(),
            "against": None,
        }
        if control.name in compared:
            one, reference = compared[control.name], answers[control.against]
            row |= {
                "against": next(other.title for other in CONTROLS if other.name == control.against),
                **cells("gap", one.gap, 100),
                "gained": int((mine.right & ~reference.right).sum()),
                "lost": int((~mine.right & reference.right).sum()),
                "changed": 100 * np.mean([a != b for a, b in zip(mine.replies, reference.replies, strict=True)]),
                "p": one.test.p,
                "holm": one.holm,
            }
        rows.append(row)
    main = (
        Column("control", "What precedes the answer"),
        Column("accuracy", "Right, %", "number", 1),
        Column("cluster", "95 %", "interval", 1, "cluster-robust over scenes"),
        *with_interval("gap", "Difference", 1, "points, to the setting it is compared with, paired by question"),
        Column("gained", "Gained", "count", help="questions that became right"),
        Column("lost", "Lost", "count", help="questions that became wrong"),
        Column("holm", "p (Holm)", "p", help="McNemar, exact, adjusted over all controls of this table"),
    )
    more = (
        Column("control", "What precedes the answer"),
        Column("against", "Compared with"),
        Column("wilson", "95 % (Wilson)", "interval", 1, "of the accuracy; questions taken as independent"),
        Column("changed", "Replies changed, %", "number", 1),
        Column("p", "p (McNemar)", "p", help="exact, not adjusted"),
        Column("unreadable", "Unreadable", "count", help="replies that name none of the options; they are wrong"),
        Column("tokens", "Text tokens", "number", 1, "mean per answer"),
    )
    parts = only(main, rows), only(more, rows)
    note = "All are compared with own latents; the last two with own latents and the image hidden."
    return (
        Table("controls", "Accuracy under each control, paired with its reference", main, parts[0], note, main=True),
        Table("controls-more", "The same runs: what was compared and what was written", more, parts[1]),
    )


def all_tasks(answers: dict[str, Answers], scenes: Sequence[str]) -> Table:
    """The main table over all tasks, to stand beside that of the tasks that remain."""
    main, _ = main_tables(answers, summarise(answers, scenes), scenes)
    return replace(main, id="controls-all", caption="The same over all tasks", main=False)


def by_group(
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
            row: dict[str, Any] = {"group": str(group), "control": control.title, "n": int(mine.size)}
            row |= {
                "accuracy": 100 * mine.mean(),
                "wilson": share(int(mine.sum()), mine.size),
                "gap": None,
                "interval": None,
            }
            if control.against and mine.size > 1:
                reference = answers[control.against].right[chosen]
                inside = [scene for scene, take in zip(scenes, chosen, strict=True) if take]
                gap = cluster_difference(mine.astype(float), reference.astype(float), inside)
                row |= {"gap": 100 * gap.estimate, "interval": interval(gap, 100)}
            rows.append(row)
    columns = (
        Column("group", name),
        Column("control", "What precedes the answer"),
        Column("n", "Questions", "count"),
        Column("accuracy", "Right, %", "number", 1),
        Column("wilson", "95 % (Wilson)", "interval", 1),
        Column("gap", "Difference, points", "number", 1, "to the setting named in the main table"),
        Column("interval", "95 % (scenes)", "interval", 1),
    )
    return Table(id, caption, columns, tuple(rows))


# Figures ------------------------------------------------------------------------------------------------------------


def figures(answers: dict[str, Answers], compared: dict[str, Comparison], hops: Sequence[int]) -> tuple[Figure, ...]:
    """Drops with their intervals, and accuracy by hops where anything says how many there are."""
    names = [control for control in CONTROLS if control.name in compared]
    gaps = [compared[control.name].gap for control in names]
    drop = series("difference", [control.title for control in names], gaps, 100)
    shown = ("own", "none", "other", "window")
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
    by_hops = Figure(
        "hops",
        "Accuracy by the facts that a question joins",
        "Share of right answers by number of hops, with 95 % Wilson intervals. If latents carry reasoning, the "
        "gap to the controls should be where there are hops to make.",
        "lines",
        tuple(lines),
        x_label="hops",
        y_label="right, %",
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
        *([by_hops] if any(hops) else []),
    )


def samples(questions: Sequence[Question], answers: dict[str, Answers], count: int, seed: int) -> tuple[Sample, ...]:
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
        samples.append(question_sample(row, one, views, "discordant"))
    return tuple(samples)
