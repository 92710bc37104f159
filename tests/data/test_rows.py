"""Rows come out as they were written, whatever the chunks; one broken row costs one row."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lare.data import rows as rows_module
from lare.data.rows import read_rows
from lare.data.sample import BadRow
from lare.errors import LareError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(values=st.lists(VALUES, max_size=12), chunk=st.integers(1, 40), indent=st.sampled_from([None, 1]))
def test_arrays_come_back(tmp_path_factory, values, chunk, indent):
    path = tmp_path_factory.mktemp("rows") / "data.json"
    path.write_text(json.dumps(values, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "_CHUNK", max(chunk, 2))
        assert list(read_rows(path)) == values


@settings(deadline=None)
@given(values=st.lists(st.dictionaries(st.text(), VALUES, max_size=4), max_size=8))
def test_lines_come_back(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("rows") / "data.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    assert list(read_rows(path)) == values


def test_a_broken_row_costs_one_row(tmp_path, monkeypatch):
    good = [
        json.dumps({"id": str(i), "text": "word " * 20, "turns": [{"from": "a"}, {"from": "b"}]}) for i in range(60)
    ]
    broken = list(good)
    broken[7] = '{"id": "7", "text": oops, "turns": [{"from": "a"}, {"from": "b"}]}'
    broken[30] = '{"id": "30", "text": "x" "turns": [}'
    path = tmp_path / "data.json"
    path.write_text("[" + ",\n".join(broken) + "]")
    for chunk in (64, 1000, 2**20):
        monkeypatch.setattr(rows_module, "_CHUNK", chunk)
        found = list(read_rows(path))
        assert [i for i, row in enumerate(found) if isinstance(row, BadRow)] == [7, 30]
        assert [row["id"] for row in found if not isinstance(row, BadRow)] == [
            str(i) for i in range(60) if i not in (7, 30)
        ]


def test_a_cut_file_gives_what_it_has(tmp_path):
    whole = json.dumps([{"id": i, "text": "abc"} for i in range(20)])
    path = tmp_path / "data.json"
    path.write_text(whole[: len(whole) // 2])
    *found, last_row, end = list(read_rows(path))
    assert [row["id"] for row in found] == list(range(len(found))) and len(found) in (9, 10)
    assert isinstance(last_row, BadRow) and end.kind == "cut_off"


def test_text_behind_the_list_is_named(tmp_path):
    path = tmp_path / "data.json"
    path.write_text('[{"id": 1}] [')
    assert [getattr(row, "kind", row) for row in read_rows(path)] == [{"id": 1}, "trailing_text"]


def test_parquet_comes_back(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [{"id": str(i), "image": {"bytes": b"\x89P", "path": None}} for i in range(150)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data.parquet")
    assert list(read_rows(tmp_path / "data.parquet")) == rows
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "data.parquet").read_bytes()[:200])
    with pytest.raises(LareError, match=r"cut\.parquet.*Parquet"):
        list(read_rows(tmp_path / "cut.parquet"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [("none.json", None, "no file"), ("data.csv", "a,b", "no known kind"), ("data.json", "hello", "no JSON list")],
)
def test_files_that_cannot_be_read(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(LareError, match=message):
        list(read_rows(tmp_path / name))


def test_a_large_file_is_never_held_whole(tmp_path):
    import tracemalloc

    path = tmp_path / "data.json"
    row = json.dumps({"id": "x", "text": "y" * 2000})
    path.write_text("[" + ",".join([row] * 20_000) + "]")  # 40 MB
    tracemalloc.start()
    assert sum(1 for _ in read_rows(path)) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6
