"""Does each latent step look where the question needs it to? Said from the table of steps."""

from __future__ import annotations

from analysis.shared.report.answers import Answer, row, span
from analysis.shared.report.document import Claim, Document

__all__ = ["answer"]

_QUESTION = "Does each latent step look where the question needs it to?"

_CLAIM = "Step by step the attention moves over the things that the reasoning text names, at the same pace (Fig. 3)."


def answer(document: Document) -> Answer:
    """The answer of a report on heat maps.

    Raises:
        LookupError: If its table lacks the mean over steps.
    """
    if all(one.id != "steps" for one in document.tables):
        return _without_boxes(document)
    whole = row(document, "steps", step="all steps")
    steps = [one for one in next(one for one in document.tables if one.id == "steps").rows if one is not whole]
    above = [span(one["even_interval"])[0] > 0 for one in steps]
    low, high = span(whole["lift_interval"])
    if span(whole["even_interval"])[0] > 0:
        said = (
            f"It looks at what the question needs: {whole['mass']:.0f} % of the attention lies there, on "
            f"{whole['area']:.0f} % of the picture"
        )
    else:
        said = "Within its windows the attention does not pick out what the question needs"
    most = max(steps, key=lambda one: float(one["mass"]))
    first = "The first step looks there most. " if most is steps[0] else ""
    verdict = (
        f"What the question needs gets {whole['lift']:.1f} times the attention of as large a part of the picture "
        f"[{low:.1f}, {high:.1f}]. {first}That attention lies on a thing does not show that the answer rests on it."
    )
    if all(above):
        reason = "Every step looks at the needed things more than evenly; that map and text keep pace was not tested."
        return Answer(_QUESTION, said, verdict, Claim(_CLAIM, "undecided", reason))
    seen = "undecided" if any(above) else "no"
    return Answer(
        _QUESTION, said, verdict, Claim(_CLAIM, seen, "Not every step looks at the needed things more than evenly.")
    )


def _without_boxes(document: Document) -> Answer:
    """What can be said where no question says by boxes what it is about."""
    said = "Where it looks can be seen, not whether that is what was asked about: the tasks have no boxes"
    reason = "Without boxes nothing says what a step should look at."
    verdict = "See the maps below, how spread they are, and whether they move with question and picture."
    try:
        moved = row(document, "sanity", check="another question, same picture")
        low, high = span(moved["divergence_interval"])
        verdict = (
            f"Another question about the same picture moves the map by {moved['divergence']:.2f} bits "
            f"[{low:.2f}, {high:.2f}]; 0 is the same map, 1 shares no cell with it."
        )
    except LookupError:
        pass
    return Answer(_QUESTION, said, verdict, Claim(_CLAIM, "undecided", reason))
