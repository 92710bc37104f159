"""Does thinking in latents draw more attention to the image? Said from the table of Table 5."""

from __future__ import annotations

from analysis.shared.report.answers import Answer, columns, row, span
from analysis.shared.report.document import Claim, Document
from analysis.shared.traces import plain

__all__ = ["answer"]

_QUESTION = "Does thinking in latents draw more attention to the image?"


def answer(document: Document) -> Answer:
    """The answer of a report on attention.

    Raises:
        LookupError: If its table lacks the means.
    """
    own, predicting = (
        row(document, "table5", row=name, statistic="mean")
        for name in ("of the first token", "predicting the first token")
    )
    labels = columns(document, "table5")
    a, b = (plain(labels[key].removesuffix(" (%)")) for key in "ab")
    low, high = span(own["interval"])
    more, less = low > 0, high < 0
    way = "more" if more else "less" if less else "as much"
    shares, ends = _digits(own["a"], own["b"]), max(1, _digits(low, high))
    said = (
        f"The first word gives the image {way} attention with {b} {'than' if more or less else 'as'} with {a}: "
        f"{own['b']:.{shares}f} % against {own['a']:.{shares}f} %"
    )
    verdict = (
        f"The attention of the first token's own row to visual tokens changes by {own['gap']:+.{ends}f} points "
        f"[{low:.{ends}f}, {high:.{ends}f}] from {a} to {b}. Attention is not use: only covered patches say what an "
        "answer needs."
    )
    agree = span(predicting["interval"])[1 if less else 0] * (-1 if less else 1) > 0
    seen = "yes" if more and agree else "undecided" if more or not less else "no"
    reason = {
        "yes": "Both rows of attention give the image more.",
        "undecided": "The two rows of attention that can be meant do not both give the image more.",
        "no": "The share falls here; the row that predicts the first token shows no gain either.",
    }[seen]
    if seen == "no" and span(predicting["interval"])[0] > 0:
        seen, reason = "undecided", "The two rows of attention that can be meant point in opposite directions."
    text = f"The first token gives the image {own['paper_ratio']:.1f} times as much attention in LaRe as in LLaVA "
    text += "(Table 5)."
    return Answer(_QUESTION, said, verdict, Claim(text, seen, reason))


def _digits(one: float, other: float, most: int = 3) -> int:
    """Fewest decimals that tell two numbers apart."""
    return next((digits for digits in range(most) if round(one, digits) != round(other, digits)), most)
