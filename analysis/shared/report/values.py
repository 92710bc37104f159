"""How single values are written, in the reports and on the terminal: the same text in both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from analysis.shared.report.document import Column, Table

__all__ = ["MISSING", "csv_cells", "plain_text", "shown"]

MISSING = "–"
"""What stands for a value that is not there."""

MINUS = "\u2212"


def shown(value: Any, column: Column) -> str:
    """A value as its column wants it.

    Args:
        value: Value in a table's row; None if it is missing.
        column: The column, which says kind and digits.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING
    if column.kind == "interval":
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2 or None in value:
            return MISSING
        return f"[{_number(value[0], column.digits)}, {_number(value[1], column.digits)}]"
    if column.kind == "mark":
        return ("✓ right" if value else "✗ wrong") if isinstance(value, bool) else str(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or column.kind == "text":
        return str(value)
    if column.kind == "percent":
        return f"{_number(value, column.digits)} %"
    if column.kind == "count":
        return f"{value:,.0f}"
    if column.kind == "p":
        return _p(float(value))
    return _number(value, column.digits)


def _number(value: float, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:,.{digits}f}"
    return text.replace("-", MINUS) if float(text.replace(",", "")) else text.replace("-", "")


def _p(value: float) -> str:
    if value < 1e-300:
        return "< 1e-300"
    if value < 0.001:
        return f"{value:.1e}"
    return f"{value:.3f}"


def plain_text(table: Table) -> str:
    """A table as aligned columns of text, numbers to the right."""
    heads = [column.label for column in table.columns]
    cells = [[shown(row.get(column.key), column) for column in table.columns] for row in table.rows]
    widths = [max([len(head), *(len(row[i]) for row in cells)]) for i, head in enumerate(heads)]
    right = [column.kind not in ("text", "mark") for column in table.columns]

    def line(parts: Sequence[str]) -> str:
        aligned = (
            part.rjust(width) if left else part.ljust(width)
            for part, width, left in zip(parts, widths, right, strict=True)
        )
        return "  ".join(aligned).rstrip()

    return "\n".join([line(heads), line(["-" * width for width in widths]), *(line(row) for row in cells)])


def csv_cells(table: Table) -> list[list[Any]]:
    """Head and rows for a CSV file: full precision; an interval takes two columns."""
    head: list[Any] = []
    for column in table.columns:
        head += [f"{column.key}_low", f"{column.key}_high"] if column.kind == "interval" else [column.key]
    lines = [head]
    for row in table.rows:
        line: list[Any] = []
        for column in table.columns:
            value = row.get(column.key)
            if column.kind == "interval":
                line += list(value) if isinstance(value, Sequence) and len(value) == 2 else [None, None]
            else:
                line.append(value)
        lines.append(line)
    return lines
