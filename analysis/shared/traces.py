"""Traces as the analyses read them: opened with every check, one table row an answer, paired by item.

A trace is read column by column (`lare.trace`); what can be wrong with one (missing, empty, cut off, of two versions,
of two models) ends in one message that names the file. Items are paired by task and question number, never by the
order of lines, and never by what happens to be on both sides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lare.errors import LareError
from lare.trace import TraceReader
from lare_eval.categories import places_of

__all__ = [
    "DEMO",
    "SETTINGS",
    "cluster_of",
    "demo_run",
    "demo_traces",
    "described",
    "frame",
    "open_traces",
    "pair",
    "plain",
    "read_scores",
    "scores_beside",
    "setting_of",
    "short",
    "strangers",
]

DEMO = Path("results/demo")
"""Where ``make demo`` leaves its runs, one folder each."""

SETTINGS: Mapping[str, str] = {
    "K0": "answers at once",
    "text": "empty delimiters, rationale as text",
    "random": "latent steps at random windows",
    "fine": "rationale as text, every fine token in context",
    "blind": "latent steps, grey picture",
    "against": "another checkpoint",
}
"""What a demo run's settings do, by the names of their traces; ``K<n>`` with n above 0 takes n latent steps."""

SHOWN = 8
"""Ids that a message lists before it says how many more there are."""

Scores = Mapping[str, Mapping[int, float]]
"""Task to question number to score."""


def open_traces(paths: Sequence[str | Path], one_model: bool = True) -> TraceReader:
    """Open trace directories after checking that they are whole and belong together.

    Args:
        paths: Directories that an evaluation with ``trace=`` wrote.
        one_model: Refuse answers of more than one checkpoint or method.

    Raises:
        LareError: If a directory is missing, foreign, empty, cut off in its last line, of two format versions, or of
            two models; the message names the file.
    """
    if not paths:
        raise LareError("no traces were given; name a directory that an evaluation with trace=DIRECTORY wrote")
    directories = [Path(path) for path in paths]
    reader = TraceReader(*directories)
    versions: dict[Any, Path] = {}
    for directory in directories:
        for shard in sorted(path for path in directory.glob("shard-*") if path.is_dir()):
            _refuse_torn_line(shard)
            facts = json.loads((shard / "shard.json").read_text(encoding="utf-8"))
            versions.setdefault(facts.get("version"), shard)
    if len(versions) > 1:
        parts = ", ".join(f"{str(path)!r} has version {version}" for version, path in versions.items())
        raise LareError(f"the traces are of different format versions ({parts}); evaluate again with one version")
    for directory in directories:
        if not len(TraceReader(directory)):
            raise LareError(f"the trace {str(directory)!r} holds no answer; let the evaluation that writes it finish")
    if one_model:
        _refuse_mixed(reader, directories)
    return reader


def _refuse_torn_line(shard: Path) -> None:
    """A last line without its end is an answer that a kill cut off: the reader would leave it out without a word."""
    rows = shard / "rows.jsonl"
    if not rows.exists():
        raise LareError(f"the trace shard {str(shard)!r} has no rows.jsonl; restore it, or delete the shard")
    with rows.open("rb") as file:
        if file.seek(0, 2) == 0:
            return
        file.seek(-1, 2)
        if file.read(1) != b"\n":
            raise LareError(
                f"{str(rows)!r} is cut off in its last line; finish the evaluation (resume=) and delete what stands "
                "after the file's last line end"
            )


def _refuse_mixed(reader: TraceReader, directories: Sequence[Path]) -> None:
    for name in ("checkpoint", "method"):
        values = sorted(set(reader.column(name)))
        if len(values) > 1:
            where = ", ".join(repr(str(directory)) for directory in directories)
            raise LareError(
                f"{where} hold answers of more than one {name} ({', '.join(values)}); give the traces of one model, "
                "each setting in its own directory"
            )


def _where(reader: TraceReader) -> str:
    """Directories of a reader, for messages."""
    return ", ".join(sorted({repr(str(directory)) for directory in reader.directories}))


def demo_run(root: str | Path = DEMO) -> Path:
    """The newest finished demo run.

    Raises:
        LareError: If there is none.
    """
    runs = sorted(path.parent for path in Path(root).glob("*/summary.json"))
    if not runs:
        raise LareError(f"{str(root)!r} holds no finished demo run; run `make demo`, or give --traces")
    return runs[-1]


def demo_traces(setting: str = "K4", root: str | Path = DEMO) -> Path:
    """Trace directory of a setting of the newest demo run.

    Args:
        setting: "K4", "K0", "text", "random", "fine", "blind" or "against".
        root: Folder of demo runs.

    Raises:
        LareError: If there is no finished run, or it lacks the setting.
    """
    run = demo_run(root)
    path = run / "traces" / setting
    if not path.is_dir():
        raise LareError(f"the demo run {str(run)!r} has no setting {setting!r}; it has {_settings(run / 'traces')}")
    return path


