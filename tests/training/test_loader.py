"""Batches are a function of the update's number, and the same however they are split, made and read ahead."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lare.data import Source
from lare.data.packed import Packed, pack
from lare.embedded.world_data import WorldData
from lare.errors import LareError
from lare.training.feeding.loader import Mode, PackedBatches, Split, batch_loader, encode_rows, stage_mode
from lare.training.plan.config import StageConfig
from tests.training.loading import (
    FEW,
    SAMPLES,
    SPLITS,
    WORLD,
    config,
    kept,
    packed,
    packed_file,
    processor,
    rows_of,
    stage,
    world,
    write_data,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return packed_file(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def few_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lare.embedded.batches.VARIANTS", FEW)


# Files -------------------------------------------------------------------------------------------------------------


def order(batches: PackedBatches, updates: range) -> list[str]:
    return [where for step in updates for batch in batches.micro_batches(step) for where in batch.where]


def test_every_sample_comes_once_an_epoch(data: Packed) -> None:
    batches = packed(data, batch=8, direct_share=1.0)
    everything = {f"data.json:{i + 1}" for i in range(SAMPLES)}
    assert batches.samples == SAMPLES
    per_epoch = SAMPLES // 8
    seen = set()
    for epoch in range(6):
        found = order(batches, range(epoch * per_epoch, (epoch + 1) * per_epoch))
        assert len(found) == len(set(found)) == per_epoch * 8 and set(found) <= everything
        seen |= set(found)
    assert seen == everything  # what one epoch's incomplete batch left out, another has


def test_the_order_depends_on_epoch_and_seed_alone(data: Packed) -> None:
    first = order(packed(data, batch=8), range(4))
    assert first == order(packed(data, batch=8), range(4))
    assert first != order(packed(data, batch=8, seed=1), range(4))
    assert first != order(packed(data, batch=8), range(8, 12))  # the next epoch
    late = packed(data, batch=8)
    assert order(late, range(17, 18)) == order(packed(data, batch=8), range(16, 18))[8:]


def test_samples_of_like_length_are_together(data: Packed) -> None:
    size = 7
    batches = packed(data, batch=size)
    lengths = {f"data.json:{i + 1}": int(n) for i, n in enumerate(data.lengths)}
    made = np.array([[lengths[w] for w in order(batches, range(step, step + 1))] for step in range(SAMPLES // size)])
    rng = np.random.default_rng(0)
    mixed = np.array([rng.permutation(data.lengths).reshape(-1, size) for _ in range(20)])
    assert np.ptp(made, axis=1).mean() < 0.4 * np.ptp(mixed, axis=2).mean()
    middles = made.mean(1)
    assert (np.diff(middles) < 0).any() and (np.diff(middles) > 0).any()  # but not from short to long


@pytest.mark.parametrize("splits", SPLITS)
def test_files_give_the_same_rows_however_a_batch_is_split(data: Packed, splits: list[Split]) -> None:
    for step in (0, 3):
        whole = rows_of(packed(data, pictures=True).micro_batches(step))
        assert [row[0] for row in whole] == list(range(32))
        parts = [batch for split in splits for batch in packed(data, split, pictures=True).micro_batches(step)]
        assert {batch.rows for batch in parts} == {splits[0].micro_batch or 32 // splits[0].processes}
        assert rows_of(parts) == whole


@pytest.mark.parametrize("split", [Split(0, 3), Split(0, 2, 5), Split(0, 1, 33)])
def test_splits_that_do_not_divide(data: Packed, split: Split) -> None:
    with pytest.raises(LareError, match="a batch of 32 does not split over .* change batch, micro_batch or per_image"):
        packed(data, split).micro_batches(0)


def test_what_a_row_is_made_of(data: Packed) -> None:
    batches = packed(data, pictures=True)
    (batch,) = batches.micro_batches(0)
    assert batch.inputs["iterations"] == config().iterations > 0
    numbers = [int(where.partition(":")[2]) - 1 for where in batch.where]
    for row, number in enumerate(numbers):
        (source,) = data.rows([number])
        whole = [*source.rationale.tolist(), *source.answer.tolist()]
        _, how, prompt, target, prefix, rationale, *_ = rows_of([batch])[row]
        assert prompt == [*source.prompt.tolist(), config().latent_start_id] and how[1]
        assert target == whole[min(2, len(source.rationale)) :]
        assert prefix == source.rationale.tolist()[: config().text_prefix] and rationale == source.rationale.tolist()
        picture = np.asarray(Image.open(data.images / f"{number % 8}.png"))
        assert torch.equal(batch.pictures[row].permute(1, 2, 0), torch.from_numpy(picture.copy()))
        seen = processor().image_processor([Image.fromarray(picture)], return_tensors="pt")["pixel_values"][0]
        assert torch.equal(batch.inputs["pixel_values"][row], seen)
    for one in range(32):
        for two in range(32):
            same = numbers[one] % 8 == numbers[two] % 8
            assert bool(batch.image_groups[one] == batch.image_groups[two]) == same
    assert packed(data).micro_batches(0)[0].pictures is None
    assert packed(data, pictures=True, direct_share=1.0).micro_batches(0)[0].pictures is None


def test_sources_are_mixed_and_their_images_kept_apart(data: Packed, tmp_path: Path) -> None:
    other = pack(Source(write_data(tmp_path / "other", 20, "more.json"), "vision_r1"), processor(), tmp_path / "pack")
    again = pack(Source(write_data(data.images, 10, "extra.json"), "vision_r1"), processor(), tmp_path / "again")
    batches = PackedBatches([data, other, again], processor(), config(), stage(batch=50), Split(), 0)
    assert batches.samples == 100 and len(batches.fingerprint) > len(data.fingerprint)
    rows = [row for step in range(2) for row in rows_of(batches.micro_batches(step))]
    assert Counter(row[-1].partition(":")[0] for row in rows) == {"data.json": 70, "more.json": 20, "extra.json": 10}
    groups: dict[str, set[int]] = {}
    texts: dict[int, set[str]] = {}
    for *_, text, image, where in rows:
        name, _, number = where.partition(":")
        folder = "other" if name == "more.json" else "same"
        groups.setdefault(f"{folder}-{(int(number) - 1) % 8}", set()).add(image)
        texts.setdefault(text, set()).add(number)
    assert all(len(numbers) == 1 for numbers in groups.values())
    assert len(set.union(*groups.values())) == len(groups) == 16
    assert all(len(numbers) == 1 for numbers in texts.values())  # the same seed wrote equal rationales in equal rows


def test_rows_with_equal_texts_share_a_group(tmp_path: Path) -> None:
    turns = [("<image>Q", "yes"), ("<image>Other", "yes"), ("<image>Q", "no"), ("<image>Q", "yes")]
    speakers = ("human", "gpt")
    spoken = [[{"from": who, "value": text} for who, text in zip(speakers, turn, strict=True)] for turn in turns]
    rows = [{"image": "0.png", "conversations": conversation} for conversation in spoken]
    write_data(tmp_path)
    (tmp_path / "llava.json").write_text(json.dumps(rows))
    made = pack(Source(tmp_path / "llava.json", "llava"), processor(), tmp_path / "pack")
    (batch,) = packed(made, batch=4).micro_batches(0)
    groups = dict(zip(batch.where, batch.text_groups.tolist(), strict=True))
    first, second, third, fourth = (groups[f"llava.json:{i}"] for i in (1, 2, 3, 4))
    assert first == second == fourth != third
    assert len(set(batch.image_groups.tolist())) == 1


def test_too_few_samples(data: Packed) -> None:
    with pytest.raises(LareError, match="stage III: 70 samples are fewer than one batch of 71; lower batch"):
        packed(data, batch=71)


@pytest.mark.parametrize("first", [0, 3])
def test_workers_make_the_same_batches(data: Packed, first: int) -> None:
    batches = packed(data, Split(0, 1, 8), batch=16, text_share=0.4)
    state = torch.get_rng_state()
    plain, ahead = ([rows_of(one) for one in batch_loader(batches, first, 6, n)] for n in (0, 2))
    assert plain == ahead and len(plain) == 6 - first
    assert plain == [rows_of(batches.micro_batches(step)) for step in range(first, 6)]
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["cut", "gone", "text"])
def test_a_damaged_image_of_strict_data_names_its_row(tmp_path: Path, workers: int, how: str) -> None:
    source = Source(write_data(tmp_path, 16), "vision_r1", on_bad="refuse")
    made = pack(source, processor(), tmp_path / "pack")
    path = tmp_path / "5.png"
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:3000] if how == "cut" else b"no image")
    with pytest.raises(LareError) as caught:
        list(batch_loader(packed(made, batch=16), 0, 1, workers))
    message = str(caught.value)
    assert re.match(r"data\.json:(6|14): ", message) and "lare data check --check-images decode" in message
    assert "Traceback" not in message and "\n" not in message


def damaged(folder: Path, *pictures: str) -> Packed:
    """Rows whose images with these names can't be read any more."""
    made = packed_file(folder)
    for number, name in enumerate(pictures):
        path = folder / name
        (path.unlink if number % 2 else lambda path=path: path.write_bytes(path.read_bytes()[:3000]))()
    return made


