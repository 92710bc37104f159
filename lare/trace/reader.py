"""Reads trace directories: a column at a time, or record by record, without loading everything."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from lare.errors import LareError
from lare.trace.record import ADDED, ARRAYS, SCALARS, AnswerRecord, Column, check_columns, is_plain
from lare.trace.writer import read_manifest

__all__ = ["ArrayColumn", "TraceReader"]


class TraceReader:
    """All answers in one or more trace directories, in the order in which they were given.

    Opening notes where each answer's line begins and nothing else. An answer that was given twice (a run that was
    killed between writing the trace and noting the answer) counts once, by its `key`; the later one is taken.

    Args:
        directories: What `TraceWriter` wrote. They may still be written to: answers flushed so far are seen.

    Attributes:
        infos: The facts about the run that each shard carries, in the order of the shards.
        directories: The directories, as they were given.

    Raises:
        LareError: If a directory is missing, foreign or of a newer format, or a file in it is damaged.

    Example:
        >>> traces = TraceReader("traces")  # doctest: +SKIP
        >>> saliency = traces.select(task="lare_mini_mmstar").column("saliency")  # doctest: +SKIP
        >>> saliency[0].shape  # doctest: +SKIP
        (4, 6, 6)
    """

    def __init__(self, *directories: str | os.PathLike[str]) -> None:
        if not directories:
            raise LareError("TraceReader needs at least one trace directory")
        self.directories = tuple(Path(directory) for directory in directories)
        self._shards = [shard for directory in directories for shard in _open_shards(Path(directory))]
        self._places = _index(self._shards)
        self.infos: list[Mapping[str, Any]] = [shard.info for shard in self._shards]

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[AnswerRecord]:
        for shard, row in self._rows():
            yield _record(shard, row)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names that `column` takes."""
        return (*SCALARS, *ARRAYS, *self.own)

    @property
    def own(self) -> tuple[str, ...]:
        """Names of the array columns that methods declared themselves."""
        names = {name: None for shard in self._shards for name in shard.dtypes if name not in ARRAYS}
        return tuple(names)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Type in which an array column is stored.

        Raises:
            LareError: If there is no such array column, or shards store it differently.
        """
        kinds = {(shard.dtypes[name], shard.ndims[name]) for shard in self._shards if name in shard.dtypes}
        if not kinds and name not in ARRAYS:
            raise LareError(f"a trace has no array column {name!r}; it has {', '.join((*ARRAYS, *self.own))}")
        if len(kinds) > 1:
            raise LareError(f"the column {name!r} has several types in these traces; read them one by one")
        return np.dtype(kinds.pop()[0] if kinds else ARRAYS[name].dtype)

    def ndim(self, name: str) -> int:
        """Number of axes of an array column."""
        found = [shard.ndims[name] for shard in self._shards if name in shard.ndims]
        return found[0] if found else ARRAYS[name].ndim

    @overload
    def column(self, name: str) -> Any: ...
    @overload
    def column(self, name: str, default: Any) -> Any: ...
    def column(self, name: str, default: Any = None) -> Any:
        """One column: a list for text and numbers, an `ArrayColumn` for arrays.

        ``meta.<fact>`` and ``seconds.<phase>`` give one entry of those dictionaries.

        Args:
            name: One of `columns`, or ``meta.<fact>`` or ``seconds.<phase>``.
            default: Value in the list where an answer lacks the fact.

        Raises:
            LareError: If there is no such column, or a file is shorter than its answers need.
        """
        if name in ARRAYS or name in self.own:
            return ArrayColumn([self._place(shard, row, name) for shard, row in self._rows()])
        if name in SCALARS:
            return [_scalar(row, name) for _, row in self._rows()]
        group, _, fact = name.partition(".")
        if group in ("meta", "seconds") and fact:
            return [row[group].get(fact, default) for _, row in self._rows()]
        raise LareError(f"a trace has no column {name!r}; it has {', '.join(self.columns)} and meta.<fact>")

    def select(self, **equal: Any) -> TraceReader:
        """The answers whose columns equal the given values, such as ``select(method="lare", task="pope")``.

        Raises:
            LareError: If a name is no column of text or numbers.
        """
        unknown = sorted(set(equal) - set(SCALARS))
        if unknown:
            raise LareError(f"can't select traces by {', '.join(unknown)}; choose from {', '.join(SCALARS)}")
        chosen = TraceReader.__new__(TraceReader)
        chosen._shards, chosen.infos, chosen.directories = self._shards, self.infos, self.directories
        rows = zip(self._places, self._rows(), strict=True)
        chosen._places = [place for place, (_, row) in rows if all(_scalar(row, name) == equal[name] for name in equal)]
        return chosen

    def _place(self, shard: _Shard, row: Mapping[str, Any], name: str) -> tuple[_Shard, str, int, list[int]]:
        """Where an answer's array lies, and its shape; an empty one where its method did not have the column."""
        if name in shard.dtypes:
            return shard, name, *row["arrays"][name]
        other = next(one for one in self._shards if name in one.dtypes)
        return other, name, 0, [0] * other.ndims[name]

    def _rows(self) -> Iterator[tuple[_Shard, dict[str, Any]]]:
        current, file = -1, None
        try:
            for number, start in self._places:
                if number != current:
                    if file is not None:
                        file.close()
                    file = (self._shards[number].path / "rows.jsonl").open("rb")
                    current = number
                assert file is not None
                file.seek(start)
                yield self._shards[number], json.loads(file.readline())
        finally:
            if file is not None:
                file.close()


