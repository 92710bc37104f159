"""Rows that differ in one number as a curve: the prefix length P (Fig. 6), the number of latent steps (Fig. 5), others.

A row's number comes from its name ("prefix_8", "steps-4") or from its ``settings`` in the file ({"text_prefix": 8}).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.ablation.rows import Row, compare, level, over_seeds
from analysis.shared.cells import ends
from analysis.shared.report.document import Column, Figure, Series, Table

__all__ = ["PAPER_CURVES", "Curve", "curve_figures", "curve_tables", "curves"]


@dataclass(frozen=True)
class PaperCurve:
    """What the paper says about a curve.

    Attributes:
        label: What the number is, on axes.
        figure: The paper's.
        default: The paper's default.
        known: Number to (accuracy, tokens), as printed in its tables; the figure's own points are not printed.
        says: What its text says of the figure.
    """

    label: str
    figure: str
    default: float
    known: Mapping[float, tuple[float, float]]
    says: str


PAPER_CURVES: Mapping[str, PaperCurve] = {
    "prefix": PaperCurve(
        "prefix length P, tokens",
        "Fig. 6",
        32,
        {0: (40.9, 263.6), 32: (42.7, 269.2)},
        "The paper's Fig. 6 goes from 2 to 128 tokens; its text says that 2 to 8 are too few, 32 is best and more adds "
        "nothing. Its points are not printed: the paper's columns hold what Table 3 has, the whole method (P = 32) and "
        "the one without text prefix reconstruction (P = 0)",
    ),
    "steps": PaperCurve(
        "latent steps K",
        "Fig. 5",
        4,
        {4: (42.7, 269.2)},
        "The paper's Fig. 5 rises, shortens the text, and flattens out; its points are not printed: the paper's "
        "columns hold its default of 4 steps (Table 3)",
    ),
}
"""What the paper says, by the name of a sweep."""

_ALIASES = {
    "p": "prefix", "text_prefix": "prefix", "prefix": "prefix", "prefix_length": "prefix",
    "k": "steps", "iterations": "steps", "steps": "steps", "latent_steps": "steps",
}  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """Rows that differ in one number.

    Attributes:
        name: Name of the number: "prefix", "steps", or the rows' own word.
        rows: (number, name of the row), ascending.
    """

    name: str
    rows: tuple[tuple[float, str], ...]

    @property
    def label(self) -> str:
        """What the number is, on an axis."""
        known = PAPER_CURVES.get(self.name)
        return known.label if known else self.name


def curves(rows: Mapping[str, Row]) -> list[Curve]:
    """Sweeps among the rows: two rows or more whose number differs.

    A number in a row's settings counts if all of the rows with it have the same other settings.
    """
    found: dict[str, dict[float, str]] = {}
    for name in rows:
        match = re.fullmatch(r"(.*[a-zA-Z])[_=-]?(\d+(?:\.\d+)?)", name)
        if match:
            word = _ALIASES.get(match[1].lower(), match[1])
            found.setdefault(word, {}).setdefault(float(match[2]), name)
    for word, names in _by_settings(rows).items():
        merged = names | {number: name for number, name in found.get(word, {}).items() if number not in names}
        found[word] = merged
    return [Curve(word, tuple(sorted(names.items()))) for word, names in found.items() if len(names) > 1]


def _by_settings(rows: Mapping[str, Row]) -> dict[str, dict[float, str]]:
    """Sweeps by the rows' settings."""
    settings = {
        name: {_ALIASES.get(word.lower(), word): value for word, value in row.settings.items()}
        for name, row in rows.items()
        if row.settings
    }
    found: dict[str, dict[float, str]] = {}
    for word in dict.fromkeys(word for one in settings.values() for word in one):
        having = {name: one for name, one in settings.items() if word in one}
        others = {tuple(sorted((key, value) for key, value in one.items() if key != word)) for one in having.values()}
        numbers = [one[word] for one in having.values()]
        if len(others) == 1 and 1 < len(set(numbers)) == len(numbers):
            found[word] = {one[word]: name for name, one in having.items()}
    return found


