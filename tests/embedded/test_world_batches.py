"""Batches of the embedded world: the same however they are split, about their own scenes, prompts as served."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lare.data.packed import Packed
from lare.embedded.batches import cache_world_features
from lare.embedded.encoder import pixels
from lare.embedded.vision_conv import LareVisionConfig, LareVisionModel
from lare.embedded.world.assets import digits
from lare.embedded.world.concepts import VENDORS
from lare.embedded.world.render import render
from lare.embedded.world.scene import sample_scene
from lare.embedded.world.wording import name_of, place
from lare.embedded.world_data import WorldData
from lare.errors import LareError
from lare.training.feeding.loader import Split, batch_loader
from tests.training.loading import (
    FEATURES,
    FEW,
    SCENES,
    SPLITS,
    config,
    kept,
    packed,
    packed_file,
    processor,
    rows_of,
    world,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return packed_file(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def few_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lare.embedded.batches.VARIANTS", FEW)


# The world ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("splits", SPLITS)
def test_the_world_gives_the_same_rows_however_a_batch_is_split(splits: list[Split]) -> None:
    for step in (0, 5):
        whole = rows_of(world(pictures=True).micro_batches(step))
        assert [row[0] for row in whole] == list(range(32))
        parts = [batch for split in splits for batch in world(split, pictures=True).micro_batches(step)]
        assert {batch.rows for batch in parts} == {splits[0].micro_batch or 32 // splits[0].processes}
        assert rows_of(parts) == whole


def test_images_are_not_split() -> None:
    with pytest.raises(LareError, match="micro-batches of 2 that hold whole images of 4 questions"):
        world(Split(0, 1, 2)).micro_batches(0)


def test_the_worlds_batches_depend_on_seed_and_update() -> None:
    first = rows_of(world().micro_batches(7))
    assert first == rows_of(world().micro_batches(7))
    assert first != rows_of(world().micro_batches(8)) and first != rows_of(world(seed=1).micro_batches(7))


def test_workers_ask_the_same_questions() -> None:
    plain, ahead = ([rows_of(one) for one in batch_loader(world(text_share=0.4), 2, 6, n)] for n in (0, 2))
    assert plain == ahead and len(plain) == 4


def test_rows_of_an_image_share_its_features_and_group() -> None:
    (batch,) = world().micro_batches(0)
    scenes = [int(where.rpartition(" ")[2]) for where in batch.where]
    assert batch.inputs["visual_features"].shape == (8, 64, 3) and batch.inputs["questions_per_image"] == 4
    assert batch.image_groups.tolist() == scenes
    assert batch.image_groups.reshape(8, 4).eq(batch.image_groups[::4, None]).all()
    assert batch.inputs["visual_features"][:, 0, 0].tolist() == scenes[::4]
    assert batch.inputs["shared_ids"].shape[0] == 8
    assert (batch.inputs["shared_ids"][0] == processor().image_token_id).sum() == config().lm_grid ** 2


def test_texts_share_a_group_where_they_are_equal() -> None:
    """Captions have no rationale: their own text stands for it."""
    for families in ({"caption": 1.0}, {"exist": 1.0, "count": 1.0}):
        data = WorldData(per_image=4, families=families)
        _, items, _ = world(data=data).draw(0)
        (batch,) = world(data=data).micro_batches(0)
        texts = [" ".join(item.question.rationale) or item.final for item in items]
        groups = dict(zip(texts, batch.text_groups.tolist(), strict=True))
        assert [groups[text] for text in texts] == batch.text_groups.tolist()
        assert len(set(groups.values())) == len(groups) > 1


@pytest.mark.parametrize(("changes", "side"), [({}, 4), ({"lm_grid": 2}, 2), ({"full_share": 1.0}, 8)])
def test_prompts_have_the_tokens_of_their_grid(data: Packed, changes: dict[str, Any], side: int) -> None:
    image = processor().image_token_id
    (asked,), (files,) = world(**changes).micro_batches(0), packed(data, **changes).micro_batches(0)
    for batch, name in ((asked, "shared_ids"), (files, "input_ids")):
        assert batch.inputs.get("lm_grid", config().lm_grid) == side
        assert (batch.inputs[name] == image).sum(1).eq(side * side).all()
    text = [
        [one for one in row if one != image] for row in kept(files.inputs["input_ids"], files.inputs["attention_mask"])
    ]
    (usual,) = packed(data).micro_batches(0)
    rows = kept(usual.inputs["input_ids"], usual.inputs["attention_mask"])
    assert text == [[one for one in row if one != image] for row in rows]


@pytest.mark.parametrize("latent", [False, True])
def test_the_worlds_prompts_are_the_processors(latent: bool) -> None:
    batches = world() if latent else world(direct_share=1.0)
    _, items, mode = batches.draw(1)
    (batch,) = batches.micro_batches(1)
    assert bool(mode.iterations) == latent
    prompts = processor().build_prompts([item.prompt for item in items], latent=latent)
    served = processor()(images=[np.zeros((128, 128, 3), np.uint8)] * 32, text=prompts)
    shared = batch.inputs["shared_ids"].repeat_interleave(4, 0).tolist()
    mine = kept(batch.inputs["input_ids"], batch.inputs["attention_mask"])
    theirs = kept(served["input_ids"], served["attention_mask"])
    assert [head + tail for head, tail in zip(shared, mine, strict=True)] == theirs


@pytest.mark.parametrize("replaced", [1, 3, 500])
def test_replaced_cuts_the_first_words_of_the_rationale(replaced: int) -> None:
    (short,), (long,) = (world(replaced=n).micro_batches(0) for n in (replaced, 0))
    _, items, _ = world().draw(0)
    rows = zip(
        kept(short.inputs["target_ids"], short.inputs["target_mask"]),
        kept(long.inputs["target_ids"], long.inputs["target_mask"]),
        kept(long.rationale_ids, long.rationale_mask),
        items,
        strict=True,
    )
    for cut, whole, rationale, item in rows:
        thought = " ".join(item.question.rationale)
        assert processor().tokenizer.decode(whole) == f"{' ' if thought else ''}{thought} Answer: {item.final}<|end|>"
        assert cut == whole[min(replaced, len(rationale)) if thought else 0 :]
        assert processor().tokenizer.decode(cut).endswith(f" Answer: {item.final}<|end|>")


def test_training_and_validation_share_no_picture() -> None:
    made: dict[str, list[np.ndarray]] = {}
    for of, variants in (("train", FEW), ("validation", 0)):
        batches = world(of=of, features=None, pictures=True)
        (batch,) = batches.micro_batches(0)
        scenes = batches.draw(0)[0]
        made[of] = [one.permute(1, 2, 0).numpy() for one in batch.pictures]
        for scene, picture in zip(scenes, made[of], strict=True):
            assert np.array_equal(picture, render(sample_scene(of, scene), variants))
        seen = processor().image_processor(made[of], return_tensors="pt")["pixel_values"]
        assert torch.equal(batch.inputs["pixel_values"], seen)
        assert all(where.startswith(f"{of} scene ") for where in batch.where)
    assert not any(np.array_equal(one, two) for one in made["train"] for two in made["validation"])
    train, validation = ([sample_scene(of, i) for i in range(SCENES)] for of in ("train", "validation"))
    assert not {one.kind for one in train} & {one.kind for one in validation}
    written = [{image.tobytes() for image in digits(of)[0]} for of in ("train", "validation")]
    assert not written[0] & written[1]
    assert {scene.vendor for scene in train + validation}.isdisjoint(VENDORS["test"])


@pytest.mark.parametrize("of", ["train", "validation"])
def test_questions_are_about_their_scenes(of: str) -> None:
    data = WorldData(per_image=4, families={"what_at": 1.0}, styles={"open": 1.0})
    scenes, items, _ = world(of=of, data=data).draw(0)
    for scene, item in zip(np.repeat(scenes, 4).tolist(), items, strict=True):
        (cell,) = (one for one in range(16) if item.prompt == f"What is at {place(one)}?")
        assert name_of(sample_scene(of, scene), cell) == item.question.answer


def test_the_worlds_fingerprint() -> None:
    other = WorldData(per_image=4, families={"count": 1.0})
    made = [world(), world(of="validation"), world(data=other), world(features=FEATURES[:9])]
    assert len({one.fingerprint for one in made}) == 4 and world(seed=3).fingerprint == made[0].fingerprint
    assert [one.samples for one in made] == [160, 160, 160, 36]


# Features of the world ---------------------------------------------------------------------------------------------


def encoder() -> LareVisionModel:
    torch.manual_seed(0)
    return LareVisionModel(LareVisionConfig(widths=(4, 4, 8, 8)))


def test_features_are_made_once(tmp_path: Path) -> None:
    path, model = tmp_path / "made" / "features.npy", encoder()
    first = cache_world_features(model, path, "train", 70)
    assert first.shape == (70, model.config.grid**2, model.config.hidden_size) and first.dtype == np.float16
    picture = torch.from_numpy(render(sample_scene("train", 66), FEW))[None]
    with torch.no_grad():
        expected = model(pixels(picture)).last_hidden_state[0].half().numpy()
    np.testing.assert_allclose(first[66], expected, rtol=2e-2, atol=2e-2)
    stamp = path.stat().st_mtime_ns
    assert np.array_equal(cache_world_features(model, path, "train", 70), first) and path.stat().st_mtime_ns == stamp
    assert len(cache_world_features(model, path, "train", 3)) == 3
    assert sorted(one.name for one in path.parent.iterdir()) == ["features.lock", "features.npy"]


def test_an_encoder_for_other_pictures_is_refused(tmp_path: Path) -> None:
    small = LareVisionModel(LareVisionConfig(widths=(4, 4, 8, 8), image_size=64))
    with pytest.raises(LareError, match="reads 64 pixels a side, the world has 128"):
        cache_world_features(small, tmp_path / "f.npy", "train", 3)
    assert not list(tmp_path.iterdir())


def fill_the_disk(path: Path, answer: Any) -> None:
    """In a process of its own: no file may grow over 2,000 bytes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
    try:
        cache_world_features(encoder(), path, "train", 40)
        answer.send("made")
    except LareError as error:
        answer.send(f"refused: {error}")


def test_features_on_a_full_disk(tmp_path: Path) -> None:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=fill_the_disk, args=(tmp_path / "f.npy", there))
    process.start()
    assert here.poll(60)
    assert re.match(r"refused: '.*f\.npy' can't be written \(.*free some space or change out", here.recv())
    process.join()
    assert [one.name for one in tmp_path.iterdir()] == ["f.lock"]
