"""Do latents hold the picture? Said from the table of conditions."""

from __future__ import annotations

from analysis.reconstruct.sampling import TITLES
from analysis.shared.report.answers import Answer, row, span
from analysis.shared.report.document import Claim, Document

__all__ = ["answer"]

_QUESTION = "Do latents hold the picture?"

_CLAIM = "A U-Net recovers clear scenes from the latents (Fig. 4)."

_HALF = 50.0
"""Percent of crops that must be told from the others before a latent is said to hold its picture."""


def answer(document: Document) -> Answer:
    """The answer of a report on reconstruction.

    Raises:
        LookupError: If its tables or figure lack a condition or chance.
    """
    own, other, bound = (row(document, "conditions", condition=TITLES[name]) for name in ("own", "other", "tokenizer"))
    chance = next((one.reference for one in document.figures if one.id == "found"), None)
    if chance is None:
        raise LookupError("chance is not given")
    low, high = span(own["found_interval"])
    told = f"its own crop is told from the others in {own['found']:.0f} %, by guessing in {chance:.0f} %"
    if low <= chance:
        said = (
            "No picture can be read from a latent here: its own crop is told from the others no better than by guessing"
        )
    elif low < _HALF:
        said = f"A latent holds a trace of its picture: {told}"
    else:
        said = f"A latent holds its picture: {told}"
    gap_low, gap_high = span(other["gap_interval"])
    verdict = (
        f"Pictures from own latents are {other['gap']:+.2f} dB [{gap_low:.2f}, {gap_high:.2f}] nearer to what was "
        "looked at than those from another picture's. That latents hold it does not say that the answer uses it."
    )
    seen = "yes" if low >= _HALF else "no" if high < _HALF else "undecided"
    reason = (
        f"Crops are told from others in {own['found']:.0f} % here, against {bound['found']:.0f} % through the image "
        "autoencoder alone."
        if seen != "yes"
        else "Crops are told from others."
    )
    return Answer(_QUESTION, said, verdict, Claim(_CLAIM, seen, reason))
