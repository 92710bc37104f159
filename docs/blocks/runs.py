"""Blocks about training runs, experiments, what the code supports and how fast it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from blocks.source import ROOT, Reports, block, interval, table


@block
def _sweep(reports: Reports) -> str:
    rows = []
    for row in reports.read("sweep/sweep.json")["summary"]["rows"]:
        cells = ["", ""]
        if "difference" in row:
            low, high = (100 * end for end in row["difference_interval"])
            cells = [f"{100 * row['difference']:+.1f} {interval(low, high)}", f"{200 * row['seed_error']:.1f}"]
        rows.append([row["title"], str(len(row["seeds"])), f"{100 * row['accuracy']:.1f} %", *cells])
    return table(["arm", "seeds", "right", "minus base, 95 % over scenes", "+- 2 SE, seeds"], rows)


@block
def _sweep_facts(reports: Reports) -> str:
    found = reports.read("sweep/sweep.json")["summary"]
    runs = sum(len(row["seeds"]) for row in found["rows"])
    return (
        f"{runs} runs of {found['samples']:,} samples, each asked {found['questions']:,} questions about "
        f"{found['scenes']} validation scenes; majority {100 * found['majority']:.1f} %"
    )


@block
def _smollm2(reports: Reports) -> str:
    held_out = reports.read("smollm2/curves.json")["held_out"]
    rows = []
    for stage, found in held_out["after"].items():
        losses = [f"{found['losses'][name]:.2f}" for name in ("lm", "text", "alignment")]
        right = f"{round(found['right'] * held_out['questions'])} of {held_out['questions']}"
        rows.append([f"`{stage}`", *losses, right])
    return table(["after stage", "L_lm", "L_text", "L_align", "right"], rows)


@block
def _sizes(reports: Reports) -> str:
    return (reports.folder / "sizes.md").read_text(encoding="utf-8").strip()


@block
def _decoders(reports: Reports) -> str:
    """Which decoder families pass the check, and why the others don't."""
    content = json.loads((ROOT / "lare" / "model" / "families.json").read_text(encoding="utf-8"))
    usable = [name for name, reason in content["families"].items() if not reason]
    head = f"transformers {content['transformers']}, {len(usable)} of {len(content['families'])} families:"
    return f"{head}\n\n{', '.join(f'`{name}`' for name in usable)}."


@block
def _primary(reports: Reports) -> str:
    """The declared contrast of the comparison in a phrase: effect, interval, starts, questions."""
    return _entry(reports, "primary-comparison")


@block
def _primary_smaller(reports: Reports) -> str:
    """The declared contrast of the smaller decoder's longer grid in a phrase."""
    return _entry(reports, "primary-longer_small")


@block
def _second_smaller(reports: Reports) -> str:
    """The second contrast of that grid in a phrase."""
    return _entry(reports, "rival-as-trained")


def _entry(reports: Reports, name: str) -> str:
    (row,) = (one for one in reports.rows("claims", "claims") if one["id"] == name)
    low, high = row["interval"]
    return (
        f"{row['effect']:+.1f} points {interval(low, high)}, t over {row['starts'].split()[0]} starts, n = {row['n']:,}"
    )


@block
def _finding(reports: Reports) -> str:
    """The search on one start: every arm's first row, in the order of its grid."""
    rows = []
    for grid in ("refocusing", "finding", "finding_both"):
        paths = sorted((reports.folder / f"experiments/{grid}/rows").glob("*.json"))
        found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        for row in found:
            if row["split"] == "validation" and row["start"].endswith("-0"):
                batch = {stage.get("batch", 128) for stage in row["settings"]["stages"]}
                rows.append([row["start"], row["title"], row["ask"], *map(str, batch), *_right(row["by"]), _hits(row)])
    names = ["start", "arm", "asked", "batch", "right", "two hops or more", "hits by step, %"]
    return table(names, rows, 3)


