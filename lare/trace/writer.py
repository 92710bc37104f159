"""Appends answers to a trace directory, so that a killed or full run leaves everything flushed before it readable."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lare.errors import LareError
from lare.trace.record import ARRAYS, FORMAT, SCALARS, VERSION, AnswerRecord, Column, check_columns

__all__ = ["TraceWriter"]

SHARD_ROWS = 4096
"""Answers in a shard; a new one is begun after that."""


class TraceWriter:
    """Writes `AnswerRecord`s; several writers (processes) may share a directory, each has its own shards.

    Args:
        directory: Where to write; made if need be. Traces that are there already stay: new answers are added.
        info: JSON-able facts about the run, kept with every shard (model configuration, versions, arguments).
        shard_rows: Answers in one shard.
        columns: Array columns beyond `lare.trace.ARRAYS`: those that the method declares.

    Raises:
        LareError: If the directory can't be written, holds something other than traces, or the disk is full; or if a
            column can't be kept.

    Example:
        >>> with TraceWriter("traces") as writer:  # doctest: +SKIP
        ...     writer.append(record)
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        info: Mapping[str, Any] | None = None,
        shard_rows: int = SHARD_ROWS,
        columns: Mapping[str, Column] | None = None,
    ) -> None:
        if shard_rows < 1:
            raise LareError(f"shard_rows is {shard_rows}; a shard holds at least 1 answer")
        self.directory = Path(directory)
        self._own = dict(columns or {})
        check_columns(self._own)
        self._info = dict(info or {})
        self._shard_rows = shard_rows
        self._shard: _Shard | None = None
        self._shards = 0
        self._pending: list[AnswerRecord] = []
        self._broken = False
        self.written = 0
        with _explained(self.directory, self):
            self.directory.mkdir(parents=True, exist_ok=True)
            _claim(self.directory)

    def append(self, record: AnswerRecord) -> None:
        """Take one answer; it is on disk after the next `flush`.

        Raises:
            LareError: If it holds an array that no column was declared for, or of another shape than was declared.
        """
        for name, value in record.own.items():
            if name not in self._own:
                raise LareError(f"the trace column {name!r} is not declared; name it in the method's columns")
            if not self._own[name].fits(np.shape(value)):
                shape = self._own[name].shape
                raise LareError(f"the trace column {name!r} is declared with shape {shape}, but got {np.shape(value)}")
        self._pending.append(record)

    def flush(self) -> None:
        """Hand all taken answers to the operating system: they survive the process from here on.

        Raises:
            LareError: If the disk is full or can't be written; what was flushed before stays readable.
        """
        if self._broken:
            raise LareError(f"an earlier write to the trace {str(self.directory)!r} failed; open a new TraceWriter")
        with _explained(self.directory, self):
            while self._pending:
                if self._shard is None:
                    self._shard = _Shard(self._new_path(), self._info, {**ARRAYS, **self._own})
                batch = self._pending[: self._shard_rows - self._shard.rows]
                self._shard.write(batch)
                self.written += len(batch)
                del self._pending[: len(batch)]
                if self._shard.rows >= self._shard_rows:
                    self._shard.close()
                    self._shard = None

    def close(self) -> None:
        """Flush and end the shard; the writer may be used again and then begins a new shard."""
        try:
            self.flush()
        finally:
            if self._shard is not None:
                self._shard.close()
                self._shard = None

    def _new_path(self) -> Path:
        """A name that no other process takes, and that sorts by time."""
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        moment = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}.{nanoseconds // 1000:06d}"
        self._shards += 1
        return self.directory / f"shard-{moment}-{os.getpid()}-{self._shards}"

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is None or not self._broken:
            self.close()


class _Shard:
    """One shard's open files."""

    def __init__(self, path: Path, info: Mapping[str, Any], columns: Mapping[str, Column]) -> None:
        # The header is complete before the shard has its final name, so a reader never meets half a header.
        hidden = path.with_name(f".{path.name}")
        hidden.mkdir()
        arrays = {name: [column.dtype, column.ndim] for name, column in columns.items()}
        header = {"version": VERSION, "arrays": arrays, "info": dict(info)}
        (hidden / "shard.json").write_text(json.dumps(header, indent=1), encoding="utf-8")
        hidden.rename(path)
        self._columns = columns
        self._files = {name: _Appender(path / f"{name}.bin") for name in columns}
        self._lines = _Appender(path / "rows.jsonl")
        self.rows = 0

    def write(self, records: list[AnswerRecord]) -> None:
        places: list[dict[str, list[Any]]] = [{} for _ in records]
        for name, file in self._files.items():
            column = self._columns[name]
            values = [record.array(name) for record in records]
            blocks = [
                np.ascontiguousarray(column.empty() if value is None else value, dtype=column.dtype) for value in values
            ]
            start = file.size
            for place, block in zip(places, blocks, strict=True):
                place[name] = [start, list(block.shape)]
                start += block.nbytes
            file.write(b"".join(block.tobytes() for block in blocks))
        lines = []
        for record, place in zip(records, places, strict=True):
            row = {name: getattr(record, name) for name in SCALARS}
            row |= {"seconds": dict(record.seconds), "meta": dict(record.meta), "arrays": place}
            lines.append(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")
        self._lines.write("".join(lines).encode("utf-8"))
        self.rows += len(records)

    def close(self) -> None:
        for file in (*self._files.values(), self._lines):
            file.close()


class _Appender:
    """An unbuffered file: bytes that `write` returned from are out of the process, so a kill can't lose them."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self.size = 0

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            done = os.write(self._descriptor, view)
            self.size += done
            view = view[done:]

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _explained:  # noqa: N801
    """Turns an operating system's refusal into one clear message and remembers that the writer is broken."""

    def __init__(self, directory: Path, writer: TraceWriter) -> None:
        self._directory, self._writer = directory, writer

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is not None:
            self._writer._broken = True
        if isinstance(error, OSError):
            raise LareError(
                f"can't write the trace {str(self._directory)!r} ({error.strerror or error}); free space there or give "
                f"another directory. The {self._writer.written} answers written before this are kept and can be read"
            ) from error


def _plain(value: Any) -> Any:
    """Let numpy's scalars and arrays through to JSON."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise LareError(f"a trace holds text, numbers and lists of them, but was given a {type(value).__name__}: {value!r}")


def _claim(directory: Path) -> None:
    """Write the manifest, or check the one that is there."""
    manifest = directory / "manifest.json"
    if not manifest.exists():
        if any(not entry.name.startswith(".") for entry in directory.iterdir()) and not manifest.exists():
            raise LareError(f"{str(directory)!r} holds other files and no traces; give a new or empty directory")
        temporary = directory / f".manifest-{os.getpid()}"
        temporary.write_text(json.dumps({"format": FORMAT, "version": VERSION}) + "\n", encoding="utf-8")
        temporary.replace(manifest)
    read_manifest(directory)


def read_manifest(directory: Path) -> None:
    """Check that a directory holds traces of a version that this code knows.

    Raises:
        LareError: If it does not.
    """
    if not directory.is_dir():
        raise LareError(f"there is no trace directory {str(directory)!r}; evaluate with trace=DIRECTORY first")
    try:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        name, version = manifest["format"], int(manifest["version"])
    except (OSError, ValueError, KeyError, TypeError):
        name, version = "", 0
    if name != FORMAT:
        raise LareError(f"{str(directory)!r} is not a trace directory (no {FORMAT} manifest.json); check the path")
    if version > VERSION:
        raise LareError(
            f"the trace {str(directory)!r} has format version {version}, this lare reads up to {VERSION}; update lare"
        )
