"""A trace as one Parquet file, for pandas, polars, DuckDB, R and other programs without LaRe.

One row is an answer. Text and whole numbers are columns of their own types; ``seconds`` is a map from phase to seconds;
``meta`` is a JSON text, since tasks differ in their facts. An array column is a list, of lists where it has several
axes: ``latents`` (K, m, d) is a list of K lists of m lists of d numbers. Half-precision numbers are widened to single
precision, which many readers need. What each run was is in the file's metadata, as JSON under ``lare.runs``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lare.errors import LareError
from lare.trace.reader import TraceReader
from lare.trace.record import SCALARS, AnswerRecord

if TYPE_CHECKING:
    import pyarrow

__all__ = ["export"]

BATCH = 256
"""Answers in memory at once, which make one row group."""


def export(traces: TraceReader, out: str | os.PathLike[str], columns: Sequence[str] = (), batch: int = BATCH) -> int:
    """Write answers to a Parquet file; only `batch` of them are in memory at a time.

    Args:
        traces: What to write.
        out: The file; an older one stays until the new one is whole.
        columns: Which columns, in the reader's order; none given means all.
        batch: Answers that make one row group.

    Returns:
        How many answers were written.

    Raises:
        LareError: If pyarrow is missing, a column is unknown or of several types, or the file can't be written.
    """
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise LareError("writing Parquet needs pyarrow; install it with pip install 'lare[analysis]'") from None
    if unknown := sorted(set(columns) - set(traces.columns)):
        raise LareError(f"the traces have no column {', '.join(unknown)}; they have {', '.join(traces.columns)}")
    names = [name for name in traces.columns if not columns or name in columns]
    schema = _schema(traces, names)
    target = Path(out)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    written = 0
    try:
        with pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for records in _batches(iter(traces), batch):
                values = [_values(name, schema.field(name).type, records) for name in names]
                writer.write_table(pyarrow.Table.from_arrays(values, schema=schema), row_group_size=len(records))
                written += len(records)
        temporary.replace(target)
    except OSError as error:
        raise LareError(f"can't write {str(target)!r} ({error.strerror or error}); give another file") from None
    finally:
        temporary.unlink(missing_ok=True)
    return written


def _batches(records: Iterator[AnswerRecord], size: int) -> Iterator[list[AnswerRecord]]:
    while batch := list(islice(records, size)):
        yield batch


def _schema(traces: TraceReader, names: Iterable[str]) -> pyarrow.Schema:
    import pyarrow as pa

    scalars = {"int": pa.int64(), "str": pa.string()}
    kinds = {str(one.name): scalars.get(str(one.type)) for one in fields(AnswerRecord)}
    kinds |= {"seconds": pa.map_(pa.string(), pa.float64()), "meta": pa.string()}
    columns = [(name, kinds[name] if name in SCALARS else _list_type(traces, name)) for name in names]
    runs = json.dumps([dict(info) for info in traces.infos], ensure_ascii=False, default=str)
    return pa.schema(columns, metadata={"lare.runs": runs})


def _list_type(traces: TraceReader, name: str) -> pyarrow.DataType:
    import pyarrow as pa

    kind = pa.from_numpy_dtype(_wide(traces.dtype(name)))
    for _ in range(traces.ndim(name)):
        kind = pa.list_(kind)
    return kind


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float32) if dtype == np.float16 else dtype.newbyteorder("=")


def _values(name: str, kind: pyarrow.DataType, records: Sequence[AnswerRecord]) -> pyarrow.Array:
    """One column of some answers."""
    import pyarrow as pa

    if name not in SCALARS:
        empty = np.zeros((0,) * _depth(kind), dtype=np.float32)
        values = [record.array(name) for record in records]
        return _nested([empty if value is None else value for value in values], kind)
    column = [getattr(record, name) for record in records]
    if name == "seconds":
        column = [list(phases.items()) for phases in column]
    if name == "meta":
        column = [json.dumps(facts, ensure_ascii=False) for facts in column]
    return pa.array(column, kind)


def _depth(kind: pyarrow.DataType) -> int:
    import pyarrow as pa

    depth = 0
    while pa.types.is_list(kind):
        kind, depth = kind.value_type, depth + 1
    return depth


def _nested(arrays: Sequence[npt.NDArray[Any]], kind: pyarrow.DataType) -> pyarrow.Array:
    """Arrays of one number of axes as nested lists, made level by level from the innermost numbers outwards."""
    import pyarrow as pa

    inner, shapes = kind, np.array([array.shape for array in arrays], dtype=np.int64)
    for _ in range(shapes.shape[1]):
        inner = inner.value_type
    found = pa.array(np.concatenate([array.ravel() for array in arrays]).astype(inner.to_pandas_dtype()), inner)
    for axis in reversed(range(shapes.shape[1])):
        lists = shapes[:, :axis].prod(1)  # how many lists of this level an answer has
        lengths = np.repeat(shapes[:, axis], lists)
        offsets = np.concatenate([[0], lengths.cumsum()])
        found = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), found)
    return found
