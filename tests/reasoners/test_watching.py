"""Attention shares of other projects' models: from cached rows, against full maps of the sequence read anew."""

import numpy as np
import pytest
import torch

from analysis.attention.measure import compare, measures, read_side
from analysis.shared.questions import Gathered, Question
from analysis.validate.effects import attended
from analysis.validate.measure import measured
from analysis.validate.suite import Asking, run_suite
from analysis.validate.tables import mediation_table
from lare.methods.base import Sampling
from lare.trace import SHARES, AnswerRecord, TraceWriter
from tests.reasoners import plain, tiny

SHORT = Sampling(max_new_tokens=6)


def maps_of(method, row):
    """(L, H, S, S) of the whole sequence, by transformers' own eager attention."""
    decoder = method.model.get_decoder()
    decoder.set_attn_implementation("eager")
    try:
        return torch.cat(row.read(output_attentions=True).attentions)
    finally:
        decoder.set_attn_implementation("lare_sdpa")


def split(rows, kinds):
    """(L, H, 4) of rows (L, H, S): shares of each kind."""
    return torch.stack([rows[..., torch.tensor([kind == one for kind in kinds])].sum(-1) for one in SHARES], -1)


def prompt_kinds(method, row):
    image = getattr(method.model.config, "image_token_id", None)
    return ["bos", *("visual" if token == image else "text" for token in row.ids[0, 1:].tolist())]


def check(arrays, maps, kinds, word, queries):
    """The word's two rows and the steps' are those of the maps; columns after a query count for nothing there."""
    if word is not None:
        assert len(arrays["attention_shares"]) in (1, 2)  # one where the limit of tokens ended the answer with the word
        for place, (query, found) in enumerate(zip((word - 1, word), arrays["attention_shares"], strict=False)):
            np.testing.assert_allclose(found, split(maps[:, :, query], kinds), atol=1e-5)
            assert arrays["attention_keys"][place] == query + 1
        np.testing.assert_allclose(arrays["attention_shares"].sum(-1), 1, atol=1e-5)
    assert len(arrays["step_shares"]) == len(queries)
    for query, found in zip(queries, arrays["step_shares"], strict=True):
        np.testing.assert_allclose(found, split(maps[:, :, query], kinds).mean((0, 1)), atol=1e-5)


@pytest.mark.parametrize(("name", "family"), [("coconut", "gpt2"), ("mirage", "qwen2_5_vl"), ("monet", "qwen2_vl")])
def test_shares_of_states_fed_back(loaded, name, family):
    method = loaded(name, family, iterations=3)
    images, checked = tiny.pictures(8), 0
    answers = method.answer(images, tiny.QUESTIONS, SHORT, trace=True)
    for number in (0, 2, 5):
        kept = []
        with torch.inference_mode():
            plain.answer(method, images[number], tiny.QUESTIONS[number], SHORT.max_new_tokens, kept)
            (row,) = kept
            maps = maps_of(method, row)
        start, kinds = row.ids.shape[1], prompt_kinds(method, row)
        kinds += ["latent" if one == "latent" else "text" for one in row.kinds]
        latents = [start + place for place, one in enumerate(row.kinds) if one == "latent"]
        words = [start + place for place, one in enumerate(row.kinds) if one == "word"]
        after = [word for word in words if latents and word > latents[0]] or words
        if latents:  # a row may write no word that it also reads
            check(answers[number].arrays, maps, kinds, after[0] if after else None, [one - 1 for one in latents])
            checked += bool(after)
    assert checked or name == "monet", "random weights of monet go on thinking"


@pytest.mark.parametrize("name", ["lavit", "covt"])
def test_shares_of_slots(loaded, name):
    """A slot's shares are its own row's; slots that open the reply are then read one by one."""
    method, images = loaded(name), tiny.pictures(4)
    answers = method.answer(images, tiny.QUESTIONS[:4], SHORT, trace=True)
    plainly = method.answer(images, tiny.QUESTIONS[:4], SHORT)
    assert [one.text for one in answers] == [one.text for one in plainly], "watching changes no answer"
    for number in (0, 3):
        row = plain.Plain(method, images[number], tiny.QUESTIONS[number])
        ids, special = row.ids[0].tolist(), method.tokens.special()
        with torch.inference_mode():
            for _ in range(SHORT.max_new_tokens + 12):
                token = int(method.model.get_output_embeddings()(row.read().last_hidden_state[:, -1]).argmax())
                if token in method.tokens.ends:
                    break
                ids.append(token)
                row.append(row.embed(torch.tensor([[token]])))
            maps = maps_of(method, row)
        slots = [place for place, token in enumerate(ids) if token in method.tokens.slots]
        kinds = prompt_kinds(method, row) + ["text"] * len(row.kinds)
        kinds = ["latent" if place in slots else kind for place, kind in enumerate(kinds)]
        arrays = answers[number].arrays
        slots = slots[: len(arrays["step_shares"])]
        words = [place for place in range(row.ids.shape[1], len(ids)) if ids[place] not in special]
        after = [word for word in words if slots and word > slots[0]]
        check(arrays, maps, kinds, after[0], slots)


