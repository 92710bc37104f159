"""Conversations and rows without an image, from the file to the gradient."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import lare
from lare.cli import main
from lare.data import Source
from lare.data.packed import Packed, pack
from lare.errors import LareError
from lare.model import LareForConditionalGeneration
from lare.training.feeding.batch import MicroBatch
from lare.training.feeding.loader import Split, batch_loader
from lare.training.model import TrainingModel
from lare.training.plan.config import DataConfig
from lare.training.plan.stages import freeze_all_but, parts_of
from lare.training.step import run_step
from lare.training.trainer import make_draws
from tests.training.loading import SPLITS, config, kept, packed, processor, stage
from tests.training.plain import run_config

SEEN, TEXT = 40, 24
WEIGHTS = {"alignment": 0.1, "image": 0.0, "text": 0.5, "look": 0.0}


def write(folder: Path, seen: int = SEEN, text: int = TEXT) -> Path:
    """Conversations of one to four turns about 8 pictures, and some about none between them."""
    rng = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    rows: list[dict[str, Any]] = []
    for i in range(seen + text):
        said = []
        for turn in range(1 + i % 4):
            mark = "<image>\n" if turn == 0 and i < seen else ""
            said += [{"from": "human", "value": f"{mark}Question {turn} of {i}?"}]
            said += [{"from": "gpt", "value": f"<think>Thought {turn} of {i}.</think>answer {turn} of {i}"}]
        rows.append({"id": str(i), "conversations": said} | ({"image": f"{i % 8}.png"} if i < seen else {}))
    (folder / "talk.json").write_text(json.dumps([rows[int(n)] for n in rng.permutation(len(rows))]))
    return folder / "talk.json"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder = tmp_path_factory.mktemp("talk")
    return pack(Source(write(folder), "vision_r1"), processor(), folder / "pack")


@functools.cache
def model() -> TrainingModel:
    """The shipped one; its weights are not changed."""
    return TrainingModel(LareForConditionalGeneration.from_pretrained(lare.default_checkpoint()), 16).double()


def text_only(batch: MicroBatch) -> bool:
    return "pixel_values" not in batch.inputs and "visual_features" not in batch.inputs


def said(ids: Any) -> str:
    return str(processor().tokenizer.decode(ids))


def labels(batch: MicroBatch) -> list[list[int]]:
    answered = batch.inputs.get("label_mask", batch.inputs["target_mask"])  # rows of one turn have none
    return kept(batch.inputs["target_ids"], batch.inputs["target_mask"].bool() & answered.bool())


# Batches -----------------------------------------------------------------------------------------------------------


def test_batches_are_of_one_kind_and_every_row_comes(data: Packed) -> None:
    batches = packed(data, batch=8)
    assert len(data) == batches.samples == SEEN + TEXT and batches.updates == 8 and batches.without_image == 0
    kinds, where = [], []
    for step in range(8):
        (batch,) = batches.micro_batches(step)
        kinds.append(text_only(batch))
        where += batch.where
        images = (batch.inputs["input_ids"] == config().image_token_id).sum(1).unique().tolist()
        assert images == ([0] if kinds[-1] else [config().lm_grid ** 2])
    assert sum(kinds) == TEXT // 8 and len(set(where)) == SEEN + TEXT
    assert kinds != sorted(kinds) and kinds != sorted(kinds, reverse=True)  # mixed


def test_a_conversation_is_one_sequence_with_latents_before_its_first_answer(data: Packed) -> None:
    batches = packed(data, batch=8, replaced=2)
    seen = [batch for step in range(8) for batch in batches.micro_batches(step) if not text_only(batch)]
    rows = [row for batch in seen for row in zip(*_texts(batch), batch.where, strict=True)]
    assert len(rows) == SEEN
    for prompt, target, answered, prefix, rationale, where in rows:
        (source,) = data.rows([int(where.partition(":")[2]) - 1])
        name = said(source.answer).partition(" of ")[2].removesuffix("<|end|>")
        turns = 1 + int(name) % 4
        assert prompt.endswith(f"\nQuestion 0 of {name}?<|assistant|><|latent_start|>")
        whole = said(source.rationale[2:].tolist()) + said(source.answer) + said(source.rest)
        assert target == whole and whole.count("<|user|>") == turns - 1
        later = "".join(f"Thought {n} of {name}.\nAnswer: answer {n} of {name}<|end|>" for n in range(1, turns))
        assert answered == said(source.rationale[2:].tolist()) + f"\nAnswer: answer 0 of {name}<|end|>" + later
        assert rationale == f"Thought 0 of {name}." and rationale.startswith(prefix)  # eqs. 6 and 8: the first


def _texts(batch: MicroBatch) -> list[list[str]]:
    inputs = batch.inputs
    found = [kept(inputs["input_ids"], inputs["attention_mask"]), kept(inputs["target_ids"], inputs["target_mask"])]
    found += [labels(batch), kept(inputs["prefix_ids"], inputs["prefix_mask"])]
    assert batch.rationale_ids is not None and batch.rationale_mask is not None
    found.append(kept(batch.rationale_ids, batch.rationale_mask))
    return [[said(ids) for ids in rows] for rows in found]


def test_a_batch_that_is_answered_at_once_thinks_in_no_turn(data: Packed) -> None:
    batches = packed(data, batch=8, direct_share=1.0)
    for step in range(8):
        (batch,) = batches.micro_batches(step)
        for ids in labels(batch):
            assert "Thought" not in said(ids) and said(ids).count("Answer: ") == said(ids).count("<|end|>")


def test_text_batches_write_their_rationales_and_have_no_latents(data: Packed) -> None:
    batches = packed(data, batch=8)
    (batch,) = next(made for made in map(batches.micro_batches, range(8)) if text_only(made[0]))
    assert batch.inputs["iterations"] == 0 and not batch.inputs["delimiters"] and batch.rationale_ids is None
    prompts = kept(batch.inputs["input_ids"], batch.inputs["attention_mask"])
    assert all(said(ids).startswith("<|begin|><|user|>Question 0 of") for ids in prompts)
    assert all(said(ids).startswith("Thought 0 of") for ids in labels(batch))


@pytest.mark.parametrize("splits", SPLITS)
def test_the_same_rows_however_a_batch_is_split(data: Packed, splits: list[Split]) -> None:
    for step in range(2):
        (whole,) = packed(data, batch=16).micro_batches(step)
        smaller = [replace(split, micro_batch=split.micro_batch and 4) for split in splits]
        parts = [batch for split in smaller for batch in packed(data, split, batch=16).micro_batches(step)]
        assert [where for part in parts for where in part.where] == whole.where
        assert [ids for part in parts for ids in labels(part)] == labels(whole)
        assert {text_only(part) for part in parts} == {text_only(whole)}


def test_workers_make_the_same_batches(data: Packed) -> None:
    batches = packed(data, batch=8)
    plain, ahead = ([[b.where for b in one] for one in batch_loader(batches, 0, 8, workers)] for workers in (0, 2))
    assert plain == ahead


@pytest.mark.parametrize("kind", ["I", "II"])
def test_frozen_decoders_leave_rows_without_an_image_out(data: Packed, kind: str) -> None:
    batches = packed(data, kind=kind, batch=8)
    assert (batches.samples, batches.without_image) == (SEEN, TEXT)
    assert not any(text_only(batch) for step in range(5) for batch in batches.micro_batches(step))
    assert packed(data, kind="I", batch=8, train=("projector", "language_model")).without_image == 0


def test_too_few_for_a_batch_of_their_own_are_left_out(data: Packed) -> None:
    assert packed(data, batch=32).without_image == TEXT
    with pytest.raises(LareError, match="fewer than one batch of 64"):
        packed(data, batch=64)


def test_an_image_only_file_keeps_its_order(tmp_path: Path) -> None:
    made = pack(Source(write(tmp_path, 20, 0), "vision_r1"), processor(), tmp_path / "pack")
    batches = packed(made, batch=4, seed=3)
    rng = np.random.default_rng((3, 0, 7))
    order = rng.permutation(20)
    order = order[np.argsort(batches.lengths[order], kind="stable")].reshape(-1, 4)
    assert batches._epoch(0).tolist() == order[rng.permutation(5)].tolist()


# Losses ------------------------------------------------------------------------------------------------------------


def losses_of(batch: MicroBatch, weights: dict[str, float] = WEIGHTS) -> Any:
    made = {
        name: one.double() if torch.is_tensor(one) and one.is_floating_point() else one
        for name, one in batch.inputs.items()
    }
    batch.inputs = made
    draws = make_draws(run_config("unused"), model(), 2, 0, batch.rows)
    return run_step(model(), [batch], weights, [draws], 0.07)


@pytest.mark.parametrize("text", [False, True])
def test_the_loss_is_that_of_each_row_read_by_the_decoder_alone(data: Packed, text: bool) -> None:
    """Against transformers' own forward over whole, unpadded rows, and logits where something is answered."""
    batches = packed(data, batch=8, iterations=None, direct_share=1.0)
    (batch,) = next(made for made in map(batches.micro_batches, range(8)) if text_only(made[0]) == text)
    for name in ("alignment", "text", "image"):
        assert name not in losses_of(batch).losses
    inner, total, count = model().lare, 0.0, 0
    with torch.no_grad():
        for row in range(batch.rows):
            inputs = batch.inputs
            prompt = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
            target = inputs["target_ids"][row][inputs["target_mask"][row].bool()]
            answered = inputs["label_mask"][row][: len(target)].bool()
            ids = torch.cat((prompt, target))[None]
            embeds = inner.embed(ids)
            if not text:
                visual = inner.encode_images(inputs["pixel_values"][row : row + 1]).lm
                embeds[0, ids[0] == config().image_token_id] = visual[0]
            logits = inner.language_model(inputs_embeds=embeds).logits[0, len(prompt) - 1 : -1]
            total += float(
                torch.nn.functional.cross_entropy(logits[answered].float(), target[answered], reduction="sum")
            )
            count += int(answered.sum())
    found = losses_of(batch)
    assert found.counts["lm"] == count < int(batch.inputs["target_mask"].sum())
    assert found.losses["lm"] == pytest.approx(total / count, rel=1e-5)


