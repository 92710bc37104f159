"""Blocks about LaRe's own rows: what a number of steps is worth."""

from __future__ import annotations

import math

import numpy as np
from blocks.source import ROOT, Reports, block, interval, table

from lare.experiments.compare import Contrast, Mask, contrast
from lare.experiments.gather import Entry, gather
from lare.experiments.plan import Plan


def _own(reports: Reports) -> Plan:
    return Plan(ROOT / "lare/configs/experiments/own.yaml", reports=reports.folder / "experiments")


def _asked(reports: Reports, arm: str) -> dict[int, Entry]:
    """An arm's validation rows by the number of steps that were asked for."""
    plan = _own(reports)
    own = plan.grid.arms[arm].own
    found = {}
    for one in gather(plan, "validation"):
        name, _, ask = one.name.partition("/")
        if name == arm:
            found[int((ask or own).removeprefix("K"))] = one
    return dict(sorted(found.items()))


def _by_steps(reports: Reports, arm: str) -> str:
    entries = _asked(reports, arm)
    if not entries:
        return "No rows yet."
    lines = []
    for steps, one in entries.items():
        questions = one.asked.questions
        tasks = [100 * one.asked.values[:, questions.task == task].mean() for task in questions.tasks]
        many = 100 * one.asked.values[:, questions.hops > 1].mean()
        tokens = sum(one.mean("costs", name) or 0 for name in ("text_tokens", "latent_steps"))
        cells = [f"{value:.1f}" for value in (np.mean(tasks), many, *tasks, tokens)]
        lines.append([str(steps), str(len(one.asked.starts)), *cells])
    names = [task.rpartition("_")[2] for task in next(iter(entries.values())).asked.questions.tasks]
    return table(["K", "starts", "mean", "two hops or more", *names, "tokens"], lines)


@block
def _steps_dial(reports: Reports) -> str:
    """The model that was trained with K of 1 to 6: what each K gives."""
    return _by_steps(reports, "dial")


@block
def _steps_dial_gains(reports: Reports) -> str:
    """Differences between numbers of steps of that model, by hops."""
    return _gains(reports, "dial", ((1, 0), (2, 1), (4, 1)))


def _gains(reports: Reports, arm: str, pairs: tuple[tuple[int, int], ...]) -> str:
    entries, lines = _asked(reports, arm), []
    for more, less in pairs:
        if {more, less} <= set(entries):
            for label, mask in _HOPS.items():
                found = contrast(entries[more].asked, entries[less].asked, mask, pooled=True)
                lines.append([f"{more} - {less}", label, *_told(found)])
    return table(["K", "hops", "n", "starts", "points", "95 %", "p", "effect size"], lines, 2)


_HOPS = {"1": Mask(hops=1), "2": Mask(hops=2), "3 or more": Mask(least_hops=3)}


def _told(found: Contrast) -> list[str]:
    """n, starts, points, t interval over starts, p and effect size."""
    ends = [f"{100 * end:+.1f}" for end in (found.t_low, found.t_high) if math.isfinite(end)]
    test = [" to ".join(ends), f"{found.p:.2g}", f"{found.effect:.2f}"] if ends else ["", "", ""]
    return [f"{found.questions:,}", str(len(found.starts)), f"{100 * found.estimate:+.1f}", *test]


@block
def _steps_now(reports: Reports) -> str:
    """The model whose latents stand for the whole rationale: what each K gives."""
    return _by_steps(reports, "now")


@block
def _steps_one(reports: Reports) -> str:
    """Trained with one step against trained with four, start by start, two hops or more."""
    folder = reports.folder / "experiments"
    four = Plan(ROOT / "lare/configs/experiments/comparison.yaml", reports=folder)
    one = next((entry for entry in gather(_own(reports), "validation") if entry.name == "K1"), None)
    if one is None:
        return "No rows yet."
    trained = next(entry for entry in gather(four, "validation") if entry.name == "lare")
    found = contrast(trained.asked, one.asked, Mask(least_hops=2))
    each = ", ".join(f"{100 * gap:+.1f}" for gap in found.by_start)
    return table(
        ["trained with", "n", "starts", "points", "95 %", "p", "effect size", "each start"],
        [["4 - 1 steps", *_told(found), each]],
        1,
    )


@block
def _halting_heads(reports: Reports) -> str:
    """What learned stop rules reached on validation questions, checkpoint by checkpoint."""
    lines = []
    for path in sorted((reports.folder / "halting").glob("*.json")):
        found = reports.read(f"halting/{path.name}")
        best, fixed, head = found["best_fixed"], found["accuracy"], found["heads"][found["chosen"]]
        shares = [f"{100 * share:.1f}" for share in (fixed[0], fixed[best - 1], head["accuracy"])]
        name = path.stem.replace("dial_", "dial, ")
        lost = f"{100 * head['loss']:.2f} (at most {100 * head['bound']:.2f})"
        lines.append(
            [name, f"{found['validation']:,}", str(best), *shares[:2], f"{head['steps']:.2f}", shares[2], lost]
        )
    names = ["model", "n", "best fixed K", "right at K = 1", "at the best", "learned: steps", "right", "points lost"]
    return table(names, lines)


@block
def _halting_pays(reports: Reports) -> str:
    """Rules at thresholds of their own, test questions, over independent starts."""
    lines = []
    for row in reports.rows("adaptive_dial", "pays"):
        if row["aim"] == "the checkpoint's own" or row["rule"] in ("Cosine", "Patience") and "average" in row["aim"]:
            gap, shuffled = (f"{row[name]:+.1f} {interval(*row[f'{name}_interval'])}" for name in ("gap", "shuffled"))
            lines.append([row["rule"], row["aim"], f"{row['steps']:.2f}", gap, shuffled, row["each"]])
    names = ["rule", "threshold for", "mean steps", "points to the best fixed K, 95 %", "to its stops shuffled, 95 %"]
    return table([*names, "each start"], lines, 2)