def test_a_batch_is_its_rows_alone_and_watching_changes_no_answer(loaded):
    method, images = loaded("mirage", "qwen2_5_vl", iterations=3), tiny.pictures(8)
    together = method.answer(images, tiny.QUESTIONS, SHORT, trace=True)
    unwatched = method.answer(images, tiny.QUESTIONS, SHORT)
    assert [(one.text, one.decoder_passes) for one in together] == [(one.text, one.decoder_passes) for one in unwatched]
    for number in (1, 6):
        (alone,) = method.answer(images[number : number + 1], tiny.QUESTIONS[number : number + 1], SHORT, trace=True)
        for name in ("attention_shares", "step_shares", "attention_keys"):
            assert (name in alone.arrays) == (name in together[number].arrays)
            if name in alone.arrays:
                np.testing.assert_allclose(alone.arrays[name], together[number].arrays[name], atol=1e-5)


def test_an_answer_of_one_token_has_the_row_that_predicts_it(loaded):
    method = loaded("coconut", "gpt2", iterations=2)
    (one,) = method.answer(tiny.pictures(1), tiny.QUESTIONS[:1], Sampling(max_new_tokens=1), trace=True)
    assert len(one.arrays["attention_shares"]) == len(one.arrays["attention_keys"]) == one.output_tokens == 1


def test_the_attention_report_reads_them(loaded, tmp_path):
    """Two settings of one model, each position counted that a row spreads over."""
    sides = []
    for name, options in (("own", {}), ("marks", {"intervene": "marks"})):
        method = loaded("mirage", "qwen2_5_vl", iterations=2, **options)
        answers = method.answer(tiny.pictures(8), tiny.QUESTIONS, SHORT, trace=True)
        with TraceWriter(tmp_path / name, {"config": method.model.config.to_dict()}, columns=method.columns) as writer:
            for number, one in enumerate(answers):
                own = {key: value for key, value in one.arrays.items() if key in method.columns}
                rest = {key: value for key, value in one.arrays.items() if key not in method.columns}
                writer.append(
                    AnswerRecord("feedback", "w", "task", number, "?", one.text, one.text, one.input_tokens,
                                 one.output_tokens, one.latent_steps, one.stop_reason, own=own, **rest)
                )  # fmt: skip
        sides.append((read_side(tmp_path / name, "task"), answers))
    for side, answers in sides:
        told = [one.arrays.get("attention_keys") for one in answers]  # none where an answer has no word
        assert any(one is not None for one in told)
        assert all(int(keys) == one[0] for keys, one in zip(side.keys, told, strict=True) if one is not None)
        assert (side.visual > 0).all()
    compared = compare(sides[0][0], sides[1][0])
    assert np.isfinite(measures(compared)["lift"]).all() and measures(compared)["visual"].max() <= 100


def test_the_suite_tells_what_latents_look_at(loaded, tmp_path):
    method = loaded("coconut", "llama", iterations=2)
    drawn = zip(tiny.QUESTIONS[:4], tiny.pictures(4), strict=True)
    questions = [Question("t", n, text, "A", str(n), image, max_new_tokens=3) for n, (text, image) in enumerate(drawn)]
    asking = Asking(batch=2, keep=str(tmp_path), only=("question", "other"), quiet=True)
    method.answer(tiny.pictures(1), tiny.QUESTIONS[:1], SHORT)  # the first use sets the tokenizer's padding
    outcomes = run_suite(method, questions, asking)
    again = run_suite(method, questions, asking)
    assert again.read and torch.equal(again.shares["own"], outcomes.shares["own"])
    shares = outcomes.shares["own"]
    assert shares.shape == (4, 2, len(SHARES)) and shares.sum(-1).numpy() == pytest.approx(1, abs=1e-5)
    assert shares[:, 0, 3].max() == 0 < shares[:, 1, 3].min(), "the second latent is made where the first was read"
    found = attended(outcomes.take(np.arange(3)))
    assert found["latent"].estimate == pytest.approx(float(shares[:3, :, 3].mean()), abs=1e-6)
    table = mediation_table(measured("tiny", method, Gathered(questions), outcomes))
    assert table is not None and table.rows[1]["effect"] == "Attention of the latent steps to the text, %"
