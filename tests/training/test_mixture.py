"""Methods in a mixture: drawn as shares were before, laid out by themselves, with segments, examples and losses."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lare.data import Sample, Source
from lare.data.packed import Packed, pack
from lare.embedded.world_data import WorldData
from lare.errors import LareError
from lare.losses.base import Loss, Run
from lare.methods import get_method, method_names
from lare.methods.layout import Layout, Row, Seen, Text, cells_in_box
from lare.methods.training import Training
from lare.training.feeding.loader import Split
from lare.training.feeding.mode import main_layout, stage_mode
from lare.training.feeding.rows import step_ends
from lare.training.plan.config import DataConfig, StageConfig
from lare.training.plan.mixture import Entry
from lare.training.plan.run_file import load_run_config, run_config_from
from tests.training.loading import config, kept, packed, processor, world, write_data

ROOT = Path(__file__).parents[2]
WORLD = WorldData(per_image=4)


def before(stage: str, shares: dict[str, float], flip: float) -> Layout:
    """How updates were shared out by the ``_share`` keys of earlier versions."""
    order = ("direct", "text", "full", "fetch")
    direct, text, full, fetch = (flip < limit for limit in accumulate(shares[name] for name in order))
    settings = config()
    if direct:
        return Layout()
    if text:
        return Layout(delimiters=True, rationale=True)
    if full:
        return Layout(delimiters=True, rationale=True, lm_grid=settings.grid)
    if fetch:
        return Layout(settings.iterations, True, True, fetch=True)
    if stage == "I":
        return Layout(rationale=True)
    return Layout(settings.iterations, True, True, settings.text_prefix, settings.text_prefix)


SHARE = st.floats(0, 0.25)


@given(
    shares=st.fixed_dictionaries(dict.fromkeys(("direct", "text", "full", "fetch"), SHARE)),
    flip=st.floats(0, 1, exclude_max=True),
    stage=st.sampled_from(["I", "III"]),
)
def test_keys_of_earlier_versions_draw_what_they_drew(shares: dict[str, float], flip: float, stage: str) -> None:
    given_keys = {f"{name}_share": share for name, share in shares.items()}
    made = StageConfig(stage, (WORLD,), **given_keys)
    assert stage_mode(made, config(), flip) == before(stage, shares, flip)
    if any(shares.values()):
        assert made.methods and not made.text_share
        assert replace(made, batch=64).mixture == made.mixture
        assert StageConfig(stage, (WORLD,), methods=made.methods).methods == made.methods


OLD: dict[str, dict[str, dict[str, float]]] = {
    "embedded.yaml": {
        "I-questions": {"text_share": 0.9, "direct_share": 0.1},
        "I-fetch": {"fetch_share": 0.7, "full_share": 0.12, "text_share": 0.18},
        "III": {"fetch_share": 0.15, "text_share": 0.05, "direct_share": 0.1},
        "IV": {"fetch_share": 0.1, "text_share": 0.05, "direct_share": 0.1},
    },
    "embedded_small.yaml": {
        "I-questions": {"text_share": 0.9, "direct_share": 0.1},
        "I-fetch": {"fetch_share": 0.7, "full_share": 0.12, "text_share": 0.18},
    },
}
OLD["world2.yaml"] = OLD["embedded.yaml"]


@pytest.mark.parametrize("file", OLD)
def test_shipped_run_files_train_what_they_trained(file: str) -> None:
    """With the keys that they had when the shipped checkpoint was made."""
    for stage in load_run_config(ROOT / "lare/configs" / file).stages:
        old = replace(stage, methods={}, **OLD[file].get(stage.name, {}))
        for flip in [at / 200 for at in range(200)]:
            assert stage_mode(stage, config(), flip) == stage_mode(old, config(), flip)
        assert main_layout(stage, config()) == main_layout(old, config())


def test_deprecated_keys_are_told_with_what_they_stand_for(capsys: pytest.CaptureFixture[str]) -> None:
    stage = {"stage": "III", "data": [{"path": "data.json"}], "text_share": 0.25}
    content = {"model": {"checkpoint": "x"}, "stages": [stage]}
    made = run_config_from(content)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("stages.0: text_share are deprecated") and "'method': 'cot', 'delimiters': True" in line
    plain = made.to_dict()
    assert not [name for name in plain["stages"][0] if name.endswith("_share")]
    assert run_config_from(plain) == made and not capsys.readouterr().err


def test_every_method_of_the_folder_that_trains_has_a_layout() -> None:
    for name in method_names():
        training = get_method(name).training
        if training is not None:
            layout = training().layout(StageConfig("III", (WORLD,)), config())
            assert isinstance(layout, Layout), name


def test_a_methods_options_come_before_the_stages() -> None:
    methods = {"random": {"method": "lare", "share": 0.5, "window": "random", "iterations": 2}, "lare": 0.5}
    made = StageConfig("III", (WORLD,), methods=methods, replaced=1, lm_grid=2)
    first, second = stage_mode(made, config(), 0.1), stage_mode(made, config(), 0.9)
    assert (first.window, first.iterations, first.replaced, first.lm_grid) == ("random", 2, 1, 2)
    assert (second.window, second.iterations, second.lm_grid) == ("saliency", config().iterations, 2)


# Segments and examples ----------------------------------------------------------------------------------------------


class Norm(Loss):
    """Mean square of the latents, for a test."""

    name = "norm"

    def value(self, run: Run) -> Any:
        """See `Loss.value`."""
        return run.out.target_hidden.square().mean((1, 2)).sum()


class Pointing(Training):
    """Where it is, in words; what is there; a crop of it; then the answer."""

    boxes = True

    def segments(self, row: Row, layout: Layout) -> list[Any]:
        """See `Training.segments`."""
        box = next((one for one in row.boxes if one is not None), None)
        if box is None:
            return [Text(row.answer)]
        start, end = [row.special["latent_start"]], [row.special["latent_end"]]
        return [Text(row.encode(" At:")), Text(start, False), Seen(box), Seen(box, crop=True), Text(end, False),
                Text(row.answer)]  # fmt: skip

    def losses(self) -> dict[Loss, float]:
        """See `Training.losses`."""
        return {Norm(): 0.1}


class Halves(Training):
    """Question to rationale, question and rationale to answer."""

    def examples(self, sample: Sample) -> list[Sample]:
        """See `Training.examples`."""
        if len(sample.rationale) < 30:
            return []
        asked = f"{sample.question} {sample.rationale}"
        return [replace(sample, answer=sample.rationale, rationale=""), replace(sample, question=asked, rationale="")]


def only(stage: StageConfig, training: Training) -> StageConfig:
    """A stage whose one method is a test's."""

    class Only(StageConfig):
        mixture = property(lambda self: (Entry("own", "own", 1.0, training),))  # type: ignore[assignment]

    return Only(**vars(stage))