def by_number(batches: list[Any]) -> dict[int, tuple[Any, ...]]:
    return {row[0]: row for row in rows_of(batches)}


def test_another_sample_stands_in_for_one_whose_image_cannot_be_read(tmp_path: Path) -> None:
    whole = packed_file(tmp_path / "whole")
    broken = damaged(tmp_path / "broken", "5.png", "2.png")
    for step in range(3):
        made = packed(broken).micro_batches(step)
        rows, expected = by_number(made), by_number(packed(whole).micro_batches(step))
        lost = {n: row for n, row in expected.items() if (int(row[-1].partition(":")[2]) - 1) % 8 in (2, 5)}
        told = [one for batch in made for one in batch.replaced]
        assert lost and [one.where for one in told] == [row[-1] for row in lost.values()]
        assert [one.instead for one in told] == [rows[number][-1] for number in lost]
        assert all("damaged" in one.reason or "there is no image" in one.reason for one in told)
        wholes = {row[-1]: row for s in range(9) for row in rows_of(packed(whole).micro_batches(s))}
        for number, row in rows.items():
            assert (int(row[-1].partition(":")[2]) - 1) % 8 not in (2, 5)
            twin = expected[number] if number not in lost else wholes[row[-1]]
            assert row[1:-2] == twin[1:-2] and row[-1] == twin[-1]  # the groups of images tell folders apart