def curve_tables(rows: Mapping[str, Row], found: Sequence[Curve], seed: int = 0) -> tuple[Table, ...]:
    """One table a curve: accuracy with intervals, difference to the row before, tokens, and the paper's where printed.

    Args:
        rows: All rows.
        found: What comes from `curves`.
        seed: Seed of the bootstrap.
    """
    return tuple(_table(rows, curve, seed) for curve in found)


def _table(rows: Mapping[str, Row], curve: Curve, seed: int) -> Table:
    known = PAPER_CURVES.get(curve.name)
    lines: list[dict[str, Any]] = []
    for place, (number, name) in enumerate(curve.rows):
        row = rows[name]
        mean, low, high = over_seeds(row.accuracy)
        line: dict[str, Any] = {"number": number, "row": row.title, "seeds": len(row.seeds), "accuracy": 100 * mean}
        line |= {
            "boot": ends(*level(row, seed), 100),
            "t": ends(low, high, 100),
            "tokens": row.costs.get("text_tokens"),
        }
        step = compare(row, rows[curve.rows[place - 1][1]], seed) if place else None
        if step is not None:
            line |= {"step": 100 * step.estimate, "step_boot": ends(step.low, step.high, 100)}
        if known and number in known.known:
            line |= dict(zip(("paper", "paper_tokens"), known.known[number], strict=True))
        lines.append(line)
    columns = [
        Column("number", curve.label, "number", 0 if all(float(n).is_integer() for n, _ in curve.rows) else 2),
        Column("row", "Row"),
        Column("seeds", "Seeds", "count"),
        Column("accuracy", "Right, %", "number", 1),
        Column("boot", "95 % (bootstrap)", "interval", 1, "over seeds and scenes; with one seed over scenes alone"),
        Column("t", "95 % (t, seeds)", "interval", 1, "missing with one seed"),
        Column("step", "Against the row above", "number", 1, "points, same seeds and questions"),
        Column("step_boot", "95 % (bootstrap)", "interval", 1, "of that difference"),
        Column("tokens", "Text tokens", "number", 1),
    ]
    if known:
        columns += [
            Column("paper", "Paper: Acc.", "number", 1, "as reported, other models and data"),
            Column("paper_tokens", "Paper: # Tokens", "number", 1, "as reported"),
        ]
    caption = f"Accuracy by {curve.label}" + (f" (the paper's {known.figure})" if known else "")
    note = f"{known.says}. Nothing here confirms or refutes it." if known else ""
    return Table(f"curve-{_anchor(curve.name)}", caption, tuple(columns), tuple(lines), note)


def curve_figures(rows: Mapping[str, Row], found: Sequence[Curve], seed: int = 0) -> tuple[Figure, ...]:
    """One figure a curve, with bootstrap intervals, and the paper's printed points as a line of their own.

    Args:
        rows: All rows.
        found: What comes from `curves`.
        seed: Seed of the bootstrap.
    """
    return tuple(_figure(rows, curve, seed) for curve in found)


def _figure(rows: Mapping[str, Row], curve: Curve, seed: int) -> Figure:
    known = PAPER_CURVES.get(curve.name)
    bands = [ends(*level(rows[name], seed), 100) for _, name in curve.rows]
    series = [
        Series(
            "measured here",
            tuple(number for number, _ in curve.rows),
            tuple(100 * float(np.mean(rows[name].accuracy)) for _, name in curve.rows),
            tuple(low for low, _ in bands),
            tuple(high for _, high in bands),
        )
    ]
    words = f"Rows that differ in {curve.label}; the band is a 95 % bootstrap interval over seeds and scenes."
    if known:
        points = sorted(known.known)
        series.append(Series("paper, as printed", tuple(points), tuple(known.known[number][0] for number in points)))
        words += f" {known.says}; other models and other data, not comparable in height."
    title = f"Accuracy by {curve.label}" + (f" ({known.figure})" if known else "")
    anchor = f"sweep-{_anchor(curve.name)}"
    return Figure(anchor, title, words, "lines", tuple(series), x_label=curve.label, y_label="right, %")


def _anchor(name: str) -> str:
    return re.sub("[^a-z0-9]+", "-", name.lower())