def _settings(folder: Path) -> str:
    return ", ".join(sorted(path.stem for path in folder.glob("*"))) or "none"


def read_scores(path: str | Path) -> dict[str, dict[int, float]]:
    """Scores that a demo run keeps beside its traces (``scores/SETTING.json``).

    Raises:
        LareError: If the file is missing or damaged.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(task): {int(doc): float(score) for doc, score in rows.items()} for task, rows in content.items()}
    except FileNotFoundError:
        raise LareError(
            f"there are no scores {str(path)!r} (there are {_settings(path.parent)}); run `make demo`"
        ) from None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise LareError(f"the scores {str(path)!r} can't be read ({error}); run `make demo` again") from None


def scores_beside(paths: Sequence[str | Path]) -> dict[str, dict[int, float]] | None:
    """Scores of directories ``RUN/traces/SETTING`` from ``RUN/scores/SETTING.json``; None where a file is missing."""
    merged: dict[str, dict[int, float]] = {}
    for path in map(Path, paths):
        file = path.resolve().parent.parent / "scores" / f"{path.resolve().name}.json"
        if not file.exists():
            return None
        for task, rows in read_scores(file).items():
            merged.setdefault(task, {}).update(rows)
    return merged


def setting_of(path: str | Path) -> str:
    """Name of a trace directory's setting: its last part."""
    return Path(path).resolve().name


def described(name: str) -> str:
    """A setting's name with what it does, for a report's first mention; other names as they are."""
    steps = name[1:] if name[:1] == "K" and name[1:].isdigit() else ""
    words = SETTINGS.get(name) or (f"{steps} latent steps, then text" if steps else "")
    return f"{name} ({words})" if words else name


def plain(name: str) -> str:
    """A setting of the demo in common words, for a sentence that stands by itself; other names as they are."""
    if name[:1] == "K" and name[1:].isdigit():
        return "thinking in latent steps" if int(name[1:]) else "answering at once"
    return {"text": "reasoning as text", "fine": "reasoning as text over the fine grid"}.get(name, name)


def short(task: str) -> str:
    """A task's name for a figure: "mini pope" for ``lare_mini_pope``."""
    return f"mini {task.removeprefix('lare_mini_')}" if task.startswith("lare_mini_") else task


META = ("scene", "category", "sort", "hops", "difficulty", "boxes", "rationale", "question_id")
"""Facts of a question that get a column of their own; None where a task has none."""

_COLUMNS = (
    "task", "doc_id", "question", "text", "answer", "method", "checkpoint", "input_tokens", "output_tokens",
    "latent_steps", "stop_reason", "seconds", "meta",
)  # fmt: skip


def frame(reader: TraceReader, scores: Scores | None = None) -> pd.DataFrame:
    """One row per answer, in the reader's order, so that row i belongs to item i of an array column.

    Args:
        reader: What comes from `open_traces`.
        scores: Task to question number to score; without it the column `score` is missing values.

    Returns:
        Columns: task, doc_id, question, text, answer, method, checkpoint, input_tokens, output_tokens, latent_steps,
        stop_reason, seconds (all phases of the answer, wall clock), score, right (score at least 1, missing without a
        score), failed (the question could not be answered), cluster (see `cluster_of`; the question itself without
        one), target (the right answer as the task has it), the columns of `META`, places (categories of the benchmark,
        see `lare_eval.categories`), and row (position in the reader).

    Raises:
        LareError: If a question was answered twice, or lacks its score.
    """
    columns = {name: reader.column(name) for name in _COLUMNS}
    meta = columns.pop("meta")
    table = pd.DataFrame(columns)
    table["seconds"] = [float(sum(phases.values())) for phases in table["seconds"]]
    table["failed"] = table["stop_reason"].astype(str).str.startswith("error")
    for name in META:
        table[name] = pd.Series([facts.get(name) for facts in meta], dtype=object)
    table["target"] = pd.Series([_target(facts) for facts in meta], dtype=object)
    rows = zip(table["task"], table["doc_id"], meta, strict=True)
    table["cluster"] = [cluster_of(str(task), int(doc), facts) or f"{task}/{doc}" for task, doc, facts in rows]
    rows = zip(table["task"], table["doc_id"], meta, strict=True)
    table["places"] = pd.Series([places_of(str(task), int(doc), facts) for task, doc, facts in rows], dtype=object)
    table["row"] = range(len(table))
    twice = table[table.duplicated(["task", "doc_id"], keep=False)]
    if len(twice):
        raise LareError(
            f"{_where(reader)} answers {len(twice)} questions more than once ({_ids(twice)}); evaluate each setting "
            "into a directory of its own"
        )
    table["score"] = _scores_of(table, scores, reader)
    table["right"] = (table["score"] >= 1).astype(object).where(table["score"].notna(), None)
    return table


