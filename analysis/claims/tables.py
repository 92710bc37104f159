"""Tables and the figure of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.claims.judge import Finding
from analysis.claims.measure import Entry
from analysis.shared.report.document import Column, Figure, Series, Table

__all__ = ["figures", "tables"]


def starts_of(one: Finding) -> str:
    """Starts that both arms have, of those declared; a checkpoint is one."""
    if one.kind == "one checkpoint":
        return one.kind
    if one.declared is None:
        return ""
    return f"{one.starts or 0} of {one.declared}"


def _line(one: Finding) -> dict[str, Any]:
    interval = None if one.low is None or one.high is None else (one.low, one.high)
    return {
        "effect": one.effect,
        "unit": one.unit if one.effect is not None else None,
        "interval": interval,
        "n": one.n,
        "starts": starts_of(one) or None,
    }


_EFFECT = (
    Column("effect", "Effect", "number", 1, "arm minus other arm, or the value that the report has"),
    Column("unit", "Unit"),
    Column("interval", "95 %", "interval", 1, "t over starts; with one start over scenes alone; else the report's own"),
)
_COUNTS = (
    Column("n", "n", "count", 2, "questions, or pairs of a probe's tests"),
    Column("starts", "Starts", help="independent starts that both arms have, of those the grid declares"),
)


def tables(entries: Sequence[Entry]) -> tuple[Table, ...]:
    """Claims, then their parts, then files and what is missing."""
    return (
        _claims(entries, False, "claims", "Claims on trained systems: rows of independent starts decide"),
        _claims(entries, True, "checkpoint", "Claims on what a model does: one checkpoint, from the committed reports"),
        _parts(entries),
        _files(entries),
    )


def _claims(entries: Sequence[Entry], of_checkpoint: bool, anchor: str, caption: str) -> Table:
    rows = []
    for one in (entry for entry in entries if entry.claim.of_checkpoint == of_checkpoint):
        found = one.lead
        text = f"{one.claim.text} ({one.claim.where})"
        said = {"id": one.claim.id, "claim": text, "verdict": one.verdict}
        rows.append({**said, **_line(found), "file": found.file or None, "why": _why(one)})
    columns = (
        Column("claim", "The paper's claim"),
        Column("verdict", "Verdict here", help="holds where every part does, fails where one part fails"),
        *_EFFECT,
        *_COUNTS,
        Column("why", "Why"),
        Column("file", "From"),
    )
    note = "Numbers are those of the part on which the verdict rests: the first that fails, else the first undecided, "
    note += "else the weakest."
    return Table(anchor, caption, columns, tuple(rows), note, main=True)


def _why(one: Entry) -> str:
    """The reason, with the part on which the verdict rests where there are several."""
    found = one.lead
    return f"{found.part}: {found.reason}" if len(one.findings) > 1 else found.reason


def _parts(entries: Sequence[Entry]) -> Table:
    rows = []
    for one in entries:
        for found in one.findings:
            more = {"null": found.null or None, "p": found.p, "holm": found.holm, "verdict": found.verdict}
            said = {"id": one.claim.id, "part": found.part, "says": found.says}
            rows.append({**said, **_line(found), **more, "kind": found.kind or None, "why": found.reason})
    columns = (
        Column("id", "Claim"),
        Column("part", "Part"),
        Column("says", "Claimed", help="whether the claim wants it above, below, or as much as nought"),
        *_EFFECT,
        Column("null", "Held against", "number", 1, "where that is not nought"),
        Column("p", "p", "p", help="two-sided, t over starts"),
        Column("holm", "p (Holm)", "p", help="over the comparisons that can be tested, but for the primary contrast"),
        *_COUNTS,
        Column("kind", "Kind", help="test decides, validation explores"),
        Column("verdict", "Verdict"),
        Column("why", "Why"),
    )
    return Table("parts", "Every part of every claim", columns, tuple(rows))


def _files(entries: Sequence[Entry]) -> Table:
    rows = [
        {
            "id": one.claim.id,
            "part": found.part,
            "file": found.file or None,
            "told": found.told or None,
            "command": found.command or None,
        }
        for one in entries
        for found in one.findings
    ]
    columns = (
        Column("id", "Claim"),
        Column("part", "Part"),
        Column("file", "Read from"),
        Column("told", "Told", help="supervision of the arms beyond question, rationale and answer"),
        Column("command", "Makes what is missing"),
    )
    return Table("files", "Where each number comes from, and the command for what is missing", columns, tuple(rows))


def figures(entries: Sequence[Entry]) -> tuple[Figure, ...]:
    """Effects in points, one line a claim; none without any."""
    shown = [one for one in entries if one.lead.unit == "points" and one.lead.low is not None]
    if not shown:
        return ()
    found = [one.lead for one in shown]
    series = Series(
        "effect",
        tuple(one.claim.id + (" (validation)" if one.lead.kind == "validation" else "") for one in shown),
        tuple(one.effect for one in found),
        tuple(one.low for one in found),
        tuple(one.high for one in found),
    )
    words = "Claims whose effect is in points, with 95 % intervals; the line is no effect. Of a claim with several "
    words += "parts the one on which the verdict rests. Which side is claimed stands in the table of parts."
    return (Figure("effects", "Effects in points", words, "intervals", (series,), x_label="points", reference=0.0),)
