"""How the rivals are trained: what a sample becomes, what of it is supervised, and that an update runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lare.data.sample import Sample
from lare.errors import LareError
from lare.methods import get_method
from lare.methods.layout import Layout, Row, Seen, Text
from tests.training.loading import FEW, boxed_file, kept, packed, processor, world
from tests.training.plain import tiny_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def few_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lare.embedded.batches.VARIANTS", FEW)


SAMPLE = Sample(
    "1", "Where is it?", "cup", "It is a cup. It is red.", boxes=(None, (0.0, 0.25, 0.5, 0.5)),
    scene_graph='{"a1": "cup red"}',
)  # fmt: skip


def training(name: str, **options: Any) -> Any:
    kind = get_method(name).training
    assert kind is not None
    return kind(kind.options_type.read(name, options))


def test_mmcot_trains_rationale_and_answer_apart() -> None:
    (first,) = training("mmcot", part="rationale").examples(SAMPLE)
    (second,) = training("mmcot").examples(SAMPLE)
    assert first is SAMPLE
    assert second.question == "Where is it?\nRationale: It is a cup. It is red." and not second.rationale
    assert training("mmcot").examples(replace(SAMPLE, rationale=""))[0].question == "Where is it?"
    row = Row([1], [2, 3], [4, 5, 9])
    assert training("mmcot", part="rationale").segments(row, Layout()) == [Text([2, 3, 9])]
    assert training("mmcot").segments(row, Layout()) is None
    with pytest.raises(LareError, match="part is 'both'; choose from rationale, answer"):
        training("mmcot", part="both")


def test_what_mmcot_is_trained_on_is_what_it_is_asked() -> None:
    method = get_method("mmcot")
    (sample,) = training("mmcot").examples(SAMPLE)
    assert method.second_prompt(None, SAMPLE.question, SAMPLE.rationale) == sample.question  # type: ignore[attr-defined]


def test_ccot_trains_graphs_and_answers_with_graphs() -> None:
    writes, reads = training("ccot").examples(SAMPLE)
    kind = get_method("ccot")
    options = kind.options_type()
    asked = kind.first_prompt(type("Asked", (), {"options": options})(), SAMPLE.question)  # type: ignore[attr-defined]
    assert writes.question == asked and writes.rationale == '{"a1":"cup red"}'
    assert reads.question == kind.second_prompt(None, SAMPLE.question, '{"a1":"cup red"}')  # type: ignore[attr-defined]
    assert not reads.rationale and reads.answer == "cup"
    (plain,) = training("ccot").examples(replace(SAMPLE, scene_graph=""))
    assert (plain.question, plain.rationale) == (SAMPLE.question, "")
    own = training("ccot", instruction="Graph?").examples(SAMPLE)[0]
    assert own.question == "Where is it?\nGraph?"


def test_cof_writes_boxes_reads_crops_and_writes_the_steps() -> None:
    tokens = {"latent_start": 70, "latent_end": 71}
    half, quarter = (0.0, 0.25, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)
    row = Row([1], [2, 3, 4, 5, 6], [7, 9], (half, None, quarter), [2, 3, 5], lambda text: [len(text)], tokens)
    marks = (Text([70], False), Text([71], False))
    first, third = Seen((0.0, 0.1875, 0.625, 0.5625), True), Seen((0.375, 0.375, 1.0, 1.0), True)
    words = [Text([len(" [0 25 50 50]")]), Text([len(" [50 50 100 100]")])]
    made = training("cof").segments(row, Layout())
    assert made == [
        words[0], marks[0], first, marks[1], Text([2, 3]), Text([4]),
        words[1], marks[0], third, marks[1], Text([5, 6]), Text([7, 9]),
    ]  # fmt: skip
    bare = training("cof", rationale=False, turns=1, enlarge=1.0).segments(row, Layout())
    assert bare == [words[0], marks[0], Seen(half, True), marks[1], Text([7, 9])]
    assert training("cof", turns=1).segments(row, Layout())[-2:] == [Text([4, 5, 6]), Text([7, 9])]
    assert training("cof").segments(replace(row, boxes=()), Layout()) == [Text([2, 3, 4, 5, 6]), Text([7, 9])]


CASES: list[tuple[str, dict[str, Any]]] = [
    ("mmcot", {"part": "rationale"}),
    ("mmcot", {"part": "answer"}),
    ("ccot", {}),
    ("cof", {}),
]


def said(batch: Any) -> list[str]:
    """What each row of a batch is to answer."""
    ids, mask = batch.inputs["target_ids"], batch.inputs.get("label_mask", batch.inputs["target_mask"])
    decode = processor().tokenizer.decode
    return [decode(one) for one in kept(ids, mask * batch.inputs["target_mask"])]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_world_trains_them(name: str, options: dict[str, Any]) -> None:
    batches = world(features=None, batch=8, micro_batch=8, methods={name: {"share": 1.0, **options}})
    (batch,) = batches.micro_batches(1)
    texts, end = said(batch), processor().tokenizer.eos_token
    assert all(text.endswith(end) and text.count(end) == 1 for text in texts)
    asked = [processor().tokenizer.decode(one) for one in batch.inputs["input_ids"]]
    if name == "mmcot":
        answers = options["part"] == "answer"
        assert all(("Answer:" in text) == answers for text in texts)
        assert all(("Rationale:" in text) == answers for text in asked)
    if name == "ccot":
        graphs = ["JSON" in text for text in asked]
        assert any(graphs) and not all(graphs)
        for text, graph, question in zip(texts, graphs, asked, strict=True):
            assert ("Answer:" in text) != graph == ("Scene graph:" not in question)
            assert not graph or json.loads(text.removesuffix(end))
    if name == "cof":
        assert all(" [" in text and "Answer:" in text for text in texts)
        assert batch.inputs["crop_values"].shape[0] >= 8
    model = tiny_model(0)
    width = int(model.lare.config.vision_config.image_size)
    assert batch.inputs["pixel_values"].shape[-1] == width
    batch.inputs["pixel_values"] = batch.inputs["pixel_values"].double()
    out = model(batch, {})
    assert torch.isfinite(out.sums["lm"]) and out.sums["lm"].requires_grad


@pytest.mark.parametrize(("name", "options"), CASES)
def test_data_files_train_them(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    data = boxed_file(tmp_path, examples=training(name, **options))
    batches = packed(data, batch=8, methods={name: {"share": 1.0, **options}})
    (batch,) = batches.micro_batches(0)
    texts, end = said(batch), processor().tokenizer.eos_token
    assert all(text.endswith(end) and text.count(end) == 1 for text in texts)
    assert ("crop_values" in batch.inputs) == (name == "cof")
