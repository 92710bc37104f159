"""The summary that a paper can cite: a small JSON file with a documented, versioned form.

Its form is `summary.schema.json` beside this module (JSON Schema, draft 2020-12). A later version adds fields; one that
takes fields away or changes their meaning has another number after ``lare-validate/``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from analysis.shared.stats import Result
from analysis.validate.judge import MARGIN, MOVES, RELEVANT, Prediction
from analysis.validate.measure import Measured

__all__ = ["FORM", "badge_of", "schema", "summarise"]

FORM = "lare-validate/1"

_COLOURS = {"content": "brightgreen", "undecided": "lightgrey"}
_SAID = {
    "content": "content used",
    "partly": "content partly used",
    "count": "slots used, not content",
    "marks": "marks used, not latents",
    "ignored": "latents ignored",
    "harmful": "latents do harm",
    "not_latents": "latents not needed",
    "not_content": "content not needed",
    "undecided": "undecided",
}


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a summary."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("summary.schema.json").read_text(encoding="utf-8"))
    return found


def badge_of(verdict: str, questions: int) -> dict[str, Any]:
    """A badge, as shields.io reads it from an endpoint."""
    message = f"{_SAID[verdict]} (n = {questions})"
    return {"schemaVersion": 1, "label": "latents", "message": message, "color": _COLOURS.get(verdict, "orange")}


def summarise(found: Measured, sentence: str, commit: str, version: str) -> dict[str, Any]:
    """The summary of a validation.

    Args:
        found: Its numbers.
        sentence: The verdict in one sentence.
        commit: Commit of the code.
        version: Version of this package.
    """
    outcomes, questions = found.outcomes, found.gathered.questions
    return {
        "form": FORM,
        "label": found.label,
        "verdict": found.judgement.verdict,
        "passes": found.judgement.passes,
        "sentence": sentence,
        "questions": len(questions),
        "scenes": len(set(outcomes.scenes)),
        "tasks": sorted({one.task for one in questions}),
        "stand_in": found.stand_in,
        "accuracy": {name: round(float(one.right[one.asked].mean()), 6) for name, one in outcomes.by_name.items()},
        "predictions": [_prediction(one) for one in found.judgement.predictions],
        "mediation": {name: _result(one) for name, one in found.mediation.items()},
        "kept_of_gain": {name: _result(one) for name, one in found.kept.items()},
        "moved": {name: _result(one.change) for name, one in found.judgement.moved.items()},
        "left_out": dict(outcomes.left_out),
        "rules": {"relevant": RELEVANT, "margin": MARGIN, "moves": MOVES, "level": 0.05, "correction": "Holm"},
        "made_with": {"lare": version, "commit": commit, **found.hashes, "seed": found.seed},
        "badge": badge_of(found.judgement.verdict, len(questions)),
    }


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _result(one: Result) -> dict[str, float | None]:
    return {"estimate": _number(one.estimate), "low": _number(one.low), "high": _number(one.high)}


def _prediction(one: Prediction) -> Mapping[str, Any]:
    made: dict[str, Any] = {"name": one.name, "text": one.text, "needed": one.needed, "status": one.status}
    if one.gap is not None:
        made |= {"gap": _result(one.gap), "p": _number(one.p), "holm": _number(one.holm), "n": one.gap.n}
    return made
