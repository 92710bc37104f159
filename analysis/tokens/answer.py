"""Do latent steps save text? Said from the table of costs."""

from __future__ import annotations

from analysis.shared.report.answers import Answer, aside, columns, row, span
from analysis.shared.report.document import Claim, Document
from analysis.shared.traces import plain

__all__ = ["answer"]

_QUESTION = "Do latent steps save text?"

_CLAIM = "LaRe's answers are 16.5 % shorter on average than other methods' (Section 4.3)."


def _aside(document: Document, other: str) -> str:
    """What is set aside against that setting."""
    others = list(dict.fromkeys(line["other"] for one in document.tables if one.id == "costs" for line in one.rows))
    return aside(document, f"apart-{others.index(other)}")


def answer(document: Document) -> Answer:
    """The answer of a report on costs, against reasoning as text where that setting is there.

    Raises:
        LookupError: If its table lacks the questions that both got right.
    """
    fair = {"counting": "both right", "quantity": "text tokens"}
    try:
        found = row(document, "costs", other="text", **fair)
    except LookupError:
        found = row(document, "costs", **fair)
    judged, other = (plain(name) for name in (columns(document, "costs")["judged"], str(found["other"])))
    gap, (low, high) = float(found["gap"]), span(found["interval"])
    saves = high <= -1
    if saves:
        said = f"{judged} saves {-gap:.1f} text tokens an answer against {other}"
    else:
        told = f"{gap:+.1f} tokens an answer" if abs(gap) >= 1 else "the two differ by less than one token an answer"
        said = f"{judged} saves no text against {other}: {told}"
    verdict = (
        f"On questions that both got right, text tokens change by {gap:+.2f} [{low:.2f}, {high:.2f}] from {other} to "
        f"{judged}, whose latent steps come on top. "
        + (_aside(document, str(found["other"])) or "Fewer tokens say nothing about quality.")
    )
    reason = (
        f"Less than one token an answer is saved against {other}." if not saves else f"Text is saved against {other}."
    )
    claim = Claim(_CLAIM, "yes" if saves else "no", reason)
    return Answer(_QUESTION, said[:1].upper() + said[1:], verdict, claim, f"gap-{found['other']}")