@pytest.mark.parametrize("splits", SPLITS)
def test_what_stands_in_depends_on_seed_and_sample_alone(tmp_path: Path, splits: list[Split]) -> None:
    broken = damaged(tmp_path, "5.png", "2.png")
    whole = packed(broken).micro_batches(1)
    parts = [batch for split in splits for batch in packed(broken, split).micro_batches(1)]
    assert rows_of(parts) == rows_of(whole)
    assert [one for batch in parts for one in batch.replaced] == whole[0].replaced != []
    ahead = [rows_of(one) for one in batch_loader(packed(broken), 1, 3, 2)]
    assert ahead[0] == rows_of(whole)
    other = packed(broken, seed=1)
    where = {one.where: one.instead for batch in whole for one in batch.replaced}
    again = {one.where: one.instead for step in range(2) for b in other.micro_batches(step) for one in b.replaced}
    assert {name: instead for name, instead in again.items() if where.get(name, instead) != instead}


def test_images_that_are_all_gone_are_an_error(tmp_path: Path) -> None:
    made = damaged(tmp_path, *(f"{i}.png" for i in range(8)))
    with pytest.raises(LareError, match=r"data\.json:\d+: .* lare data check --check-images decode"):
        packed(made).micro_batches(0)


# Modes -------------------------------------------------------------------------------------------------------------


def test_modes_follow_their_shares() -> None:
    batches = world(batch=1, data=WorldData(per_image=1), text_share=0.3, direct_share=0.2)
    modes = Counter(batches.draw(step)[2] for step in range(600))
    direct, text = Mode(), Mode(delimiters=True, rationale=True)
    latents = Mode(config().iterations, True, True, config().text_prefix, 2, "saliency")
    assert set(modes) == {direct, text, latents}
    for mode, share in ((direct, 0.2), (text, 0.3), (latents, 0.5)):
        assert abs(modes[mode] / 600 - share) < 0.07
    assert [batches.draw(s)[2] for s in range(30)] == [world(**_SHARES).draw(s)[2] for s in range(30)]


