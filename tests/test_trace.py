"""The trace keeps what was written through kills, full disks and damage, and says clearly what it can't read."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lare import LareError
from lare.trace import ARRAYS, SCALARS, AnswerRecord, Column, TraceReader, TraceWriter


def make_record(number: int, steps: int = 2, prompt: int = 5, **changes) -> AnswerRecord:
    rng = np.random.default_rng(number)
    values = {
        "method": "lare",
        "checkpoint": "abc",
        "task": "lare_mini_pope" if number % 2 else "lare_mini_mmvp",
        "doc_id": number,
        "question": f"Is thing {number} red? ünï 图",
        "text": "It is.\nAnswer: yes",
        "answer": "yes",
        "input_tokens": prompt,
        "output_tokens": 6,
        "latent_steps": steps,
        "stop_reason": "fixed",
        "prompt_ids": rng.integers(0, 100, prompt),
        "latents": rng.normal(size=(steps, 1, 8)).astype(np.float32),
        "windows": rng.integers(0, 4, (steps, 2)),
        "saliency": rng.random((steps, 3, 3)),
        "cross_attention": rng.random((steps, 4)),
        "attention_shares": rng.random((2, 2, 2, 4)),
        "seconds": {"think": 0.25, "decode": 0.5},
        "meta": {"category": "random", "hops": number},
        "key": f"k{number}",
    }
    return AnswerRecord(**{**values, **changes})


def write(directory: Path, numbers, **options) -> None:
    with TraceWriter(directory, **options) as writer:
        for number in numbers:
            writer.append(make_record(number))


def assert_same(read: AnswerRecord, written: AnswerRecord) -> None:
    for name in SCALARS:
        assert getattr(read, name) == getattr(written, name), name
    for name, (dtype, _) in ARRAYS.items():
        expected = np.asarray(getattr(written, name)).astype(dtype)
        np.testing.assert_array_equal(getattr(read, name), expected, err_msg=name)


def test_round_trip_keeps_every_column(tmp_path):
    records = [make_record(n, steps=n % 4, prompt=3 + n) for n in range(7)]
    with TraceWriter(tmp_path / "t", info={"config": {"grid": 3}}, shard_rows=3) as writer:
        for record in records:
            writer.append(record)
    reader = TraceReader(tmp_path / "t")
    assert len(reader) == 7
    assert len(reader.infos) == 3 and reader.infos[0] == {"config": {"grid": 3}}
    for read, record in zip(reader, records, strict=True):
        assert_same(read, record)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=8), st.integers(1, 4))
def test_ragged_arrays_round_trip(tmp_path_factory, shapes, shard_rows):
    directory = tmp_path_factory.mktemp("ragged")
    records = [make_record(n, steps=steps, prompt=prompt) for n, (steps, prompt) in enumerate(shapes)]
    with TraceWriter(directory, shard_rows=shard_rows) as writer:
        for record in records:
            writer.append(record)
            writer.flush()
    column = TraceReader(directory).column("latents")
    assert column.shapes == [(steps, 1, 8) for steps, _ in shapes]
    for record, read in zip(records, TraceReader(directory), strict=True):
        assert_same(read, record)


def test_columns_come_one_by_one(tmp_path):
    write(tmp_path, range(5))
    # A column must not need the other columns' files.
    shard = next(tmp_path.glob("shard-*"))
    (shard / "latents.bin").unlink()
    reader = TraceReader(tmp_path)
    assert reader.column("doc_id") == [0, 1, 2, 3, 4]
    assert reader.column("meta.hops") == [0, 1, 2, 3, 4]
    assert reader.column("meta.colour", "none") == ["none"] * 5
    assert reader.column("seconds.think") == [0.25] * 5
    saliency = reader.column("saliency")
    assert isinstance(saliency[2].base, np.ndarray)  # a view of the mapped file, not a copy
    assert saliency.stack().shape == (5, 2, 3, 3)
    assert len(saliency[1:3]) == 2
    with pytest.raises(LareError, match="latents.*0 bytes"):
        reader.column("latents")


def test_stack_refuses_different_shapes(tmp_path):
    with TraceWriter(tmp_path) as writer:
        writer.append(make_record(1, steps=1))
        writer.append(make_record(2, steps=3))
    with pytest.raises(LareError, match="different shapes"):
        TraceReader(tmp_path).column("latents").stack()


def test_select_and_several_directories(tmp_path):
    write(tmp_path / "a", range(4))
    write(tmp_path / "b", range(4, 6))
    reader = TraceReader(tmp_path / "a", tmp_path / "b")
    assert len(reader) == 6
    chosen = reader.select(task="lare_mini_pope")
    assert chosen.column("doc_id") == [1, 3, 5]
    assert len(chosen.select(doc_id=3)) == 1
    with pytest.raises(LareError, match="colour"):
        reader.select(colour=3)


def test_of_equal_keys_the_last_counts(tmp_path):
    with TraceWriter(tmp_path) as writer:
        for text in ("first", "second"):
            writer.append(make_record(1, text=text, key="same"))
        writer.append(make_record(2, key=""))
        writer.append(make_record(3, key=""))
    assert TraceReader(tmp_path).column("text")[0] == "second"
    assert len(TraceReader(tmp_path)) == 3


def test_writers_share_a_directory_and_readers_see_a_running_one(tmp_path):
    one, two = TraceWriter(tmp_path), TraceWriter(tmp_path)
    one.append(make_record(1))
    one.flush()
    assert len(TraceReader(tmp_path)) == 1
    two.append(make_record(2))
    two.flush()
    assert sorted(TraceReader(tmp_path).column("doc_id")) == [1, 2]
    one.append(make_record(3))
    one.close()
    two.close()
    assert sorted(TraceReader(tmp_path).column("doc_id")) == [1, 2, 3]


def test_kill_loses_at_most_what_was_not_flushed(tmp_path):
    child = os.fork()
    if child == 0:  # pragma: no cover - dies by SIGKILL
        writer = TraceWriter(tmp_path)
        for number in range(10):
            writer.append(make_record(number))
            if number == 6:
                writer.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert TraceReader(tmp_path).column("doc_id") == list(range(7))
    write(tmp_path, [50])  # and the directory can be added to
    assert TraceReader(tmp_path).column("doc_id") == [*range(7), 50]


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_torn_last_line_is_left_out(tmp_path, cut):
    write(tmp_path, range(3))
    rows = next(tmp_path.glob("shard-*")) / "rows.jsonl"
    rows.write_bytes(rows.read_bytes()[:-cut])
    reader = TraceReader(tmp_path)
    assert reader.column("doc_id") == [0, 1]
    assert reader.column("latents").stack().shape == (2, 2, 1, 8)


def test_cut_array_file_is_named(tmp_path):
    write(tmp_path, range(3))
    file = next(tmp_path.glob("shard-*")) / "saliency.bin"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(LareError, match="saliency.*cut after it was written"):
        TraceReader(tmp_path).column("saliency")
    with pytest.raises(LareError, match="saliency"):
        list(TraceReader(tmp_path))
    assert TraceReader(tmp_path).column("text")[2].endswith("yes")


def test_foreign_damaged_and_newer_directories(tmp_path):
    with pytest.raises(LareError, match="no trace directory"):
        TraceReader(tmp_path / "absent")
    with pytest.raises(LareError, match="at least one"):
        TraceReader()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    with pytest.raises(LareError, match="not a trace directory"):
        TraceReader(foreign)
    with pytest.raises(LareError, match="other files"):
        TraceWriter(foreign)
    write(tmp_path / "t", range(2))
    (tmp_path / "t" / "manifest.json").write_text(json.dumps({"format": "lare-trace", "version": 99}))
    with pytest.raises(LareError, match="version 99.*update lare"):
        TraceReader(tmp_path / "t")
    write(tmp_path / "u", range(2))
    shard = next((tmp_path / "u").glob("shard-*"))
    lines = (shard / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (shard / "rows.jsonl").write_bytes(b"not json\n" + lines[1])
    with pytest.raises(LareError, match=r"damaged line"):
        TraceReader(tmp_path / "u")
    (shard / "shard.json").write_text("[]")
    with pytest.raises(LareError, match=r"no readable shard.json"):
        TraceReader(tmp_path / "u")


def test_wrong_axes_and_unknown_columns(tmp_path):
    with pytest.raises(LareError, match="'latents' needs 3 axes"):
        make_record(1, latents=np.zeros((2, 8)))
    write(tmp_path, [1])
    with pytest.raises(LareError, match="no column 'colour'"):
        TraceReader(tmp_path).column("colour")
    writer = TraceWriter(tmp_path)
    writer.append(make_record(2, meta={"image": object()}))
    with pytest.raises(LareError, match="text, numbers"):
        writer.flush()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a file size limit")
def test_full_disk_is_one_clear_error_and_loses_nothing(tmp_path):
    writer = TraceWriter(tmp_path)
    writer.append(make_record(0))
    writer.flush()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writer.append(make_record(1))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
        with pytest.raises(LareError, match="free space there.*The 1 answers written before"):
            writer.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    with pytest.raises(LareError, match="earlier write"):
        writer.flush()
    assert TraceReader(tmp_path).column("doc_id") == [0]
    assert_same(next(iter(TraceReader(tmp_path))), make_record(0))


def test_no_pickle_anywhere(tmp_path):
    write(tmp_path, range(2))
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or path.suffix in {".json", ".jsonl", ".bin"}


OWN = {"crop": Column("<i2", (4,)), "inserted": Column("<f4", ("n", 3)), "kept": Column("|b1", ("n",))}


@settings(max_examples=15, deadline=None)
@given(st.lists(st.none() | st.integers(0, 5), min_size=1, max_size=8), st.integers(1, 4))
def test_a_methods_own_columns_come_back(tmp_path_factory, counts, shard_rows):
    """Left out or ragged, next to answers of a method that has no such column."""
    folder, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    written = [
        {}
        if count is None
        else {
            "crop": rng.integers(-9, 9, 4),
            "inserted": rng.normal(size=(count, 3)).astype(np.float32),
            "kept": rng.random(count) > 0.5,
        }
        for count in counts
    ]
    with TraceWriter(folder / "rival", shard_rows=shard_rows, columns=OWN) as writer:
        for number, own in enumerate(written):
            writer.append(make_record(number, own=own))
    write(folder / "plain", [99])
    reader = TraceReader(folder / "rival", folder / "plain")
    assert reader.own == tuple(OWN) and reader.columns[-3:] == tuple(OWN)
    for name, column in OWN.items():
        found = reader.column(name)
        assert len(found) == len(written) + 1 and reader.dtype(name) == np.dtype(column.dtype)
        for value, own in zip(found, [*written, {}], strict=True):
            np.testing.assert_array_equal(value, own.get(name, column.empty()))
            assert value.dtype == np.dtype(column.dtype)
    for record, own in zip(reader, [*written, {}], strict=True):
        assert {name for name, value in record.own.items() if value.size} <= set(own)
        for name, value in own.items():
            np.testing.assert_array_equal(record.own[name], value)
    assert_same(next(iter(reader)), make_record(0))


def test_own_columns_that_do_not_fit_are_refused_and_nothing_is_lost(tmp_path):
    for name, column, message in [
        ("latents", Column("<f4", ("n",)), "can't be named 'latents'"),
        ("text", Column("<f4", ("n",)), "can't be named 'text'"),
        ("../up", Column("<f4", ("n",)), "can't be named"),
        ("words", Column("O", ("n",)), "a numpy type of numbers"),
        ("words", Column("no type", ("n",)), "a numpy type of numbers"),
        ("words", Column("<f4", ()), "and its axes"),
    ]:
        with pytest.raises(LareError, match=message):
            TraceWriter(tmp_path / "none", columns={name: column})
    with TraceWriter(tmp_path / "t", columns=OWN) as writer:
        writer.append(make_record(0, own={"crop": [1, 2, 3, 4]}))
        with pytest.raises(LareError, match="'crops' is not declared"):
            writer.append(make_record(1, own={"crops": [1]}))
        with pytest.raises(LareError, match=r"'crop' is declared with shape \(4,\), but got \(3,\)"):
            writer.append(make_record(1, own={"crop": [1, 2, 3]}))
    assert [record.doc_id for record in TraceReader(tmp_path / "t")] == [0]


@pytest.mark.parametrize("header", [{"../up": ["<f4", 1]}, {"objects": ["O", 1]}, {"latents": ["O", 3]}, {"x": "<f4"}])
def test_a_shard_whose_columns_are_foreign_is_refused(tmp_path, header):
    write(tmp_path / "t", [0])
    (file,) = (tmp_path / "t").glob("shard-*/shard.json")
    content = json.loads(file.read_text())
    content["arrays"] |= header
    file.write_text(json.dumps(content))
    with pytest.raises(LareError, match=r"no readable shard.json"):
        TraceReader(tmp_path / "t")


def test_traces_from_before_costs_were_kept_are_read_with_what_they_were(tmp_path):
    write(tmp_path, [1, 2], info={})
    (rows,) = tmp_path.glob("shard-*/rows.jsonl")
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    for line in lines:
        del line["extra_visual_tokens"], line["decoder_passes"]
    rows.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    reader = TraceReader(tmp_path)
    steps, written = reader.column("latent_steps"), reader.column("output_tokens")
    passes = [1 + one + other for one, other in zip(steps, written, strict=True)]
    assert reader.column("decoder_passes") == passes == [record.decoder_passes for record in reader]
    assert reader.column("extra_visual_tokens") == [0, 0] and len(reader.select(extra_visual_tokens=0)) == 2
    with TraceWriter(tmp_path) as writer:
        writer.append(make_record(3, extra_visual_tokens=16, decoder_passes=9))
    assert TraceReader(tmp_path).column("decoder_passes") == [*passes, 9]
