"""Samples about one image that stay together: each comes, its image is read once, and the model can't tell."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lare.data.packed import Packed
from lare.errors import LareError
from lare.loading import load_checkpoint
from lare.training.feeding.features import cache_packed_features
from lare.training.feeding.files import FileFeed
from lare.training.feeding.loader import PackedBatches, Split
from lare.training.feeding.order import by_image, epoch_batches, groups_of
from lare.training.feeding.rows import shared_beginnings
from lare.training.plan.config import DataConfig, ModelConfig, RunConfig, StageConfig
from tests.training.loading import (
    FILE,
    SAMPLES,
    SPLITS,
    WORLD,
    boxed_file,
    config,
    kept,
    packed,
    packed_file,
    rows_of,
    stage,
    write_data,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return packed_file(tmp_path_factory.mktemp("data"))


counts = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@given(counts, st.integers(1, 5), st.integers(0, 99))
def test_groups_are_of_one_image_and_hold_every_sample(of_each: list[int], per_image: int, seed: int) -> None:
    images = np.repeat(np.arange(len(of_each)) * 7, of_each)
    numbers = np.random.default_rng(seed).permutation(len(images)) + 100
    made = by_image(numbers, images, per_image, np.random.default_rng(seed))
    assert made.shape == (groups_of(images, per_image), per_image)
    own = dict(zip(numbers.tolist(), images.tolist(), strict=True))
    assert all(len({own[number] for number in group}) == 1 for group in made.tolist())
    came = Counter(made.flatten().tolist())
    assert set(came) == set(numbers.tolist())
    # What comes again fills the image's last group and no more.
    for image, count in zip(np.unique(images).tolist(), of_each, strict=True):
        again = sum(times - 1 for number, times in came.items() if own[number] == image)
        assert again == -count % per_image


@given(counts, st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
def test_batches_keep_units_whole_and_like_lengths_together(
    of_each: list[int], per_image: int, per_batch: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    images = np.repeat(np.arange(len(of_each)), of_each)
    lengths = rng.integers(1, 50, len(images))
    units = by_image(np.arange(len(images)), images, per_image, rng)
    batch, whole = per_image * per_batch, len(units) // per_batch * per_batch
    made = epoch_batches(units, lengths, batch, 1000)
    assert made.shape == (whole // per_batch, batch)
    assert made.reshape(-1, per_image).tolist() == sorted(
        units[:whole].tolist(), key=lambda unit: max(lengths[number] for number in unit)
    )
    assert np.array_equal(epoch_batches(units, lengths, batch, 1).reshape(-1, batch).shape, made.shape)
    mixed = epoch_batches(units, lengths, batch, 1).reshape(-1, per_batch, per_image)
    for at, some in enumerate(mixed.tolist()):  # with alike = 1 a batch holds the units that came in turn
        assert sorted(map(tuple, some)) == sorted(map(tuple, units[at * per_batch : (at + 1) * per_batch].tolist()))


def test_every_sample_comes_and_neighbours_share_their_image(data: Packed) -> None:
    batches = packed(data, batch=8, per_image=4)
    came: Counter[str] = Counter()
    for step in range(batches.updates):
        (made,) = batches.micro_batches(step)
        assert made.inputs["questions_per_image"] == 4 and len(made.inputs["pixel_values"]) == 2
        assert made.image_groups is not None and made.image_groups.reshape(2, 4).unique(dim=1).shape == (2, 1)
        came.update(made.where)
    assert set(came) == {f"data.json:{i + 1}" for i in range(SAMPLES)} and max(came.values()) <= 2
    assert batches.updates == sum(-(-len(range(i, SAMPLES, 8)) // 4) for i in range(8)) // 2


def by_place(batches: list[Any]) -> dict[str, tuple[Any, ...]]:
    """Rows by their place in the data, without number and layout; whole prompts."""
    found = {}
    for batch in batches:
        shared = batch.inputs.get("shared_ids")
        for number, _, prompt, *rest in rows_of([batch]):
            head = [] if shared is None else shared[(number - batch.start) // 4].tolist()
            found[str(rest[-1])] = (head + prompt, *rest)
    return found


@pytest.mark.parametrize("changes", [{}, {"direct_share": 1.0}, {"methods": {"lare": {"by_step": True}}}])
def test_rows_are_those_of_samples_that_come_alone(data: Packed, changes: dict[str, Any]) -> None:
    together = packed(data, batch=8, per_image=4, **changes)
    alone = packed(data, batch=1, **changes)
    found = by_place([one for step in range(3) for one in together.micro_batches(step)])
    one_by_one = by_place([one for step in range(SAMPLES) for one in alone.micro_batches(step)])
    assert len(found) > 10 and found == {place: one_by_one[place] for place in found}


def test_the_model_reads_alike_with_and_without_a_shared_beginning(data: Packed) -> None:
    """Losses and gradients of rows whose beginning is read once are those of whole prompts."""
    model = load_checkpoint(None, device="cpu")[0]
    (made,) = packed(data, batch=8, per_image=4, replaced=0).micro_batches(0)
    shared = made.inputs["shared_ids"]
    apart = {name: one for name, one in made.inputs.items() if name != "shared_ids"}
    heads = shared.repeat_interleave(4, 0)
    ids, mask = apart["input_ids"], apart["attention_mask"]
    rows = [head + row for head, row in zip(heads.tolist(), kept(ids, mask), strict=True)]
    width = max(map(len, rows))
    apart["input_ids"] = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    apart["attention_mask"] = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    told = []
    for inputs in (made.inputs, apart):
        model.zero_grad()
        lm = model(**inputs).lm_loss
        (lm[0] / lm[1]).backward()
        grads = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        told.append((lm, grads))
    (fast, fast_grads), (slow, slow_grads) = told
    torch.testing.assert_close(fast[0], slow[0], rtol=1e-4, atol=1e-4)
    assert fast[1] == slow[1] and fast_grads.keys() == slow_grads.keys() and len(fast_grads) > 20
    for name, grad in fast_grads.items():
        torch.testing.assert_close(grad, slow_grads[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("splits", SPLITS)
def test_split_batches_are_the_whole_one(data: Packed, splits: list[Split]) -> None:
    whole = packed(data, per_image=4).micro_batches(1)
    parts = [batch for split in splits for batch in packed(data, split, per_image=4).micro_batches(1)]
    assert sorted(rows_of(parts)) == sorted(rows_of(whole))
    with pytest.raises(LareError, match="whole images of 4"):
        packed(data, Split(0, 1, 2), per_image=4).micro_batches(0)


def test_beginnings_that_differ_are_not_shared() -> None:
    alike = [[1, 9, 9, 2], [1, 9, 9, 3, 4], [1, 9, 9, 2], [1, 9, 9, 5]]
    assert shared_beginnings(alike, 9, 2) == ([[1, 9, 9], [1, 9, 9]], [[2], [3, 4], [2], [5]])
    assert shared_beginnings(alike, 9, 1) == (None, alike)
    for other in ([7, 9, 9, 5], [1, 1, 9, 9, 5]):
        assert shared_beginnings([*alike[:3], other], 9, 2) == (None, [*alike[:3], other])


def test_an_unreadable_image_costs_its_group_and_no_more(data: Packed, tmp_path: Path) -> None:
    for number in (0, 2, 3, 4, 5, 6, 7):
        (tmp_path / f"{number}.png").write_bytes((data.images / f"{number}.png").read_bytes())
    (tmp_path / "1.png").write_bytes(b"no image")
    broken, good = (packed(one, batch=8, per_image=4) for one in (replace(data, images=tmp_path), data))
    told = []
    for step in range(good.updates):
        ((made,), (whole,)) = broken.micro_batches(step), good.micro_batches(step)
        changed = [at for at, pair in enumerate(zip(made.where, whole.where, strict=True)) if pair[0] != pair[1]]
        assert {one.where for one in made.replaced} == {whole.where[at] for at in changed}
        assert [one.instead for one in made.replaced] == [made.where[at] for at in changed]
        assert made.image_groups is not None and made.image_groups.reshape(2, 4).unique(dim=1).shape == (2, 1)
        told += made.replaced
    assert {one.where for one in told} == {f"data.json:{i + 1}" for i in range(1, SAMPLES, 8)}


def test_methods_with_boxes_and_segments_of_their_own_get_their_rows(tmp_path: Path) -> None:
    (entry,) = stage(methods={"cof": 1}).mixture
    boxed = boxed_file(tmp_path, examples=entry.training)
    batches = packed(boxed, batch=8, per_image=4, methods={"cof": 1})
    every = [made for step in range(batches.updates) for made in batches.micro_batches(step)]
    made = next(one for one in every if "target_visual" in one.inputs)  # pictures of even number have no boxes
    numbers = made.inputs["target_visual"]
    crops = made.inputs["crop_values"]
    # Crops come after the fine tokens of both pictures.
    assert len(made.inputs["pixel_values"]) == 2 and len(crops) > 0
    assert int(numbers.max()) + 1 == 2 * config().grid ** 2 + len(crops) * config().lm_grid ** 2


def test_text_alone_comes_in_rows_as_ever(data: Packed, tmp_path: Path) -> None:
    offsets = data.offsets.copy()
    offsets[::2, 4, 1] = 0  # every second sample loses its image
    batches = packed(replace(data, offsets=offsets), batch=8, per_image=4)
    seen = Counter(
        "shared_ids" in made.inputs for step in range(batches.updates) for made in batches.micro_batches(step)
    )
    assert seen[True] and seen[False] == SAMPLES // 2 // 8


@torch.no_grad()
def test_features_on_disk_are_each_groups_own(data: Packed) -> None:
    """One row of features a group, and those of its picture."""
    model, processor, _ = load_checkpoint(None, device="cpu")
    cached = cache_packed_features(model, processor, data)
    plan = stage(batch=16, per_image=4)
    fast, slow = (
        PackedBatches([data], processor, model.config, plan, Split(), 0, False, at) for at in ([cached], None)
    )
    for step in range(2):
        ((kept,), (fresh,)) = (one.micro_batches(step) for one in (fast, slow))
        assert kept.where == fresh.where and len(kept.inputs["visual_features"]) == 4
        expected = model.vision_tower(fresh.inputs["pixel_values"])
        torch.testing.assert_close(kept.inputs["visual_features"], expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("cached", [False, True])
def test_a_source_comes_as_often_as_it_says(tmp_path: Path, cached: bool) -> None:
    """Each epoch has every sample of it twice, in groups about its images like any others."""
    path = write_data(tmp_path / "files")
    model, processor, _ = load_checkpoint(None, device="cpu")
    plan = stage(data=DataConfig(path=str(path), format="vision_r1", times=2), batch=8, per_image=4)
    run = RunConfig(ModelConfig(checkpoint="c"), (plan,), out=str(tmp_path / "run"), cache_features=cached)
    parts: Any = SimpleNamespace(config=run, model=SimpleNamespace(lare=model), processor=processor)
    batches = FileFeed(parts).batches(plan, 0, Split())
    every = [made for step in range(batches.updates) for made in batches.micro_batches(step)]
    came = Counter(where for made in every for where in made.where)
    assert batches.samples == 2 * SAMPLES and len(came) == SAMPLES and set(came.values()) <= {2, 3, 4}
    assert {"visual_features" in made.inputs for made in every} == {cached}


def test_impossible_settings_are_refused(data: Packed) -> None:
    wrong: list[dict[str, Any]] = [{"per_image": 0}, {"per_image": 3, "batch": 8}, {"alike": 0}]
    for changes in wrong:
        with pytest.raises(LareError, match="per_image|alike"):
            stage(**changes)
    with pytest.raises(LareError, match="have a per_image of their own"):
        RunConfig(ModelConfig(checkpoint="c"), (stage(data=WORLD, per_image=4),), out="x")
    assert StageConfig("III", (FILE,), batch=8, per_image=8).per_image == 8
    with pytest.raises(LareError, match="leave times out"):
        RunConfig(ModelConfig(checkpoint="c"), (stage(data=replace(WORLD, times=2)),), out="x")
    with pytest.raises(LareError, match="times is 0"):
        replace(FILE, times=0)
