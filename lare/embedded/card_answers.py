"""The card's table of answers by question family, from evaluations that `python -m lare_eval.demo` has written.

What the model writes by itself counts, as the evaluation scored it; beside it stand the guess by the question's words
(`lare.embedded.world.blind`, learnt from training questions) and chance.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lare.embedded.held_out import scene_interval
from lare.embedded.world.benchmark import make_task, stand_in
from lare.embedded.world.blind import blind_answers, blind_view
from lare.errors import LareError
from lare.intervals import wilson
from lare.trace import TraceReader

__all__ = ["Evaluation", "Family", "family_figures", "family_section", "read_evaluation"]


@dataclass
class Family:
    """Answers to the questions of one family, in one order.

    Attributes:
        right: Whether each answer is right.
        guessed: Whether the likeliest option by the question's words is.
        chance: One over the number of its options.
        scenes: Its scene.
    """

    right: list[float] = field(default_factory=list)
    guessed: list[float] = field(default_factory=list)
    chance: list[float] = field(default_factory=list)
    scenes: list[str] = field(default_factory=list)

    def gap(self) -> tuple[float, float, float]:
        """Right minus guessed, with its 95 % interval by drawing whole scenes."""
        gaps = np.array(self.right) - np.array(self.guessed)
        _, numbers = np.unique(self.scenes, return_inverse=True)
        return (float(gaps.mean()), *scene_interval(gaps, numbers))


@dataclass(frozen=True)
class Evaluation:
    """One finished evaluation of the stand-ins.

    Attributes:
        split: The split of the world that its questions are of.
        weights: Fingerprint of the weights that answered.
        time: When, UTC.
        text: Its tables.
        families: Families by name.
    """

    split: str
    weights: str
    time: str
    text: str
    families: Mapping[str, Family]

    @property
    def total(self) -> Family:
        """All questions as one family."""
        whole = Family()
        for one in self.families.values():
            for name in ("right", "guessed", "chance", "scenes"):
                getattr(whole, name).extend(getattr(one, name))
        return whole


def read_evaluation(folder: Path) -> Evaluation:
    """Read a folder of ``python -m lare_eval.demo`` (the one with ``summary.json``): its judged setting's answers.

    Raises:
        LareError: If it is none, or its questions are no stand-in's, or of two splits.
    """
    try:
        summary = json.loads((folder / "summary.json").read_text("utf8"))
        text = (folder / "summary.txt").read_text("utf8")
        setting = summary["cells"][0]["setting"].replace("=", "")
        scores = json.loads((folder / "scores" / f"{setting}.json").read_text("utf8"))
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise LareError(
            f"{str(folder)!r} is no finished evaluation ({error}); make one with python -m lare_eval.demo"
        ) from None
    known = {task: stand_in(task) for task in scores}
    splits = {one.split if one else "" for one in known.values()}
    if len(splits) != 1 or "" in splits:
        raise LareError(f"{str(folder)!r} asks {', '.join(scores)}; give an evaluation of lare_mini or lare_mini_val")
    families: defaultdict[str, Family] = defaultdict(Family)
    reader = TraceReader(folder / "traces" / setting)
    for task, of_task in scores.items():
        name, split, version = stand_in(task) or ("", "", 1)
        rows = make_task(name, split, images=False, version=version)
        guesses = blind_answers(name, rows, version=version)
        asked = reader.select(task=task)
        for number, scene in zip(asked.column("doc_id"), asked.column("meta.scene"), strict=True):
            row, view = rows[number], blind_view(name, rows[number])
            if row["scene"] != scene:
                raise LareError(f"{str(folder)!r} asked other questions than this version makes; evaluate again")
            family = families[row["sort"]]
            family.right.append(of_task[str(number)])
            family.guessed.append(float(guesses[number] == view.index))
            family.chance.append(1 / len(view.options))
            family.scenes.append(scene)
    return Evaluation(splits.pop(), summary["checkpoint"], summary["time"], text, dict(sorted(families.items())))


def family_figures(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """The numbers of `family_section`, shares in [0, 1], for other pages: by split, then by family and over ``all``."""
    return {
        one.split: {
            "weights": one.weights,
            "time": one.time,
            "families": {name: _figures(family) for name, family in [*one.families.items(), ("all", one.total)]},
        }
        for one in evaluations
    }


def _figures(family: Family) -> dict[str, Any]:
    n = len(family.right)
    gap, low, high = family.gap()
    return {
        "n": n,
        "right": float(np.mean(family.right)),
        "interval": wilson(sum(family.right), n),
        "guess": float(np.mean(family.guessed)),
        "chance": float(np.mean(family.chance)),
        "minus_guess": gap,
        "minus_guess_interval": (low, high),
    }


def family_section(evaluations: Sequence[Evaluation]) -> str:
    """Markdown: a table with a row a family, and which families are not above the guess.

    Args:
        evaluations: One a split, of the same weights.
    """
    names = sorted({name for one in evaluations for name in one.families})
    head = ["family"]
    for one in evaluations:
        head += [f"{one.split}: n", "right [95 %]", "guess by the words", "chance", "right minus guess [95 %]"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for name in [*names, "all"]:
        cells = [name]
        for one in evaluations:
            family = one.total if name == "all" else one.families.get(name)
            cells += [""] * 5 if family is None else _cells(family)
        lines.append("| " + " | ".join(cells) + " |")
    told = [f"{one.split}: {_not_above(one.families)}" for one in evaluations]
    return "\n".join([*lines, "", "Not surely above the guess by the words (95 %): " + "; ".join(told) + "."])


def _cells(family: Family) -> list[str]:
    found = _figures(family)
    low, high = (100 * end for end in found["interval"])
    least, most = (100 * end for end in found["minus_guess_interval"])
    return [
        str(found["n"]),
        f"{100 * found['right']:.0f} [{low:.0f}, {high:.0f}]",
        f"{100 * found['guess']:.0f}",
        f"{100 * found['chance']:.0f}",
        f"{100 * found['minus_guess']:+.0f} [{least:.0f}, {most:.0f}]",
    ]


def _not_above(families: Mapping[str, Family]) -> str:
    return ", ".join(name for name, family in families.items() if family.gap()[1] <= 0) or "none"
