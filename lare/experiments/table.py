"""Tables of a grid's rows: accuracy and tokens by task (the shape of the paper's Table 1), terms, costs, contrasts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from lare.experiments.compare import Contrast, Mask, contrast, contrast_by_hops, interval, mean_by_start
from lare.experiments.gather import Entry, entry, gather, left_out
from lare.experiments.grid import Primary
from lare.experiments.plan import Plan

__all__ = ["mask_of", "table"]

Rows = list[list[str]]
_Lay = Callable[[Rows], str]
_COSTS = (
    ("text tokens", ("costs", "text_tokens"), 1.0),
    ("latent steps", ("costs", "latent_steps"), 1.0),
    ("extra visual tokens", ("costs", "extra_visual_tokens"), 1.0),
    ("decoder passes", ("costs", "decoder_passes"), 1.0),
    ("M multiply-adds", ("costs", "multiply_adds_whole"), 1e-6),
    ("without vision encoder", ("costs", "multiply_adds"), 1e-6),
    ("ms at batch 1", ("ms", "batch1"), 1.0),
    ("at batch 16", ("ms", "batch16"), 1.0),
    ("windows that hit, %", ("costs", "hit_rate"), 100.0),
    ("by chance, %", ("costs", "hit_chance"), 100.0),
)


def mask_of(primary: Primary) -> Mask:
    """The questions that count in the primary contrast."""
    return Mask(primary.exclude_families, primary.exclude_tasks, primary.least_hops)


def table(plan: Plan, split: str, contrasts: Sequence[tuple[str, str]] = (), markdown: bool = False) -> str:
    """All tables of a split as text.

    Args:
        plan: The grid.
        split: ``validation`` or ``test``.
        contrasts: Pairs of ``arm`` or ``arm/ask`` to compare, beside the primary contrast.
        markdown: Markdown tables; else columns for a terminal.

    Raises:
        LareError: If there are no rows, or a contrast can't be made.
    """
    entries = gather(plan, split)
    if not entries:
        return f"no {split} rows yet; see lare experiments status {plan.file}"
    lay = _markdown if markdown else _columns
    parts = [
        f"{plan.grid.title or plan.grid.name}: right answers to {split} questions, in % / their text and latent tokens",
        lay(_main(entries)),
        *_notes(plan, split, entries),
        "Equal terms",
        lay(_terms(entries)),
        "What an answer costs, means",
        lay(_costs(entries)),
    ]
    primary = plan.grid.primary
    if primary is not None and primary.split == split and _there(entries, plan, primary):
        parts += ["Primary contrast (declared beforehand)", *_compared(plan, entries, primary.arm, primary.minus,
                  mask_of(primary), lay)]  # fmt: skip
    for arm, minus in contrasts:
        parts += [f"Contrast: {arm} minus {minus}", *_compared(plan, entries, arm, minus, Mask(), lay)]
    return "\n\n".join(parts)


def _there(entries: Sequence[Entry], plan: Plan, primary: Primary) -> bool:
    names = {one.name for one in entries}
    wanted = [plan.grid.row_of(one) for one in (primary.arm, primary.minus)]
    return all((arm if ask == plan.grid.arms[arm].own else f"{arm}/{ask}") in names for arm, ask in wanted)


def _main(entries: Sequence[Entry]) -> Rows:
    tasks = entries[0].asked.questions.tasks
    rows = [["arm", *(_short(task, tasks) for task in tasks), "mean", "95 %", "tokens"]]
    for one in entries:
        asked = one.asked
        shares = [float(asked.values[:, asked.questions.task == task].mean()) for task in tasks]
        tokens = [_tokens(one, task) for task in tasks]
        cells = [f"{100 * share:.1f} / {_number(count)}" for share, count in zip(shares, tokens, strict=True)]
        low, high = interval(asked.values, asked.questions.task, asked.questions.scene)
        mean = float(mean_by_start(asked.values, asked.questions.task).mean())
        known = [count for count in tokens if count is not None]
        average = float(np.mean(known)) if known else None
        rows.append([one.title, *cells, f"{100 * mean:.1f}", f"{100 * low:.1f} to {100 * high:.1f}", _number(average)])
    return rows


def _tokens(one: Entry, task: str) -> float | None:
    """Text tokens and latent steps of the right answers of a task."""
    parts = [one.mean("tokens", task, name) for name in ("text_tokens_right", "latent_steps_right")]
    return None if None in parts else sum(part for part in parts if part is not None)


def _short(task: str, tasks: Sequence[str]) -> str:
    """A task's name without what all have in common."""
    common = "_".join(
        parts[0]
        for parts in zip(*(name.split("_") for name in tasks), strict=False)
        if len(tasks) > 1 and len(set(parts)) == 1
    )
    return task.removeprefix(f"{common}_") if common else task


