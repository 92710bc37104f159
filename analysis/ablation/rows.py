"""Rows of trained models: read with every check, gathered over seeds, compared by seed and question.

Shapes: S seeds, n questions of a task, R draws of the bootstrap.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

from analysis.ablation.experiments import experiment_rows
from analysis.shared.stats import LEVEL
from lare.errors import LareError
from lare.experiments.compare import drawn_means

__all__ = ["DRAWS", "FEW_SEEDS", "Difference", "Row", "compare", "level", "merge", "over_seeds", "read_rows"]

FEW_SEEDS = 4
"""Below this many seeds a report says so."""

DRAWS = 10_000
"""Draws of the bootstrap."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One row of an ablation, all seeds.

    Attributes:
        name: Short name.
        title: Title in tables.
        claim: Whether its comparison belongs to the family of tests.
        seeds: S seeds, ascending.
        tasks: Names.
        questions: For each task, the (n,) numbers of its questions, ascending.
        tables: For each task, scores (S, n).
        scenes: For each task, the scene of each question.
        costs: Means over seeds.
        starts: The start of each seed, by a name of its weights; empty where the rows don't say.
        settings: Numbers that the row was trained with, where the file says so.
    """

    name: str
    title: str
    claim: bool
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    questions: tuple[tuple[int, ...], ...]
    tables: tuple[Array, ...]
    scenes: tuple[tuple[str, ...], ...]
    costs: Mapping[str, float]
    starts: tuple[str, ...] = ()
    settings: Mapping[str, float] = field(default_factory=dict)

    def of(self, tasks: Sequence[str]) -> Row:
        """The same row over some of its tasks."""
        places = [place for place, task in enumerate(self.tasks) if task in tasks]
        return replace(
            self,
            tasks=tuple(self.tasks[place] for place in places),
            questions=tuple(self.questions[place] for place in places),
            tables=tuple(self.tables[place] for place in places),
            scenes=tuple(self.scenes[place] for place in places),
        )

    @property
    def accuracy(self) -> list[float]:
        """Mean over tasks of each seed."""
        return [float(one) for one in np.mean([table.mean(1) for table in self.tables], axis=0)]


@dataclass(frozen=True)
class Difference:
    """A row against the reference, paired by seed and question.

    Attributes:
        estimate: Mean difference of accuracy.
        low: Lower end of the 95 % bootstrap interval over seeds and scenes.
        high: Its upper end.
        t_low: Lower end of the t interval over paired seeds; NaN with one.
        t_high: Its upper end.
        p: Two-sided, by the bootstrap.
        seeds: Paired seeds.
    """

    estimate: float
    low: float
    high: float
    t_low: float
    t_high: float
    p: float
    seeds: int


def read_rows(paths: Sequence[str | Path], split: str = "validation") -> list[dict[str, Any]]:
    """Rows of files and of experiments' folders, checked.

    Args:
        paths: JSON files of rows, and folders such as ``reports/experiments/NAME``.
        split: Split whose rows are read from a folder: validation or test.

    Raises:
        LareError: If a file can't be read, or a row lacks something or stands there twice.
    """
    found: list[dict[str, Any]] = []
    seen: dict[tuple[str, int], str] = {}
    for path in map(str, paths):
        try:
            place = Path(path)
            whole = place.is_dir()
            rows = experiment_rows(place, split) if whole else json.loads(place.read_text(encoding="utf-8"))["rows"]
            checked = [_checked(row) for row in rows]
        except LareError:
            raise
        except FileNotFoundError:
            raise LareError(f"there is no {path!r}; make it with `lare experiments run`, or give --rows") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise LareError(
                f'{path!r} holds no rows ({type(error).__name__}: {error}); give a file {{"rows": [...]}}, or the '
                "folder that `lare experiments run` writes"
            ) from None
        for row in checked:
            key = (row["name"], row["seed"])
            if key in seen:
                raise LareError(f"row {key[0]!r} with seed {key[1]} is in {seen[key]!r} and in {path!r}; leave one out")
            seen[key] = path
        found += checked
    if not found:
        raise LareError(f"{', '.join(map(repr, map(str, paths)))} holds no row; train and ask some first")
    return found


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    scores = {str(task): {int(doc): float(s) for doc, s in docs.items()} for task, docs in row["scores"].items()}
    scenes = {str(task): {int(doc): str(s) for doc, s in docs.items()} for task, docs in row["scenes"].items()}
    name, seed = str(row["name"]), int(row["seed"])
    if not scores or not all(scores.values()):
        raise LareError(f"row {name!r} with seed {seed} has no scores; ask it again")
    for task, docs in scores.items():
        lacking = sorted(docs.keys() - scenes.get(task, {}).keys())
        if lacking:
            raise LareError(f"row {name!r} with seed {seed} has no scene for {task} {lacking[0]}; ask it again")
        if not all(math.isfinite(value) for value in docs.values()):
            raise LareError(f"row {name!r} with seed {seed} has a score of {task} that is no number; ask it again")
    costs = {str(cost): float(value) for cost, value in (row.get("costs") or {}).items() if value is not None}
    settings = {str(word): float(value) for word, value in (row.get("settings") or {}).items()}
    return {
        "settings": settings,
        "name": name,
        "title": str(row.get("title") or name),
        "seed": seed,
        "start": str(row.get("start", "")),
        "claim": bool(row.get("claim", True)),
        "fingerprint": str(row.get("fingerprint", "")),
        "scores": scores,
        "scenes": scenes,
        "costs": costs,
        "asked": list(row.get("asked") or ()),
    }


def merge(content: Sequence[Mapping[str, Any]]) -> dict[str, Row]:
    """Gather seeds, in the order in which rows first appear.

    Raises:
        LareError: If rows were asked different questions, or a row's seeds differ in settings; the message names what.
    """
    first = content[0]
    tasks = tuple(sorted(first["scores"]))
    questions = tuple(tuple(sorted(first["scores"][task])) for task in tasks)
    for one in content:
        _same_questions(one, first)
    names = list(dict.fromkeys(str(one["name"]) for one in content))
    rows = {}
    for name in names:
        mine = sorted((one for one in content if one["name"] == name), key=lambda one: int(one["seed"]))
        tables = tuple(
            np.array([[one["scores"][task][doc] for doc in docs] for one in mine])
            for task, docs in zip(tasks, questions, strict=True)
        )
        scenes = tuple(
            tuple(first["scenes"][task][doc] for doc in docs) for task, docs in zip(tasks, questions, strict=True)
        )
        costs = {
            cost: float(np.mean([one["costs"][cost] for one in mine if cost in one["costs"]]))
            for cost in dict.fromkeys(cost for one in mine for cost in one["costs"])
        }
        seeds = tuple(int(one["seed"]) for one in mine)
        claim = any(one["claim"] for one in mine)
        if any(one["settings"] != mine[0]["settings"] for one in mine):
            raise LareError(f"row {name!r} has seeds of different settings; give each setting a name of its own")
        title, settings = mine[0]["title"], mine[0]["settings"]
        starts = tuple(one["start"] for one in mine) if all(one["start"] for one in mine) else ()
        rows[name] = Row(name, title, claim, seeds, tasks, questions, tables, scenes, costs, starts, settings)
    return rows


def _same_questions(one: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    def label(row: Mapping[str, Any]) -> str:
        return f"{row['name']!r} (seed {row['seed']})"

    if one["scores"].keys() != first["scores"].keys():
        only = sorted(one["scores"].keys() ^ first["scores"].keys())
        raise LareError(f"{label(one)} and {label(first)} have different tasks ({', '.join(only)}); ask both the same")
    for task, docs in one["scores"].items():
        apart = sorted(docs.keys() ^ first["scores"][task].keys())
        if apart:
            shown = ", ".join(map(str, apart[:8])) + (f" and {len(apart) - 8} more" if len(apart) > 8 else "")
            raise LareError(
                f"{label(one)} and {label(first)} answered different questions of {task} ({shown}); ask both the same"
            )
        if any(one["scenes"][task][doc] != first["scenes"][task][doc] for doc in docs):
            raise LareError(f"{label(one)} and {label(first)} have different scenes in {task}; ask both the same")


def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % t interval over seeds; the ends are NaN with one seed."""
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if array.size < 2:
        return mean, math.nan, math.nan
    half = float(scipy_stats.t.ppf(0.5 + LEVEL / 2, array.size - 1) * array.std(ddof=1) / math.sqrt(array.size))
    return mean, mean - half, mean + half


