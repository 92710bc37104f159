"""A pack is used again while nothing changes, made anew when something does, and never half there."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

import lare
from lare.data import Source
from lare.data.packed import pack
from lare.errors import LareError
from lare.model import LareProcessor
from tests.data.packing import packed, said, shipped, write
from tests.data.test_source import row


@pytest.fixture
def processor() -> LareProcessor:
    return shipped()


def stamp(folder: Path) -> int:
    return (folder / "run" / "pack" / "report.json").stat().st_ino


def test_a_pack_is_used_again_while_nothing_changes(tmp_path, processor):
    rows = [row("a"), row("b")]
    source, folder = Source(write(tmp_path, rows), "llava"), tmp_path / "run" / "pack"
    first = pack(source, processor, folder)
    marker = folder / "marker"
    marker.touch()
    processor.tokenizer(["a", "b c"], padding=True, truncation=True, max_length=3)  # leaves its mark on a tokenizer
    again = pack(source, processor, folder)
    assert marker.exists() and again.fingerprint == first.fingerprint
    assert again.offsets.tolist() == first.offsets.tolist()
    other = LareProcessor.from_pretrained(lare.default_checkpoint())
    assert pack(source, other, folder).fingerprint == first.fingerprint and marker.exists()


def test_a_pack_is_remade_when_the_file_changes(tmp_path, processor):
    first = packed(tmp_path, [row("a"), row("b")])
    (tmp_path / "run" / "pack" / "marker").touch()
    second = packed(tmp_path, [row("a"), row("b"), row("c")])
    assert (len(first), len(second)) == (2, 3) and first.fingerprint != second.fingerprint
    assert not (tmp_path / "run" / "pack" / "marker").exists()
    same_size = write(tmp_path, [row("a"), row("b"), row("d")])
    os.utime(same_size, ns=(0, 1))
    assert pack(Source(same_size, "llava"), processor, tmp_path / "run" / "pack").fingerprint != second.fingerprint


@pytest.mark.parametrize("change", ["tokens", "template", "grid", "end", "limit", "max_tokens", "on_bad", "turns"])
def test_a_pack_is_remade_when_the_settings_change(tmp_path, processor, change):
    path, folder = write(tmp_path, [row("a"), row("b")]), tmp_path / "run" / "pack"
    first = pack(Source(path, "llava"), processor, folder)
    (folder / "marker").touch()
    own = LareProcessor.from_pretrained(lare.default_checkpoint())
    options: dict[str, Any] = {}
    on_bad = "skip"
    if change == "tokens":
        own.tokenizer.add_tokens(["What?"])
    elif change == "template":
        own.chat_template = own.chat_template.replace("<|begin|>", "")
    elif change == "grid":
        own.lm_grid = 3
    elif change == "end":
        own.tokenizer.eos_token = "<|pad|>"
        own.chat_template = own.chat_template.replace("<|end|>", "")
    elif change == "on_bad":
        on_bad = "refuse"
    else:
        options[change] = {"limit": 1, "max_tokens": 100, "turns": "each"}[change]
    which = options.pop("turns", "all")
    second = pack(Source(path, "llava", on_bad=on_bad, turns=which), own, folder, **options)
    assert second.fingerprint != first.fingerprint and not (folder / "marker").exists()
    if change == "tokens":
        new = own.tokenizer.convert_tokens_to_ids("What?")
        assert new in second.rows([0])[0].prompt
    if change == "grid":
        assert (second.rows([0])[0].prompt == own.image_token_id).sum() == 9
    if change == "end":
        assert said(own, second.rows([0])[0].answer).endswith("<|pad|>")


def test_what_a_kill_left_is_made_anew(tmp_path):
    part = tmp_path / "run" / "pack.part"
    part.mkdir(parents=True)
    (part / "tokens.bin").write_bytes(b"half")
    (part / "report.json").write_text("{")
    data = packed(tmp_path, [row("a")])
    assert len(data) == 1 and data.rows([0])[0].image == "a.png" and not part.exists()


def fill_the_disk(path: Path, folder: Path, answer: Any) -> None:
    """In a process of its own: no file may grow over 2,000 bytes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a test run may keep what is printed in a file
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
    try:
        pack(Source(path, "llava"), shipped(), folder)
        answer.send("packed")
    except LareError as error:
        answer.send(f"refused: {error}")


def test_a_full_disk_leaves_the_earlier_pack(tmp_path):
    first = packed(tmp_path, [row("a"), row("b")])
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    path = write(tmp_path, [row(str(i)) for i in range(200)], "more.json")
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=fill_the_disk, args=(path, first.folder, there))
    process.start()
    assert here.poll(60)
    assert re.fullmatch(rf"refused: '{first.folder}' can't be written \(.+\); free some space or .*", here.recv())
    process.join()
    assert {path.name: path.read_bytes() for path in first.folder.iterdir()} == before
    assert not (tmp_path / "run" / "pack.part").exists()