BOX = (0.25, 0.0, 0.5, 0.25)


def boxed(folder: Path) -> Packed:
    """Rows of which every second has a box."""
    path = write_data(folder)
    rows = json.loads(path.read_text())
    for number, row in enumerate(rows):
        if number % 2:
            row["boxes"] = [None, list(BOX)]
    path.write_text(json.dumps(rows))
    return pack(Source(path, "vision_r1"), processor(), folder / "pack")


def test_segments_of_a_data_file(tmp_path: Path) -> None:
    batches = packed(boxed(tmp_path), batch=8)
    batches.stage = only(batches.stage, Pointing())
    (batch,) = batches.micro_batches(0)
    inputs, grid = batch.inputs, config().grid
    visual, cells = inputs["target_visual"], cells_in_box(BOX, grid)
    crops = int((visual >= 8 * grid**2).any(1).sum())
    assert 0 < crops < 8 and inputs["crop_values"].shape == (crops, *inputs["pixel_values"].shape[1:])
    assert not (inputs["label_mask"].bool() & (visual >= 0)).any()
    number = 0
    tokenizer = processor().tokenizer
    for row in range(8):
        own = visual[row][visual[row] >= 0].tolist()
        text = inputs["target_ids"][row][inputs["label_mask"][row].bool()].tolist()
        if own:
            first = 8 * grid**2 + number * config().lm_grid ** 2
            assert own == [row * grid**2 + cell for cell in cells] + list(range(first, first + config().lm_grid ** 2))
            number += 1
        said = tokenizer.decode(text)
        assert said.startswith(" At:") is bool(own) and "Answer" in said and said.endswith(tokenizer.eos_token)
    assert batch.losses == {Norm(): 0.1}
    assert "crop_values" not in packed(boxed(tmp_path / "other"), batch=8).micro_batches(0)[0].inputs


