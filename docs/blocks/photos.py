"""Blocks about photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from blocks.source import ROOT, Reports, block, interval, table

from lare.experiments.compare import interval as drawn
from lare.experiments.gather import Entry, gather
from lare.experiments.plan import Plan


@block
def _photos_blind(reports: Reports) -> str:
    """What questions about photographs give away without the image."""
    head = ("source", "family", "train", "asked", "answers", "majority", "question only")
    lines = []
    for source in ("daquar", "captions", "animals"):
        for row in reports.read(f"photos/blind_{source}.json"):
            counts = [f"{row[name]:,}" for name in ("n_train", "n", "answers")]
            shares = [f"{100 * row[name]:.1f}" for name in ("majority", "question_only")]
            lines.append((f"`{source}`", row["family"].replace("_", " "), *counts, *shares))
    return table(head, lines, left=2)


@block
def _photos_probes(reports: Reports) -> str:
    """What a linear probe reads from the frozen encoder at each grid."""
    found = reports.read("photos/probes.json")
    grids = list(found["rows"][0]["right"])
    head = ("family", "pixels", "photographs", "majority", *(f"{grid} x {grid}" for grid in grids))
    lines = []
    for row in found["rows"]:
        shares = [f"{100 * row['right'][grid]:.1f} ± {100 * row['sd'][grid]:.1f}" for grid in grids]
        about = [row["family"].replace("_", " "), str(row["side"]), f"{row['n']:,}", f"{100 * row['majority']:.1f}"]
        lines.append([*about, *shares])
    return table(head, lines)


@block
def _photos_answers(reports: Reports) -> str:
    """What a small classifier gets of DAQUAR's validation questions from the words and the frozen encoder."""
    head = ("reads", "n", "networks", "each, %", "right, %", "more than by the words, points")
    lines = []
    for row in reports.read("photos/answers.json")["rows"]:
        grid, more = row["grid"], row.get("more_than_words")
        told = [f"{one['mean']:.1f} {interval(one['low'], one['high'])}" if one else "" for one in (row["right"], more)]
        each = f"{min(row['by_seed']):.1f} to {max(row['by_seed']):.1f}"
        reads = f"words, {grid} x {grid} cells" if grid else "words"
        lines.append([reads, f"{row['n']:,}", str(row["seeds"]), each, *told])
    return table(head, lines)


_SOURCES = {"pope": "captions", "daquar": "daquar", "animals": "animals"}
"""Tasks on photographs, and the file under photos/ that says what their questions give away."""


FIRST, LONGER, OFTEN = "photographs", "photographs_longer", "photographs_often"
"""Grids on photographs of three sources."""


def _asked(reports: Reports, grid: str, splits: Sequence[str] = ("test", "validation")) -> tuple[str, list[Entry]]:
    """Arms of a grid on photographs: rows of the first split that has any."""
    plan = Plan(ROOT / f"lare/configs/experiments/{grid}.yaml", reports=reports.folder / "experiments")
    found = {split: gather(plan, split) for split in splits}
    return next(((split, entries) for split, entries in found.items() if entries), ("validation", []))


def _source(task: str) -> str:
    return _SOURCES[task.rpartition("_")[2]]


def _by_words(reports: Reports, task: str, split: str) -> list[Mapping[str, Any]]:
    """What the question's words alone get right, by family."""
    ending = "" if split == "test" else f"_{split}"
    rows: list[Mapping[str, Any]] = reports.read(f"photos/blind_{_source(task)}{ending}.json")
    return [row for row in rows if row["family"] != "all"]


def _blind(reports: Reports, task: str, split: str) -> float:
    """Share that the question's words alone get right."""
    rows = _by_words(reports, task, split)
    kept = [row for row in rows if task.rpartition("_")[2] != "pope" or row["family"].startswith("presence_")]
    return sum(row["n"] * row["question_only"] for row in kept) / sum(row["n"] for row in kept)


@block
def _photos_first(reports: Reports) -> str:
    return results(reports, FIRST)


@block
def _photos_results(reports: Reports) -> str:
    return results(reports, LONGER)


@block
def _photos_often(reports: Reports) -> str:
    return results(reports, OFTEN)


@block
def _photos_often_validation(reports: Reports) -> str:
    return results(reports, OFTEN, ("validation",))


@block
def _photos_families(reports: Reports) -> str:
    return families(reports, OFTEN)


def results(reports: Reports, grid: str, splits: Sequence[str] = ("test", "validation")) -> str:
    """Right answers to questions about held-back photographs, by arm and task, beside the question's words alone."""
    split, entries = _asked(reports, grid, splits)
    if not entries:
        return "no rows yet"
    questions = entries[0].asked.questions
    counts = {task: int((questions.task == task).sum()) for task in questions.tasks}
    head = [
        f"arm, {split} questions",
        "starts",
        *(f"{task.rpartition('_')[2]} (n = {n:,})" for task, n in counts.items()),
        "text + latents",
    ]
    blind = [f"{100 * _blind(reports, task, split):.1f}" for task in counts]
    lines = [["the likeliest answer by the question's words", "", *blind, ""]]
    for one in entries:
        cells = [_cell(one, one.asked.questions.task == task) for task in counts]
        tokens = [one.mean("costs", name) or 0.0 for name in ("text_tokens", "latent_steps")]
        lines.append([one.title, str(len(one.asked.starts)), *cells, f"{tokens[0]:.1f} + {tokens[1]:.1f}"])
    return table(head, lines)


def families(reports: Reports, grid: str) -> str:
    """The same by family of questions, the arms' own way of asking alone."""
    split, every = _asked(reports, grid)
    entries = [one for one in every if "/" not in one.name]
    if not entries:
        return "no rows yet"
    questions, lines = entries[0].asked.questions, []
    for task in questions.tasks:
        short, blind = task.rpartition("_")[2], _by_words(reports, task, split)
        words = {row["family"].removeprefix("presence_"): 100 * row["question_only"] for row in blind}
        for family in dict.fromkeys(questions.family[questions.task == task].tolist()):
            kept = (questions.task == task) & (questions.family == family)
            told = f"{words[family]:.1f}" if family in words else ""
            about = [f"`{short}`", str(family).replace("_", " "), f"{kept.sum():,}", told]
            lines.append([*about, *(_cell(one, kept) for one in entries)])
    return table(["task", "family", "n", "by the words", *(one.name for one in entries)], lines, left=2)


def _cell(one: Entry, kept: npt.NDArray[np.bool_]) -> str:
    """Share of right answers, with the interval that draws whole photographs (and starts, where there are several)."""
    asked = one.asked
    low, high = drawn(asked.values[:, kept], asked.questions.task[kept], asked.questions.scene[kept])
    return f"{100 * asked.values[:, kept].mean():.1f} {interval(100 * low, 100 * high)}"
