"""Blocks about the causal test of a reasoner's latents (`lare validate`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from blocks.source import Reports, block, interval, table


@block
def _validate_interventions(reports: Reports) -> str:
    from lare.interventions import get_intervention, intervention_names

    rows = [[f"`{one.name}`", one.title, one.changes, one.fixed] for one in map(get_intervention, intervention_names())]
    return table(["name", "in a table", "changes", "holds fixed"], rows, left=4)


@block
def _validate_power(reports: Reports) -> str:
    from lare.intervals import wilson

    rows = reports.read("validate/power.json")["rows"]
    sizes = sorted({row["questions"] for row in rows})
    cells = {(row["kind"], row["questions"]): row for row in rows}
    lines = []
    for kind, truth in dict.fromkeys((row["kind"], row["truth"]) for row in rows):
        shown = [cells[kind, size] for size in sizes]
        lines.append([f"`{kind}`", f"`{truth}`", *(f"{c['right']} / {c['undecided']} / {c['wrong']}" for c in shown)])
    most = [row for row in rows if row["questions"] == max(sizes)]
    wrong, runs = (sum(row[name] for row in most) for name in ("wrong", "runs"))
    head = ["planted model", "its verdict", *(f"n = {size}" for size in sizes)]
    told = (
        f"Right / undecided / wrong of {rows[0]['runs']}. At n = {max(sizes)} {wrong} of {runs} verdicts are wrong (95 "
        f"% interval up to {100 * wilson(wrong, runs)[1]:.1f} %)."
    )
    return f"{told}\n\n{table(head, lines, left=2)}"


@block
def _validate_trained(reports: Reports) -> str:
    grids = ("validate/trained_300.json", "validate/trained.json")
    return "\n\n".join(_trained_grid(reports.read(name)) for name in grids if (reports.folder / name).exists())


def _trained_grid(found: Mapping[str, Any]) -> str:
    from lare.intervals import wilson

    every, settings = found["rows"], found["settings"]
    learnt = [row for row in every if row["learnt"]]
    lines = [_trained_line(kind, every) for kind in dict.fromkeys(row["kind"] for row in every)]
    counts = {one: sum(row["outcome"] == one for row in learnt) for one in ("right", "undecided", "wrong")}
    told = (
        f"{settings['updates']} updates of {settings['batch']} questions each, {every[0]['questions']} validation "
        f"questions. Of {len(every)} models {len(learnt)} learnt their rule; of the verdicts on those "
        f"{counts['right']} are right, {counts['undecided']} undecided, {counts['wrong']} wrong (95 % interval of the "
        f"wrong ones' share: up to {100 * wilson(counts['wrong'], len(learnt))[1]:.0f} %)."
    )
    head = ["trained model", "its verdict", "models", "learnt", "right / undecided / wrong", "own latents, %"]
    more = ["marks only, %", "half as many, %", "twice as many, %", "none, %", "lost by replacing, points"]
    return f"{told}\n\n{table([*head, *more], lines, left=2)}"


def _trained_line(kind: str, every: Sequence[Mapping[str, Any]]) -> list[str]:
    """A kind's row; accuracies are of the models that learnt their rule."""
    from analysis.validate.planted import PLANTED

    mine = [row for row in every if row["kind"] == kind]
    learnt = [row for row in mine if row["learnt"]]
    begun = [f"`{kind}`", f"`{PLANTED[kind]}`", str(len(mine)), str(len(learnt))]
    if not learnt:
        return [*begun, *[""] * 7]
    counts = (str(sum(row["outcome"] == one for row in learnt)) for one in ("right", "undecided", "wrong"))
    shown = [_mean([row["accuracy"][name] for row in learnt]) for name in ("own", "marks", "fewer", "more", "none")]
    lost = [gap[0] for row in learnt for gap in row["lost"].values()]
    return [*begun, " / ".join(counts), *shown, f"{100 * min(lost):+.1f} to {100 * max(lost):+.1f}"]


def _mean(shares: Sequence[float]) -> str:
    return f"{100 * sum(shares) / len(shares):.1f}"


@block
def _validate_results(reports: Reports) -> str:
    paths = [reports.folder / "validate.summary.json", *sorted((reports.folder / "validate").glob("*.summary.json"))]
    rows = []
    for path in (one for one in paths if one.exists()):
        found = json.loads(path.read_text(encoding="utf-8"))
        gaps = {one["name"]: one["gap"] for one in found["predictions"] if "gap" in one}
        shown = [f"{100 * found['accuracy'][name]:.1f}" for name in ("own", "none", "marks")]
        lost = [_lost(gaps.get(name)) for name in ("zeros", "other", "dummy")]
        rows.append([found["label"], f"`{found['verdict']}`", f"{found['questions']:,}", *shown, *lost])
    head = ["reasoner", "verdict", "n", "own latents, %", "none, %", "marks only, %"]
    return table([*head, "lost: zeros", "lost: another's", "lost: dummies"], rows, left=2)


def _lost(gap: Mapping[str, float] | None) -> str:
    if gap is None:
        return ""
    return f"{100 * gap['estimate']:+.1f}<br>{interval(100 * gap['low'], 100 * gap['high'])}"


@block
def _validate_cost(reports: Reports) -> str:
    found = reports.read("validate/cost.json")
    flops, size = found["flops"], found["parameters"]
    one, whole = flops["answer"], flops["suite"]
    told = (
        f"{found['run']}: {size / 1e9:.1f} G parameters, {found['visual_tokens']} visual tokens, {found['question']} "
        f"text tokens of a question, {found['written']} of an answer, {found['iterations']} latents. An answer takes "
        f"{one / 1e12:.1f} TFLOP and the suite {whole / 1e12:.0f}, that is {whole / one:.1f} answers "
        f"({flops['unshared'] / one:.1f} without shared prefixes); {found['questions']} questions take "
        f"{found['whole'] / 1e15:.0f} PFLOP."
    )
    rows = [[one["card"], f"{100 * one['share']:.0f} %", f"{60 * one['hours']:.0f}"] for one in found["hours"]]
    return f"{told}\n\n{table(['card', 'assumed share of its peak', 'minutes'], rows)}"
