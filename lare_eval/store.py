"""Keeps answers as they are made, so that an evaluation that was killed goes on where it stopped.

lmms-eval's own response cache is written after the last answer of a run, and its key does not know the weights. Here a
line is written for every batch, and the key covers whatever can change the answer: the question and its picture, the
generation arguments, the weights and the method's arguments. So a directory can be kept for ever: an answer of other
weights is simply never found.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from lare.errors import LareError

__all__ = ["AnswerStore", "StoredAnswer", "answer_key", "image_digest"]


@dataclass(frozen=True)
class StoredAnswer:
    """What is needed to report an answer again without making it.

    Attributes:
        key: See `answer_key`.
        task: Name of the task, for a person who reads the file.
        doc_id: Number of the question in its task.
        text: Everything the model wrote.
        response: What the scorer got.
        counts: Token counts as reported to lmms-eval.
        digest: Hash of the question and its picture as they were; empty if they could not be read.
        problem: Why there is no answer; empty if there is one.
        readable: Whether an option could be read from the text, where options were asked for.
        cut: Whether the text was cut by the token limit before its final answer.
    """

    key: str
    task: str
    doc_id: int
    text: str
    response: str
    counts: Mapping[str, int] = field(default_factory=dict)
    digest: str = ""
    problem: str = ""
    readable: bool = True
    cut: bool = False


class AnswerStore:
    """Answers in a directory, one JSON line each; several processes may write to it at once.

    Every process appends to a file of its own, so lines never mix and only the last line of a killed process can be
    torn; torn lines are skipped.

    Args:
        directory: Where to keep answers; made if need be. None keeps nothing and finds nothing.

    Raises:
        LareError: If the directory can't be made or read.
    """

    def __init__(self, directory: str | os.PathLike[str] | None) -> None:
        self._directory = None if directory is None else Path(directory)
        self._answers: dict[str, StoredAnswer] = {}
        self._file: int | None = None
        if self._directory is None:
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            for path in sorted(self._directory.glob("answers-*.jsonl")):
                self._answers.update((answer.key, answer) for answer in _read(path))
        except OSError as error:
            raise _refused(self._directory, error) from error

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> StoredAnswer | None:
        """The answer of this key, or None."""
        return self._answers.get(key)

    def add(self, answers: Iterable[StoredAnswer]) -> None:
        """Keep answers; when this returns they survive the process.

        Raises:
            LareError: If they can't be written; those kept before stay.
        """
        answers = list(answers)
        if self._directory is None or not answers:
            return
        lines = "".join(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
        view = memoryview(lines.encode("utf-8"))
        try:
            if self._file is None:
                name = f"answers-{time.time_ns()}-{os.getpid()}.jsonl"
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
                self._file = os.open(self._directory / name, flags, 0o644)
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            raise _refused(self._directory, error) from error
        self._answers.update((answer.key, answer) for answer in answers)

    def close(self) -> None:
        """Close the file; a later `add` opens another."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def answer_key(**facts: Any) -> str:
    """One short text for everything that can change an answer.

    Args:
        **facts: JSON-able values.
    """
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def image_digest(image: Image.Image) -> str:
    """Hash of a picture's mode, size and pixels."""
    digest = hashlib.sha256(f"{image.mode} {image.size}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()[:32]


def _read(path: Path) -> list[StoredAnswer]:
    answers = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            if line.endswith(b"\n"):
                answers.append(StoredAnswer(**json.loads(line)))
        except (ValueError, TypeError):
            continue  # a line of another version, or torn by a full disk: the question is simply asked again
    return answers


def _refused(directory: Path, error: OSError) -> LareError:
    return LareError(
        f"can't keep answers in {str(directory)!r} ({error.strerror or error}); free space there or give another "
        "directory as resume=. The answers kept so far stay"
    )
