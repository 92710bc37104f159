"""A trace as Parquet says what the trace says, is written in parts, and is whole or not there."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from lare import LareError
from lare.cli import main
from lare.trace import ARRAYS, SCALARS, Column, TraceReader, TraceWriter
from lare.trace.parquet import export

from .test_trace import make_record, write

OWN = {"crops": Column("<f8", ("n", 4)), "flag": Column("|b1", ("n",)), "half": Column("<f2", ("n",))}


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.booleans()), min_size=1, max_size=7))
def test_every_value_comes_back(tmp_path_factory, shapes):
    folder, rng = tmp_path_factory.mktemp("parquet"), np.random.default_rng(0)
    with TraceWriter(folder / "t", info={"who": "ünï"}, shard_rows=3, columns=OWN) as writer:
        for number, (steps, count, own) in enumerate(shapes):
            values = {"crops": rng.normal(size=(count, 4)), "flag": rng.random(count) > 0.5, "half": rng.random(count)}
            writer.append(make_record(number, steps=steps, own=values if own else {}))
    reader = TraceReader(folder / "t")
    assert export(reader, folder / "t.parquet", batch=2) == len(shapes)
    table = parquet.read_table(folder / "t.parquet")
    assert table.column_names == list(reader.columns)
    for row, record in zip(table.to_pylist(), reader, strict=True):
        for name in SCALARS:
            value = json.loads(row[name]) if name == "meta" else dict(row[name]) if name == "seconds" else row[name]
            assert value == getattr(record, name), name
        for name in (*ARRAYS, *OWN):
            array = record.array(name)  # to_pylist knows no shape of an axis without numbers
            assert row[name] == array.astype(np.float32 if array.dtype == np.float16 else array.dtype).tolist(), name
    assert json.loads(table.schema.metadata[b"lare.runs"])[0] == {"who": "ünï"}


def test_a_file_is_written_in_parts_and_with_the_columns_asked_for(tmp_path):
    write(tmp_path / "t", range(10))
    reader = TraceReader(tmp_path / "t")
    export(reader.select(task="lare_mini_pope"), tmp_path / "t.parquet", ["latents", "doc_id"], batch=2)
    file = parquet.ParquetFile(tmp_path / "t.parquet")
    assert file.num_row_groups == 3 and file.schema_arrow.names == ["doc_id", "latents"]
    assert file.read()["doc_id"].to_pylist() == [1, 3, 5, 7, 9]
    with pytest.raises(LareError, match="no column colour; they have method"):
        export(reader, tmp_path / "t.parquet", ["colour"])


def test_pandas_reads_it(tmp_path):
    import pandas as pd

    write(tmp_path / "t", range(3))
    export(TraceReader(tmp_path / "t"), tmp_path / "t.parquet")
    table = pd.read_parquet(tmp_path / "t.parquet")
    windows = np.stack([np.stack(list(one)) for one in table["windows"]])
    np.testing.assert_array_equal(windows, TraceReader(tmp_path / "t").column("windows").stack())
    assert str(table["windows"].iloc[0][0].dtype) == "int16"


def test_an_older_file_stays_when_writing_fails(tmp_path):
    write(tmp_path / "t", range(3))
    reader, out = TraceReader(tmp_path / "t"), tmp_path / "t.parquet"
    export(reader, out)
    before = out.read_bytes()
    (file,) = (tmp_path / "t").glob("shard-*/latents.bin")
    file.write_bytes(b"")
    with pytest.raises(LareError, match="it was cut after it was written"):
        export(TraceReader(tmp_path / "t"), out)
    assert out.read_bytes() == before and {path.name for path in tmp_path.iterdir()} == {"t", "t.parquet"}


def test_the_command(tmp_path, capsys):
    write(tmp_path / "a", range(2))
    write(tmp_path / "b", range(2, 5))
    out = tmp_path / "both.parquet"
    words = ["trace", "export", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out), "--columns", "doc_id,text"]
    assert main(words) == 0 and "5 answers" in capsys.readouterr().out
    assert parquet.read_table(out).column_names == ["doc_id", "text"]
    for changed, message in [
        ({5: str(tmp_path / "no" / "x.parquet")}, "the folder of --out"),
        ({2: str(tmp_path / "absent")}, "no trace directory"),
        ({7: "colour"}, "no column colour"),
    ]:
        assert main([changed.get(place, word) for place, word in enumerate(words)]) == 2
        assert message in capsys.readouterr().err
