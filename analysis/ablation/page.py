"""Ablations over seeds (Tables 3 and 8, Figs. 5 and 6): rows of trained models, each against a reference row.

Reads the folder of an experiment (`lare experiments run`), or a JSON file {"rows": [...]} with, for every trained
model, its name, title, seed, scores by task and question, scenes, costs, and where known its start. Rows that lose
stand in the table as those that win.

    python analysis/ablation.py --rows reports/experiments/NAME --reference lare
    python analysis/ablation.py --rows reports/refocus/rows.json --reference fine
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from analysis.ablation.answer import answer
from analysis.ablation.curves import curve_figures, curve_tables
from analysis.ablation.measure import AblationOptions, differences, measure
from analysis.ablation.rows import FEW_SEEDS, Difference, Row, over_seeds
from analysis.shared.cells import ends, only, series
from analysis.shared.cli import Computed, reproduce, run
from analysis.shared.report.answers import answered
from analysis.shared.report.document import Column, Document, Figure, Table
from analysis.shared.stats import holm
from analysis.shared.tasks import METHOD, Apart, apart_table
from lare.experiments.looks import split_of

__all__ = ["compute", "main"]

PAPER_TABLE_3 = (
    ("LaRe", 42.7, 269.2),
    ("w/o Extractor", 35.0, 311.5),
    ("w/o Sliding Windows", 38.7, 280.3),
    ("w/o Symmetric Alignment", 39.5, 276.9),
    ("w/o Image Reconstruction", 40.2, 274.0),
    ("w/o Text Prefix Reconstruction", 40.9, 263.6),
)
"""Table 3 of the paper: method, accuracy, tokens."""

PAPER_TABLE_8 = (
    ("smallest window", 40.5, 262.8, 39.2),
    ("default window", 42.7, 269.2, 42.8),
    ("largest window", 41.7, 275.3, 41.9),
)
"""Table 8 of the paper: window, average score, average tokens, MMVP accuracy."""

COSTS = {
    "prompt_tokens": ("Prompt tokens", 1, 1.0),
    "text_tokens": ("Text tokens", 1, 1.0),
    "tokens": ("Tokens", 1, 1.0),
    "latent_steps": ("Latent steps", 1, 1.0),
    "decoder_positions": ("Decoder positions", 1, 1.0),
    "multiply_adds_whole": ("Multiply-adds, M", 1, 1e-6),
    "multiply_adds": ("Without vision encoder, M", 1, 1e-6),
    "ms_batch1": ("ms an answer, batch 1", 1, 1.0),
    "ms_batch16": ("ms an answer, batch 16", 1, 1.0),
    "hit_rate": ("Looks that hit, %", 1, 100.0),
    "hit_chance": ("Hits by chance, %", 1, 100.0),
}
"""How known costs are shown: label, digits, factor. Others are shown as they are."""


def _main(rows: Mapping[str, Row], found: Mapping[str, Difference], reference: str) -> tuple[Table, Table]:
    family = [name for name in found if rows[name].claim]
    adjusted = dict(zip(family, holm([found[name].p for name in family]), strict=True))
    lines = []
    for name, row in rows.items():
        mean, low, high = over_seeds(row.accuracy)
        line: dict[str, Any] = {"row": row.title, "name": name, "seeds": len(row.seeds), "accuracy": 100 * mean}
        line |= {"sd": 100 * np.std(row.accuracy, ddof=1) if len(row.seeds) > 1 else None, "t": ends(low, high, 100)}
        line |= {"each": ", ".join(f"{100 * one:.1f}" for one in row.accuracy)}
        line |= {"starts": len(set(row.starts))} if row.starts else {}
        if name in found:
            one = found[name]
            line |= {"gap": 100 * one.estimate, "pairs": one.seeds, "boot": ends(one.low, one.high, 100)}
            line |= {"gap_t": ends(one.t_low, one.t_high, 100), "p": one.p, "holm": adjusted.get(name)}
        lines.append(line)
    title = rows[reference].title
    main = (
        Column("row", "Row"),
        Column("seeds", "Seeds", "count"),
        Column("accuracy", "Right, %", "number", 1, "mean over tasks, then over seeds"),
        Column("sd", "sd", "number", 1, "over seeds"),
        Column("gap", "Difference", "number", 1, f"points, this row minus {title!r}, same seeds and questions"),
        Column("boot", "95 % (bootstrap)", "interval", 1, "over seeds and scenes"),
        Column("gap_t", "95 % (t)", "interval", 1, "over paired seeds; missing with one"),
        Column("holm", "p (Holm)", "p", help="by the bootstrap, adjusted over all rows that carry a claim"),
    )
    more = (
        Column("name", "Name"),
        Column("row", "Row"),
        Column("each", "Each seed, %"),
        *(
            [Column("starts", "Starts", "count", help="independent ones")]
            if any(r.starts for r in rows.values())
            else []
        ),
        Column("t", "95 % (t, seeds)", "interval", 1, "of the mean"),
        Column("pairs", "Paired seeds", "count"),
        Column("p", "p (bootstrap)", "p", help="not adjusted"),
    )
    note = f"Reference: {title}. Rows are in the order of the file; none is left out."
    parts = only(main, lines), only(more, lines)
    return (
        Table("rows", "Accuracy by row, and its difference to the reference", main, parts[0], note, main=True),
        Table("seeds", "Seed by seed", more, parts[1]),
    )


def _whole(rows: Mapping[str, Row], found: Mapping[str, Difference], reference: str) -> Table:
    """The main table over all tasks, to stand beside that of the tasks that remain."""
    return replace(_main(rows, found, reference)[0], id="rows-all", caption="The same over all tasks", main=False)


def _costs(rows: Mapping[str, Row]) -> Table:
    known = [name for name in COSTS if any(name in row.costs for row in rows.values())]
    names = known + sorted({name for row in rows.values() for name in row.costs} - set(COSTS))
    columns = [Column("row", "Row"), Column("accuracy", "Right, %", "number", 1)]
    for name in names:
        label, digits, _ = COSTS.get(name, (name, 2, 1.0))
        columns.append(Column(name, label, "number", digits))
    lines = []
    for row in rows.values():
        line: dict[str, Any] = {"row": row.title, "accuracy": 100 * float(np.mean(row.accuracy))}
        line |= {name: COSTS.get(name, ("", 0, 1.0))[2] * row.costs[name] for name in names if name in row.costs}
        lines.append(line)
    note = (
        "Means over seeds. Multiply-adds are those of one answer asked alone: the whole, then what is left without "
        "the vision encoder, which is the same in all rows."
    )
    return Table("costs", "What an answer costs", tuple(columns), tuple(lines), note)


def _tasks(rows: Mapping[str, Row], reference: str) -> Table:
    tasks = list(rows[reference].tasks)
    columns = [Column("row", "Row")]
    columns += [Column(task, task.removeprefix("lare_mini_"), "number", 1, "right, %") for task in tasks]
    lines = []
    for row in rows.values():
        means = np.array([[table[seed].mean() for seed in range(len(row.seeds))] for table in row.tables])
        values = {task: 100 * float(mean) for task, mean in zip(row.tasks, means.mean(1), strict=True)}
        lines.append({"row": row.title, **values})
    return Table("tasks", "Accuracy by task, mean over seeds", tuple(columns), tuple(lines))


def _paper() -> tuple[Table, Table]:
    shared = (Column("accuracy", "Acc.", "number", 1), Column("tokens", "# Tokens", "number", 1))
    third = tuple(dict(zip(("method", "accuracy", "tokens"), row, strict=True)) for row in PAPER_TABLE_3)
    eighth = tuple(dict(zip(("method", "accuracy", "tokens", "mmvp"), row, strict=True)) for row in PAPER_TABLE_8)
    note = (
        "One run each, no interval; which benchmarks the average is over is not said. Other models, other data: not "
        "comparable with the rows above."
    )
    return (
        Table("paper-3", "As reported in the paper (Table 3)", (Column("method", "Method"), *shared), third, note),
        Table(
            "paper-8",
            "As reported in the paper (Table 8)",
            (Column("method", "Window"), *shared, Column("mmvp", "MMVP", "number", 1)),
            eighth,
            note,
        ),
    )


def _figures(rows: Mapping[str, Row], found: Mapping[str, Difference], reference: str) -> tuple[Figure, ...]:
    if not found:
        return ()
    return (
        Figure(
            "differences",
            f"Difference to: {rows[reference].title}",
            "Paired difference of accuracy with 95 % intervals by bootstrap over seeds and scenes.",
            "intervals",
            (series("difference", [rows[name].title for name in found], list(found.values()), 100),),
            x_label="difference of accuracy, points",
            reference=0.0,
        ),
    )


_METHODS = (
    "A row's accuracy is the mean over tasks of the share of right answers; its interval over seeds is a t interval. "
    "Every number is of trained models with their own seeds; with few of them the t interval is wide, and ought to be.",
    "Differences are paired: same seed, same questions. The bootstrap draws seeds and, within each task, whole scenes, "
    "both with replacement and independently (questions are shared by all seeds), 10,000 times; its p-value is twice "
    "the smaller tail. With so few seeds a bootstrap over them is too narrow: read it with the t interval beside it. "
    "With one paired seed only scenes are drawn, and the interval is about these trained models, not about training.",
    "Rows whose names end in a number after one word (prefix_2, prefix_8; steps_4), or whose settings in the file "
    "differ in one number, are a curve as well: prefix lengths are the paper's Fig. 6, latent steps its Fig. 5.",
    "Holm runs over all rows that carry a claim. Nothing was chosen on these questions by this script; what the rows "
    "were tuned on is said where they were trained.",
)


def _verdict(rows: Mapping[str, Row], found: Mapping[str, Difference], reference: str, apart: Apart, seed: int) -> str:
    """The verdict over the tasks that remain; where one is set aside, the same over all tasks follows."""
    whole = _told(rows, found, reference)
    if not apart.aside:
        return whole
    kept = {name: row.of(apart.kept) for name, row in rows.items()}
    told = _told(kept, differences(kept, reference, seed), reference)
    return apart.verdict(told, whole)


def _told(rows: Mapping[str, Row], found: Mapping[str, Difference], reference: str) -> str:
    start = f"{rows[reference].title}: {100 * float(np.mean(rows[reference].accuracy)):.1f} % right"
    start += f" over {len(rows[reference].seeds)} seed{'s' if len(rows[reference].seeds) > 1 else ''}."
    if not found:
        return f"{start} There is no other row to compare it with."
    better = [name for name, one in found.items() if one.low > 0]
    worse = [name for name, one in found.items() if one.high < 0]
    said = f"{len(better)} of {len(found)} rows are better ({', '.join(better) or 'none'}), {len(worse)} worse "
    said += f"({', '.join(worse) or 'none'}), by 95 % intervals over seeds and scenes, before Holm"
    best = max(found, key=lambda name: found[name].estimate)
    one = found[best]
    said += f"; the highest is {best}, {100 * one.estimate:+.1f} points [{100 * one.low:.1f}, {100 * one.high:.1f}]."
    return f"{start} {said}"


def _warnings(rows: Mapping[str, Row], found: Mapping[str, Difference], reference: str) -> tuple[str, ...]:
    warnings = []
    few = [f"{name} ({len(row.seeds)})" for name, row in rows.items() if len(row.seeds) < FEW_SEEDS]
    if few:
        warnings.append(
            f"Fewer than {FEW_SEEDS} seeds: {', '.join(few)}; an interval over so few says little about training"
        )
    alone = [name for name, one in found.items() if one.seeds == 1]
    if alone:
        warnings.append(f"One paired seed only: {', '.join(alone)}; their intervals leave training's noise out")
    unpaired = [name for name in rows if name != reference and name not in found]
    if unpaired:
        warnings.append(f"No seed in common with {reference}: {', '.join(unpaired)}; no difference is given")
    return tuple(warnings)


def _looked(content: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """How often rows were asked test questions, where it was not once."""
    if split_of(content[0]) != "test":
        return ()
    if not all(one["asked"] for one in content):
        return (
            "Rows were compared on test questions, and the shipped design was chosen among such rows, so its figures "
            "are favoured by that; trained rows were not kept and can't be asked validation questions",
        )
    often = [f"{one['name']} seed {one['seed']} ({len(one['asked'])})" for one in content if len(one["asked"]) > 1]
    return (f"Asked test questions more than once: {', '.join(often)}",) if often else ()


def _questions(content: Sequence[Mapping[str, Any]]) -> str:
    """What a heading says about the questions: of which split, and whether rows were compared on the test split."""
    split = split_of(content[0])
    if split == "test" and not all(one["asked"] for one in content):
        return ": test questions; the shipped design was chosen on them"
    return {"test": ": test questions, each row asked once", "validation": ": validation questions"}.get(split, "")


def compute(options: AblationOptions) -> Computed:
    """Aggregate rows over seeds and compare them with the reference.

    Raises:
        LareError: As `measure` does.
    """
    one = measure(options)
    content, rows, reference, found = one.content, one.rows, one.reference, one.found
    sweeps, apart, kept, gaps, seed = one.sweeps, one.apart, one.kept, one.gaps, options.seeds[0]
    document = Document(
        name="ablation",
        title=f"Ablations over seeds{_questions(content)}",
        verdict=_verdict(rows, found, reference, apart, seed),
        reproduce=reproduce(options, {f"{row['name']}, seed {row['seed']}": row["fingerprint"] for row in content}),
        warnings=(*_looked(content), *apart.warnings, *_warnings(rows, found, reference)),
        tables=(
            *_main(kept, gaps, reference),
            *([_whole(rows, found, reference)] if apart.aside else []),
            *curve_tables(kept, sweeps, seed),
            _costs(rows),
            _tasks(rows, reference),
            *([apart_table(apart, "mean over seeds")] if apart.every else []),
            *_paper(),
        ),
        figures=(
            *_figures(kept, gaps, reference),
            *curve_figures(kept, sweeps, seed),
        ),
        methods=(*_METHODS, METHOD),
    )
    arrays = {f"accuracy_{name}": np.array(row.accuracy) for name, row in rows.items()}
    return answered(document, answer), arrays


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run(AblationOptions, compute, __doc__, arguments, answer)
