"""A claim about one checkpoint's behaviour, held against the numbers of a committed report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from analysis.claims.judge import FAILS, Finding, decide
from analysis.shared.report.answers import numbers, row, span
from analysis.shared.report.document import Document

__all__ = ["Read", "Reports", "read"]


@dataclass(frozen=True)
class Read:
    """One number of a report.

    Attributes:
        report: Its name.
        table: Id of the table.
        match: Values of the row's columns.
        value: Column of the estimate.
        interval: Column of its 95 % interval; empty where the report has none.
        says: What the claim says of it: ``more``, ``less`` or ``same``.
        part: What is compared, in words.
        unit: Unit of the value.
        null_column: Column of the row whose first number it is held against, where that is not nought.
        null_match: Another row of the table whose `value` it is held against.
        n: Column with the number of questions.
        n_table: Table whose rows have it, summed; empty for the row itself.
        n_match: Values of those rows' columns.
    """

    report: str
    table: str
    match: Mapping[str, Any]
    value: str
    interval: str
    says: str
    part: str
    unit: str = "points"
    null_column: str = ""
    null_match: Mapping[str, Any] = field(default_factory=dict)
    n: str = "n"
    n_table: str = ""
    n_match: Mapping[str, Any] = field(default_factory=dict)


class Reports:
    """Committed reports, each read once.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, Document | None] = {}

    def get(self, name: str) -> Document | None:
        """A report; None where it is not there.

        Raises:
            LareError: If it is damaged.
        """
        if name not in self._read:
            path = self.folder / f"{name}.json"
            try:
                self._read[name] = Document.from_json(path.read_text(encoding="utf-8"), str(path))
            except FileNotFoundError:
                self._read[name] = None
        return self._read[name]

    @property
    def hashes(self) -> dict[str, str]:
        """Report and model to fingerprint, of those that were read."""
        there = {name: one for name, one in sorted(self._read.items()) if one is not None}
        return {f"{name}, {model}": key for name, one in there.items() for model, key in one.reproduce.hashes.items()}


def read(asked: Read, reports: Reports) -> Finding:
    """What a report says of a claim.

    Raises:
        LareError: If the report is damaged.
    """
    file = f"reports/{asked.report}.json"
    base = Finding(asked.part, asked.says, unit=asked.unit, kind="one checkpoint")
    command = f"python analysis/{asked.report}.py"
    document = reports.get(asked.report)
    if document is None:
        return replace(base, kind="", reason=f"{file} is not there", command=command)
    base = replace(base, file=f"{file}, table {asked.table}")
    try:
        line = row(document, asked.table, **asked.match)
        effect = float(line[asked.value])
        null = _null(document, asked, line)
        n = _count(document, asked, line)
    except (LookupError, TypeError, ValueError):
        return replace(base, kind="", reason="the report lacks that row", command=command)
    try:
        low, high = span(line.get(asked.interval))
    except LookupError:
        return replace(base, effect=effect, null=null, n=n, reason="the report has no interval of it")
    verdict, reason = decide(low, high, asked.says, asked.unit, null)
    if null and verdict == FAILS:
        reason = f"the interval stays on the wrong side of {null:g}"
    return replace(base, effect=effect, low=low, high=high, null=null, n=n, verdict=verdict, reason=reason)


def _null(document: Document, asked: Read, line: Mapping[str, Any]) -> float:
    if asked.null_column:
        return float(numbers(str(line[asked.null_column]).replace("–", " "))[0])
    return float(row(document, asked.table, **asked.null_match)[asked.value]) if asked.null_match else 0.0


def _count(document: Document, asked: Read, line: Mapping[str, Any]) -> int | None:
    if not asked.n_table:
        found = line.get(asked.n)
        return None if found is None else int(found)
    rows = [one for table in document.tables if table.id == asked.n_table for one in table.rows]
    rows = [one for one in rows if all(one.get(key) == value for key, value in asked.n_match.items())]
    return sum(int(one[asked.n]) for one in rows) if rows else None