def cluster_of(task: str, doc_id: int, facts: Mapping[str, Any]) -> str:
    """What a question shares with others that are not independent of it; empty if nothing says.

    The embedded world's scene; the picture of POPE and ScienceQA; the pair of MMVP; MMBench's question, of which the
    circular test asks copies whose index differs by millions.
    """
    for name in ("scene", "image_source", "image_id"):
        if facts.get(name):
            return str(facts[name])
    if facts.get("pair_index") is not None:
        return f"{task}/pair {facts['pair_index']}"
    if "mmvp" in task and facts.get("Index") is not None:
        return f"{task}/pair {(int(facts['Index']) - 1) // 2}"
    if "mmbench" in task and facts.get("index") is not None:
        return f"{task}/{int(facts['index']) % 1_000_000}"
    return ""


def _target(facts: Mapping[str, Any]) -> str | None:
    """The right answer in words where the options are known."""
    answer, choices = facts.get("answer", facts.get("Correct Answer")), facts.get("choices")
    if isinstance(answer, int) and isinstance(choices, list) and 0 <= answer < len(choices):
        return f"{'ABCDEFGHIJ'[answer]}. {choices[answer]}" if answer < 10 else str(choices[answer])
    return None if answer is None else str(answer)


def _scores_of(table: pd.DataFrame, scores: Scores | None, reader: TraceReader) -> list[float]:
    if scores is None:
        return [float("nan")] * len(table)
    found = [scores.get(task, {}).get(doc) for task, doc in zip(table["task"], table["doc_id"], strict=True)]
    lacking = table[[score is None for score in found]]
    if len(lacking):
        raise LareError(
            f"{len(lacking)} answers of {_where(reader)} have no score ({_ids(lacking)}); the scores are of another "
            "run: give those of this one"
        )
    return [float(score) for score in found if score is not None]


def pair(left: pd.DataFrame, right: pd.DataFrame, names: tuple[str, str] = ("A", "B")) -> pd.DataFrame:
    """Put two settings' answers to the same questions side by side.

    Args:
        left: What comes from `frame`.
        right: What comes from `frame`.
        names: What the two are called in messages.

    Returns:
        One row an item, sorted by task and question number; columns that differ carry the suffixes ``_a`` and ``_b``;
        task, doc_id, cluster, target and the facts of the question stand once, as `left` has them.

    Raises:
        LareError: If the two sides answer different questions; the message lists them. Nothing is left out silently.
    """
    keys = ["task", "doc_id"]
    ours, theirs = _keys(left), _keys(right)
    if ours != theirs:
        parts = [
            f"only {name} has {len(ids)}: {', '.join(f'{task} {doc}' for task, doc in ids[:SHOWN])}"
            + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")
            for name, ids in ((names[0], sorted(ours - theirs)), (names[1], sorted(theirs - ours)))
            if ids
        ]
        raise LareError(
            f"{names[0]} and {names[1]} answer different questions ({'; '.join(parts)}); evaluate both on one"
        )
    shared = [name for name in ("cluster", "target", *META) if name in right]
    both = left.merge(right.drop(columns=shared), on=keys, suffixes=("_a", "_b"), validate="one_to_one")
    if "question_a" in both and (both["question_a"] != both["question_b"]).any():
        other = both[both["question_a"] != both["question_b"]]
        raise LareError(
            f"{names[0]} and {names[1]} asked different questions under one number ({_ids(other)}); the task's data "
            "changed between the runs: evaluate both on one version"
        )
    return both.sort_values(keys, kind="stable").reset_index(drop=True)


def _keys(table: pd.DataFrame) -> set[tuple[str, int]]:
    return {(str(task), int(doc)) for task, doc in zip(table["task"], table["doc_id"], strict=True)}


def _ids(table: pd.DataFrame) -> str:
    shown = [f"{task} {doc}" for task, doc in zip(table["task"][:SHOWN], table["doc_id"][:SHOWN], strict=True)]
    return ", ".join(shown) + (f" and {len(table) - SHOWN} more" if len(table) > SHOWN else "")


def strangers(clusters: pd.Series, seed: int, draws: int = 50) -> npt.NDArray[np.int64]:
    """For each item a random one of another cluster, (n,); of its own where `draws` draws find no other."""
    names = np.asarray(clusters, dtype=object)
    rng = np.random.default_rng(seed)
    other = rng.permutation(len(names))
    for _ in range(draws):
        clash = np.flatnonzero(names == names[other])
        if not clash.size:
            break
        other[clash] = rng.integers(0, len(names), clash.size)
    return np.asarray(other, dtype=np.int64)
