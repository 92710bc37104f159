"""Scores by the benchmarks' own categories, each with its 95 % interval.

Wilson's, or, for tasks on photographs of which each is asked about several times, that of a bootstrap over photographs.

POPE's kinds, MMBench's and MMStar's categories, ScienceQA's subjects, topics and grades, MMVP's pairs. lmms-eval gives
one number a task; what a row belongs to stands in its own columns. What counts as one question is the benchmark's as
well: a pair of MMVP is right when both of its questions are, a circular question of MMBench when all its copies are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from lare_eval.summary import interval, wilson

__all__ = [
    "CategoryScore",
    "Place",
    "as_json",
    "category_scores",
    "category_table",
    "of_samples",
    "places_of",
    "places_of_log",
    "score_of",
]

PAIRS = "both of a pair"
"""Name of the one category that MMVP's pairs have."""

_COLUMNS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "pope": {"kind": ("category",)},
    "mmbench": {"L2-category": ("L2-category", "l2-category"), "category": ("category",)},
    "mmstar": {"core ability": ("category",)},
    "mmvp": {"question family": ("sort",)},
    "daquar": {"question family": ("category",)},
    "animals": {"question family": ("category",)},
    "scienceqa": {"subject": ("subject",), "topic": ("topic",), "grade": ("grade",), "question family": ("sort",)},
}
"""Benchmark -> way of dividing it -> the row's column. Question families are the stand-ins' alone."""

_KINDS = {"adv": "adversarial", "pop": "popular", "random": "random"}
"""Ends of lmms-eval's task names for POPE's single kinds."""

_CIRCULAR = 1_000_000
"""MMBench: copies of a question have indices that are equal modulo this."""

_SCORES = ("score", "pope_accuracy", "average", "mmvp_accuracy", "exact_match", "acc", "accuracy", "gpt_eval_score")
"""Where a sample's score is looked for, in this order."""

_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?(?:\s|$)")


class Place(NamedTuple):
    """Where one question belongs in one way of dividing its benchmark.

    Attributes:
        by: The way of dividing.
        category: The part.
        unit: What counts as one question: questions of one unit are right together or not at all.
    """

    by: str
    category: str
    unit: str


