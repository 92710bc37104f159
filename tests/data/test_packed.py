"""Packed data say what the files said, leave out what can't be trained on, and are never half there."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

import lare
from lare.data import Source
from lare.data.packed import pack
from lare.errors import LareError
from lare.model import LareProcessor
from lare.model.processing_lare import IMAGE_TOKEN
from lare.model.user_text import UserText
from tests.data.packing import packed, problems, report, said, shipped, write
from tests.data.test_source import BAD_ROWS, png, row, turns
from tests.families import BYTES, FAMILIES, family_processor


@pytest.fixture
def processor() -> LareProcessor:
    return shipped()


IMAGES = IMAGE_TOKEN * shipped().lm_grid ** 2


def test_a_llava_row_comes_back(tmp_path, processor):
    (found,) = packed(tmp_path, [row("x", conversation=turns("<image>\nWhat is it?", "A cat."))]).rows([0])
    assert said(processor, found.prompt) == f"<|begin|><|user|>{IMAGES}\nWhat is it?<|assistant|>"
    assert len(found.rationale) == 0
    assert said(processor, found.answer) == "A cat.<|end|>"
    assert found.image == "a.png" and found.where == "data.json:1"
    assert (found.prompt == processor.image_token_id).sum() == processor.lm_grid**2


def test_a_prompt_is_the_one_that_is_asked_later(tmp_path, processor):
    (found,) = packed(tmp_path, [row("x", conversation=turns("What is it?\n<image>", "A cat."))]).rows([0])
    served = processor(images=[np.zeros((128, 128, 3), np.uint8)], text=processor.build_prompts(["What is it?"]))
    assert [*found.prompt.tolist(), processor.latent_start_id] == served["input_ids"][0].tolist()


@pytest.mark.parametrize("opens", [True, False])
def test_a_prompt_begins_once(tmp_path, opens):
    """Whether the chat template writes the first token or the tokenizer adds it."""
    own = LareProcessor.from_pretrained(lare.default_checkpoint())
    begin = ("<|begin|>", own.tokenizer.bos_token_id)
    own.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|begin|> $A", special_tokens=[begin])
    if not opens:
        own.chat_template = own.chat_template.replace("<|begin|>", "")
    (found,) = pack(Source(write(tmp_path, [row("a")]), "llava"), own, tmp_path / "run" / "pack").rows([0])
    assert said(own, found.prompt) == f"<|begin|><|user|>{IMAGES}\nWhat?<|assistant|>"
    assert said(own, found.answer) == "A cat.<|end|>"


def test_turns_have_the_image_first_the_system_prompt_and_their_history(tmp_path, processor):
    conversation = [
        {"from": "system", "value": "Look at <image> well."},
        *turns("What is it?\n<image>", "A cat.", "Its colour?", "Red."),
    ]
    data = packed(tmp_path, [row("x", conversation=conversation)], turns="each")
    first, second = data.rows([0, 1])
    start = f"<|begin|><|user|>Look at  well.<|user|>{IMAGES}\nWhat is it?<|assistant|>"
    assert said(processor, first.prompt) == start
    assert said(processor, second.prompt) == f"{start}A cat.<|end|><|user|>Its colour?<|assistant|>"
    assert [said(processor, one.answer) for one in (first, second)] == ["A cat.<|end|>", "Red.<|end|>"]
    assert data.lengths.tolist() == [len(one.prompt) + len(one.answer) for one in (first, second)]
    whole = packed(tmp_path, [row("x", conversation=conversation)])
    (both,) = whole.rows([0])
    assert both.prompt.tolist() == first.prompt.tolist() and both.answer.tolist() == first.answer.tolist()
    assert said(processor, both.rest) == "<|user|>Its colour?<|assistant|>Red.<|end|>"
    assert said(processor, both.rest[both.roles > 0]) == "Red.<|end|>"
    assert [*both.prompt, *both.answer, *both.rest] == [*second.prompt, *second.answer]
    assert whole.lengths.tolist() == [len(second.prompt) + len(second.answer)]


def test_a_vision_r1_row_comes_back_in_three_parts(tmp_path, processor):
    reply = "<think>It is at a1.\nSo it is red.</think><answer>Red</answer>"
    data = packed(tmp_path, [row("x", conversation=turns("<image>Its colour?", reply))], "vision_r1")
    (found,) = data.rows([0])
    assert said(processor, found.prompt) == f"<|begin|><|user|>{IMAGES}\nIts colour?<|assistant|>"
    assert said(processor, found.rationale) == "It is at a1.\nSo it is red."
    assert said(processor, found.answer) == "\nAnswer: Red<|end|>"
    assert data.lengths.tolist() == [len(found.prompt) + len(found.rationale) + len(found.answer)]


def test_any_text_comes_back_at_any_place(tmp_path, processor):
    """Rows of all lengths and alphabets, read alone and in any order."""
    texts = ["a", "Ünïcode 漢字 🙂", "tabs\tand\n\nlines", "x " * 90, "<think>", "</s>", "{{ braces }}"]
    rows = [row(str(i), f"{i}.png", turns(f"<image>\n{t}?", t + "!")) for i, t in enumerate(texts * 80)]  # two chunks
    data = packed(tmp_path, rows)
    assert len(data) == len(rows) == 560
    for number in (559, 0, 3, 511, 512, 200):
        (found,) = data.rows([number])
        text = texts[number % len(texts)]
        assert said(processor, found.answer) == text + "!<|end|>"
        assert f"\n{text}?<|assistant|>" in said(processor, found.prompt)
        assert (found.image, found.where) == (f"{number}.png", f"data.json:{number + 1}")
    both = data.rows([3, 0])
    assert [one.where for one in both] == ["data.json:4", "data.json:1"]


def test_what_cannot_be_trained_on_is_left_out_counted_and_listed(tmp_path, processor):
    long = "cat " * 60
    rows = [
        row("a"),
        row("b", None, turns("Hello", "Hi")),
        row("f", conversation=turns("<image>\nWhat?", "A", "And?", long)),
        row("g", conversation=turns("<image>\nWhat?", "")),
        "no row",
        row("h"),
        row("i", conversation=turns("<image>\nWhat?", long)),
    ]
    data = packed(tmp_path, rows, max_tokens=60)
    assert [one.where for one in data.rows(range(len(data)))] == [f"data.json:{i}" for i in (1, 2, 3, 6)]
    assert report(tmp_path)["left_out"] == {"too_long": 1, "empty_answer": 1, "not_object": 1}
    assert report(tmp_path)["samples"] == 4 and report(tmp_path)["rows"] == 7
    expected = {
        ("data.json:3", "shortened"), ("data.json:4", "empty_answer"), ("data.json:5", "not_object"),
        ("data.json:7", "too_long"),
    }  # fmt: skip
    assert set(problems(tmp_path)) == expected and len(problems(tmp_path)) == 4
    assert data.lengths.max() <= 60 and report(tmp_path)["shortened"] == 1
    cut = data.rows([2])[0]
    assert said(processor, cut.answer) == "A<|end|>" and len(cut.rest) == len(cut.roles) == 0


def test_a_row_without_an_image(tmp_path, processor):
    data = packed(tmp_path, [row("a"), row("b", None, turns("Hello", "Hi", "How are you?", "Fine."))])
    assert data.with_image.tolist() == [True, False]
    found = data.rows([1])[0]
    assert found.image is None and said(processor, found.prompt) == "<|begin|><|user|>Hello<|assistant|>"
    assert said(processor, found.rest) == "<|user|>How are you?<|assistant|>Fine.<|end|>"


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_in_any_text_of_a_row_are_text(tmp_path, family):
    """No row is lost for them, and none has more special tokens than its twin without."""
    own = family_processor(family)
    for name, token in enumerate(own.user_text.tokens[::-1]):
        mark = "" if token == "<image>" else token  # in LLaVA's rows that is where the image stands
        texts = [
            f"<image>\nIs {mark} it?",
            f"<think>A {token} b.</think>It {token} is.",
            f"Q {mark}",
            "<think>R</think>A",
        ]
        texts[1:] = [text.replace("<image>", "") for text in texts[1:]]
        system = [{"from": "system", "value": f"Be {token} kind."}] if family not in ("llama2",) else []
        ids = {}
        for kind in ("with", "without"):
            said = [text if kind == "with" else text.replace(token, "") for text in texts]
            said[0] = f"<image>\n{said[0].removeprefix('<image>').strip()}"
            told = [one | {"value": one["value"] if kind == "with" else "Be kind."} for one in system]
            path = write(tmp_path, [row("a", conversation=[*told, *turns(*said)])], f"{kind}.json")
            data = pack(Source(path, "vision_r1", turns="each"), own, tmp_path / f"{name}-{kind}")
            whole = pack(Source(path, "vision_r1"), own, tmp_path / f"{name}-{kind}-all")
            assert (len(data), len(whole)) == (2, 1)
            (row_of,) = whole.rows([0])
            ids[f"all-{kind}"] = [[*row_of.prompt.tolist(), *row_of.answer.tolist(), *row_of.rest.tolist()]]
            ids[kind] = [
                [*one.prompt.tolist(), *one.rationale.tolist(), *one.answer.tolist()] for one in data.rows([0, 1])
            ]
        special = {*own.tokenizer.all_special_ids, own.image_token_id, own.latent_start_id, own.latent_end_id}
        twins = zip(ids["with"] + ids["all-with"], ids["without"] + ids["all-without"], strict=True)
        for one, twin in twins:
            assert [i for i in one if i in special] == [i for i in twin if i in special], token
        if mark and token in own.tokenizer.get_vocab() and family in BYTES:
            assert f"A {token} b." in said_by(own, ids["with"][0]) and f"It {token} is." in said_by(own, ids["with"][1])


def said_by(own: LareProcessor, ids: list[int]) -> str:
    return str(own.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def test_a_row_that_a_tokenizer_cannot_keep_as_text_costs_no_other(tmp_path, monkeypatch):
    plain = UserText.encode_marked

    def encode(self: UserText, tokenizer: Any, texts: Any, special: bool) -> Any:
        if any("bad" in piece for text in texts for piece in text):
            raise LareError("this tokenizer can't keep <x> as text; remove it")
        return plain(self, tokenizer, texts, special)

    monkeypatch.setattr(UserText, "encode_marked", encode)
    data = packed(tmp_path, [row("a"), row("b", conversation=turns("<image>Q", "bad")), row("c")])
    assert len(data) == 2 and problems(tmp_path) == [("data.json:2", "special_token")]


def test_the_tokenizers_limit_is_the_longest(tmp_path, processor):
    limit = processor.tokenizer.model_max_length
    data = packed(tmp_path, [row("a"), row("b", conversation=turns("<image>\nQ?", "cat " * limit))])
    assert len(data) == 1 and report(tmp_path)["left_out"] == {"too_long": 1}


def test_a_template_may_refuse_a_conversation(tmp_path):
    own = LareProcessor.from_pretrained(lare.default_checkpoint())
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    own.chat_template = refuse + own.chat_template
    rows = [row("a"), row("b", conversation=[{"from": "system", "value": "Be brief."}, *turns("<image>Q", "A")])]
    data = pack(Source(write(tmp_path, rows), "llava"), own, tmp_path / "run" / "pack")
    assert len(data) == 1 and problems(tmp_path) == [("data.json:2", "chat_template")]


def test_two_hundred_bad_rows_of_many_kinds(tmp_path):
    """In one file, with rows that are no JSON: a listed count, no crash, and the good rows are there."""
    seen_by_images_alone = {"image_missing", "image_empty", "image_damaged", "image_outside"}
    kinds = {kind: rows for kind, rows in BAD_ROWS.items() if kind not in seen_by_images_alone}
    kinds |= {
        "too_long": [row("y", conversation=turns("<image>\nQ", "cat " * 200))],
        "double_row": [row("good")],
    }
    repeats = 10
    text = [json.dumps(row("good"))]
    for i in range(repeats):
        for rows in kinds.values():
            text += [json.dumps(_renamed(bad, i)) for bad in rows]
        text += ['{"id": "broken", "image": oops}', json.dumps(row(f"fine{i}"))]
    path = tmp_path / "data.json"
    path.write_text("[" + ",\n".join(text) + "]")
    data = pack(Source(path, "llava"), shipped(), tmp_path / "run" / "pack", max_tokens=100)
    expected = {kind: repeats * len(rows) for kind, rows in kinds.items()} | {"not_json": repeats}
    assert report(tmp_path)["left_out"] == expected
    assert len(expected) >= 19 and sum(expected.values()) >= 200
    assert len(problems(tmp_path)) == sum(expected.values())
    assert len(data) == repeats + 1
    wheres = [one.where for one in data.rows(range(len(data)))]
    assert wheres[0] == "data.json:1" and not {where for where, _ in problems(tmp_path)} & set(wheres)


def _renamed(bad: Any, number: int) -> Any:
    """With an id of its own, where the id is not what is wrong."""
    named = isinstance(bad, dict) and isinstance(bad.get("id"), str) and bad["id"] != "good"
    return bad | {"id": f"{bad['id']}-{number}"} if named else bad


def test_refusing_bad_rows(tmp_path):
    path = write(tmp_path, [row("a"), row("b", conversation=turns("<image>\nWhat?", ""))])
    folder = tmp_path / "run" / "pack"
    assert len(pack(Source(path, "llava"), shipped(), folder)) == 1
    with pytest.raises(LareError, match=r"data\.json:2: a reply is empty; mend the row"):
        pack(Source(path, "llava", on_bad="refuse"), shipped(), folder)
    assert folder.is_dir() and not folder.with_name("pack.part").exists()


def test_nothing_usable(tmp_path):
    with pytest.raises(LareError, match=r"holds no usable sample \({'empty_answer': 2}\); see lare data check"):
        packed(tmp_path, [row(name, None, turns("Hello", " ")) for name in "ab"])
    with pytest.raises(LareError, match="holds no usable sample"):
        packed(tmp_path, [])
    assert not list((tmp_path / "run").iterdir())
    with pytest.raises(LareError, match=r"no file '.*none\.json'"):
        pack(Source(tmp_path / "none.json", "llava"), shipped(), tmp_path / "run" / "pack")


def test_a_limit(tmp_path):
    data = packed(tmp_path, [row(str(i)) for i in range(9)], limit=4)
    assert [one.where for one in data.rows(range(len(data)))] == [f"data.json:{i}" for i in (1, 2, 3, 4)]


def test_rows_whose_image_is_missing_are_left_out_counted_listed_and_told(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(png())
    path = write(tmp_path, [row("a"), row("b", "gone.png"), row("c")])
    data = pack(Source(path, "llava", check_images="exist"), shipped(), tmp_path / "run" / "pack")
    assert [one.where for one in data.rows([0, 1])] == ["data.json:1", "data.json:3"] and len(data) == 2
    assert report(tmp_path)["left_out"] == {"image_missing": 1}
    assert problems(tmp_path) == [("data.json:2", "image_missing")]
    told = capsys.readouterr().err
    assert "3 rows, 2 samples; left out: 1 image_missing" in told and "problems.jsonl" in told
    with pytest.raises(LareError, match=r"data\.json:2: there is no image 'gone\.png'"):
        pack(Source(path, "llava", on_bad="refuse", check_images="exist"), shipped(), tmp_path / "run" / "other")


def test_images_inside_parquet_files(tmp_path, processor):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    messages = [{"role": "user", "content": "<image>Q"}, {"role": "assistant", "content": "<think>R</think>A"}]
    rows = [{"images": [{"bytes": png(i), "path": "x.png"}], "messages": messages} for i in range(3)]
    rows.append({"images": [{"bytes": None, "path": "named.png"}], "messages": messages})
    path = tmp_path / "data.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    data = pack(Source(path), processor, tmp_path / "pack")
    found = data.rows([2, 0, 3])
    assert [one.image for one in found] == [png(2), png(0), "named.png"]
    assert [said(processor, found[0].rationale), said(processor, found[0].answer)] == ["R", "\nAnswer: A<|end|>"]
    assert data.pictures.read(found[0].image) == png(2)


def test_pictures_are_found_beside_the_file_or_where_they_are_said_to_be(tmp_path, processor):
    (tmp_path / "a.png").write_bytes(png(1))
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.png").write_bytes(png(2))
    path = write(tmp_path, [row("a")])
    beside = pack(Source(path, "llava"), processor, tmp_path / "p1")
    named = pack(Source(path, "llava", images=other), processor, tmp_path / "p2")
    assert beside.pictures.read("a.png") == png(1) and named.pictures.read("a.png") == png(2)
    again = pack(Source(path, "llava", images=other), processor, tmp_path / "p1")  # the same file, other images
    assert again.pictures.read("a.png") == png(2) and again.fingerprint == named.fingerprint != beside.fingerprint
