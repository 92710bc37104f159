"""Blocks about the shipped checkpoint: its demo and controls, the comparison of refocusing, its question families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from blocks.source import BLOCKS, Reports, block, interval, table

__all__ = ["SETTINGS"]

SETTINGS = {
    "K=4": "LaRe, K = 4",
    "random": "random windows",
    "text": "rationale as text",
    "fine": "as text, all 64 tokens",
    "K=0": "direct answer",
    "blind": "grey picture",
    "majority": "majority by the words",
}
"""Settings of the demo, and what a table calls them."""


def _demo(reports: Reports, settings: Sequence[str]) -> str:
    cells = {(cell["task"], cell["setting"]): cell for cell in reports.read("demo/summary.json")["cells"]}
    tasks = dict.fromkeys(task for task, _ in cells)
    rows = []
    for task in tasks:
        name = "all" if task == "all" else f"`{task}`"
        shares = [f"{100 * cells[task, setting]['accuracy']:.1f} %" for setting in settings]
        rows.append([name, f"{cells[task, 'K=4']['n']:,}", *shares])
    gaps = {gap["right"]: gap for gap in reports.read("demo/summary.json")["margins"] if gap["task"] == "all"}
    rows.append(["K = 4 minus it, points", "", *("" if one == "K=4" else _gap(gaps[one]) for one in settings)])
    rows.append(["text tokens / latent steps", "", *(_spent(cells["all", one]) for one in settings)])
    return table(["task", "n", *(SETTINGS[one] for one in settings)], rows)


def _gap(gap: Mapping[str, float]) -> str:
    low, high = 100 * gap["low"], 100 * gap["high"]
    return f"{100 * gap['difference']:+.1f}<br>{interval(low, high)}"


def _spent(cell: Mapping[str, float]) -> str:
    return f"{cell['text_tokens']:.1f} / {cell['latent_steps']:.0f}"


@block
def _demo_full(reports: Reports) -> str:
    return _demo(reports, tuple(SETTINGS))


@block
def _demo_facts(reports: Reports) -> str:
    content = reports.read("demo/summary.json")
    n = next(cell["n"] for cell in content["cells"] if cell["task"] == "all")
    return f"{n:,} test questions, {content['time'][:10]}"


@block
def _saved(reports: Reports) -> str:
    """What latents save in text, against the same rationale written out."""
    rows = {(row["other"], row["counting"], row["quantity"]): row for row in reports.rows("tokens", "costs")}
    fair, own = rows["text", "both right", "text tokens"], rows["text", "own right", "text tokens"]
    whole = rows["text", "both right", "text + latent"]
    return (
        f"{fair['gap']:+.2f} text tokens {interval(*fair['interval'], 2)} on the {fair['n_judged']:,} questions that "
        f"both got right, {own['gap']:+.2f} as the paper counts (each over its own right answers), and "
        f"{whole['gap']:+.2f} with each latent step counted as one token"
    )


@block
def _controls(reports: Reports) -> str:
    rows = []
    for row in reports.rows("controls", "controls"):
        gap = f"{row['gap']:+.1f} {interval(*row['gap_interval'])}" if row.get("gap") is not None else ""
        rows.append([row["control"], f"{row['accuracy']:.1f} %", gap])
    return table(["what the answer is given", "right", "difference, points, 95 %"], rows)


@block
def _controls_facts(reports: Reports) -> str:
    """The causal test in one sentence."""
    rows = {row["control"]: row for row in reports.rows("controls", "controls")}
    own, none = rows["Latents as they are"], rows["No latents (K = 0), same delimiters"]
    other = next(row for name, row in rows.items() if name.startswith("Another question's"))
    return (
        f"{own['accuracy']:.1f} % right with the model's own latents, {none['accuracy']:.1f} % without latents, "
        f"{other['accuracy']:.1f} % with another question's latents"
    )


_ARMS = {
    "fine_16": ("LaRe, refocuses on fine tokens (the shipped design)", "16 pooled tokens"),
    "lm": (
        "LaRe, refocuses on the decoder's own tokens as in the paper, but with box supervision and a "
        "teacher-latent start",
        "all 64",
    ),
    "latents_pooled_16": ("same latents and losses, no refocus", "16 pooled tokens"),
    "latents_all": ("same latents and losses, no refocus", "all 64"),
    "text_all": ("rationale as text", "all 64"),
    "text_pooled_16": ("rationale as text", "16 pooled tokens"),
    "fine": ("LaRe, refocuses on fine tokens", "4 pooled tokens"),
    "random": ("as `fine`, trained and asked with random windows", "4 pooled tokens"),
    "latents_pooled": ("same latents and losses, no refocus", "4 pooled tokens"),
    "text_pooled": ("rationale as text", "4 pooled tokens"),
    "direct_all": ("direct answer", "all 64"),
    "fine_16_slim": ("LaRe, refocuses on fine tokens, one Extractor layer", "16 pooled tokens"),
}
"""Arms by name: what each is, and what its decoder reads."""


def _arms(reports: Reports, report: str) -> str:
    names = {row["row"]: row["name"] for row in reports.rows(report, "seeds")}
    accuracy = {names[row["row"]]: row for row in reports.rows(report, "rows")}
    costs = {names[row["row"]]: row for row in reports.rows(report, "costs")}
    found = [_arm(name, accuracy[name], costs[name]) for name in _ARMS if name in accuracy]
    head = ["arm", "what it is", "decoder reads", "seeds", "right", "difference, 95 %", "M MACs", "ms, batch 1 / 16"]
    return table([*head, "hits"], found, left=3)


def _arm(name: str, row: Mapping[str, Any], cost: Mapping[str, Any]) -> list[str]:
    gap = f"{row['gap']:+.1f}<br>{interval(*row['boot'])}" if row.get("gap") is not None else "reference"
    times = f"{cost['ms_batch1']:.0f} / {cost['ms_batch16']:.1f}"
    hits = f"{cost['hit_rate']:.0f} %" if cost.get("hit_rate") is not None else ""
    macs = f"{cost['multiply_adds_whole']:.0f} / {cost['multiply_adds']:.0f}"
    return [f"`{name}`", *_ARMS[name], str(row["seeds"]), f"{row['accuracy']:.1f} %", gap, macs, times, hits]


def _cheaper(reports: Reports, report: str, arm: str, other: str) -> str:
    """What an arm costs as a share of another, with the vision encoder and without."""
    names = {row["row"]: row["name"] for row in reports.rows(report, "seeds")}
    costs = {names[row["row"]]: row for row in reports.rows(report, "costs")}
    whole, own = (costs[arm][key] / costs[other][key] for key in ("multiply_adds_whole", "multiply_adds"))
    return f"{100 * whole:.0f} % of the multiply-adds ({100 * own:.0f} % without the vision encoder)"


BLOCKS |= {
    "macs-all": partial(_cheaper, report="ablation", arm="fine_16", other="latents_all"),
    "macs-lm": partial(_cheaper, report="ablation", arm="fine_16", other="lm"),
    "macs-slim": partial(_cheaper, report="ablation_slim", arm="fine_16_slim", other="latents_all"),
    "refocus": partial(_arms, report="ablation"),
    "refocus-slim": partial(_arms, report="ablation_slim"),
}


@block
def _families(reports: Reports) -> str:
    found = reports.read("demo/families.json")
    names = sorted(name for name in found["test"]["families"] if name != "all")
    rows = []
    for name in [*names, "all"]:
        cells = [name]
        for split in ("validation", "test"):
            one = found[split]["families"].get(name)
            cells += _family(one) if one else [""] * 3
        rows.append(cells)
    heads = [f"{split}: {what}" for split in ("validation", "test") for what in ("n", "right", "guess / chance")]
    return table(["family", *heads], rows)


def _family(one: Mapping[str, Any]) -> list[str]:
    low, high = (100 * end for end in one["interval"])
    shares = f"{100 * one['guess']:.0f} / {100 * one['chance']:.0f} %"
    return [f"{one['n']:,}", f"{100 * one['right']:.0f} % {interval(low, high, 0)}", shares]


@block
def _families_weak(reports: Reports) -> str:
    """Families whose answers are not surely above the guess by the words."""
    return "; ".join(
        f"{split}: {', '.join(name for name, one in found['families'].items() if one['minus_guess_interval'][0] <= 0)}"
        for split, found in reports.read("demo/families.json").items()
    )
