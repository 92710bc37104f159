"""The demo's settings: ways in which one checkpoint answers the same questions, and the guess by the words alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lare_eval.summary import Pass

if TYPE_CHECKING:
    from lare.methods.base import Method

__all__ = [
    "AGAINST",
    "BLIND",
    "DIRECT",
    "FINE",
    "MAJORITY",
    "RANDOM",
    "TEXT",
    "guess",
    "majority_pass",
    "make_method",
    "names",
    "single_tasks",
]

DIRECT, TEXT, RANDOM, FINE, BLIND, MAJORITY = "K=0", "text", "random", "fine", "blind", "majority"
AGAINST = "against"


def names(config: Any, against: str | None) -> list[str]:
    """Settings of a checkpoint, the one that is judged first.

    Args:
        config: Its `LareConfig`.
        against: Another checkpoint, if there is one to compare with.
    """
    found = [f"K={config.iterations}", DIRECT, TEXT, RANDOM]
    found += [FINE] if config.shared_projector else []
    return [*found, BLIND, *([AGAINST] if against else [])]


def make_method(setting: str, thinking: Method, against: str | None = None) -> Method:
    """The method of one setting.

    Args:
        setting: One of `names`.
        thinking: The checkpoint with its latent steps.
        against: The other checkpoint.
    """
    from lare.methods import get_method, load_method

    if setting == DIRECT:
        return get_method("llava")(thinking.model, thinking.processor)
    if setting == AGAINST:
        return load_method("lare", against)
    return thinking.changed(**_changes(setting, thinking))


def _changes(setting: str, thinking: Method) -> dict[str, Any]:
    """The options of the method "lare" that make a setting."""
    if setting == FINE:
        return {"iterations": 0, "lm_grid": thinking.model.config.grid}
    changes: dict[str, dict[str, Any]] = {
        TEXT: {"iterations": 0},
        RANDOM: {"window_mode": "random"},
        BLIND: {"image": "blank"},
    }
    return changes.get(setting, {})


Guesses = Mapping[str, Mapping[int, float]]
"""Task to question number to whether the guess is right."""


def single_tasks(tasks: Sequence[str]) -> list[str]:
    """Task names with groups of stand-ins (``lare_mini``, ``lare_mini2_val``, ...) replaced by their five."""
    from lare.embedded.world.benchmark import GROUPS, TASKS

    groups = {group: [f"{group}_{name}" for name in TASKS] for group in GROUPS}
    return [one for task in tasks for one in groups.get(task, [task])]


def guess(tasks: Sequence[str]) -> Guesses:
    """The blind table's scores on stand-ins (`lare.embedded.world.blind`); tasks that are none are left out."""
    from lare.embedded.world.benchmark import make_task, stand_in
    from lare.embedded.world.blind import blind_answers, blind_view

    scores = {}
    for task in single_tasks(tasks):
        if (known := stand_in(task)) is not None:
            name, split, version = known
            rows = make_task(name, split, images=False, version=version)
            answers = blind_answers(name, rows, version=version)
            pairs = enumerate(zip(answers, rows, strict=True))
            scores[task] = {number: float(answer == blind_view(name, row).index) for number, (answer, row) in pairs}
    return scores


def majority_pass(guesses: Guesses, like: Pass) -> Pass | None:
    """Guesses as a pass over the questions of another; None unless all of its tasks are guessed."""
    if not guesses.keys() >= like.scores.keys():
        return None
    scores = {task: {number: guesses[task][number] for number in given} for task, given in like.scores.items()}
    costs = {task: np.zeros((len(given), 3)) for task, given in scores.items()}
    return Pass(MAJORITY, scores, costs, like.scenes)
