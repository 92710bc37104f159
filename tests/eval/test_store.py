"""The answer store keeps complete answers through kills, full disks and foreign lines."""

from __future__ import annotations

import os
import resource
import signal

import pytest
from PIL import Image

from lare import LareError
from lare_eval.store import AnswerStore, StoredAnswer, answer_key, image_digest


def answer(number: int) -> StoredAnswer:
    return StoredAnswer(f"k{number}", "pope", number, f"So.\nAnswer: yes {number} ü", "yes", {"output_tokens": 3})


def test_answers_are_found_again(tmp_path):
    store = AnswerStore(tmp_path / "deep" / "folder")
    store.add([answer(1), answer(2)])
    store.add([answer(3)])
    assert store.get("k3") == answer(3)
    again = AnswerStore(tmp_path / "deep" / "folder")
    assert len(again) == 3 and again.get("k1") == answer(1) and again.get("k9") is None
    again.add([answer(4)])
    again.close()
    again.add([answer(5)])
    assert len(AnswerStore(tmp_path / "deep" / "folder")) == 5


def test_no_directory_keeps_nothing(tmp_path):
    store = AnswerStore(None)
    store.add([answer(1)])
    assert store.get("k1") is None and list(tmp_path.iterdir()) == []


def test_torn_and_foreign_lines_are_skipped(tmp_path):
    store = AnswerStore(tmp_path)
    store.add([answer(1), answer(2)])
    (file,) = tmp_path.glob("*.jsonl")
    whole = file.read_bytes()
    file.write_bytes(b"rubbish\n" + b'{"key": 3}\n' + whole[:-7])
    again = AnswerStore(tmp_path)
    assert again.get("k1") == answer(1) and again.get("k2") is None and len(again) == 1


def test_a_kill_keeps_what_was_added(tmp_path):
    child = os.fork()
    if child == 0:  # pragma: no cover - dies by SIGKILL
        AnswerStore(tmp_path).add([answer(1)])
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert AnswerStore(tmp_path).get("k1") == answer(1)


def test_full_disk_and_missing_rights_are_clear(tmp_path):
    store = AnswerStore(tmp_path / "a")
    store.add([answer(1)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
        with pytest.raises(LareError, match="can't keep answers.*free space.*The answers kept so far stay"):
            store.add([answer(2), answer(3)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert AnswerStore(tmp_path / "a").get("k1") == answer(1)
    (tmp_path / "file").write_text("")
    with pytest.raises(LareError, match="can't keep answers in .*file"):
        AnswerStore(tmp_path / "file")


def test_keys_cover_every_fact():
    key = answer_key(task="pope", doc=1, arguments={"b": 1, "a": 2})
    assert key == answer_key(doc=1, task="pope", arguments={"a": 2, "b": 1})
    assert len({key, answer_key(task="pope", doc=2), answer_key(task="pope", doc=1, arguments={"a": 2, "b": 2})}) == 3


def test_image_digests_know_pixels_and_size():
    plain = Image.new("RGB", (4, 2), "red")
    others = [Image.new("RGB", (2, 4), "red"), Image.new("RGB", (4, 2), "blue"), Image.new("L", (4, 2))]
    assert image_digest(plain) == image_digest(plain.copy())
    assert len({image_digest(image) for image in [plain, *others]}) == 4