def _terms(entries: Sequence[Entry]) -> Rows:
    rows = [["arm", "starts x seeds", "supervision", "samples", "updates", "of the start", "rates tried", "rate"]]
    for one in entries:
        first = one.rows[0]
        seeds = len(one.rows) / len(one.asked.starts)
        rows.append(
            [
                one.name,
                f"{len(one.asked.starts)} x {seeds:g}",
                str(first["supervision"] or "none"),
                _whole(one.mean("samples")),
                _whole(one.mean("updates")),
                _whole(one.mean("start_samples")),
                str(one.rates),
                f"x {first['rate']:g}" + ("" if one.tuned or one.rates == 1 else " (not chosen yet)"),
            ]
        )
    return rows


def _costs(entries: Sequence[Entry]) -> Rows:
    known = [one for one in _COSTS if any(row.mean(*one[1]) is not None for row in entries)]
    rows = [["arm", *(name for name, _, _ in known)]]
    for one in entries:
        values = [(one.mean(*path), factor) for _, path, factor in known]
        rows.append([one.name, *(_number(None if value is None else value * factor) for value, factor in values)])
    return rows


def _notes(plan: Plan, split: str, entries: Sequence[Entry]) -> list[str]:
    notes = [
        "Intervals: two-level bootstrap over starts and scenes."
        if max(len(one.asked.starts) for one in entries) > 1
        else "All rows share one start or have one only: intervals are over scenes and say nothing about other starts."
    ]
    alone = [one.name for one in entries if len(one.asked.starts) == 1]
    if alone and len(alone) < len(entries):
        notes.append(f"One start only, so an interval over scenes alone: {', '.join(alone)}.")
    foreign = left_out(plan, split, entries)
    if foreign:
        notes.append(f"{foreign} rows in {plan.out / 'rows'} are of other settings or arms, and left out.")
    often = sorted({one.name for one in entries for row in one.rows if len(row["asked"]) > 1})
    if often:
        notes.append(f"Asked test questions more than once: {', '.join(often)}.")
    return notes


def _compared(plan: Plan, entries: Sequence[Entry], arm: str, minus: str, mask: Mask, lay: _Lay) -> list[str]:
    left, right = (entry(entries, plan, name).asked for name in (arm, minus))
    head = ["questions", "n", "starts", "points", "95 % (t, starts)", "p", "effect size", "95 % (bootstrap)"]
    rows = [head, _line("all that count, mean over tasks", contrast(left, right, mask))]
    for hops, found in contrast_by_hops(left, right, mask).items():
        rows.append(_line(f"{hops} hop{'s' if hops > 1 else ''}", found))
    whole = contrast(left, right, mask)
    each = ", ".join(f"{100 * one:+.1f}" for one in whole.by_start)
    without = [*mask.without_families, *mask.without_tasks]
    told = f"Paired by start and question, {whole.arm} minus {whole.minus}; by start: {each}."
    if without or mask.least_hops:
        told += f" Left out: {', '.join([*without, *([f'below {mask.least_hops} hops'] if mask.least_hops else [])])}."
    if len(whole.starts) == 1:
        told += " One start: nothing is known about others, so there is no test."
    return [told, lay(rows)]


def _line(name: str, found: Contrast) -> list[str]:
    return [
        name,
        str(found.questions),
        str(len(found.starts)),
        f"{100 * found.estimate:+.1f}",
        _span(found.t_low, found.t_high),
        "" if math.isnan(found.p) else f"{found.p:.2g}",
        "" if math.isnan(found.effect) else f"{found.effect:.2f}",
        _span(found.low, found.high),
    ]


def _span(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{100 * low:+.1f} to {100 * high:+.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _columns(rows: Rows) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _markdown(rows: Rows) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(rows[0]) - 1), *lines[1:]])
