"""Times of answers: every method answers the same questions, in turns, and they stand beside the rows' costs."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from lare.checkpoints import default_checkpoint
from lare.errors import LareError
from lare_eval import clock
from lare_eval.clock import load_questions, main, milliseconds


class Watched:
    """Notes the sizes of its batches."""

    def __init__(self, name, calls):
        self.name, self.calls = name, calls
        self.model = SimpleNamespace(device=SimpleNamespace(type="cpu"))

    def answer(self, images, texts, sampling):
        self.calls.append((self.name, len(texts)))


def test_methods_take_turns_in_both_orders():
    calls = []
    methods = {name: Watched(name, calls) for name in "ab"}
    found = milliseconds(methods, [None] * 20, ["q"] * 20, rounds=2)
    assert set(found) == {"a", "b"} and set(found["a"]) == {"batch1", "batch16"}
    one = [1] * 5 + [16, 4]
    assert calls == [(name, size) for name in "baabba" for size in one]


def test_questions_are_of_every_task(few_rows):
    images, texts = load_questions("lare_mini_val", 7)
    assert len(images) == len(texts) == 7 and len(set(texts)) > 4 and images[0].mode == "RGB"
    with pytest.raises(LareError, match="no group of tasks 'nonsense'"):
        load_questions("nonsense", 2)


def test_the_command_times_real_answers(few_rows, tmp_path, monkeypatch):
    rows = [
        {"name": "text", "checkpoint": str(default_checkpoint()), "method": "llava", "options": {}},
        {"name": "lare", "checkpoint": str(default_checkpoint()), "method": "lare", "options": {"iterations": 2}},
    ]
    path = tmp_path / "request.json"
    request = {"rows": rows, "group": "lare_mini_val", "questions": 4, "rounds": 1, "out": str(tmp_path / "times.json")}
    path.write_text(json.dumps(request))
    assert main([str(path)]) == 0
    found = json.loads((tmp_path / "times.json").read_text())
    assert set(found) == {"text", "lare"} and min(found["lare"].values()) > 0
    assert clock.BATCHES == (1, 16) and main([]) == 2