def test_segments_are_the_same_however_a_batch_is_split(tmp_path: Path) -> None:
    data = boxed(tmp_path)
    rows: list[list[Any]] = []
    for splits in ([Split()], [Split(0, 2, 4), Split(1, 2, 4)]):
        found = []
        for split in splits:
            batches = packed(data, split, batch=16)
            batches.stage = only(batches.stage, Pointing())
            for batch in batches.micro_batches(3):
                fine = config().grid ** 2
                for row, numbers in enumerate(batch.inputs["target_visual"]):
                    own = numbers[(numbers >= 0) & (numbers < batch.rows * fine)] - row * fine
                    ids = kept(batch.inputs["target_ids"], batch.inputs["target_mask"])[row]
                    found.append((batch.where[row], own.tolist(), ids))
        rows.append(found)
    assert rows[0] == rows[1]


def test_the_worlds_questions_have_segments_and_examples() -> None:
    batches = world(batch=16)
    batches.stage = only(batches.stage, Pointing())
    (batch,) = batches.micro_batches(2)
    assert batch.inputs["target_visual"].shape == batch.inputs["target_ids"].shape
    assert "crop_values" in batch.inputs and batch.losses
    images, fine = 16 // WORLD.per_image, config().grid ** 2
    for row, numbers in enumerate(batch.inputs["target_visual"]):
        inside = numbers[(numbers >= 0) & (numbers < images * fine)]
        assert set((inside // fine).tolist()) <= {row // WORLD.per_image}

    class Graph(Training):
        def examples(self, sample: Sample) -> list[Sample]:
            assert sample.scene_graph and sample.question
            return [replace(sample, rationale="", answer=sample.scene_graph)]

    batches.stage = only(batches.stage, Graph())
    (batch,) = batches.micro_batches(2)
    said = processor().tokenizer.decode(kept(batch.inputs["target_ids"], batch.inputs["target_mask"])[0])
    assert said.count(",") >= 1


def test_examples_are_packed_apart(tmp_path: Path) -> None:
    path = write_data(tmp_path)
    whole = pack(Source(path, "vision_r1"), processor(), tmp_path / "whole")
    own = pack(Source(path, "vision_r1"), processor(), tmp_path / "own", examples=Halves())
    report = json.loads((tmp_path / "own" / "report.json").read_text())
    left = report["left_out"]["no_example"]
    assert len(own) == 2 * (len(whole) - left) and 0 < left < len(whole)
    assert own.fingerprint != whole.fingerprint
    first, second = own.rows([0, 1])
    said = processor().tokenizer.decode
    assert said(first.answer.tolist()).removesuffix("<|end|>") in said(second.prompt.tolist())
    again = pack(Source(path, "vision_r1"), processor(), tmp_path / "own", examples=Halves())
    assert again.fingerprint == own.fingerprint


def test_boxes_come_back_from_a_pack_and_malformed_ones_are_bad_rows(tmp_path: Path) -> None:
    path = write_data(tmp_path, count=9)
    rows = json.loads(path.read_text())
    rows[0]["boxes"] = [list(BOX), None]
    rows[0]["scene_graph"] = {"dog": "a1"}
    wrong: list[Any] = [
        "left",
        [[1, 2, 3]],
        [[0.5, 0.0, 0.25, 1.0]],
        [[0, 0, 20, 20]],
        [["a", 0, 1, 1]],
        [[0, 0, True, 1]],
    ]
    for row, boxes in zip(rows[1:], wrong, strict=False):
        row["boxes"] = boxes
    path.write_text(json.dumps(rows))
    data = pack(Source(path, "vision_r1"), processor(), tmp_path / "pack")
    report = json.loads((tmp_path / "pack" / "report.json").read_text())
    assert report["left_out"] == {"bad_boxes": len(wrong)} and len(data) == 9 - len(wrong)
    assert data.rows([0])[0].boxes == [BOX, None] and not data.rows([1])[0].boxes
    assert data.with_boxes.tolist() == [True, False, False]
    told = (tmp_path / "pack" / "problems.jsonl").read_text()
    assert "divide pixels by the image's width and height" in told
    (sample, *_) = Source(path, "vision_r1").samples()
    assert sample.boxes == (BOX, None) and json.loads(sample.scene_graph) == {"dog": "a1"}


def test_boxes_of_a_file_feed_the_losses_on_looking(tmp_path: Path) -> None:
    batches = packed(boxed(tmp_path), batch=8)
    (batch,) = batches.micro_batches(0)
    left, top, right, bottom = BOX
    known = batch.boxes[batch.boxes[..., 0] >= 0]
    assert len(known) and torch.equal(known, torch.tensor([[top, left, bottom, right]]).expand_as(known))
    assert (batch.boxes[:, 0, 0] < 0).all(), "the first step of each row needs nothing"


def test_a_method_that_needs_boxes_refuses_data_without(tmp_path: Path) -> None:
    from lare.cli import main

    write_data(tmp_path)
    content = {
        "model": {"checkpoint": str(ROOT / "lare/checkpoints/embedded")},
        "out": str(tmp_path / "run"),
        "losses": {"image": 0},
        "tensorboard": False,
        "stages": [
            {"stage": "III", "batch": 8, "data": [{"path": str(tmp_path / "data.json")}], "methods": {"fetch": 1}}
        ],
    }
    (tmp_path / "run.yaml").write_text(json.dumps(content))
    assert main(["train", str(tmp_path / "run.yaml")]) == 2


def test_a_plain_source_is_not_asked_for_boxes_before_it_is_read() -> None:
    StageConfig("III", (DataConfig(path="data.json"),), methods={"fetch": 1})

    class Boxless(WorldData):
        boxes = False

    with pytest.raises(LareError, match="the method 'fetch' needs the boxes of each reasoning step"):
        StageConfig("III", (Boxless(),), methods={"fetch": 1})


# Boxes and steps ----------------------------------------------------------------------------------------------------


@given(
    sides=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0.01, 0.1), st.floats(0.01, 0.1)),
    grid=st.integers(1, 16),
)
def test_cells_of_a_box_are_those_that_it_touches(sides: tuple[float, float, float, float], grid: int) -> None:
    from lare.losses.looking import tokens_in_boxes

    left, top, width, height = sides
    box = (left, top, left + width, top + height)
    expected = tokens_in_boxes(torch.tensor([[[box[1], box[0], box[3], box[2]]]], dtype=torch.float64), grid)
    found = cells_in_box(box, grid)
    assert found and (not expected.any() or found == expected[0, 0].nonzero().squeeze(1).tolist())


