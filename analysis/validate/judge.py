"""The verdict: which predictions of "the content matters" hold, by rules written down before any model but for one.

An effect is *seen* if its paired difference is significant after Holm over all predictions of the report and at least
`RELEVANT` points. It is *absent* if its 95 % interval lies below `MARGIN` points. The interval is the wider one of two:
the cluster-robust one over scenes, and Bonett and Price's, which keeps its width where hardly an answer differs. Else
the effect is unclear. An absent effect is *reversed* if the opposite is seen, and *still* if its interval also lies
above -`MARGIN`.

A reasoner uses the content of its latents if every replacement of the group "content" is seen to cost accuracy at their
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

__all__ = ["MARGIN", "MOVES", "OPEN", "RELEVANT", "VERDICTS", "Judgement", "Prediction", "judge", "verdict_of"]

RELEVANT = 0.02
"""Smallest difference of accuracy that counts as an effect."""
MARGIN = 0.05
"""An effect whose interval lies below this difference of accuracy is absent."""
MOVES = 0.01
"""Latents move if exchanging the picture changes them by more than this share of their length."""

VERDICTS: Mapping[str, str] = {
    "content": "The answers need what the latents hold",
    "partly": "Some replacements of the latents cost accuracy and some do not, so the content as such is not needed",
    "count": "The answers need the number of latents, not what they hold",
    "marks": "The answers need the marks around the latents, not the latents",
    "ignored": "Accuracy stays the same whatever replaces the latents, and without them and their marks",
    "harmful": "The answers get better when latents or marks are replaced or left out",
    "not_latents": "The answers do not need the latents; whether they need the marks, or would be better without, is "
    "unclear",
    "not_content": "The answers do not need what the latents hold; whether they need their number or marks is unclear",
    "undecided": "The questions are too few to tell",
}
"""Verdicts by name; the first is the only one that passes."""

OPEN: Mapping[str, frozenset[str]] = {
    "not_latents": frozenset({"marks", "ignored", "harmful"}),
    "not_content": frozenset({"count", "marks", "ignored", "harmful", "not_latents"}),
    "undecided": frozenset(VERDICTS) - {"undecided"},
}
"""Verdicts that leave something open, and those that each leaves open."""


@dataclass(frozen=True)
class Prediction:
    """What has to be true if the content matters, or is told beside it.

    Attributes:
        name: Name of the setting, or of the movement.
        text: What is predicted.
        needed: Whether the verdict needs it.
        status: "holds" (the effect is seen), "fails" (it is absent), or "unclear".
        gap: Accuracy of the natural run less that of the setting, cluster-robust; None for movements.
        p: p-value of the gap; exact where questions are independent.
        holm: The same after Holm over all predictions that have one.
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

    @property
    def reversed(self) -> bool:
        """Whether the opposite effect is seen: accuracy gained."""
        return self.gap is not None and self.gap.estimate <= -RELEVANT and self.holm is not None and self.holm < 0.05

    @property
    def still(self) -> bool:
        """Whether it is known to be no effect in either direction."""
        return self.absent and self.gap is not None and self.gap.low >= -MARGIN


@dataclass(frozen=True)
class Judgement:
    """All predictions and what follows.

    Attributes:
        verdict: A name of `VERDICTS`.
        predictions: All predictions, in the order of the report.
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
        """The prediction of that name; None if it was not made."""
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
    return Judgement(verdict_of(made), tuple(made), moved)


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


def verdict_of(predictions: Sequence[Prediction]) -> str:
    """The verdict that predictions add up to, by the rules in their order: a name of `VERDICTS`."""
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
    return _of_slots(content, by_name)


def _of_slots(content: Sequence[Prediction], by_name: Mapping[str, Prediction]) -> str:
    """What else the answers need, where they don't need the content."""

    def named(*names: str) -> list[Prediction]:
        return [by_name[name] for name in names if name in by_name]

    if any(one.seen for one in named("first", "permuted", "image_latents")):
        return "partly"
    # Twice as many that cost accuracy, and fewer that don't, say that a strange number disturbs, not that it is needed.
    if any(one.seen for one in named("marks", "fewer")) or any(one.reversed for one in named("more")):
        return "count"
    if any(one.reversed for one in (*content, *named("first", "permuted", "marks", "fewer", "none"))):
        return "harmful"
    marks, none = by_name.get("marks"), by_name.get("none")
    if marks is None or not marks.absent:
        return "not_content"
    if none is not None and none.seen:
        return "marks"
    return "ignored" if none is not None and all(one.still for one in (*content, marks, none)) else "not_latents"