def _right(by: dict[str, dict[str, list[float]]]) -> tuple[str, str]:
    """Right answers among all questions, and among those of two hops or more."""
    each = [(int(hops), count, share * count) for hops, (count, share) in by["hops"].items()]
    many = [one for one in each if one[0] > 1]
    return tuple(f"{100 * sum(o[2] for o in part) / sum(o[1] for o in part):.1f} %" for part in (each, many))


def _hits(row: dict[str, Any]) -> str:
    """The share of windows that hold what the step needs, step by step."""
    costs = row["costs"]
    return "/".join(f"{100 * costs[name]:.0f}" for name in sorted(costs) if name.startswith("hit_rate_"))


@block
def _longer_search(reports: Reports) -> str:
    """What was tried by hand before the longer comparison was declared."""
    return _by_hand(reports, "search_longer")


@block
def _smaller_search(reports: Reports) -> str:
    """Two arms of the smaller decoder, trained on by hand."""
    return _by_hand(reports, "search_smaller")


def _by_hand(reports: Reports, name: str) -> str:
    rows = []
    for row in reports.read(f"experiments/{name}/rows.json")["rows"]:
        tokens = f"{row['text_tokens']:.1f} + {int(row['asked'].lstrip('K'))}"
        rows.append([row["start"], row["title"], f"{row['samples']:,}", *_right(row["by"]), tokens, _hits(row)])
    return table(
        ["start", "trained", "samples", "right", "two hops or more", "text + latents", "hits by step, %"], rows, 2
    )


@block
def _pilot(reports: Reports) -> str:
    rows = []
    for row in reports.read("experiments/refocusing_pilot/rows.json")["rows"]:
        gap, hits = row["minus_random"], "/".join(f"{hit:.0f}" for hit in row["window_hits_by_step"].values())
        low, high = (gap["points"] + sign * gap["half_interval_questions_only"] for sign in (-1, 1))
        apart = f"{gap['points']:+.1f} {interval(low, high)}" if low < high else ""
        rows.append([row["title"], row["supervision"], f"{row['accuracy']:.1f} %", apart, row["tokens"], hits])
    return table(["arm", "boxes", "right", "minus random", "text + latent tokens", "hits by step, %"], rows, 2)


_BENCHMARKS = (
    "attention_capture",
    "latent_overhead",
    "batch_throughput",
    "against_llava",
    "against_vlm",
    "training_step",
    "flop_rate",
    "trace_cost",
    "world_speed",
    "halting",
)


def _speed_rows(reports: Reports, folder: str, names: Sequence[str]) -> str:
    rows = []
    for name in names:
        for one in reports.read(f"{folder}/{name}.json")["results"]:
            digits = 0 if one["ratio"] > 100 else 2
            ratio = f"{one['ratio']:,.{digits}f} [{one['interval'][0]:,.{digits}f}, {one['interval'][1]:,.{digits}f}]"
            target = f"{'at most' if one['at_most'] else 'at least'} {one['target']:g}" if one["target"] else ""
            met = ("yes" if one["passed"] else "**no**") if one["target"] else ""
            rows.append([f"`{one['name']}`", ratio, target, met])
    return table(["measured", "ratio [95 % interval]", "target", "met"], rows)


@block
def _speed(reports: Reports) -> str:
    return _speed_rows(reports, "benchmarks", _BENCHMARKS)


@block
def _speed_two_threads(reports: Reports) -> str:
    return _speed_rows(reports, "benchmarks/two_threads", ("batch_throughput",))


@block
def _speed_facts(reports: Reports) -> str:
    found = [reports.read(f"benchmarks/{name}.json")["environment"] for name in _BENCHMARKS]
    days = sorted(one["time"][:10] for one in found)
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    first = found[0]
    rounds = sorted({one["rounds"] for one in found})
    pairs = f"{rounds[0]} to {rounds[-1]}" if len(rounds) > 1 else str(rounds[0])
    return (
        f"{when}, {first['processor']}, {first['cores']} cores, {first['threads']} thread, torch {first['torch']}, "
        f"{pairs} pairs of runs"
    )
