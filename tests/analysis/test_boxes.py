"""Boxes are shares of the picture, whether rows tell them in pixels or as shares, and whatever the picture's shape."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL.Image import new

from analysis.heatmaps.measure import Maps, read_maps, with_questions
from analysis.shared.boxes import box_shares
from analysis.shared.questions import Question
from lare.errors import LareError
from tests.analysis.made import answer, write

SHARES = (0.25, 0.5, 0.5, 1.0)


def test_pixels_and_shares_are_told_apart() -> None:
    pixels = [50.0, 50.0, 100.0, 100.0]
    for boxes in ([pixels], [list(SHARES)], json.dumps([pixels]), json.dumps([None, SHARES])):
        assert box_shares(boxes, (200, 100), "a row") == (SHARES,)
    assert box_shares(json.dumps([pixels, SHARES, None]), (200, 100), "a row") == (SHARES, SHARES)
    assert box_shares(None, (200, 100), "a row") == box_shares("[]", (200, 100), "a row") == ()
    with pytest.raises(LareError, match="a row has unreadable boxes"):
        box_shares([[1, 2]], (200, 100), "a row")


def _maps(folder: Path, **info: object) -> Maps:
    thought = dict(
        windows=np.zeros((4, 2), np.int16),
        cross_attention=np.ones((4, 16), np.float16) / 16,
        saliency=np.ones((4, 4, 4), np.float16),
    )
    facts = {"config": {"grid": 8, "image_size": 128}, **info}
    return read_maps(write(folder, [answer(doc, "somebodys", **thought) for doc in range(2)], facts))


def test_boxes_of_an_oblong_picture_count_where_it_was_stretched_and_not_where_it_was_cut(tmp_path: Path) -> None:
    wide = Question("somebodys", 0, "?", "A", "s", new("RGB", (200, 100)), boxes=(SHARES,))
    square = replace(wide, doc_id=1, image=new("RGB", (64, 64)))
    asked = {("somebodys", 0): wide, ("somebodys", 1): square}
    found = {
        name: with_questions(_maps(tmp_path / name, **info), asked).boxes
        for name, info in {"stretched": {"stretches": True}, "cut": {"stretches": False}, "older": {}}.items()
    }
    assert found["stretched"] == [[SHARES], [SHARES]]
    assert found["cut"] == found["older"] == [[], [SHARES]]
    kept = _maps(tmp_path / "taken", stretches=True).take(np.array([0]))
    assert with_questions(kept, asked).boxes == [[SHARES]]
