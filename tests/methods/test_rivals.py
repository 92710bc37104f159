"""The rivals that reason in text or with crops: batches answer as rows alone, cached as recomputed, costs add up."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lare import LareError
from lare.methods import get_method
from lare.methods.base import Sampling
from lare.methods.boxes import box_asked, enlarged, read_box, words_of
from lare.methods.ccot import Ccot, _graph
from lare.methods.cof import Cof
from lare.methods.icot import Icot
from lare.methods.layout import crop_of
from lare.methods.llava import Llava
from lare.methods.mmcot import Mmcot
from tests.model.reference import EagerDecoder

from .tiny_checkpoint import GRID, LM_GRID, pictures, tiny_parts, write_checkpoint

QUESTIONS = [f"Is there a {thing} in the image?{' really' * n} Answer yes or no."
             for n, thing in enumerate(["dog", "cup", "cat", "car"])]  # fmt: skip
SHORT = Sampling(max_new_tokens=10)
FAMILIES = ["llama", "qwen2"]
GROUP = LM_GRID**2


@pytest.fixture(scope="module", params=FAMILIES)
def parts(request):
    return tiny_parts(family=request.param)


def facts(answer):
    counts = (answer.output_tokens, answer.input_tokens, answer.extra_visual_tokens, answer.decoder_passes)
    own = {name: value.tolist() for name, value in answer.arrays.items() if name != "attention_shares"}
    return answer.text, counts, answer.cut, own


def assert_alone_as_together(method, sampling=SHORT, trace=True):
    images = pictures(len(QUESTIONS))
    together = method.answer(images, QUESTIONS, sampling, trace)
    for image, question, one in zip(images, QUESTIONS, together, strict=True):
        (alone,) = method.answer([image], [question], sampling, trace)
        assert facts(one) == facts(alone)
    return together


# Two calls ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Ccot, Mmcot])
def test_two_calls_are_those_of_a_plain_model(parts, kind):
    method, plain = kind(*parts, first_tokens=7), Llava(*parts)
    answers = assert_alone_as_together(method)
    images = pictures(len(QUESTIONS))
    for image, question, answer in zip(images, QUESTIONS, answers, strict=True):
        (first,) = plain.answer([image], [method.first_prompt(question)], Sampling(7))
        taken = method.taken(first.text)[0]
        (second,) = plain.answer([image], [method.second_prompt(question, taken)], SHORT)
        assert answer.text == f"{first.text}\nAnswer: {second.text}".strip()
        assert answer.output_tokens == first.output_tokens + second.output_tokens
        assert answer.input_tokens == first.input_tokens + second.input_tokens > 2 * GROUP
        assert answer.decoder_passes == 2 + answer.output_tokens and answer.latent_steps == 0
        assert set(answer.seconds) >= {"vision", "prefill", "decode"}
        assert np.all(answer.arrays["malformed"] == (0 if kind is Mmcot else 1))
    assert method.images_encoded(0) == kind.calls == 2


def test_an_endless_first_text_is_cut_to_what_the_second_prompt_holds(parts):
    method = Ccot(*parts, first_tokens=10_000)
    (answer,) = method.answer(pictures(1), QUESTIONS[:1], SHORT, trace=True)
    model, processor = parts
    assert len(answer.arrays["prompt_ids"]) + 10 < processor.tokenizer.model_max_length
    assert answer.output_tokens > 100, "the first call ran into the end of the positions"


def test_a_first_text_that_names_an_image_is_no_second_image(parts, monkeypatch):
    method = Mmcot(*parts)
    asked = []

    def answer(images, prompts, sampling, trace=False):
        asked.append(prompts)
        return Llava(*parts).answer(images, ["What?"] * len(images), SHORT, trace)

    method.first = Llava(*parts)
    monkeypatch.setattr(method.first, "answer", lambda *given: [said("<image> a <image> b")])
    monkeypatch.setattr(method.second, "answer", answer)
    method.answer(pictures(1), ["Where?"], SHORT)
    assert asked == [["Where?\nRationale: a  b"]]


def said(text: str) -> Any:
    from lare.methods.base import Answer

    return Answer(text, 20, 5)


def test_only_the_second_text_is_the_answer(parts, monkeypatch):
    method = Ccot(*parts)
    method.first = Llava(*parts)
    monkeypatch.setattr(method.first, "answer", lambda *given: [said('{"a": "cup"} Answer: cup')])
    for second, text in [("dog", "Answer: dog"), ("", "Answer:"), ("It is. Answer: dog", "It is. Answer: dog")]:
        monkeypatch.setattr(method.second, "answer", lambda *given, told=second: [said(told)])
        (answer,) = method.answer(pictures(1), ["What?"], SHORT)
        assert answer.text == f'{{"a": "cup"}} Answer: cup\n{text}'.strip()


@pytest.mark.parametrize(
    ("text", "graph"),
    [
        ('Here: ```json\n{"a": [1, "cup"]}\n``` done', '{"a":[1,"cup"]}'),
        ('[{"a": 1}] and', '[{"a":1}]'),
        ('{"a": "cup', None),
        ("{'a': 1}", None),
        ("no graph", None),
        ("", None),
        ("[" * 100_000, None),
    ],
)
def test_broken_graphs_are_told_from_whole_ones(parts, text, graph):
    assert _graph(text) == graph
    assert Ccot(*parts).taken(text) == ((text, False) if graph is None else (graph, True))


@given(
    st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.dictionaries(st.text(), inner), max_leaves=9)
)
def test_a_graph_comes_back_from_any_text_around_it(value):
    kept = json.dumps({"graph": value}, separators=(",", ":"), ensure_ascii=False)
    assert _graph(f"So: {json.dumps({'graph': value}, indent=1)} That is all") == kept == _graph(kept)


def test_the_rationale_may_come_from_another_checkpoint(parts, tmp_path):
    answers_with = write_checkpoint(tmp_path / "A" / "final", seed=0)
    write_checkpoint(tmp_path / "R" / "final", seed=1)
    kind = get_method("mmcot")
    model, processor = kind.load(str(answers_with), "cpu", None)
    alone = Mmcot(model, processor)
    for place in ("../../R/final", str(tmp_path / "R" / "final")):
        method = Mmcot(model, processor, rationale_from=place)
        assert method.fingerprint() not in (alone.fingerprint(), method.first.fingerprint())
        (answer,) = method.answer(pictures(1), QUESTIONS[:1], SHORT)
        other = Llava(*tiny_parts(1)).answer(pictures(1), QUESTIONS[:1], Sampling(256))[0]
        assert answer.text.startswith(other.text) and other.text
    assert alone.fingerprint() == Llava(model, processor).fingerprint()
    shutil.rmtree(tmp_path / "R")
    with pytest.raises(LareError, match="no checkpoint folder"):
        Mmcot(model, processor, rationale_from="../../R/final")


# Splicing -----------------------------------------------------------------------------------------------------------


def restless(method: Icot, seed: int = 3) -> Icot:
    """A method for which steps end often: random weights write no sentences."""
    generator = torch.Generator().manual_seed(seed)
    size = method.model.config.text_config.vocab_size
    lines, stops, opens = (torch.rand(size, generator=generator) < 0.2 for _ in range(3))
    method.__dict__["kinds"] = (lines, stops, opens, method.kinds[3])
    return method


def slow_prompt(method, image, question):
    """Embeddings (S, d) of one prompt, columns of its image, and its visual tokens."""
    with method.configured():
        inputs = method.inputs([image], [question])
        visual = method.model.visual_tokens(inputs["pixel_values"], None)
    embeds = method.model.embed(inputs["input_ids"])[0]
    columns = (inputs["input_ids"][0] == method.model.config.image_token_id).nonzero().flatten()
    embeds = embeds.clone()
    embeds[columns] = visual.lm[0]
    return embeds, columns, visual


def slow_answer(method, image, question, limit, block):
    """All of it again for every token: ids, and how many blocks. `block` gives what follows a token, or None."""
    decoder, model = EagerDecoder(method.model), method.model
    embeds, columns, visual = slow_prompt(method, image, question)
    start, end = (model.embed_token(one, 1)[0] for one in (model.config.latent_start_id, model.config.latent_end_id))
    ids, blocks, newest = [], 0, None
    while len(ids) < limit:
        run = decoder(embeds)
        token = int(run.logits[-1].argmax())
        seen = None if newest is None else block(newest, token, ids, run.attention[:, :, -1, columns], visual, blocks)
        if seen is not None:
            embeds = torch.cat((embeds, start, seen, end))
            blocks, newest = blocks + 1, None
            continue
        if token == 2:
            break
        ids.append(token)
        embeds, newest = torch.cat((embeds, model.embed(torch.tensor([[token]]))[0])), token
    return ids, blocks


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"fine": False, "patches": 2}, {"share": 0.25, "times": 2}, {"patches": 7}])
def test_icot_writes_what_recomputing_everything_writes(parts, options):
    method = restless(Icot(*parts, **options))
    lines, stops, opens, ends = method.kinds
    f = GRID // LM_GRID if options.get("fine", True) else 1
    wanted = options.get("patches", 16) if "share" not in options else round(options["share"] * (LM_GRID * f) ** 2)

    places: list[int] = []

    def block(newest, token, ids, attention, visual, blocks):
        step = (lines[newest] and not lines[token]) or (stops[newest] and opens[token])
        if not step or ends[token] or blocks == options.get("times", 3):
            return None
        places.append(len(ids))
        mean = attention.float().mean((0, 1))
        best = sorted(range(GROUP), key=lambda cell: -float(mean[cell]))[: min(max(1, wanted // f**2), GROUP)]
        cells = [
            (cell // LM_GRID * f + i) * LM_GRID * f + cell % LM_GRID * f + j
            for cell in best
            for i in range(f)
            for j in range(f)
        ]
        return (visual.lm if f == 1 else fine.lm)[0][sorted(cells)]

    images, found = pictures(len(QUESTIONS)), []
    answers = method.answer(images, QUESTIONS, Sampling(24), trace=True)
    for image, question, answer in zip(images, QUESTIONS, answers, strict=True):
        places.clear()
        pixels = method.inputs([image], [question])["pixel_values"]
        fine = method.model.visual_tokens(pixels, None, GRID)
        ids, blocks = slow_answer(method, image, question, 24, block)
        assert answer.text == method._decode(ids).strip() and answer.output_tokens == len(ids)
        spliced = answer.arrays["spliced"]
        assert len(spliced) == blocks and answer.extra_visual_tokens == spliced.size
        assert answer.decoder_passes == 1 + len(ids) + blocks
        found.append(tuple(places))
    assert len({places for places in found if places}) > 1, "rows of a batch get blocks at different times"


class Pointing(Cof):
    """Random weights write no boxes, so whatever closes a bracket has asked for one."""

    name = "pointing"

    def asked(self, text):
        number = len(text) * 7 % 60
        return f"{number} 10 {number + 30} 90" if number % 4 else "nothing of the kind"


@torch.no_grad()
@pytest.mark.parametrize("turns", [6, 2])
def test_cof_writes_what_recomputing_everything_writes(parts, turns):
    model, processor = parts
    method = Pointing(*parts, turns=turns)
    generator = torch.Generator().manual_seed(5)
    method.__dict__["closing"] = torch.rand(model.config.text_config.vocab_size, generator=generator) < 0.25
    images = pictures(len(QUESTIONS))
    answers = method.answer(images, QUESTIONS, Sampling(24), trace=True)
    found, places = [], set()
    for image, question, answer in zip(images, QUESTIONS, answers, strict=True):
        boxes, at = [], []

        def block(newest, token, ids, attention, visual, blocks, image=image, boxes=boxes, at=at):
            if not method.closing[newest] or blocks == turns:
                return None
            at.append(len(ids))
            boxes.append(read_box(method.asked(processor.tokenizer.decode(ids))))
            crop = crop_of(image, (0, 0, 1, 1) if boxes[-1] is None else enlarged(boxes[-1], 1.5))
            return model.encode_images(processor.image_processor([crop], return_tensors="pt")["pixel_values"]).lm[0]

        ids, blocks = slow_answer(method, image, question, 24, block)
        assert answer.text == method._decode(ids).strip() and answer.output_tokens == len(ids)
        assert answer.extra_visual_tokens == blocks * GROUP and answer.decoder_passes == 1 + len(ids) + blocks
        np.testing.assert_allclose(answer.arrays["boxes"], np.array([b or (0, 0, 1, 1) for b in boxes]).reshape(-1, 4))
        assert answer.arrays["malformed"].tolist() == [boxes.count(None)]
        assert method.images_encoded(answer.extra_visual_tokens) == 1 + blocks
        found.append(boxes)
        places.add(tuple(at))
    assert any(None in boxes for boxes in found) and len(places) > 1, "rows see crops at different times"


@pytest.mark.parametrize("kind", [Icot, Cof])
def test_without_steps_and_boxes_it_is_the_plain_answer(parts, kind):
    images = pictures(len(QUESTIONS))
    plain = Llava(*parts).answer(images, QUESTIONS, SHORT)
    quiet = {Icot: {"times": 0}, Cof: {"turns": 0}}[kind]
    for method in (kind(*parts, **quiet), Cof(*parts)):
        for one, other in zip(method.answer(images, QUESTIONS, SHORT), plain, strict=True):
            assert (one.text, one.output_tokens, one.input_tokens) == (
                other.text,
                other.output_tokens,
                other.input_tokens,
            )
            assert one.extra_visual_tokens == 0 and one.decoder_passes == other.decoder_passes


@pytest.mark.parametrize("kind", [Icot, Pointing])
def test_rows_of_different_lengths_answer_as_alone(parts, kind):
    method = restless(kind(*parts)) if kind is Icot else kind(*parts)
    method.__dict__["closing"] = torch.arange(parts[0].config.text_config.vocab_size) % 4 == 0
    answers = assert_alone_as_together(method, Sampling(20))
    assert len({answer.input_tokens for answer in answers}) == len(QUESTIONS)
    assert all(answer.extra_visual_tokens for answer in answers)
    sampled = [method.answer(pictures(4), QUESTIONS, Sampling(9, 1.5, seed=seed)) for seed in (1, 1, 2)]
    first, again, other = ([one.text for one in answers] for answers in sampled)
    assert first == again != other


def test_the_last_token_is_read_again_where_asked(parts):
    texts = []
    for repeat in (False, True):
        method = restless(Icot(*parts, repeat=repeat))
        texts.append([one.text for one in assert_alone_as_together(method, Sampling(16))])
        assert method.splicer(()).size == method.splicer(()).visual + 2 + repeat
    assert texts[0] != texts[1]


def test_positions_are_kept_free_for_what_is_spliced_in(parts):
    long = Sampling(max_new_tokens=49_152)
    method = restless(Icot(*parts))
    (answer,) = method.answer(pictures(1), QUESTIONS[:1], long)
    splicer = method.splicer(())
    assert answer.input_tokens + answer.output_tokens + splicer.most * splicer.size <= 512


@pytest.mark.parametrize(
    ("options", "message"),
    [({"share": 0.0}, "share is 0.0"), ({"share": 1.5}, "share is 1.5"), ({"patches": 0}, "patches is 0")],
)
def test_impossible_numbers_of_patches_are_refused(parts, options, message):
    with pytest.raises(LareError, match=message):
        Icot(*parts, **options)


def test_a_grey_picture_has_grey_crops(parts, monkeypatch):
    method = Pointing(*parts, image="blank")
    monkeypatch.setattr(method, "_row", lambda row, written, splicer, *rest: splicer.images[row])
    (image,) = method.answer(pictures(1), QUESTIONS[:1], SHORT)
    assert np.unique(np.array(image)).tolist() == [128]


# Boxes --------------------------------------------------------------------------------------------------------------

SIDE = st.floats(0, 1)


@given(
    x=st.tuples(SIDE, SIDE).filter(lambda p: p[1] - p[0] > 0.02),
    y=st.tuples(SIDE, SIDE).filter(lambda p: p[1] - p[0] > 0.02),
)
def test_boxes_come_back_from_their_words_and_stay_inside(x, y):
    box = (x[0], y[0], x[1], y[1])
    inside = box_asked(f"Look{words_of(box)}.")
    assert np.allclose(read_box(inside), box, atol=0.0051)
    big = enlarged(box, 1.5)
    assert all(0 <= side <= 1 for side in big)
    assert big[0] <= box[0] < box[2] <= big[2] and big[1] <= box[1] < box[3] <= big[3]
    assert enlarged(box, 1.0) == pytest.approx(box)


@pytest.mark.parametrize(
    "inside",
    ["1e99 0 2e99 3", "0 0 nan 5", "", "1 2 3", "1 2 3 4 5", "50 10 40 90", "0 0 0 50", "-5 0 50 50", "0 0 50 101",
     "left, top"],
)  # fmt: skip
def test_what_is_no_box_is_told(inside):
    assert read_box(inside) is None


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("At [1, 2, 3, 4]", "1, 2, 3, 4"),
        ("At [1 2] and [3 4].", "3 4"),
        ("nothing ]", None),
        ("open [1 2", None),
        ("Answer: [1 2 3 4]", None),
        ("[[1 2 3 4]", "1 2 3 4"),
        ("[[1 2 3 4]]", None),
    ],
)
def test_where_a_crop_is_asked_for(text, inside):
    assert box_asked(text) == inside
