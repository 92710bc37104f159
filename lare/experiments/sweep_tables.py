"""The sweep's table: each row beside ``base``, with the spread over scenes and the spread over seeds."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lare.embedded.held_out import scene_interval

__all__ = ["csv_table", "markdown_table", "summarise"]

LOSSES = ("lm", "alignment", "image", "text", "look")


def summarise(content: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of each row; the first run's row is the base.

    Args:
        content: ``runs``, each with ``name``, ``title``, ``seed``, ``right`` (a digit a question) and ``losses``;
            ``scenes`` of the questions, and ``majority``.

    Returns:
        ``rows``: accuracy by seed and in the mean with its interval over scenes, mean losses, and the difference from
        the base with its interval over scenes (the same questions, seeds averaged) and with ``seed_error``, two
        standard errors of it over seeds. ``beyond`` tells whether both spreads leave the difference's sign standing.
        ``seed_deviation`` is the standard deviation over seeds of one row, pooled over all rows; None with one seed.
    """
    runs: Sequence[Mapping[str, Any]] = content["runs"]
    scenes = np.array(content["scenes"])
    names = list(dict.fromkeys(run["name"] for run in runs))
    groups = {name: [run for run in runs if run["name"] == name] for name in names}
    right = {name: np.array([_digits(run["right"]) for run in group]) for name, group in groups.items()}
    deviation = _pooled([values.mean(1) for values in right.values()])
    base = right[names[0]]
    rows = []
    for name in names:
        values = right[name]
        row: dict[str, Any] = {"name": name, "title": groups[name][0]["title"]}
        row |= {"seeds": [run["seed"] for run in groups[name]], "accuracies": values.mean(1).tolist()}
        row |= {"accuracy": float(values.mean()), "interval": scene_interval(values.mean(0), scenes)}
        row["losses"] = _means([run["losses"] for run in groups[name]])
        if name != names[0]:
            row |= _difference(values, base, scenes, deviation)
        rows.append(row)
    guessed = _digits(content["majority"])
    return {
        "questions": len(scenes),
        "scenes": len(np.unique(scenes)),
        "samples": runs[0].get("samples"),
        "majority": float(guessed.mean()),
        "seed_deviation": deviation,
        "seed_freedom": sum(len(group) - 1 for group in groups.values()),
        "rows": rows,
    }


def _digits(text: str) -> npt.NDArray[np.float64]:
    return np.array([float(digit) for digit in text])


def _pooled(groups: Sequence[npt.NDArray[np.float64]]) -> float | None:
    """Standard deviation inside groups, pooled; None where no group has two."""
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return None
    return math.sqrt(sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / freedom)


def _means(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in losses])) for name in LOSSES if name in losses[0]}


def _difference(
    values: npt.NDArray[np.float64],
    base: npt.NDArray[np.float64],
    scenes: npt.NDArray[np.int64],
    deviation: float | None,
) -> dict[str, Any]:
    paired = values.mean(0) - base.mean(0)
    low, high = scene_interval(paired, scenes)
    change = float(paired.mean())
    error = None if deviation is None else 2 * deviation * math.sqrt(1 / len(values) + 1 / len(base))
    outside = low > 0 or high < 0
    beyond = outside and error is not None and abs(change) > error
    return {"difference": change, "difference_interval": (low, high), "seed_error": error, "beyond": beyond}


def markdown_table(summary: Mapping[str, Any]) -> str:
    """The table with what it rests on, in Markdown."""
    spread = summary["seed_deviation"]
    told = "not known: one seed a row" if spread is None else f"{100 * spread:.1f} points"
    lines = [
        f"{summary['questions']:,} questions about {summary['scenes']:,} validation scenes; {summary['samples']:,} "
        f"training samples a run; majority by family and options {100 * summary['majority']:.1f} %; standard deviation "
        f"over seeds {told} ({summary['seed_freedom']} degrees of freedom).",
        "",
        "| row | changed | seeds | right, % [95 %, scenes] | minus base, points [95 %, scenes] | +- 2 SE, seeds "
        "| beyond both | " + " | ".join(f"L_{name}" for name in LOSSES) + " |",
        "|---|---|---:|---:|---:|---:|---|" + "---:|" * len(LOSSES),
    ]
    for row in summary["rows"]:
        lines.append("| " + " | ".join(_cells(row)) + " |")
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> list[str]:
    low, high = row["interval"]
    cells = [row["name"], row["title"], str(len(row["seeds"]))]
    cells.append(f"{100 * row['accuracy']:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
    if "difference" in row:
        low, high = row["difference_interval"]
        cells.append(f"{100 * row['difference']:+.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        cells.append("" if row["seed_error"] is None else f"{100 * row['seed_error']:.1f}")
        cells.append("yes" if row["beyond"] else "no")
    else:
        cells += ["", "", ""]
    return cells + [f"{row['losses'][name]:.3f}" if name in row["losses"] else "" for name in LOSSES]


def csv_table(summary: Mapping[str, Any]) -> str:
    """One line a row and seed, and what the row's mean says."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["row", "seed", "right", "row_right", "row_low", "row_high", "difference", "difference_low"]
    writer.writerow([*head, "difference_high", "seed_error", *(f"row_{name}" for name in LOSSES)])
    for row in summary["rows"]:
        low, high = row.get("difference_interval", ("", ""))
        rest = [row["accuracy"], *row["interval"], row.get("difference", ""), low, high, row.get("seed_error", "")]
        rest += [row["losses"].get(name, "") for name in LOSSES]
        for seed, accuracy in zip(row["seeds"], row["accuracies"], strict=True):
            writer.writerow([row["name"], seed, *(_short(value) for value in (accuracy, *rest))])
    return out.getvalue().rstrip("\n")


def _short(value: Any) -> Any:
    return f"{value:.5f}" if isinstance(value, float) else value
