"""What does each part bring? Said from the table of rows."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.ablation.rows import FEW_SEEDS
from analysis.shared.report.answers import Answer, aside, row, span
from analysis.shared.report.document import Claim, Document

__all__ = ["answer"]

_QUESTION = "What does each part bring?"

_WITHOUT = "latents"
"""How the names of rows without refocusing begin. They have latents and losses, but no Extractor."""


def answer(document: Document) -> Answer:
    """The answer of a report on ablations.

    Raises:
        LookupError: If its tables hold no row that is compared with a reference.
    """
    table = next((one for one in document.tables if one.id == "rows"), None)
    others = [one for one in table.rows if one.get("gap") is not None] if table else []
    if not others:
        raise LookupError("no row is compared")
    ends = [span(one["boot"]) for one in others]
    better, worse = sum(low > 0 for low, _ in ends), sum(high < 0 for _, high in ends)
    if better:
        said = f"{better} of {len(others)} variants beat{'s' if better == 1 else ''} the reference design"
    elif worse:
        all_ = "all" if worse == len(others) else f"{worse}"
        said = f"None of {len(others)} variants beats the reference design; {all_} are worse"
    else:
        said = f"None of {len(others)} variants can be told from the reference design"
    best = max(others, key=lambda one: float(one["gap"]))
    low, high = span(best["boot"])
    verdict = (
        f"The best variant is {best['gap']:+.1f} points [{low:.1f}, {high:.1f}] from the reference, paired by seed "
        "and question. "
        + (aside(document) or "Intervals are over seeds and scenes; few seeds say little about training.")
    )
    return Answer(_QUESTION, said, verdict, _claim(document))


def _claim(document: Document) -> Claim:
    whole, less = (row(document, "paper-3", method=name)["accuracy"] for name in ("LaRe", "w/o Extractor"))
    text = f"Leaving the Extractor out costs {whole - less:.1f} points (Table 3)."
    names = {one["row"]: str(one["name"]) for one in next(one for one in document.tables if one.id == "seeds").rows}
    rows = next(one for one in document.tables if one.id == "rows").rows
    without = [one for one in rows if names[one["row"]].startswith(_WITHOUT) and one.get("gap") is not None]
    if not without:
        return Claim(text, "undecided", "No row of this report leaves the Extractor out.")
    worse = [span(one["boot"])[1] < 0 for one in without]
    gaps = sorted(-float(one["gap"]) for one in without)
    reason = f"Without refocusing accuracy is {gaps[0]:.1f} to {gaps[-1]:.1f} points lower."
    if all(worse):
        limit = _limit(document, [str(one["row"]) for one in without])
        return Claim(text, "undecided", f"{reason} {limit}") if limit else Claim(text, "yes", reason)
    return Claim(text, "undecided" if any(worse) else "no", "Not every row without refocusing is shown to be worse.")


def _limit(document: Document, titles: Sequence[str]) -> str:
    """Why rows decide nothing, whatever their intervals say: starts differ by as much as methods do."""
    table = next(one for one in document.tables if one.id == "seeds")
    mine = [one for one in table.rows if one["row"] in titles]
    fewest = min(int(one.get("starts") or 0) for one in mine)
    if not fewest:
        return "But the rows don't say from which starts they were trained; a claim needs several independent ones."
    if fewest < FEW_SEEDS:
        shared = "all rows share one start" if fewest == 1 else f"there are rows from {fewest} starts only"
        return f"But {shared}; a claim needs {FEW_SEEDS} independent ones."
    if any(len(str(one["each"]).split(",")) > int(one["starts"]) for one in mine):
        return "But seeds that share a start count as independent here; analysis/claims.py compares starts."
    return ""
