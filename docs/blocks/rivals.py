"""Blocks about the comparison with the rivals."""

from __future__ import annotations

import math

import numpy as np
from blocks.source import ROOT, Reports, block, table

from analysis.shared.stats import holm
from lare.experiments.compare import Mask, contrast
from lare.experiments.gather import Entry, gather
from lare.experiments.learning import reached
from lare.experiments.plan import Plan
from lare.experiments.table import table as compared

_MANY = Mask(least_hops=2)


def _plan(reports: Reports, grid: str = "comparison") -> Plan:
    return Plan(ROOT / f"lare/configs/experiments/{grid}.yaml", reports=reports.folder / "experiments")


def _explored(reports: Reports, grid: str) -> str:
    """Validation rows of a grid, with what is compared as far as both arms have been trained."""
    plan = _plan(reports, grid)
    there = {entry.name for entry in gather(plan, "validation")}
    pairs = [("lare", "random")] if {"lare", "random"} <= there else []
    return compared(plan, "validation", pairs, markdown=True)


@block
def _comparison(reports: Reports) -> str:
    """Validation rows of the comparison."""
    return _explored(reports, "comparison")


@block
def _longer(reports: Reports) -> str:
    """Validation rows of the comparison with twice the samples."""
    return _explored(reports, "longer")


@block
def _comparison_test(reports: Reports) -> str:
    """Test rows of the comparison."""
    return compared(_plan(reports), "test", [], markdown=True)


@block
def _comparison_rivals(reports: Reports) -> str:
    """LaRe minus each other arm on test questions of two hops or more, paired over the starts that both have."""
    return _rivals(_plan(reports), "test")


@block
def _comparison_short(reports: Reports) -> str:
    """The same in fewer words: own ways of asking, no p."""
    entries = [one for one in gather(_plan(reports), "test") if one.name in _SHORT]
    mine = next(one for one in entries if one.name == "lare")
    lines = []
    for other in entries:
        gap = None if other is mine else contrast(mine.asked, other.asked, _MANY, pooled=True)
        starts = mine.asked.starts if gap is None else gap.starts
        told = "" if gap is None else f"{100 * gap.estimate:+.1f} [{100 * gap.t_low:.1f}, {100 * gap.t_high:.1f}]"
        lines.append([_SHORT[other.name], str(len(starts)), _right(other, starts), _tokens(other), told])
    head = ["trained as", "starts", "right, %", "text + latents", "LaRe minus it, points, 95 %"]
    return table(head, lines)


_SHORT = {
    "lare": "LaRe, K = 4, no boxes",
    "random": "LaRe, windows at random places",
    "norefocus": "the same latents, no look back",
    "sft": "LaRe's text, no latents",
    "cot": "rationale as text (CoT)",
    "mmcot": "MM-CoT",
    "llava": "answer at once (LLaVA)",
    "coconut": "Coconut",
    "mcout": "MCOUT",
    "lvr": "LVR (has boxes)",
}
"""Names of arms where a table has little room."""


@block
def _comparison_rivals_validation(reports: Reports) -> str:
    """The same on validation questions."""
    return _rivals(_plan(reports), "validation")


@block
def _smaller(reports: Reports) -> str:
    """Validation rows of the comparison at the smaller decoder."""
    return _explored(reports, "comparison_small")


@block
def _smaller_rivals(reports: Reports) -> str:
    """The comparison at the smaller decoder: test rows, and validation rows until there are any."""
    plan = _plan(reports, "comparison_small")
    return _rivals(plan, "test" if gather(plan, "test") else "validation")


@block
def _smaller_longer(reports: Reports) -> str:
    """The smaller decoder with twice the samples: test rows and the contrast that was declared beforehand."""
    return compared(_plan(reports, "longer_small"), "test", [(_SOFT, "cot")], markdown=True)


_SOFT = "lare/K4-soft"
"""LaRe, asked with the windows that its last stage was trained with."""


@block
def _smaller_windows(reports: Reports) -> str:
    """LaRe asked by the arg-max and as it was trained, and the rationale as text, start by start, at both lengths."""
    names = ("lare", _SOFT, "cot")
    lines = []
    for grid in ("comparison_small", "longer_small"):
        plan = _plan(reports, grid)
        found = {split: {one.name: one for one in gather(plan, split)} for split in ("validation", "test")}
        for row in found["test"]["lare"].rows:
            shares = [[_right(found[split][name], (row["start_hash"],)) for split in found] for name in names]
            lines.append([row["start"], f"{row['samples']:,}", *(" / ".join(pair) for pair in shares)])
    return table(["start", "samples", "LaRe, arg-max window", "LaRe, soft window", "rationale as text"], lines)


