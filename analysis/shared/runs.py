"""Runs of lmms-eval as tables: per-sample logs (``*_samples_*.jsonl``), or a demo run's scores beside its traces.

lmms-eval writes lines in the order of processes, not of questions, and gives every line the same ``doc_hash``: only
``doc_id`` names a question. Where the right or wrong of an answer stands differs from task to task.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.shared.traces import cluster_of, frame, open_traces, read_scores
from lare.errors import LareError
from lare.trace import TraceReader
from lare_eval.categories import Place, places_of_log, score_of

__all__ = ["Run", "read_run", "unreadable"]

_LOG = re.compile(r"(?:.*_)?samples_(?P<task>.+)\.jsonl$")

_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?(?:\s|$)")
_OPTION = re.compile(r"(?:^|[\s,;])\(?([A-Za-z])[.):]\s", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """One evaluation.

    Attributes:
        name: For columns and messages.
        rows: Columns task, doc_id, score, cluster (own name where nothing is known), clustered (whether it is known),
            question, answer, text (everything written; empty if unknown), target, tokens (text tokens; missing if
            unknown), steps, unreadable, unanswered, places (see `lare_eval.categories`; none where nothing tells); of
            a demo run also scene, hops, sort, category.
        files: What was read.
        reader: Its trace, of a demo run; `rows` then also says each answer's place in it (row).
    """

    name: str
    rows: pd.DataFrame
    files: tuple[str, ...]
    reader: TraceReader | None = None

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, sorted."""
        return sorted(self.rows["task"].unique())


def read_run(path: str | Path, traces: Sequence[str | Path] = ()) -> Run:
    """Read a run.

    Args:
        path: A folder with one ``*_samples_TASK.jsonl`` a task (anywhere below it), such a file, or a demo run's
            ``scores/SETTING.json`` (its traces are read as well).
        traces: Traces that say which questions share a picture (``meta.scene`` and the like).

    Raises:
        LareError: If there is no log, two of one task, or a line without a score; the message names the file.
    """
    path = Path(path)
    if path.suffix == ".json":
        return _from_demo(path)
    files = sorted(path.rglob("*samples_*.jsonl")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise LareError(
            f"{str(path)!r} holds no *_samples_*.jsonl; evaluate with --log_samples --output_path, and give that folder"
        )
    by_task: dict[str, Path] = {}
    for file in files:
        match = _LOG.match(file.name)
        task = match["task"] if match else file.stem
        if task in by_task:
            raise LareError(
                f"{str(path)!r} holds two logs of {task} ({by_task[task].name}, {file.name}); give one run's folder"
            )
        by_task[task] = file
    known = _facts(traces)
    rows = [row for task, file in by_task.items() for row in _read_log(task, file, known)]
    return Run(path.stem, _table(rows, str(path)), tuple(str(file) for file in files))


_Known = Mapping[tuple[str, int], tuple[str, list[Place]]]
"""Cluster and places of questions, by task and number."""


def _facts(traces: Sequence[str | Path]) -> _Known:
    if not traces:
        return {}
    table = frame(open_traces(list(traces), one_model=False))
    keys = zip(table["task"], table["doc_id"], strict=True)
    return dict(zip(keys, zip(table["cluster"], table["places"], strict=True), strict=True))


def _read_log(task: str, file: Path, known: _Known) -> list[dict[str, Any]]:
    rows = []
    lines = file.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            doc = int(content["doc_id"])
        except (ValueError, KeyError, TypeError):
            raise LareError(f"{str(file)!r} line {number} is damaged (cut off?); evaluate again, or mend it") from None
        rows.append(_row(task, doc, content, file, known))
    if not rows:
        raise LareError(f"{str(file)!r} is empty; evaluate again with --log_samples")
    return rows


def _row(task: str, doc: int, content: Mapping[str, Any], file: Path, known: _Known) -> dict[str, Any]:
    question, answer = str(content.get("input", "")), _text(content.get("filtered_resps", ""))
    counts = next((one for one in content.get("token_counts") or [] if isinstance(one, dict)), {})
    facts: dict[str, Any] = {}
    for value in content.values():
        facts |= value if isinstance(value, dict) else {}
    cluster, places = known.get((task, doc), ("", []))
    cluster = cluster or cluster_of(task, doc, facts)
    return {
        "task": task,
        "doc_id": doc,
        "score": _score(content, file),
        "cluster": cluster or f"{task}/{doc}",
        "clustered": bool(cluster),
        "question": question,
        "answer": answer,
        "text": "",
        "target": _text(content.get("target", "")),
        "tokens": counts.get("output_tokens"),
        "steps": counts.get("reasoning_tokens"),
        "unreadable": bool(counts.get("unreadable")) or unreadable(question, answer),
        "unanswered": bool(counts.get("unanswered")),
        "places": places or places_of_log(task, content),
    }


def _text(value: Any) -> str:
    return _text(value[0]) if isinstance(value, list) and value else str(value)


def _score(content: Mapping[str, Any], file: Path) -> float:
    """Right (1) or wrong (0) of a row, or the task's own score."""
    score = score_of(content)
    if score is None:
        raise LareError(
            f"{str(file)!r}: question {content.get('doc_id')} has no score that is known (keys: "
            f"{', '.join(sorted(content))}); add its key to lare_eval/categories.py"
        )
    return score


def unreadable(question: str, answer: str) -> bool:
    """Whether a scorer could read nothing from an answer: no shown option, or neither yes nor no where that is asked.

    A question that neither shows options nor asks for yes or no takes any answer but an empty one.
    """
    options = {letter.upper() for letter in _OPTION.findall(question)}
    reply = answer.strip()
    if len(options) >= 2:
        letter = _LETTER.match(reply)
        return letter is None or letter[1].upper() not in options
    if "yes or no" in question.lower():
        return re.match(r"(yes|no)\b", reply.lower()) is None
    return not reply


def _from_demo(path: Path) -> Run:
    """A demo run's setting: its scores, and its traces for everything else."""
    scores = read_scores(path)
    folder = path.parent.parent / "traces" / path.stem
    reader = open_traces([folder])
    table = frame(reader, scores)
    answered = {(str(task), int(doc)) for task, doc in zip(table["task"], table["doc_id"], strict=True)}
    lacking = sorted({(task, doc) for task, rows in scores.items() for doc in rows} - answered)
    if lacking:
        shown = ", ".join(f"{task} {doc}" for task, doc in lacking[:8])
        raise LareError(f"{str(folder)!r} lacks {len(lacking)} answers that have a score ({shown}); run the demo again")
    rows = pd.DataFrame(
        {
            "task": table["task"],
            "doc_id": table["doc_id"],
            "score": table["score"],
            "cluster": table["cluster"],
            "clustered": True,
            "question": table["question"],
            "answer": table["answer"],
            "text": table["text"],
            "target": table["target"].fillna("").astype(str),
            "tokens": table["output_tokens"],
            "steps": table["latent_steps"],
            "unreadable": [unreadable(*pair) for pair in zip(table["question"], table["answer"], strict=True)],
            "unanswered": table["failed"],
            **{name: table[name] for name in ("places", "row", "scene", "hops", "sort", "category")},
        }
    )
    return Run(path.stem, _table(rows, str(folder)), (str(path), str(folder)), reader)


def _table(rows: Any, where: str) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    twice = table[table.duplicated(["task", "doc_id"])]
    if len(twice):
        first = twice.iloc[0]
        raise LareError(
            f"{where!r} has {len(twice)} questions twice (first: {first['task']} {first['doc_id']}); give one run"
        )
    return table.sort_values(["task", "doc_id"], kind="stable").reset_index(drop=True)
