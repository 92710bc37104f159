"""Cached features: each image once, the same as encoding it as it comes, and reused."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lare
from lare.data import Source
from lare.data.packed import Packed, pack
from lare.embedded.world.benchmark import render_image
from lare.embedded.world.scene import sample_scene
from lare.errors import LareError
from lare.model import LareForConditionalGeneration, LareProcessor
from lare.training.feeding import features as module
from lare.training.feeding.features import cache_packed_features, open_array, write_array
from lare.training.feeding.loader import PackedBatches, Split
from lare.training.plan.config import DataConfig, StageConfig

STAGE = StageConfig("III", (DataConfig(path="data.json"),), batch=4)


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> tuple[LareForConditionalGeneration, LareProcessor, Packed]:
    folder = tmp_path_factory.mktemp("features")
    for number in range(3):
        render_image(sample_scene("train", number)).save(folder / f"{number}.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    rows = [{"id": str(i), "image": f"{i % 3}.png", "conversations": turns} for i in range(8)]
    (folder / "data.json").write_text(json.dumps(rows))
    checkpoint = lare.default_checkpoint()
    processor = LareProcessor.from_pretrained(checkpoint)
    packed = pack(Source(folder / "data.json"), processor, folder / "packed")
    return LareForConditionalGeneration.from_pretrained(checkpoint), processor, packed


def batches(parts: Any, cached: Any, pictures: bool = False) -> Any:
    model, processor, packed = parts
    return PackedBatches([packed], processor, model.config, STAGE, Split(), 0, pictures, cached).micro_batches(0)[0]


def test_cached_features_are_the_encoders(parts, monkeypatch) -> None:
    model, processor, packed = parts
    found = cache_packed_features(model, processor, packed)
    assert found.features.shape == (3, 64, model.vision_tower.width(model.config.vision_config))
    assert found.which.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    plain, cached = batches(parts, None), batches(parts, [found])
    assert "pixel_values" not in cached.inputs and cached.pictures is None
    expected = model.vision_tower(plain.inputs["pixel_values"])
    torch.testing.assert_close(cached.inputs["visual_features"], expected, rtol=2e-3, atol=2e-3)
    assert torch.equal(batches(parts, [found], True).pictures, batches(parts, None, True).pictures)
    # A second call reads the file.
    monkeypatch.setattr(module, "_encoded", lambda *_: pytest.fail("encoded again"))
    again = cache_packed_features(model, processor, packed)
    np.testing.assert_array_equal(again.features, found.features)


@pytest.mark.parametrize("strict", [True, False])
def test_images_that_are_all_unreadable_are_an_error(parts, tmp_path: Path, strict: bool) -> None:
    model, processor, packed = parts
    broken = replace(packed, images=tmp_path, fingerprint="other", strict=strict)
    with pytest.raises(LareError, match=r"data\.json:1"):
        cache_packed_features(model, processor, broken)
    assert not list(packed.folder.glob("*.part.npy")) and not list(packed.folder.glob("features_other.npy"))


def test_an_unreadable_image_is_told_and_its_samples_are_replaced(parts, tmp_path: Path, capsys) -> None:
    model, processor, packed = parts
    for number in (0, 2):
        (tmp_path / f"{number}.png").write_bytes((packed.images / f"{number}.png").read_bytes())
    (tmp_path / "1.png").write_bytes(b"no image")
    broken = replace(packed, images=tmp_path, fingerprint="broken")
    found = cache_packed_features(model, processor, broken)
    assert "1 of 3 images can't be read" in capsys.readouterr().err
    good = cache_packed_features(model, processor, packed)
    np.testing.assert_array_equal(found.features[[0, 2]], good.features[[0, 2]])
    assert np.isnan(found.features[1]).all()
    loader = PackedBatches([broken], processor, model.config, STAGE, Split(), 0, features=[found])
    plain = PackedBatches([broken], processor, model.config, STAGE, Split(), 0)
    told = []
    for step in range(2):
        ((cached,), (decoded,)) = (one.micro_batches(step) for one in (loader, plain))
        assert not cached.inputs["visual_features"].isnan().any()
        assert [one[::2] for one in cached.replaced] == [one[::2] for one in decoded.replaced]
        assert cached.where == decoded.where
        told += cached.replaced
    assert told and {one.where for one in told} <= {"data.json:2", "data.json:5", "data.json:8"}


def test_arrays_come_back_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    parts = [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((1, 3), np.float32)]
    made = write_array(path, (3, 3), parts)
    np.testing.assert_array_equal(made, np.concatenate(parts).astype(np.float16))
    assert open_array(path, (3, 3)) is not None and open_array(path, (4, 3)) is None
    assert open_array(tmp_path / "none.npy", (1,)) is None


def test_of_two_runs_that_want_one_file_one_makes_it(tmp_path) -> None:
    makers: list[str] = []
    begun = threading.Barrier(2, timeout=20)

    def parts(name: str) -> Iterator[np.ndarray]:
        makers.append(name)
        for row in range(4):
            time.sleep(0.05)
            yield np.full((1, 2), row, np.float32)

    def run(name: str) -> np.ndarray:
        begun.wait()
        return write_array(tmp_path / "f.npy", (4, 2), parts(name))

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, "ab")
    assert len(makers) == 1
    assert np.array_equal(first, second) and first[:, 0].tolist() == [0, 1, 2, 3]
    # A file of another shape is no such file.
    assert write_array(tmp_path / "f.npy", (2, 2), [np.zeros((2, 2))]).shape == (2, 2)
