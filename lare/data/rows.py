"""Rows of JSON, JSON Lines and Parquet files, one at a time: a file of gigabytes is never held whole.

A JSON array is read through a sliding buffer by the standard library's decoder. Where a row is no JSON, the row is
given out as a `BadRow` and reading goes on at the next place that looks like the start of a row, so that one bad byte
costs one row and not the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from lare.data.sample import BadRow
from lare.errors import LareError

__all__ = ["MAX_ROW", "read_rows"]

MAX_ROW = 64 * 2**20
"""Longest row of a JSON array, in characters; longer ones are taken for a missing quotation mark."""

_CHUNK = 2**20
_SPACE = re.compile(r"[ \t\r\n]*")

Progress = Callable[[int], object]


def read_rows(path: Path, progress: Progress | None = None) -> Iterator[Any]:
    """Yield a file's rows in order.

    Args:
        path: ``.json`` (an array, or an object a line), ``.jsonl`` or ``.parquet``.
        progress: Called with the number of bytes read since the last call.

    Yields:
        The decoded row, or a `BadRow` in the place of one that can't be decoded.

    Raises:
        LareError: If the file is missing, unreadable, of another kind, or is JSON but no list of rows.
    """
    if not path.is_file():
        raise LareError(f"there is no file {str(path)!r}; check the path to the data")
    readers = {".json": _json, ".jsonl": _lines, ".ndjson": _lines, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise LareError(f"{str(path)!r} is of no known kind; give a file ending in {', '.join(readers)}")
    try:
        yield from reader(path, progress or (lambda _: None))
    except OSError as error:
        raise LareError(f"{str(path)!r} can't be read ({error}); check the file and its permissions") from None


def _open(path: Path) -> TextIO:
    # Bytes that are no UTF-8 become lone surrogates, which the parsers refuse row by row.
    return open(path, encoding="utf-8-sig", errors="surrogateescape")


def _lines(path: Path, progress: Progress) -> Iterator[Any]:
    with _open(path) as file:
        for line in file:
            progress(len(line))
            if line.strip():
                yield _decode(line)


def _decode(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRow("not_json", f"the line is no JSON ({error})")


def _json(path: Path, progress: Progress) -> Iterator[Any]:
    with _open(path) as file:
        head = file.read(_CHUNK)
        start = head.lstrip()[:1]
    if start == "[":
        yield from _Array(path, progress).rows()
    elif start == "{":
        yield from _lines(path, progress)
    else:
        raise LareError(f"{str(path)!r} is no JSON list of rows; it should start with '[' or hold an object a line")


class _Array:
    """A JSON array read row by row."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self.path, self.progress = path, progress
        self.buffer, self.at, self.ended = "", 0, False
        self.first_key = "id"
        self.decoder = json.JSONDecoder()

    def rows(self) -> Iterator[Any]:
        with _open(self.path) as self.file:
            self._skip()
            self.at += 1  # the opening bracket
            while self._peek() not in ("]", ""):
                yield self._row()
                if self._peek() == ",":
                    self.at += 1
            if self._peek() == "":
                yield BadRow("cut_off", "the file ends before its list does; download or write it again")
                return
            self.at += 1
            if self._peek() != "":
                yield BadRow("trailing_text", "there is text after the list's closing bracket")

    def _row(self) -> Any:
        while True:
            try:
                value, end = self.decoder.raw_decode(self.buffer, self.at)
            except (ValueError, RecursionError) as error:
                if self._may_be_unfinished(error) and self._more():
                    continue
                self._resynchronise()
                return BadRow("not_json", f"the row is no JSON ({str(error).split(': line')[0]})")
            if isinstance(value, (int, float)) and end > len(self.buffer) - 4 and self._more():
                continue  # a number may go on in the next chunk: "1" and ".5", "1e+" and "9"
            self.at = end
            if isinstance(value, dict) and value:
                self.first_key = next(iter(value))
            return value

    def _may_be_unfinished(self, error: Exception) -> bool:
        if not isinstance(error, json.JSONDecodeError) or len(self.buffer) - self.at > MAX_ROW:
            return False
        # The decoder blames the start of a string that never ends, and else the place where it could not go on.
        return error.msg.startswith("Unterminated") or error.pos >= len(self.buffer) - 16

    def _resynchronise(self) -> None:
        """Go to the next `{"first key":` of a row, or to the end."""
        start = re.compile(r'\{\s*"' + re.escape(self.first_key) + '"')
        self.at += 1
        while True:
            found = start.search(self.buffer, self.at)
            if found is not None:
                self.at = found.start()
                return
            self.at = max(self.at, len(self.buffer) - len(self.first_key) - 64)
            if not self._more():
                closing = self.buffer.rstrip().endswith("]")
                self.at = len(self.buffer.rstrip()) - 1 if closing else len(self.buffer)
                return

    def _peek(self) -> str:
        self._skip()
        return self.buffer[self.at : self.at + 1]

    def _skip(self) -> None:
        while True:
            found = _SPACE.match(self.buffer, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.buffer) or not self._more():
                return

    def _more(self) -> bool:
        """Read on; drop what is done with."""
        if self.ended:
            return False
        chunk = self.file.read(_CHUNK)
        self.ended = not chunk
        if self.ended:  # places found in the buffer stay valid
            return False
        self.buffer, self.at = self.buffer[self.at :] + chunk, 0
        self.progress(len(chunk))
        return True


def _parquet(path: Path, progress: Progress) -> Iterator[Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise LareError("Parquet files need the package pyarrow; install it with pip install 'lare[train]'") from None
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=64):
                progress(batch.nbytes)
                yield from batch.to_pylist()
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        raise LareError(f"{str(path)!r} is no readable Parquet file ({error}); download it again") from None
