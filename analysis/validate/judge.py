"""The verdict: which predictions of "the content matters" hold, by rules that were written down before any model.

An effect is *seen* if its paired difference is significant after Holm over all predictions of the report and at least
`RELEVANT` points; it is *absent* if its 95 % interval lies below `MARGIN` points, the wider one of two: cluster-robust
over scenes, and one that keeps its width where hardly an answer differs. Else it is unclear. A
reasoner uses the content of its latents if every replacement of the group "content" is seen to cost accuracy at their
own number, and the latents move when the picture does. `analysis.validate.planted` holds models with a known verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from analysis.shared.stats import Result, Z, cluster_difference, holm, mcnemar
from analysis.validate.effects import Moved, moved_by
from analysis.validate.suite import Outcomes
from lare.interventions import get_intervention

__all__ = ["MARGIN", "MOVES", "RELEVANT", "VERDICTS", "Judgement", "Prediction", "judge"]

RELEVANT = 0.02
"""Smallest difference of accuracy that counts as an effect."""
MARGIN = 0.05
"""An effect whose interval lies within this distance of 0 is absent."""
MOVES = 0.01
"""Latents move if exchanging the picture changes them by more than this share of their length."""

VERDICTS: Mapping[str, str] = {
    "content": "The answers need what the latents hold",
    "partly": "Some replacements of the latents cost accuracy and some do not, so the content as such is not needed",
    "count": "The answers need the number of latents, not what they hold",
    "marks": "The answers need the marks around the latents, not the latents",
    "ignored": "The answers do not change whatever is done to the latents and their marks",
    "undecided": "The questions are too few to tell",
}
"""Verdicts by name; the first is the only one that passes."""


@dataclass(frozen=True)
class Prediction:
    """What has to be true if the content matters, or is told beside it.

    Attributes:
        name: Of the setting, or of the movement.
        text: What is predicted.
        needed: Whether the verdict needs it.
        status: "holds", "fails", "unclear", or "not asked".
        gap: Accuracy of the natural run less that of the setting, cluster-robust; None for movements.
        p: Of the gap; exact where questions are independent.
        holm: After Holm over all predictions that have one.
    """

    name: str
    text: str
    needed: bool
    status: str
    gap: Result | None = None
    p: float | None = None
    holm: float | None = None

    @property
    def seen(self) -> bool:
        """Whether the predicted effect is seen."""
        return self.status == "holds"

    @property
    def absent(self) -> bool:
        """Whether it is known to be no effect, or the opposite one."""
        return self.status == "fails"


@dataclass(frozen=True)
class Judgement:
    """All predictions and what follows.

    Attributes:
        verdict: A name of `VERDICTS`.
        predictions: In the order of the report.
        moved: Setting to how far it moved the latents.
    """

    verdict: str
    predictions: Sequence[Prediction]
    moved: Mapping[str, Moved]

    @property
    def passes(self) -> bool:
        """Whether the reasoner uses the content of its latents."""
        return self.verdict == "content"

    def prediction(self, name: str) -> Prediction | None:
        """One of them; None if it was not made."""
        return next((one for one in self.predictions if one.name == name), None)


_TOLD = {
    "none": "own latents beat no latents and no marks (plain answer of the same weights)",
    "marks": "own latents beat the marks alone",
    "format": "own latents beat their format in plain text",
    "fewer": "own latents beat half as many",
    "more": "own latents beat twice as many",
    "first": "every step counts: own latents beat the first one repeated",
    "permuted": "order counts: own latents beat the same in another order",
    "image_latents": "own latents beat those that the question gets on another picture",
}


def judge(outcomes: Outcomes) -> Judgement:
    """Judge everything that was asked."""
    names = [name for name in outcomes.by_name if name != "own"]
    content = [name for name in names if _group(name) == "content"]
    made = [_compared(outcomes, name, f"own latents beat: {_title(name)}", True) for name in content]
    made += [_compared(outcomes, name, text, False) for name, text in _TOLD.items() if name in names]
    if "oracle" in names and "oracle_other" in names:
        text = "tokens of the true region beat those of another"
        made.append(_compared(outcomes, "oracle_other", text, False, against="oracle"))
    adjusted = holm([one.p for one in made])
    made = [_with_status(one, p) for one, p in zip(made, adjusted, strict=True)]
    moved = {name: moved_by(outcomes, name) for name in ("image", "question") if name in outcomes.latents}
    made += [_movement(name, one) for name, one in moved.items()]
    return Judgement(_verdict(made), tuple(made), moved)


def _group(name: str) -> str:
    from lare.registry import INTERVENTIONS

    return get_intervention(name).group if name in INTERVENTIONS else ""


def _title(name: str) -> str:
    title = get_intervention(name).title
    return title[0].lower() + title[1:]


def _compared(outcomes: Outcomes, name: str, text: str, needed: bool, against: str = "own") -> Prediction:
    """The gap of one setting to another, on the questions that both were asked."""
    mine, other = outcomes.by_name[name], outcomes.by_name[against]
    both = mine.asked & other.asked
    scenes = [scene for scene, take in zip(outcomes.scenes, both, strict=True) if take]
    right, reference = mine.right[both].astype(float), other.right[both].astype(float)
    gap = cluster_difference(reference, right, scenes)
    apart = len(set(scenes)) == len(scenes)
    p = mcnemar(right, reference).p if apart or gap.p is None else gap.p
    ends = _adjusted(right, reference)
    low, high = np.nanmin([gap.low, ends[0]]), np.nanmax([gap.high, ends[1]])
    return Prediction(name, text, needed, "unclear", replace(gap, low=float(low), high=float(high)), p)


def _adjusted(right: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Bonett and Price's interval (2012) of a paired difference: not empty where no or few answers differ."""
    n = right.size + 2
    lost, gained = ((((reference - right) == sign).sum() + 1) / n for sign in (1, -1))
    half = Z * np.sqrt((lost + gained - (lost - gained) ** 2) / n)
    return float(lost - gained - half), float(lost - gained + half)


