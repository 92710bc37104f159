"""Tables and figures of `analysis.validate.page`."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.shared.cells import cells, series, with_interval
from analysis.shared.report.document import Column, Figure, Table
from analysis.shared.stats import cluster_difference, cluster_mean
from analysis.validate.effects import Collapse
from analysis.validate.judge import Judgement
from analysis.validate.measure import Measured
from analysis.validate.suite import RATIONALE
from lare.interventions import get_intervention

__all__ = ["collapse_table", "figures", "kept_table", "mediation_table", "predictions_table", "replaced_table",
           "settings_table", "spent_table", "title_of"]  # fmt: skip

_OVER = "bootstrap over scenes"


def title_of(name: str) -> str:
    """A setting in words."""
    return "Rationale as text, same weights" if name == RATIONALE else get_intervention(name).title


def predictions_table(judgement: Judgement) -> Table:
    """Which predictions hold."""
    rows = []
    for one in judgement.predictions:
        row: dict[str, Any] = {"prediction": one.text, "needed": "yes" if one.needed else "", "status": one.status}
        if one.gap is not None:
            row |= {**cells("gap", one.gap, 100), "holm": one.holm}
        rows.append(row)
    columns = (
        Column("prediction", "If the content matters, then"),
        Column("needed", "Needed", help="for the verdict that the content is used"),
        Column("status", "Here", help="holds, fails, or unclear: too few questions to tell"),
        *with_interval("gap", "Lost, points", 1, "accuracy lost against the natural run, paired by question"),
        Column("holm", "p (Holm)", "p", help="adjusted over all predictions with a p-value"),
    )
    return Table("predictions", "Predictions of “the content matters”", columns, tuple(rows), main=True)


def replaced_table(found: Measured) -> Table:
    """Every setting: accuracy, paired difference, what it changes and holds fixed."""
    outcomes, own = found.outcomes, found.outcomes.by_name["own"]
    judged = {one.name: one for one in found.judgement.predictions}
    rows = []
    for name, one in outcomes.by_name.items():
        scenes = [scene for scene, take in zip(outcomes.scenes, one.asked, strict=True) if take]
        right = one.right[one.asked].astype(float)
        mean = cluster_mean(right, scenes)
        row = {"setting": title_of(name), "n": int(one.asked.sum()), **cells("accuracy", mean, 100)}
        row |= {"unreadable": int((~one.readable & one.asked).sum())}
        if name != "own":
            gap = cluster_difference(right, own.right[one.asked].astype(float), scenes)
            other = [a != b for a, b, take in zip(one.replies, own.replies, one.asked, strict=True) if take]
            row |= {**cells("gap", gap, 100), "changed": 100 * np.mean(other)}
            row |= {"holm": judged[name].holm if name in judged and name != "oracle_other" else None}
        rows.append(row)
    columns = (
        Column("setting", "What precedes the answer"),
        Column("n", "Questions", "count"),
        *with_interval("accuracy", "Right, %", 1),
        *with_interval("gap", "Difference", 1, "points, to own latents, paired by question"),
        Column("holm", "p (Holm)", "p", help="adjusted over all predictions of the report"),
        Column("changed", "Replies changed, %", "number", 1),
        Column("unreadable", "Unreadable", "count", help="replies that name none of the options; they are wrong"),
    )
    return Table("replaced", "The same questions with something else in the latents' place", columns, tuple(rows))


def settings_table(found: Measured) -> Table:
    """What each setting changes and holds fixed."""
    entries = [get_intervention(name) for name in found.outcomes.by_name if name != RATIONALE]
    rows = [{"name": one.name, "setting": one.title, "changes": one.changes, "fixed": one.fixed} for one in entries]
    columns = (
        Column("name", "Name", help="for intervene="),
        Column("setting", "What precedes the answer"),
        Column("changes", "Changes"),
        Column("fixed", "Holds fixed"),
    )
    return Table("settings", "What each setting changes, and what it holds fixed", columns, tuple(rows))


def collapse_table(found: Measured) -> Table:
    """How much latents differ, beside the pictures that they are made from."""
    rows = [_collapse_row(name, one) for name, one in found.collapses.items()]
    columns = (
        Column("what", "Vectors"),
        Column("between", "Cosine between questions", "number", 3, "mean over pairs of different scenes"),
        Column("steps", "Cosine between steps", "number", 3, "mean over pairs of steps of one question"),
        Column("rank", "Effective rank", "number", 1, "exponential of the entropy of the variances over questions"),
        Column("most", "Largest possible", "count"),
        Column("share", "Variance share, %", "number", 1, "variance between questions over mean squared length"),
    )
    note = "Pictures are 16 x 16 pixels in colour: what there is to differ, whatever the model sees of it."
    return Table("collapse", "Do latents differ where pictures do?", columns, tuple(rows), note)


def _collapse_row(name: str, one: Collapse) -> dict[str, Any]:
    names = {"latents": "Latents", "pictures": "Pictures"}
    row = {"what": names[name], "between": one.between, "steps": one.steps, "rank": one.rank, "most": one.most}
    return row | {"share": 100 * one.share}


def mediation_table(found: Measured) -> Table | None:
    """Effects from the input on the latents, and from the latents on the answers; None where nothing was exchanged."""
    words = {
        "total": "Picture exchanged, latents follow",
        "indirect": "Through the latents: theirs alone are of the other picture",
        "direct": "Past the latents: picture exchanged, own latents kept",
        "share": "Share through the latents, %",
    }
    looks = {"visual": "the image", "text": "the text", "latent": "latents before"}
    rows: list[dict[str, Any]] = [
        {"effect": f"Attention of the latent steps to {words}, %", **cells("value", found.attended[name], 100)}
        for name, words in looks.items()
        if name in found.attended
    ]
    for name, one in found.judgement.moved.items():
        what = "Latents' change, picture exchanged" if name == "image" else "Latents' change, question exchanged"
        rows.append({"effect": f"{what}, % of their length", **cells("value", one.change, 100)})
        if one.replies is not None:
            rows.append({"effect": f"Replies changed, {'picture' if name == 'image' else 'question'} exchanged, %",
                         **cells("value", one.replies, 100)})  # fmt: skip
    rows += [{"effect": f"{words[name]}{'' if name == 'share' else ', points lost'}", **cells("value", one, 100)}
             for name, one in found.mediation.items()]  # fmt: skip
    if not rows:
        return None
    columns = (Column("effect", "Effect"), *with_interval("value", "Size", 1, of=_OVER))
    note = "The share is of little use where the total is small."
    return Table("mediation", "From the picture to the latents, and from the latents to the answer", columns,
                 tuple(rows), note)  # fmt: skip


def kept_table(found: Measured) -> Table | None:
    """What of the gain a setting keeps; None without a gain."""
    gain = found.judgement.prediction("none")
    if not found.kept or gain is None or gain.gap is None or gain.gap.estimate <= 0:
        return None
    rows = [{"setting": title_of(name), **cells("kept", one, 100)} for name, one in found.kept.items()]
    columns = (Column("setting", "What precedes the answer"), *with_interval("kept", "Kept, %", 0, of=_OVER))
    note = (
        f"The gain is {100 * gain.gap.estimate:.1f} points over no latents and no marks. 0 % keeps nothing of it, "
        "100 % all; below 0 is worse than no latents."
    )
    return Table("kept", "How much of the gain is kept", columns, tuple(rows), note)


def spent_table(found: Measured) -> Table:
    """Time and tokens of the ways of answering, by the same weights."""
    names = {"own": "Latents", "none": "Plain answer, no marks", "marks": "Marks only", RATIONALE: "Rationale as text"}
    rows = []
    for name, one in found.spent.items():
        row = {"way": names[name], **cells("accuracy", one.accuracy, 100), "tokens": one.tokens, "steps": one.steps}
        rows.append(row | {"seconds": 1000 * one.seconds, "macs": one.multiply_adds})
    columns = (
        Column("way", "Way of answering"),
        *with_interval("accuracy", "Right, %", 1),
        Column("tokens", "Text tokens", "number", 1),
        Column("steps", "Latent steps", "number", 1),
        Column("seconds", "Milliseconds", "number", 1, "an answer's part of its batch, on the machine that ran it"),
        Column("macs", "Multiply-adds, M", "number", 1, "one answer asked alone"),
    )
    note = "Marks only were asked beside other settings on one prefix, so their milliseconds share its cost."
    return Table("spent", "What an answer takes", columns, tuple(rows), note)


def figures(found: Measured) -> tuple[Figure, ...]:
    """What each setting costs."""
    gaps = [one for one in found.judgement.predictions if one.gap is not None and one.name != "oracle_other"]
    lost = series("points lost", [title_of(one.name) for one in gaps], [one.gap for one in gaps if one.gap], 100)
    text = (
        "Accuracy lost against own latents, paired, with 95 % intervals over scenes. If the content matters, all "
        "that takes it away lies right of 0."
    )
    return (
        Figure("lost", "What each replacement costs", text, "intervals", (lost,), x_label="points lost", reference=0.0),
    )