def compare(row: Row, reference: Row, seed: int = 0) -> Difference | None:
    """A row against the reference on their common seeds; None if they have none.

    Seeds and, within each task, scenes are drawn independently of each other: every seed answers the same questions.

    Args:
        row: The row.
        reference: What it is compared with.
        seed: Seed of the bootstrap.
    """
    common = sorted(set(row.seeds) & set(reference.seeds))
    if not common:
        return None
    left, right = ([one.seeds.index(s) for s in common] for one in (row, reference))
    gaps = [ours[left] - theirs[right] for ours, theirs in zip(row.tables, reference.tables, strict=True)]
    each = np.mean([gap.mean(1) for gap in gaps], axis=0)
    values = drawn_means(list(zip(gaps, row.scenes, strict=True)), DRAWS, seed)
    low, high = np.quantile(values, [(1 - LEVEL) / 2, 0.5 + LEVEL / 2])
    tail = min((values <= 0).sum(), (values >= 0).sum())
    _, t_low, t_high = over_seeds(each.tolist())
    p = min(1.0, 2 * (float(tail) + 1) / (DRAWS + 1))
    return Difference(float(each.mean()), float(low), float(high), t_low, t_high, p, len(common))


def level(row: Row, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of a row's accuracy over seeds and scenes; with one seed over scenes alone.

    Args:
        row: The row.
        seed: Seed of the bootstrap.
    """
    values = drawn_means(list(zip(row.tables, row.scenes, strict=True)), DRAWS, seed)
    low, high = np.quantile(values, [(1 - LEVEL) / 2, 0.5 + LEVEL / 2])
    return float(low), float(high)
