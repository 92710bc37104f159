"""Do latents matter? Said from the table of controls."""

from __future__ import annotations

from analysis.controls.tables import CONTROLS
from analysis.shared.report.answers import Answer, aside, row, span
from analysis.shared.report.document import Claim, Document

__all__ = ["answer"]

_QUESTION = "Do latents matter?"

_TITLES = {control.name: control.title for control in CONTROLS}

_CLAIM = "Latent tokens carry what the answer needs from the image. The paper shows no test that takes them away."


def answer(document: Document) -> Answer:
    """The answer of a report on controls.

    Raises:
        LookupError: If its table lacks a control.
    """
    without, other, hidden = (
        row(document, "controls", control=_TITLES[name]) for name in ("none", "other", "hidden_none")
    )
    gap, (low, high) = float(without["gap"]), span(without["gap_interval"])
    if high < 0:
        said = f"Latents matter: leaving them out costs {-gap:.0f} points"
    elif low > 0:
        said = f"Latents do harm here: leaving them out gains {gap:.0f} points"
    else:
        said = "Leaving the latents out makes no difference that can be seen"
    read = span(other["gap_interval"])[1] < 0 and other["gap"] < gap
    verdict = (
        f"Without its latents the model's accuracy changes by {gap:+.1f} points [{low:.1f}, {high:.1f}]. "
        + ("Another question's latents do more harm than none, so the decoder reads what they hold. " if read else "")
        + (aside(document) or "That latents are used does not say how.")
    )
    losses = high < 0, span(other["gap_interval"])[1] < 0, span(hidden["gap_interval"])[1] < 0
    reason = "Accuracy falls without latents, with another question's, and without both latents and image."
    if not all(losses):
        reason = "Not every control that takes the latents away costs accuracy."
    return Answer(
        _QUESTION, said, verdict, Claim(_CLAIM, "yes" if all(losses) else "undecided" if any(losses) else "no", reason)
    )