class ArrayColumn(Sequence[npt.NDArray[Any]]):
    """One array column: item i is the array of answer i, mapped from the file when it is asked for."""

    def __init__(self, places: list[tuple[_Shard, str, int, list[int]]]) -> None:
        self._places = places
        for shard, name, start, shape in places:
            shard.check(name, start, shape)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> ArrayColumn: ...
    def __getitem__(self, index: int | slice) -> npt.NDArray[Any] | ArrayColumn:
        if isinstance(index, slice):
            return ArrayColumn(self._places[index])
        shard, name, start, shape = self._places[index]
        return shard.array(name, start, shape)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of every answer's array."""
        return [tuple(shape) for *_, shape in self._places]

    def stack(self) -> npt.NDArray[Any]:
        """All arrays as one, (answers, ...).

        Raises:
            LareError: If shapes differ, as with adaptive numbers of steps.
        """
        shapes = sorted(set(self.shapes))
        if len(shapes) > 1:
            raise LareError(f"arrays of different shapes can't be stacked ({shapes[0]}, {shapes[1]}); read them singly")
        return np.stack(list(self)) if self._places else np.zeros((0,))


@dataclass(frozen=True)
class _Shard:
    """An opened shard: its header, and its array files once they are touched."""

    path: Path
    info: Mapping[str, Any]
    dtypes: Mapping[str, str]
    ndims: Mapping[str, int]
    maps: dict[str, npt.NDArray[Any]]

    def bytes_of(self, name: str) -> int:
        file = self.path / f"{name}.bin"
        return file.stat().st_size if file.exists() else 0

    def check(self, name: str, start: int, shape: Sequence[int]) -> None:
        count = int(np.prod(shape, dtype=np.int64))
        needed = start + count * np.dtype(self.dtypes[name]).itemsize if count else 0
        have = self.maps[name].nbytes if name in self.maps else 0
        if needed > have and needed > (have := self.bytes_of(name)):
            raise LareError(
                f"{str(self.path / name)!r}.bin has {have} bytes, its answers need {needed}: it was cut after it was "
                "written; restore the file, or delete the whole shard to go on without its answers"
            )

    def array(self, name: str, start: int, shape: Sequence[int]) -> npt.NDArray[Any]:
        dtype = np.dtype(self.dtypes[name])
        count = int(np.prod(shape, dtype=np.int64))
        if count == 0:
            return np.zeros(shape, dtype=dtype)
        first = start // dtype.itemsize
        if name not in self.maps or len(self.maps[name]) < first + count:  # the file may have grown since
            self.maps[name] = np.memmap(self.path / f"{name}.bin", dtype=dtype, mode="r")
        return self.maps[name][first : first + count].reshape(shape)


def _open_shards(directory: Path) -> list[_Shard]:
    read_manifest(directory)
    return [_open_shard(path) for path in sorted(directory.glob("shard-*")) if path.is_dir()]


def _open_shard(path: Path) -> _Shard:
    try:
        header = json.loads((path / "shard.json").read_text(encoding="utf-8"))
        declared = {str(name): (str(kind[0]), int(kind[1])) for name, kind in header["arrays"].items()}
        if lacking := set(ARRAYS) - set(declared):
            raise ValueError(f"no type of {', '.join(sorted(lacking))}")
        check_columns(
            {name: Column(dtype, ("",) * ndim) for name, (dtype, ndim) in declared.items() if name not in ARRAYS}
        )
        if not all(is_plain(declared[name][0]) for name in ARRAYS):
            raise ValueError("a column is not of numbers")
        dtypes = {name: str(np.dtype(dtype).str) for name, (dtype, _) in declared.items()}
        return _Shard(path, header["info"], dtypes, {name: ndim for name, (_, ndim) in declared.items()}, {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, LareError) as error:
        raise LareError(f"the trace shard {str(path)!r} has no readable shard.json ({error}); delete it") from None


def _index(shards: list[_Shard]) -> list[tuple[int, int]]:
    """(shard, start of line) of each answer; a last line without its newline is the mark of a kill, and left out."""
    places: list[tuple[int, int] | None] = []
    seen: dict[str, int] = {}
    for number, shard in enumerate(shards):
        rows = shard.path / "rows.jsonl"
        if not rows.exists():
            continue
        start = 0
        with rows.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                key = _key_of(line, rows)
                if key in seen:
                    places[seen[key]] = None
                if key:
                    seen[key] = len(places)
                places.append((number, start))
                start += len(line)
    return [place for place in places if place is not None]


def _key_of(line: bytes, rows: Path) -> str:
    try:
        row = json.loads(line)
        if set(ARRAYS) - set(row["arrays"]) or set(SCALARS) - set(ADDED) - set(row):
            raise ValueError("columns are missing")
        return str(row["key"])
    except (ValueError, KeyError, TypeError) as error:
        raise LareError(
            f"{str(rows)!r} has a damaged line ({error}); restore the file, or delete its shard to go on without it"
        ) from None


def _scalar(row: Mapping[str, Any], name: str) -> Any:
    return row[name] if name in row or name not in ADDED else ADDED[name](row)


def _record(shard: _Shard, row: dict[str, Any]) -> AnswerRecord:
    arrays: dict[str, Any] = {}
    for name in shard.dtypes:
        shard.check(name, *row["arrays"][name])
        arrays[name] = shard.array(name, *row["arrays"][name])
    own = {name: arrays.pop(name) for name in list(arrays) if name not in ARRAYS}
    return AnswerRecord(**{name: _scalar(row, name) for name in SCALARS}, **arrays, own=own)
