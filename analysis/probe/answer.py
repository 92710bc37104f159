"""Do latents tell of the image and of the rationale? Said from the tables of matching and of the Extractor's gain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.shared.report.answers import Answer, row, span
from analysis.shared.report.document import Claim, Document

__all__ = ["answer"]

_QUESTION = "Do latents tell of the image and of the rationale?"

_CLAIM = "About 95 % of pairs are matched with the Extractor, about 60 % without, for image and text (Table 6)."


def answer(document: Document) -> Answer:
    """The answer of a report on probing, about its first model.

    Raises:
        LookupError: If its tables lack the matching by SVM or the gain.
    """
    gaps = [one for one in next((one.rows for one in document.tables if one.id == "gap"), ()) if one["by"] == "SVM"]
    if not gaps:
        raise LookupError("there is no gain of the Extractor")
    model = gaps[0]["model"]
    first = row(document, "table-6", model=model, module="with Extractor", probe="matching", by="SVM")
    said = f"Latents tell what was looked at in {first['vision']:.0f} % of pairs"
    said += f" and the rationale in {first['text']:.0f} %" if "text" in first else ""
    said += "; guessing gives half"
    by_kind = {one["modality"]: one for one in gaps if one["model"] == model}
    vision = by_kind.get("vision") or gaps[0]
    low, high = span(vision["interval"])
    text = by_kind.get("text")
    more = text is not None and _shown(text)
    told = "there is a gain as well" if more else "no gain is shown" if text else "nothing was probed"
    verdict = (
        f"The Extractor changes matching with what was looked at by {vision['gap']:+.1f} points [{low:.1f}, "
        f"{high:.1f}]; for the rationale {told}. "
        "That a probe reads it does not say that the decoder does."
    )
    return Answer(_QUESTION, said, verdict, _claim(gaps))


def _shown(gap: Mapping[str, Any]) -> bool:
    return gap.get("interval") is not None and span(gap["interval"])[0] > 0


def _claim(gaps: list[Mapping[str, Any]]) -> Claim:
    kinds = [kind for kind in ("vision", "text") if any(one["modality"] == kind for one in gaps)]
    parts = {kind: [_shown(one) for one in gaps if one["modality"] == kind] for kind in kinds}
    counts = ", ".join(f"for {kind} in {sum(found)} of {len(found)} models" for kind, found in parts.items())
    every = [one for found in parts.values() for one in found]
    seen = "yes" if all(every) else "undecided" if any(every) else "no"
    return Claim(_CLAIM, seen, f"The Extractor's gain is shown {counts}, and is smaller than the paper's.")