@block
def _smaller_learning(reports: Reports) -> str:
    """After how many samples the text's loss stays low, by start: LaRe and the rationale as text."""
    curves = reports.read("experiments/longer_small/learning.json")["curves"]
    levels, arms = (0.2, 0.15, 0.1), ("lare", "cot")
    known = {(one["start"], one["arm"]): one for one in curves}
    lines = []
    for start in sorted({one["start"] for one in curves}):
        there = [known.get((start, arm)) for arm in arms]
        ends = [["" if one is None else _end(reached(one, level)) for one in there] for level in levels]
        lasts = ["" if one is None else f"{one['loss'][-1]:.3f}" for one in there]
        lines.append([start, *(" / ".join(pair) for pair in [*ends, lasts])])
    return table(["start", *(f"below {level:g}" for level in levels), "last loss"], lines)


def _end(samples: int | None) -> str:
    return "never" if samples is None else f"{samples:,}"


@block
def _rivals_gaps(reports: Reports) -> str:
    """Smallest gain over the rivals whose test rows have as many starts as the comparison asks for, in a phrase."""
    entries = {one.name: one for one in gather(_plan(reports), "test")}
    gaps = [
        (one, contrast(entries["lare"].asked, one.asked, _MANY, pooled=True))
        for name, one in entries.items()
        if name in _RIVALS and len(one.asked.starts) >= LEAST_STARTS
    ]
    ranked = sorted(gaps, key=lambda pair: pair[1].estimate)
    if not ranked:
        return "no rival has enough starts yet"
    nearest, gap = ranked[0]
    low, high = 100 * gap.t_low, 100 * gap.t_high
    return (
        f"{len(ranked)} rivals and controls on {LEAST_STARTS} starts; the nearest, *{_lower(nearest.title)}*, is "
        f"{100 * gap.estimate:.1f} points below [{low:.1f}, {high:.1f}] (n = {gap.questions:,})"
    )


LEAST_STARTS = 4
_RIVALS = ("norefocus", "sft", "llava", "cot", "mmcot", "ccot", "icot", "cof", "mcout", "lvr", "coconut")


def _lower(title: str) -> str:
    """A title inside a sentence; names in capitals stay."""
    return title if title[1:2].isupper() or ":" in title else title[0].lower() + title[1:]


def _rivals(plan: Plan, split: str) -> str:
    entries = gather(plan, split)
    mine = next((one for one in entries if one.name == "lare"), None)
    others = [one for one in entries if not one.name.startswith("lare/")]
    if mine is None or others == [mine]:
        return "No rows yet."
    found = [None if one is mine else contrast(mine.asked, one.asked, _MANY, pooled=True) for one in others]
    adjusted = holm([None if one is None or math.isnan(one.p) else one.p for one in found])
    lines = []
    for other, gap, p in zip(others, found, adjusted, strict=True):
        told = [""] * 4
        if gap is not None:
            interval = f"{100 * gap.t_low:+.1f} to {100 * gap.t_high:+.1f}" if math.isfinite(gap.t_low) else ""
            shown = [""] * 2 if p is None else [f"{p:.2g}", f"{gap.effect:.2f}"]
            told = [f"{100 * gap.estimate:+.1f}", interval, *shown]
        starts = mine.asked.starts if gap is None else gap.starts
        lines.append([other.title, _supervision(other), str(len(starts)), _right(other, starts), _tokens(other), *told])
    count = int(_MANY.of(mine.asked.questions).sum())
    head = ["arm", "supervision", "starts", "right, %", "text + latents"]
    return f"n = {count:,} questions.\n\n" + table(
        [*head, "LaRe minus it", "95 %", "p (Holm)", "effect size"], lines, 2
    )


def _right(one: Entry, starts: tuple[str, ...]) -> str:
    rows = [one.asked.starts.index(start) for start in starts]
    return f"{100 * float(np.mean(one.asked.values[rows][:, _MANY.of(one.asked.questions)])):.1f}"


def _tokens(one: Entry) -> str:
    """Mean text tokens and latent steps of an answer, over all questions."""
    return " + ".join(f"{one.mean('costs', name) or 0:.1f}" for name in ("text_tokens", "latent_steps"))


def _supervision(one: Entry) -> str:
    return " and ".join(dict.fromkeys(str(row.get("supervision") or "none") for row in one.rows))