def test_steps_of_a_rationale_end_with_sentences_and_lines() -> None:
    tokenizer = processor().tokenizer
    ids = tokenizer(" The dog is red. It has 3 legs", add_special_tokens=False)["input_ids"]
    ends = step_ends(tokenizer, ids)
    assert [tokenizer.decode(ids[a:b]) for a, b in zip([0, *ends], ends, strict=False)] == [
        " The dog is red.",
        " It has 3 legs",
    ]
    row = Row([], ids, [], ends=ends)
    assert (row.after_steps(0), row.after_steps(1), row.after_steps(9)) == (0, ends[0], len(ids))
    assert step_ends(tokenizer, []) == []


def test_each_latent_tells_its_own_step(tmp_path: Path) -> None:
    """In the world and in a data file; the last latent tells all that is left, and latents without a step nothing."""
    methods = {"lare": {"share": 1.0, "by_step": True, "iterations": 2}}
    tokenizer = processor().tokenizer
    batches = world(kind="IV", methods=methods, batch=16)
    _, items, _ = batches.drawn(0)
    (batch,) = batches.micro_batches(0)
    ids, mask = batch.inputs["prefix_ids"], batch.inputs["prefix_mask"].bool()
    assert ids.shape[:2] == (16, 2)
    for row, item in enumerate(items):
        steps = list(item.question.rationale) or [f"Answer: {item.final}{tokenizer.eos_token}"]
        wanted = [steps[0], " ".join(steps[1:])]
        told = [tokenizer.decode(ids[row, k][mask[row, k]]).removeprefix(" ") for k in (0, 1)]
        for whole, part in zip(wanted, told, strict=True):
            assert whole.startswith(part) and bool(whole) == bool(part)
        assert int(mask[row].sum(1).max()) <= config().text_prefix
    (filed,) = packed(boxed(tmp_path), kind="IV", methods=methods, batch=8).micro_batches(0)
    assert filed.inputs["prefix_ids"].shape[:2] == (8, 2) and filed.inputs["prefix_mask"].any(-1)[:, 0].all()