def _with_status(one: Prediction, adjusted: float | None) -> Prediction:
    assert one.gap is not None
    if one.gap.estimate >= RELEVANT and adjusted is not None and adjusted < 0.05:
        status = "holds"
    elif one.gap.high <= MARGIN:
        status = "fails"
    else:
        status = "unclear"
    return replace(one, status=status, holm=adjusted)


def _movement(name: str, moved: Moved) -> Prediction:
    text = f"latents move when the {'picture' if name == 'image' else 'question'} is exchanged"
    status = "holds" if moved.change.low > MOVES else "fails" if moved.change.high <= MOVES else "unclear"
    return Prediction(f"moves_{name}", text, name == "image", status)


def _verdict(predictions: Sequence[Prediction]) -> str:
    """The rules, in their order."""
    by_name = {one.name: one for one in predictions}
    content = [one for one in predictions if one.needed and one.gap is not None]
    if not content:
        return "undecided"
    seen = [one for one in content if one.seen]
    if seen and any(one.absent for one in content):
        return "partly"
    if len(seen) == len(content):
        moves = by_name.get("moves_image")
        return "content" if moves is None or moves.seen else "partly" if moves.absent else "undecided"
    if seen or not all(one.absent for one in content):
        return "undecided"
    return _of_slots(by_name)


def _of_slots(by_name: Mapping[str, Prediction]) -> str:
    """What else the answers need, where they don't need the content."""
    marks, none = by_name.get("marks"), by_name.get("none")
    if any(one.seen for name in ("marks", "fewer", "more") if (one := by_name.get(name)) is not None):
        return "count"
    if marks is None or none is None or not marks.absent:
        return "undecided"
    return "marks" if none.seen else "ignored" if none.absent else "undecided"