_SHARES: dict[str, Any] = {"batch": 1, "data": WorldData(per_image=1), "text_share": 0.3}
_SHARES["direct_share"] = 0.2


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (stage("I"), Mode(rationale=True)),
        (stage("I", text_share=1.0), Mode(delimiters=True, rationale=True)),
        (stage("I", direct_share=1.0), Mode()),
        (stage(iterations=3, window="random"), Mode(3, True, True, -1, 2, "random")),
        (stage(iterations=0), Mode(0, True, True, -1, 0)),
        (stage(replaced=None), Mode(-1, True, True, -1, -1)),
        (stage(replaced=0), Mode(-1, True, True, -1, 0)),
        (stage("I", text_share=1.0, lm_grid=2), Mode(delimiters=True, rationale=True, lm_grid=2)),
        (stage(full_share=1.0), Mode(delimiters=True, rationale=True, lm_grid=8)),
        (stage("I", data=WORLD, fetch_share=1.0), Mode(-1, True, True, fetch=True)),
    ],
)
def test_mode_of_a_stage(made: StageConfig, expected: Mode) -> None:
    """-1 stands for the model's own K and P."""
    own = {"iterations": config().iterations, "prefix": config().text_prefix, "replaced": config().text_prefix}
    values = {name: own[name] if value == -1 else value for name, value in vars(expected).items()}
    assert stage_mode(made, config(), 0.5) == Mode(**values)


IDS = st.lists(st.integers(10, 60), max_size=7)
ROWS = st.lists(st.tuples(IDS, IDS, st.lists(st.integers(10, 60), min_size=1, max_size=5)), min_size=1, max_size=5)


@given(rows=ROWS, iterations=st.integers(0, 2), delimiters=st.booleans(), prefix=st.integers(0, 9))
def test_the_prefix_and_the_text_are_the_whole_text(
    rows: list[tuple[list[int], list[int], list[int]]], iterations: int, delimiters: bool, prefix: int
) -> None:
    mode = Mode(iterations, delimiters, True, prefix, prefix if iterations else 0)
    inputs, ids, mask = encode_rows(*zip(*rows, strict=True), mode, config(), fill=7)
    prompts = kept(inputs["input_ids"], inputs["attention_mask"])
    targets = kept(inputs["target_ids"], inputs["target_mask"])
    assert prompts == [prompt + [config().latent_start_id] * delimiters for prompt, _, _ in rows]
    if not iterations:
        assert ids is mask is None and "prefix_ids" not in inputs
        assert targets == [rationale + answer for _, rationale, answer in rows]
    else:
        assert ("prefix_ids" in inputs) == bool(prefix)
        heads = kept(inputs["prefix_ids"], inputs["prefix_mask"]) if prefix else [[]] * len(rows)
        whole = kept(ids, mask)
        for (_, rationale, answer), head, target, all_of_it in zip(rows, heads, targets, whole, strict=True):
            assert len(head) == min(prefix, len(rationale or answer)) and all_of_it == (rationale or answer)
            assert head + target == rationale + answer if rationale else (target, head) == (answer, answer[:prefix])
    for name, left in (("attention", True), ("target", False), ("prefix", False)):
        padding = inputs.get(f"{name}_mask")
        if padding is not None:
            steps = padding.diff(dim=1)
            assert (steps >= 0).all() if left else (steps <= 0).all()
            filled = inputs["input_ids" if left else f"{name}_ids"][padding == 0]
            assert (filled == 7).all()


@given(rows=ROWS, replaced=st.integers(0, 9))
def test_replaced_cuts_the_rationale_alone(rows: Any, replaced: int) -> None:
    inputs, _, _ = encode_rows(*zip(*rows, strict=True), Mode(1, True, True, 3, replaced), config(), 0)
    targets = kept(inputs["target_ids"], inputs["target_mask"])
    assert targets == [rationale[replaced:] + answer for _, rationale, answer in rows]
    inputs, _, _ = encode_rows(*zip(*rows, strict=True), Mode(), config(), 0)
    assert kept(inputs["target_ids"], inputs["target_mask"]) == [answer for _, _, answer in rows]
