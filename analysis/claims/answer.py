"""Which of the paper's claims hold at this scale? Said from the tables of claims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.claims.judge import FAILS, HOLDS, UNDECIDED
from analysis.shared.report.answers import Answer, span
from analysis.shared.report.document import Claim, Document

__all__ = ["answer"]

_QUESTION = "Which of the paper's claims hold at this scale?"
_CLAIM = "Refocusing on relevant visual evidence makes reasoning better (Section 3.1)."
_SEEN = {HOLDS: "yes", FAILS: "no", UNDECIDED: "undecided"}


def answer(document: Document) -> Answer:
    """The answer of the ledger.

    Raises:
        LookupError: If it holds no contrast that was declared beforehand.
    """
    rows = [line for one in document.tables if one.id in ("claims", "checkpoint") for line in one.rows]
    declared = [one for one in rows if str(one["id"]).startswith("primary-")]
    if not declared:
        raise LookupError("no contrast was declared")
    counts = {verdict: sum(one["verdict"] == verdict for one in rows) for verdict in _SEEN}
    hold, fail, open_ = counts[HOLDS], counts[FAILS], counts[UNDECIDED]
    said = (
        f"Of {len(rows)} claims {hold} {'holds' if hold == 1 else 'hold'}, {fail} {'fails' if fail == 1 else 'fail'} "
        f"and {open_} {'is' if open_ == 1 else 'are'} undecided"
    )
    first = declared[0]
    word = {HOLDS: "holds", FAILS: "fails", UNDECIDED: "is undecided"}[first["verdict"]]
    said_of_it = _numbers(first) or first["why"]
    verdict = f"The contrast declared beforehand, LaRe minus random windows, {word}: {said_of_it}. "
    verdict += "".join(_another(one) for one in declared[1:] if _complete(one))
    verdict += "What one checkpoint shows says nothing about another training."
    reason = f"The contrast declared beforehand, against training with random windows: {first['why']}."
    return Answer(_QUESTION, said, verdict, Claim(_CLAIM, _SEEN[first["verdict"]], reason), "effects")


def _complete(one: Mapping[str, Any]) -> bool:
    """Whether a declared contrast has the test rows of every start that it declared."""
    there, _, declared = str(one["starts"]).partition(" of ")
    return there == declared and ".test.json" in str(one["file"])


def _another(one: Mapping[str, Any]) -> str:
    """A further contrast whose rows are complete, whatever came of it."""
    word = {HOLDS: "holds", FAILS: "fails", UNDECIDED: "is undecided"}[one["verdict"]]
    return f"That of {str(one['id']).removeprefix('primary-')} {word}. "


def _numbers(one: Mapping[str, Any]) -> str:
    """Effect and interval of a decided claim."""
    if one["verdict"] == UNDECIDED or one.get("effect") is None:
        return ""
    low, high = span(one["interval"])
    return f"{one['effect']:+.1f} points [{low:.1f}, {high:.1f}], t over starts"
