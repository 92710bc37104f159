"""What passes over the same questions add up to: shares with intervals, costs, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lare.errors import LareError
from lare.intervals import wilson

__all__ = ["Cell", "Margin", "Pass", "interval", "margin", "saved_text", "short_table", "summarise", "table", "wilson"]

Scores = Mapping[int, float]
"""Score (0 or 1) by question number."""


@dataclass(frozen=True)
class Cell:
    """How one pass did on one task.

    Attributes:
        setting: Which pass.
        task: Task, or "all".
        n: Questions.
        accuracy: Share of right answers.
        low: Lower end of its 95 % Wilson interval.
        high: Upper end.
        text_tokens: Mean text tokens of an answer.
        latent_steps: Mean latent steps of an answer.
        seconds: Wall-clock seconds of all answers.
    """

    setting: str
    task: str
    n: int
    accuracy: float
    low: float
    high: float
    text_tokens: float
    latent_steps: float
    seconds: float


@dataclass(frozen=True)
class Margin:
    """Difference of two passes on the same questions.

    Attributes:
        task: Task, or "all".
        left: The pass that is judged.
        right: The pass that it is compared with.
        n: Questions.
        difference: Accuracy of `left` minus accuracy of `right`.
        low: Lower end of the 95 % interval of the mean paired difference (bootstrap over scenes, since questions about
            one scene, such as a pair of near-identical pictures, are not independent).
        high: Upper end.
        gained: Questions that only `left` has right.
        lost: Questions that only `right` has right.
    """

    task: str
    left: str
    right: str
    n: int
    difference: float
    low: float
    high: float
    gained: int
    lost: int


def margin(
    task: str,
    left: str,
    right: str,
    left_scores: npt.ArrayLike,
    right_scores: npt.ArrayLike,
    scenes: Sequence[str] | None = None,
) -> Margin:
    """Compare two passes on the same questions.

    Args:
        task: Name for the row.
        left: Name of the judged pass.
        right: Name of the other.
        left_scores: (n,) scores in the order of the questions.
        right_scores: (n,) scores in the same order.
        scenes: (n,) name of each question's scene; None takes every question for itself.

    Raises:
        LareError: If there are no questions or the numbers differ.
    """
    first, second = np.asarray(left_scores, float), np.asarray(right_scores, float)
    if first.shape != second.shape or first.size == 0:
        raise LareError(f"{left} has {first.size} scores on {task}, {right} has {second.size}; they can't be paired")
    gaps = first - second
    low, high = interval(gaps, scenes if scenes is not None else [str(number) for number in range(gaps.size)])
    return Margin(
        task=task,
        left=left,
        right=right,
        n=int(gaps.size),
        difference=float(gaps.mean()),
        low=low,
        high=high,
        gained=int((gaps > 0).sum()),
        lost=int((gaps < 0).sum()),
    )


def interval(gaps: npt.NDArray[np.float64], scenes: Sequence[str]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of `gaps`, whole scenes being drawn."""
    _, scene = np.unique(np.asarray(scenes), return_inverse=True)
    totals, sizes = np.bincount(scene, gaps), np.bincount(scene)
    draws = np.random.default_rng(0).integers(0, totals.size, (4000, totals.size), dtype=np.int32)
    low, high = np.quantile(totals[draws].sum(1) / sizes[draws].sum(1), [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class Pass:
    """What one pass left: scores by task, and the costs of each answer by task.

    Attributes:
        setting: Which pass.
        scores: Task to question number to score.
        costs: Task to rows of (text tokens, latent steps, seconds), one an answer, by question number.
        scenes: Task to question number to the name of its scene.
        measures: Task to every number that lmms-eval reports of it, by name.
    """

    setting: str
    scores: Mapping[str, Scores]
    costs: Mapping[str, npt.NDArray[np.float64]]
    scenes: Mapping[str, Mapping[int, str]]
    measures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def cell(self, task: str) -> Cell:
        """The row of one task, or of "all"."""
        tasks = list(self.scores) if task == "all" else [task]
        scores = [score for name in tasks for score in self.scores[name].values()]
        costs = np.concatenate([self.costs[name] for name in tasks])
        low, high = wilson(sum(scores), len(scores))
        tokens, steps = costs[:, :2].mean(0) if len(costs) else (0.0, 0.0)
        return Cell(
            setting=self.setting,
            task=task,
            n=len(scores),
            accuracy=sum(scores) / max(len(scores), 1),
            low=low,
            high=high,
            text_tokens=float(tokens),
            latent_steps=float(steps),
            seconds=float(costs[:, 2].sum()),
        )


def summarise(passes: Sequence[Pass]) -> tuple[list[Cell], list[Margin]]:
    """Cells of every pass and task, and what the first pass has over each of the others."""
    tasks = [*passes[0].scores, "all"]
    cells = [one.cell(task) for task in tasks for one in passes]
    first = passes[0]
    margins = []
    for other in passes[1:]:
        for task in tasks:
            rows = [
                (first.scores[name][number], other.scores[name][number], first.scenes[name][number])
                for name in (first.scores if task == "all" else [task])
                for number in sorted(first.scores[name])
            ]
            left, right, scenes = zip(*rows, strict=True)
            margins.append(margin(task, first.setting, other.setting, left, right, scenes))
    return cells, margins


def saved_text(latent: Pass, text: Pass) -> str:
    """One sentence: whether latent steps save text over writing the whole rationale with the same weights.

    They do if the whole interval says one token or more.

    Args:
        latent: The pass with latent steps.
        text: The pass without, over the same questions.
    """
    tasks = list(latent.scores)
    gaps = np.concatenate([latent.costs[task] - text.costs[task] for task in tasks])
    scenes = [latent.scenes[task][number] for task in tasks for number in sorted(latent.scores[task])]
    tokens, steps = gaps[:, 0], float(gaps[:, 1].mean())
    low, high = interval(tokens, scenes)
    verdict = "saves no text here" if high > -1 else "saves text here"
    return (
        f"{latent.setting} {verdict}: against {text.setting} {tokens.mean():+.2f} text tokens an answer, 95 % interval "
        f"{low:+.2f} to {high:+.2f}, and {steps:+.1f} latent steps."
    )


def table(cells: Sequence[Cell], margins: Sequence[Margin]) -> str:
    """Lay the summary out as text."""
    answers = [("task", "setting", "n", "accuracy", "95 % interval", "text tokens", "latent steps", "seconds")]
    for cell in cells:
        interval = f"{cell.low:.1%} - {cell.high:.1%}"
        costs = (f"{cell.text_tokens:.1f}", f"{cell.latent_steps:.1f}", f"{cell.seconds:.1f}")
        answers.append((cell.task, cell.setting, str(cell.n), f"{cell.accuracy:.1%}", interval, *costs))
    gaps = [("task", "difference", "n", "points", "95 % interval", "only left right", "only right right")]
    for gap in margins:
        interval = f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f}"
        name = f"{gap.left} minus {gap.right}"
        points = f"{100 * gap.difference:+.1f}"
        gaps.append((gap.task, name, str(gap.n), points, interval, str(gap.gained), str(gap.lost)))
    return f"{_columns(answers)}\n\n{_columns(gaps)}"


def short_table(cells: Sequence[Cell], settings: Sequence[str]) -> str:
    """Right answers in percent: a line for each task and for all of them, a column for each setting.

    Args:
        cells: The cells of every pass and task.
        settings: The columns.
    """
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    shares = {(cell.task, cell.setting): f"{cell.accuracy:.1%}" for cell in cells}
    rows = [("right answers", *settings)]
    rows += [(task, *(shares.get((task, setting), "") for setting in settings)) for task in tasks]
    return _columns(rows)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