def test_questions_behind_latents_pull_at_nothing(data: Packed) -> None:
    """Without the label mask the loss is another one; with it, what is masked does not change it."""
    batches = packed(data, batch=8)
    (batch,) = next(made for made in map(batches.micro_batches, range(8)) if not text_only(made[0]))
    found = losses_of(batch, WEIGHTS | {"alignment": 0.0, "text": 0.0})
    mask = batch.inputs["target_mask"].bool() & ~batch.inputs["label_mask"].bool()
    assert mask.any() and found.counts["lm"] == int(batch.inputs["label_mask"].sum())
    last = batch.inputs["target_ids"].clone()
    tail = torch.zeros_like(mask)
    for row in range(batch.rows):  # what is read behind the last answer could be anything
        end = int(batch.inputs["label_mask"][row].nonzero()[-1]) + 1
        tail[row, end:] = True
    batch.inputs["target_ids"] = torch.where(tail, 40, last)
    assert losses_of(batch, WEIGHTS | {"alignment": 0.0, "text": 0.0}).losses["lm"] == found.losses["lm"]
    batch.inputs["target_ids"] = last
    del batch.inputs["label_mask"]
    assert losses_of(batch, WEIGHTS | {"alignment": 0.0, "text": 0.0}).losses["lm"] != pytest.approx(found.losses["lm"])


