"""Fill the marked blocks of README.md and docs/ with numbers from the committed files under reports/.

A block stands between two comments, ``<!-- table NAME -->`` and ``<!-- end -->``; ``text`` in place of ``table`` marks
a sentence or a part of one. Everything between them is written by the function of that name (dashes for underscores) in
`BLOCKS`, so no such number is typed by hand:

    make tables                    fill all blocks
    python docs/tables.py --check  exit code 1 if a block is not what its file says
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

__all__ = ["BLOCKS", "ROOT", "fill", "main", "pages"]

ROOT = Path(__file__).resolve().parents[1]
REPORTS = ROOT / "reports"
_BLOCK = re.compile(r"(<!-- (?:table|text) ([a-z0-9-]+) -->)(.*?)(<!-- end -->)", re.DOTALL)
BLOCKS: dict[str, Callable[[], str]] = {}
"""What writes each block, by the block's name."""


def _block(function: Callable[[], str]) -> Callable[[], str]:
    BLOCKS[function.__name__.strip("_").replace("_", "-")] = function
    return function


@cache
def _read(name: str) -> Any:
    """A JSON file under reports/."""
    return json.loads((REPORTS / name).read_text(encoding="utf-8"))


def _rows(report: str, table: str) -> list[dict[str, Any]]:
    """Rows of one table of a report."""
    tables = {one["id"]: one["rows"] for one in _read(f"{report}.json")["tables"]}
    rows: list[dict[str, Any]] = tables[table]
    return rows


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; all columns after the first `left` are set to the right."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *rows])


def _interval(low: float, high: float, digits: int = 1) -> str:
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


# The demo -------------------------------------------------------------------------------------------------------------
_SETTINGS = {
    "K=4": "LaRe, K = 4",
    "random": "random windows",
    "text": "rationale as text",
    "fine": "as text, all 64 tokens",
    "K=0": "direct answer",
    "blind": "grey picture",
    "majority": "majority by the words",
}
_SHORT = ("K=4", "text", "K=0", "blind")


def _demo(settings: Sequence[str], costs: bool) -> str:
    cells = {(cell["task"], cell["setting"]): cell for cell in _read("demo/summary.json")["cells"]}
    tasks = dict.fromkeys(task for task, _ in cells)
    rows = []
    for task in tasks:
        name = "all" if task == "all" else f"`{task}`"
        shares = [f"{100 * cells[task, setting]['accuracy']:.1f} %" for setting in settings]
        rows.append([name, f"{cells[task, 'K=4']['n']:,}", *shares])
    gaps = {gap["right"]: gap for gap in _read("demo/summary.json")["margins"] if gap["task"] == "all"}
    rows.append(["K = 4 minus it, points", "", *("" if one == "K=4" else _gap(gaps[one]) for one in settings)])
    if costs:
        rows.append(["text tokens / latent steps", "", *(_spent(cells["all", one]) for one in settings)])
    return _table(["task", "n", *(_SETTINGS[one] for one in settings)], rows)


def _gap(gap: Mapping[str, float]) -> str:
    low, high = 100 * gap["low"], 100 * gap["high"]
    return f"{100 * gap['difference']:+.1f}<br>{_interval(low, high)}"


def _spent(cell: Mapping[str, float]) -> str:
    return f"{cell['text_tokens']:.1f} / {cell['latent_steps']:.0f}"


@_block
def _demo_short() -> str:
    return _demo(_SHORT, True)


@_block
def _demo_full() -> str:
    return _demo(tuple(_SETTINGS), True)


@_block
def _demo_facts() -> str:
    content = _read("demo/summary.json")
    n = next(cell["n"] for cell in content["cells"] if cell["task"] == "all")
    return f"{n:,} test questions, {content['time'][:10]}"


@_block
def _saved() -> str:
    """What latents save in text, against the same rationale written out."""
    rows = {(row["other"], row["counting"], row["quantity"]): row for row in _rows("tokens", "costs")}
    fair, own = rows["text", "both right", "text tokens"], rows["text", "own right", "text tokens"]
    whole = rows["text", "both right", "text + latent"]
    return (
        f"{fair['gap']:+.2f} text tokens {_interval(*fair['interval'], 2)} on the {fair['n_judged']:,} questions that "
        f"both got right, {own['gap']:+.2f} as the paper counts (each over its own right answers), and "
        f"{whole['gap']:+.2f} with each latent step counted as one token"
    )


