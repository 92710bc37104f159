"""Which of two runs is right more often? Said from the table of accuracies."""

from __future__ import annotations

import re

from analysis.shared.report.answers import Answer, aside, columns, row, span
from analysis.shared.report.document import Claim, Document
from analysis.shared.traces import plain

__all__ = ["answer"]

_QUESTION = "Which of two runs is right more often?"

_CLAIM = "LaRe is about 10 points more accurate than other methods (Section 4.3)."


def answer(document: Document) -> Answer:
    """The answer of a report on two runs.

    Raises:
        LookupError: If its table lacks the mean of tasks.
    """
    mean, labels = row(document, "accuracy", task="mean of tasks"), columns(document, "accuracy")
    names = labels["share_a"], labels["share_b"]
    a, b = (plain(name) for name in names)
    gap, (low, high) = float(mean["gap"]), span(mean["interval"])
    if low > 0 or high < 0:
        said = f"{b} is right more often than {a}: by {gap:.0f} points" if low > 0 else ""
        said = said or f"{b} is right less often than {a}: by {-gap:.0f} points"
    else:
        said = f"{b} and {a} can't be told apart on these questions"
    verdict = (
        f"From {a} to {b} accuracy changes by {gap:+.1f} points [{low:.1f}, {high:.1f}], each task counting alike. "
        + (aside(document) or "It does not say why, nor what another training run would give.")
    )
    claim = None
    if all(re.fullmatch(r"K\d+", name) for name in names):
        reason = "The two settings here share one set of weights; the paper's rivals were not asked these questions."
        claim = Claim(_CLAIM, "undecided", reason)
    return Answer(_QUESTION, said[:1].upper() + said[1:], verdict, claim)