def test_text_alone_pulls_at_the_decoder_alone(data: Packed) -> None:
    batches = packed(data, batch=8)
    (batch,) = next(made for made in map(batches.micro_batches, range(8)) if text_only(made[0]))
    freeze_all_but(model(), parts_of(stage("III")))
    model().zero_grad(set_to_none=True)
    assert losses_of(batch).losses.keys() == {"lm", "total"}
    for name, parameter in model().named_parameters():
        if name.startswith("lare.vision_tower"):
            assert parameter.grad is None
        elif not name.startswith("lare.language_model."):
            assert parameter.grad is not None and not parameter.grad.any(), name
    assert float(model().lare.get_input_embeddings().weight.grad.norm()) > 0
    model().zero_grad(set_to_none=True)


# A run -------------------------------------------------------------------------------------------------------------


def test_a_run_on_conversations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, 16, 8)
    entry = {"batch": 8, "data": [{"path": str(path)}]}
    content = {
        "out": str(tmp_path / "run"),
        "model": {"checkpoint": str(lare.default_checkpoint())},
        "losses": {"image": 0.0},
        "tensorboard": False,
        "cache_features": True,
        "log_every": 1,
        "stages": [{"stage": "II", **entry}, {"stage": "III", **entry}],
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    assert main(["train", str(tmp_path / "run.yaml")]) == 0
    assert "stage II: 8 samples without an image are left out" in "".join(capsys.readouterr())
    logs = {
        name: [json.loads(line) for line in (tmp_path / "run" / name / "log.jsonl").open()] for name in ("II", "III")
    }
    assert len(logs["II"]) == 2 and len(logs["III"]) == 3
    alone = [row for row in logs["III"] if row["losses"].keys() == {"lm", "total"}]
    assert len(alone) == 1 and all(np.isfinite(row["losses"]["lm"]) for row in logs["III"])
    (report,) = (tmp_path / "run" / "data").glob("*/report.json")
    assert json.loads(report.read_text())["samples"] == 24


def test_settings_are_checked() -> None:
    with pytest.raises(LareError, match="data turns is 'first'; give all, last or each"):
        DataConfig(path="data.json", turns="first")