@_block
def _controls() -> str:
    rows = []
    for row in _rows("controls", "controls"):
        gap = f"{row['gap']:+.1f} {_interval(*row['gap_interval'])}" if row.get("gap") is not None else ""
        rows.append([row["control"], f"{row['accuracy']:.1f} %", gap])
    return _table(["what the answer is given", "right", "difference, points, 95 %"], rows)


@_block
def _controls_facts() -> str:
    """The causal test in one sentence."""
    rows = {row["control"]: row for row in _rows("controls", "controls")}
    own, none = rows["Latents as they are"], rows["No latents (K = 0), same delimiters"]
    other = next(row for name, row in rows.items() if name.startswith("Another question's"))
    return (
        f"{own['accuracy']:.1f} % right with the model's own latents, {none['accuracy']:.1f} % without latents, "
        f"{other['accuracy']:.1f} % with another question's latents"
    )


# The comparison of refocusing -----------------------------------------------------------------------------------------
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


def _arms(report: str) -> str:
    names = {row["row"]: row["name"] for row in _rows(report, "seeds")}
    accuracy = {names[row["row"]]: row for row in _rows(report, "rows")}
    costs = {names[row["row"]]: row for row in _rows(report, "costs")}
    found = [_arm(name, accuracy[name], costs[name]) for name in _ARMS if name in accuracy]
    head = ["arm", "what it is", "decoder reads", "seeds", "right", "difference, 95 %", "M MACs", "ms, batch 1 / 16"]
    return _table([*head, "hits"], found, left=3)


def _arm(name: str, row: Mapping[str, Any], cost: Mapping[str, Any]) -> list[str]:
    gap = f"{row['gap']:+.1f}<br>{_interval(*row['boot'])}" if row.get("gap") is not None else "reference"
    times = f"{cost['ms_batch1']:.0f} / {cost['ms_batch16']:.1f}"
    hits = f"{cost['hit_rate']:.0f} %" if cost.get("hit_rate") is not None else ""
    macs = f"{cost['multiply_adds_whole']:.0f} / {cost['multiply_adds']:.0f}"
    return [f"`{name}`", *_ARMS[name], str(row["seeds"]), f"{row['accuracy']:.1f} %", gap, macs, times, hits]


def _cheaper(report: str, arm: str, other: str) -> str:
    """What an arm costs as a share of another, with the vision encoder and without."""
    names = {row["row"]: row["name"] for row in _rows(report, "seeds")}
    costs = {names[row["row"]]: row for row in _rows(report, "costs")}
    whole, own = (costs[arm][key] / costs[other][key] for key in ("multiply_adds_whole", "multiply_adds"))
    return f"{100 * whole:.0f} % of the multiply-adds ({100 * own:.0f} % without the vision encoder)"


BLOCKS |= {
    "macs-all": partial(_cheaper, "ablation", "fine_16", "latents_all"),
    "macs-lm": partial(_cheaper, "ablation", "fine_16", "lm"),
    "macs-slim": partial(_cheaper, "ablation_slim", "fine_16_slim", "latents_all"),
    "refocus": partial(_arms, "ablation"),
    "refocus-slim": partial(_arms, "ablation_slim"),
}


@_block
def _families() -> str:
    found = _read("demo/families.json")
    names = sorted(name for name in found["test"]["families"] if name != "all")
    rows = []
    for name in [*names, "all"]:
        cells = [name]
        for split in ("validation", "test"):
            one = found[split]["families"].get(name)
            cells += _family(one) if one else [""] * 3
        rows.append(cells)
    heads = [f"{split}: {what}" for split in ("validation", "test") for what in ("n", "right", "guess / chance")]
    return _table(["family", *heads], rows)


def _family(one: Mapping[str, Any]) -> list[str]:
    low, high = (100 * end for end in one["interval"])
    shares = f"{100 * one['guess']:.0f} / {100 * one['chance']:.0f} %"
    return [f"{one['n']:,}", f"{100 * one['right']:.0f} % {_interval(low, high, 0)}", shares]


@_block
def _families_weak() -> str:
    """Families whose answers are not surely above the guess by the words."""
    return "; ".join(
        f"{split}: {', '.join(name for name, one in found['families'].items() if one['minus_guess_interval'][0] <= 0)}"
        for split, found in _read("demo/families.json").items()
    )


# Training -------------------------------------------------------------------------------------------------------------
@_block
def _sweep() -> str:
    rows = []
    for row in _read("sweep/sweep.json")["summary"]["rows"]:
        cells = ["", ""]
        if "difference" in row:
            low, high = (100 * end for end in row["difference_interval"])
            cells = [f"{100 * row['difference']:+.1f} {_interval(low, high)}", f"{200 * row['seed_error']:.1f}"]
        rows.append([row["title"], str(len(row["seeds"])), f"{100 * row['accuracy']:.1f} %", *cells])
    return _table(["arm", "seeds", "right", "minus base, 95 % over scenes", "+- 2 SE, seeds"], rows)


