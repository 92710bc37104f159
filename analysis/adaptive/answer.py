"""Does stopping early by a rule pay? Said from the table of stop rules."""

from __future__ import annotations

from analysis.shared.report.answers import Answer, aside, row, span
from analysis.shared.report.document import Claim, Document

__all__ = ["answer"]

_QUESTION = "Does stopping early by a rule pay?"

_OF_PAPER = ("Cosine", "L1", "L2")


def answer(document: Document) -> Answer:
    """The answer of a report on stop rules.

    Raises:
        LookupError: If its tables lack the rules at the usual number of steps.
    """
    table = next((one for one in document.tables if one.id == "rules"), None)
    if table is None:
        raise LookupError("there is no table of rules")
    usual = [one for one in table.rows if str(one["aim"]).endswith("steps on average") and one.get("gap") is not None]
    if not usual:
        raise LookupError("no rule was set to the usual number of steps")
    best = max(usual, key=lambda one: float(one["gap"]))
    low, high = span(best["gap_interval"])
    gap, (over, _) = float(best["gap"]), span(best["shuffled_interval"])
    if low > 0:
        said = f"Stopping by a rule pays: the best gains {gap:.1f} points over a fixed number of steps"
    elif high < 0:
        said = f"Stopping by a rule costs accuracy: even the best loses {-gap:.1f} points to a fixed number of steps"
    else:
        said = f"Stopping by a rule gains nothing: the best is {gap:+.1f} points from a fixed number of steps"
    picks = "It beats" if over > 0 else "It does not beat"
    verdict = (
        f"The best rule, {str(best['rule']).lower()}, is {gap:+.1f} points [{low:.1f}, {high:.1f}] from fixed steps. "
        f"{picks} its own stops dealt out to the questions at random. "
        + (aside(document) or "It was picked on these questions, which flatters it.")
    )
    return Answer(_QUESTION, said, verdict, _claim(document, [one for one in usual if one["rule"] in _OF_PAPER]))


def _claim(document: Document, rules: list[object]) -> Claim:
    fixed, by_l2 = (row(document, "paper", name=name) for name in ("LaRe", "+ Adaptive (L2 Distance)"))
    text = (
        f"Stopping by L2 distance takes {by_l2['steps']:.1f} steps instead of {fixed['steps']:.1f} and costs "
        f"{fixed['accuracy'] - by_l2['accuracy']:.1f} points (Table 4)."
    )
    ends = [span(one["gap_interval"]) for one in rules]  # type: ignore[index]
    if ends and all(high < 0 for _, high in ends):
        return Claim(
            text, "no", "Set to as many steps as the fixed number, the paper's three rules cost accuracy here."
        )
    if ends and all(low > 0 for low, _ in ends):
        return Claim(text, "yes", "The paper's three rules gain over as many fixed steps.")
    return Claim(text, "undecided", "Not all of the paper's rules can be told from as many fixed steps.")
