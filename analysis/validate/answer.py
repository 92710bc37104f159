"""Does it use its latents? Said from the tables of a validation."""

from __future__ import annotations

from analysis.shared.report.answers import Answer
from analysis.shared.report.document import Claim, Document
from analysis.validate.judge import VERDICTS, Judgement

__all__ = ["QUESTION", "answer", "sentence"]

_CLAIM = "Latent tokens carry what the answer needs. The paper shows no test that replaces them."

QUESTION = "Does the reasoner use what its latents hold?"


def sentence(judgement: Judgement, questions: int) -> str:
    """The verdict in one sentence, with the number that decides it."""
    said = VERDICTS[judgement.verdict]
    content = [one for one in judgement.predictions if one.needed and one.gap is not None]
    if not content:
        return f"{said} (n = {questions})."
    # The one that decides: need is refuted by the replacement that costs least, no need by the one that costs most.
    needed = judgement.verdict in ("content", "partly", "undecided")
    lost_by = [0.0 if one.gap is None else one.gap.estimate for one in content]
    decides = content[lost_by.index(min(lost_by) if needed else max(lost_by))]
    assert decides.gap is not None
    low, high, lost = (100 * end for end in (decides.gap.low, decides.gap.high, decides.gap.estimate))
    what, rank = decides.text.removeprefix("own latents beat: "), "least" if needed else "most"
    return (
        f"{said}: of the replacements, {what} costs {rank}, {lost:.1f} points [{low:.1f}, {high:.1f}], n = {questions}."
    )


def answer(document: Document) -> Answer:
    """The answer of a report: its verdict up to the colon, and the whole sentence.

    Raises:
        LookupError: If the report has no verdict.
    """
    found = document.verdict or (document.details[0] if document.details else "")
    if not found:
        raise LookupError("the report has no verdict")
    said, short = found.partition(":")[0], found.rpartition(", n = ")[0]
    return Answer(QUESTION, said, f"{short}." if short else found, _claim(said), "lost")


def _claim(said: str) -> Claim:
    """What papers on latent reasoners take for granted, and whether it is seen here."""
    if said == VERDICTS["content"]:
        return Claim(_CLAIM, "yes", "Every replacement of the latents costs accuracy, and they move with the picture.")
    if said in (VERDICTS["undecided"], VERDICTS["partly"]):
        return Claim(_CLAIM, "undecided", "Not every replacement of the latents is seen to cost accuracy.")
    return Claim(_CLAIM, "no", "No replacement of the latents costs accuracy that could be seen.")