@_block
def _sweep_facts() -> str:
    found = _read("sweep/sweep.json")["summary"]
    runs = sum(len(row["seeds"]) for row in found["rows"])
    return (
        f"{runs} runs of {found['samples']:,} samples, each asked {found['questions']:,} questions about "
        f"{found['scenes']} validation scenes; majority {100 * found['majority']:.1f} %"
    )


@_block
def _smollm2() -> str:
    held_out = _read("smollm2/curves.json")["held_out"]
    rows = []
    for stage, found in held_out["after"].items():
        losses = [f"{found['losses'][name]:.2f}" for name in ("lm", "text", "alignment")]
        right = f"{round(found['right'] * held_out['questions'])} of {held_out['questions']}"
        rows.append([f"`{stage}`", *losses, right])
    return _table(["after stage", "L_lm", "L_text", "L_align", "right"], rows)


@_block
def _sizes() -> str:
    return (REPORTS / "sizes.md").read_text(encoding="utf-8").strip()


@_block
def _decoders() -> str:
    """Which decoder families pass the check, and why the others don't."""
    content = json.loads((ROOT / "lare" / "model" / "families.json").read_text(encoding="utf-8"))
    usable = [name for name, reason in content["families"].items() if not reason]
    head = f"transformers {content['transformers']}, {len(usable)} of {len(content['families'])} families:"
    return f"{head}\n\n{', '.join(f'`{name}`' for name in usable)}."


# Speed ----------------------------------------------------------------------------------------------------------------
_BENCHMARKS = (
    "attention_capture",
    "latent_overhead",
    "batch_throughput",
    "against_llava",
    "training_step",
    "flop_rate",
    "trace_cost",
    "world_speed",
)


def _speed_rows(folder: str, names: Sequence[str]) -> str:
    rows = []
    for name in names:
        for one in _read(f"{folder}/{name}.json")["results"]:
            digits = 0 if one["ratio"] > 100 else 2
            ratio = f"{one['ratio']:,.{digits}f} [{one['interval'][0]:,.{digits}f}, {one['interval'][1]:,.{digits}f}]"
            target = f"{'at most' if one['at_most'] else 'at least'} {one['target']:g}" if one["target"] else ""
            met = ("yes" if one["passed"] else "**no**") if one["target"] else ""
            rows.append([f"`{one['name']}`", ratio, target, met])
    return _table(["measured", "ratio [95 % interval]", "target", "met"], rows)


@_block
def _speed() -> str:
    return _speed_rows("benchmarks", _BENCHMARKS)


@_block
def _speed_two_threads() -> str:
    return _speed_rows("benchmarks/two_threads", ("batch_throughput",))


@_block
def _speed_facts() -> str:
    found = [_read(f"benchmarks/{name}.json")["environment"] for name in _BENCHMARKS]
    days = sorted(one["time"][:10] for one in found)
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    first = found[0]
    rounds = sorted({one["rounds"] for one in found})
    pairs = f"{rounds[0]} to {rounds[-1]}" if len(rounds) > 1 else str(rounds[0])
    return (
        f"{when}, {first['processor']}, {first['cores']} cores, {first['threads']} thread, torch {first['torch']}, "
        f"{pairs} pairs of runs"
    )


@_block
def _comparison() -> str:
    """Validation rows of the comparison, with what is compared as far as both arms have been trained."""
    from lare.experiments.gather import gather
    from lare.experiments.plan import Plan
    from lare.experiments.table import table

    plan = Plan(ROOT / "lare/configs/experiments/comparison.yaml", reports=REPORTS / "experiments")
    there = {entry.name for entry in gather(plan, "validation")}
    pairs = [("lare", other) for other in ("random", "cot", "norefocus") if {"lare", other} <= there]
    return table(plan, "validation", pairs, markdown=True)


@_block
def _finding() -> str:
    """The search on one start: every arm's first row, in the order of its grid."""
    rows = []
    for grid in ("refocusing", "finding", "finding_both"):
        found = [json.loads(path.read_text()) for path in sorted((REPORTS / f"experiments/{grid}/rows").glob("*.json"))]
        for row in found:
            if row["split"] == "validation" and row["start"].endswith("-0"):
                batch = {stage.get("batch", 128) for stage in row["settings"]["stages"]}
                rows.append([row["start"], row["title"], row["ask"], *map(str, batch), *_right(row["by"]), _hits(row)])
    names = ["start", "arm", "asked", "batch", "right", "two hops or more", "hits by step, %"]
    return _table(names, rows, 3)