@dataclass(frozen=True)
class CategoryScore:
    """How one category of one task went.

    Attributes:
        task: lmms-eval's name of the task.
        by: The way of dividing.
        category: The part.
        n: Questions (pairs, circular questions).
        accuracy: Share of right ones.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    task: str
    by: str
    category: str
    n: int
    accuracy: float
    low: float
    high: float


def places_of(task: str, doc_id: int, facts: Mapping[str, Any]) -> list[Place]:
    """Categories of a question.

    Args:
        task: lmms-eval's name of the task.
        doc_id: Number of the question.
        facts: Columns of its row, as far as they are known; or what the task's scorer wrote down about it.

    Returns:
        One place for each way of dividing that the facts allow; none for a task that is neither one of the five
        benchmarks nor of `lare_eval.photos`.
    """
    benchmark = next((name for name in _COLUMNS if name in task), None)
    if benchmark is None:
        return []
    unit = str(doc_id)
    if benchmark == "mmbench" and isinstance(facts.get("index"), (int, float)):
        unit = str(int(facts["index"]) % _CIRCULAR)
    found = []
    for by, columns in _COLUMNS[benchmark].items():
        values = (str(facts[column]) for column in columns if facts.get(column) not in (None, "", "nan"))
        category = next(values, _KINDS.get(task.rpartition("_")[2], "") if benchmark == "pope" else "")
        if category:
            found.append(Place(by, category, unit))
    pair = _pair(facts) if benchmark == "mmvp" else None
    return found if pair is None else [Place("pairs", PAIRS, f"pair {pair}"), *found]


def _pair(facts: Mapping[str, Any]) -> int | None:
    if facts.get("pair_index") is not None:
        return int(facts["pair_index"])
    return None if facts.get("Index") is None else (int(facts["Index"]) - 1) // 2


def places_of_log(task: str, line: Mapping[str, Any]) -> list[Place]:
    """Categories of a question by its line in a log of ``--log_samples``, which lacks the question's own columns.

    ``lare eval`` writes the places themselves; lmms-eval leaves what the scorer wrote down (all that MMBench, MMStar
    and MMVP need, nothing of POPE and ScienceQA).

    Args:
        task: lmms-eval's name of the task.
        line: The line.
    """
    if isinstance(line.get("categories"), list):
        return [Place(*map(str, place)) for place in line["categories"]]
    records = {name: value for name, value in line.items() if isinstance(value, dict)}
    facts: dict[str, Any] = {}
    for record in records.values():
        facts |= record
    if "mmstar" in task:  # the scorer's record of an ability has the ability's name
        abilities = (name for name, record in records.items() if "l2_category" in record and name != "average")
        facts["category"] = next(abilities, None)
    return places_of(task, int(line["doc_id"]), facts)


def score_of(sample: Mapping[str, Any]) -> float | None:
    """Right (1) or wrong (0) of a sample as lmms-eval logs it, or the task's own score; None where nothing says.

    MMBench logs no score: the reply's letter is compared with the answer's, with no paid judge.
    """
    for key in _SCORES:
        value = sample.get(key)
        if isinstance(value, (bool, int, float)):
            return float(value)
        if isinstance(value, dict):
            for name in ("score", "is_correct"):
                if isinstance(value.get(name), (bool, int, float)):
                    return float(value[name])
            if "prediction" in value and "answer" in value:
                letter = _LETTER.match(str(value["prediction"]).strip())
                return float(letter is not None and letter[1].upper() == str(value["answer"]).strip().upper())
    return None


def category_scores(
    rows: Iterable[tuple[str, float, Sequence[Place]]], pictures: Mapping[tuple[str, str], str] | None = None
) -> list[CategoryScore]:
    """Accuracy of every category.

    Args:
        rows: For each question its task, its score and its places.
        pictures: By task and unit, the picture that is asked about, where several questions share one.

    Returns:
        Sorted by task, and inside it by way of dividing and category; the ways stay in their order.
    """
    units: dict[tuple[str, str, str], dict[str, float]] = {}
    ways: dict[tuple[str, str], int] = {}
    for task, score, places in rows:
        for place in places:
            ways.setdefault((task, place.by), len(ways))
            of_unit = units.setdefault((task, place.by, place.category), {})
            of_unit[place.unit] = min(score, of_unit.get(place.unit, score))
    found = []
    for task, by, category in sorted(units, key=lambda key: (key[0], ways[key[:2]], key[2])):
        of_unit = units[task, by, category]
        scores = list(of_unit.values())
        low, high = _interval(scores, [(pictures or {}).get((task, unit)) for unit in of_unit])
        found.append(CategoryScore(task, by, category, len(scores), sum(scores) / len(scores), low, high))
    return found


def _interval(scores: Sequence[float], pictures: Sequence[str | None]) -> tuple[float, float]:
    """95 % interval of the mean, by picture where each is known."""
    known = [one for one in pictures if one is not None]
    if len(known) < len(scores) or (len(set(scores)) == 1 and scores[0] in (0.0, 1.0)):
        share = sum(scores) / len(scores)  # equal scores have no spread to draw from
        n = len(set(known)) if len(known) == len(scores) else len(scores)
        return wilson(share * n, n)
    return interval(np.asarray(scores), known)


_NO_SHARES = frozenset({("measure", "cider")})
"""Means that may lie above 1."""


def category_table(scores: Sequence[CategoryScore]) -> str:
    """The scores as a Markdown table; empty without any."""
    if not scores:
        return ""
    head = ("Task", "By", "Category", "n", "Right", "95 % interval")
    rows = []
    for one in scores:
        form = ".3f" if (one.by, one.category) in _NO_SHARES else ".1%"
        ends = f"{format(one.low, form)} - {format(one.high, form)}"
        rows.append((one.task, one.by, one.category, str(one.n), format(one.accuracy, form), ends))
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["|".join(["", *(cell.ljust(width) for cell, width in zip(row, widths, strict=True)), ""]) for row in rows]
    first = "|".join(["", *(cell.ljust(width) for cell, width in zip(head, widths, strict=True)), ""])
    rule = "|".join(["", *("-" * width for width in widths), ""])
    title = "Right by category, with 95 % intervals (Wilson's; of photographs, by a bootstrap over them)"
    note = "(a pair or a circular question counts once, and is right when all of it is)"
    return "\n".join([f"{title} {note}", "", first, rule, *lines])


def of_samples(samples: Mapping[str, Sequence[dict[str, Any]]]) -> list[CategoryScore]:
    """Categories of an evaluation's samples; each sample keeps its places under ``categories`` (for its log).

    Args:
        samples: lmms-eval's logged samples by task, with their ``doc``.
    """
    rows: list[tuple[str, float, Sequence[Place]]] = []
    pictures: dict[tuple[str, str], str] = {}
    for task, of_task in samples.items():
        for sample in of_task:
            document = sample.get("doc") or {}
            places = places_of(task, int(sample["doc_id"]), document)
            score = score_of(sample)
            if places and score is not None:
                sample["categories"] = [list(place) for place in places]
                rows.append((task, score, places))
            if document.get("photograph"):
                pictures[task, str(sample["doc_id"])] = str(document["photograph"])
        rows += _measures(task, of_task)
    return category_scores(rows, pictures)


def _measures(task: str, samples: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float, list[Place]]]:
    """Further scores of answers about photographs, each as a category of its own."""
    asked = [sample for sample in samples if (sample.get("doc") or {}).get("photograph")]
    captions = [sample["cider"] for sample in asked if isinstance(sample.get("cider"), dict)]
    values: dict[str, list[float]] = {}
    if captions and len(captions) == len(asked):
        from lare_eval.cider import cider

        values["cider"] = cider([one["caption"] for one in captions], [one["references"] for one in captions])
    for name in ("score", "wups_0.9", "wups_0.0"):
        values[name] = [float(sample[name]) for sample in asked if isinstance(sample.get(name), (int, float))]
    for name, scores in values.items():
        if scores and len(scores) == len(asked) and not any(map(math.isnan, scores)):
            for sample, score in zip(asked, scores, strict=True):
                yield task, score, [Place("measure", name, str(sample["doc_id"]))]


def as_json(scores: Sequence[CategoryScore]) -> list[dict[str, Any]]:
    """The scores for the results file."""
    return [asdict(one) for one in scores]