def _right(by: dict[str, dict[str, list[float]]]) -> tuple[str, str]:
    """Right answers among all questions, and among those of two hops or more."""
    each = [(int(hops), count, share * count) for hops, (count, share) in by["hops"].items()]
    many = [one for one in each if one[0] > 1]
    return tuple(f"{100 * sum(o[2] for o in part) / sum(o[1] for o in part):.1f} %" for part in (each, many))


def _hits(row: dict[str, Any]) -> str:
    """The share of windows that hold what the step needs, step by step."""
    costs = row["costs"]
    return "/".join(f"{100 * costs[name]:.0f}" for name in sorted(costs) if name.startswith("hit_rate_"))


@_block
def _pilot() -> str:
    rows = []
    for row in _read("experiments/refocusing_pilot/rows.json")["rows"]:
        gap, hits = row["minus_random"], "/".join(f"{hit:.0f}" for hit in row["window_hits_by_step"].values())
        low, high = (gap["points"] + sign * gap["half_interval_questions_only"] for sign in (-1, 1))
        apart = f"{gap['points']:+.1f} {_interval(low, high)}" if low < high else ""
        rows.append([row["title"], row["supervision"], f"{row['accuracy']:.1f} %", apart, row["tokens"], hits])
    return _table(["arm", "boxes", "right", "minus random", "text + latent tokens", "hits by step, %"], rows, 2)


# Validation -----------------------------------------------------------------------------------------------------------
@_block
def _validate_interventions() -> str:
    from lare.interventions import get_intervention, intervention_names

    rows = [[f"`{one.name}`", one.title, one.changes, one.fixed] for one in map(get_intervention, intervention_names())]
    return _table(["name", "in a table", "changes", "holds fixed"], rows, left=4)


@_block
def _validate_power() -> str:
    from lare.intervals import wilson

    rows = _read("validate/power.json")["rows"]
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
    return f"{told}\n\n{_table(head, lines, left=2)}"


@_block
def _validate_results() -> str:
    paths = [REPORTS / "validate.summary.json", *sorted((REPORTS / "validate").glob("*.summary.json"))]
    rows = []
    for path in (one for one in paths if one.exists()):
        found = json.loads(path.read_text(encoding="utf-8"))
        gaps = {one["name"]: one["gap"] for one in found["predictions"] if "gap" in one}
        shown = [f"{100 * found['accuracy'][name]:.1f}" for name in ("own", "none", "marks")]
        lost = [_lost(gaps.get(name)) for name in ("zeros", "other", "dummy")]
        rows.append([found["label"], f"`{found['verdict']}`", f"{found['questions']:,}", *shown, *lost])
    head = ["reasoner", "verdict", "n", "own latents, %", "none, %", "marks only, %"]
    return _table([*head, "lost: zeros", "lost: another's", "lost: dummies"], rows, left=2)


def _lost(gap: Mapping[str, float] | None) -> str:
    if gap is None:
        return ""
    return f"{100 * gap['estimate']:+.1f}<br>{_interval(100 * gap['low'], 100 * gap['high'])}"


@_block
def _validate_cost() -> str:
    found = _read("validate/cost.json")
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
    return f"{told}\n\n{_table(['card', 'assumed share of its peak', 'minutes'], rows)}"


# Writing --------------------------------------------------------------------------------------------------------------
def pages() -> list[Path]:
    """README.md and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def fill(text: str, where: str = "") -> str:
    """The page with its blocks written anew.

    Raises:
        SystemExit: If a block has no function in `BLOCKS`.
    """

    def write(found: re.Match[str]) -> str:
        start, name, old, end = found.groups()
        if name not in BLOCKS:
            sys.exit(f"{where}: nothing writes the block {name!r}; choose from {', '.join(sorted(BLOCKS))}")
        new = BLOCKS[name]()
        return f"{start}\n{new}\n{end}" if "\n" in old.strip(" ") else f"{start}{new}{end}"

    return _BLOCK.sub(write, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the blocks; with --check only tell whether that would change a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if a block is out of date")
    options = parser.parse_args(arguments)
    stale = 0
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = fill(before, str(page.relative_to(ROOT)))
        if after == before:
            continue
        stale += 1
        print(page.relative_to(ROOT))
        if not options.check:
            page.write_text(after, encoding="utf-8")
    return int(options.check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
