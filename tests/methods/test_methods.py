"""Methods answer the same in every batch, count honestly, honour their options and say what is wrong."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from lare import LareError
from lare.methods import get_method, load_method, method_names
from lare.methods.base import Method, Sampling
from lare.methods.generating import cut_text
from lare.methods.lare import Lare
from lare.methods.llava import Llava

from .tiny_checkpoint import GRID, LM_GRID, pictures, tiny_parts, write_checkpoint

QUESTIONS = [f"Is there a {thing} in the image?{' really' * n} Answer yes or no."
             for n, thing in enumerate(["dog", "cup", "cat", "car"] * 2)]  # fmt: skip
SHORT = Sampling(max_new_tokens=12)


@pytest.fixture(scope="module")
def parts():
    return tiny_parts()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def test_every_file_is_a_method():
    assert {"lare", "llava"} <= set(method_names())
    for name in method_names():
        assert issubclass(get_method(name), Method) and get_method(name).name == name
    with pytest.raises(LareError, match="no method 'nothing'.*lare, llava"):
        get_method("nothing")


@pytest.mark.parametrize("kind", [Lare, Llava])
def test_answers_do_not_depend_on_the_batch(parts, kind):
    method = kind(*parts)
    images = pictures(8)
    together = method.answer(images, QUESTIONS, SHORT)
    alone = [method.answer([image], [question], SHORT)[0] for image, question in zip(images, QUESTIONS, strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert (one.text, one.output_tokens, one.input_tokens) == (other.text, other.output_tokens, other.input_tokens)
    assert len({answer.text for answer in together}) > 1
    assert {answer.latent_steps for answer in together} == ({2} if kind is Lare else {0})


def test_batches_share_one_answer_with_an_adaptive_stop(parts):
    method = Lare(*parts, stop="cosine:0.5")
    images = pictures(8)
    together = method.answer(images, QUESTIONS, SHORT)
    alone = [method.answer([image], [question], SHORT)[0] for image, question in zip(images, QUESTIONS, strict=True)]
    assert [(a.text, a.latent_steps, a.stop_reason) for a in together] == [
        (a.text, a.latent_steps, a.stop_reason) for a in alone
    ]


def test_trace_arrays_have_the_rows_own_shapes(parts):
    model, processor = parts
    answers = Lare(model, processor, iterations=3).answer(pictures(8), QUESTIONS, SHORT, trace=True)
    layers, heads = model.config.text_config.num_hidden_layers, model.config.text_config.num_attention_heads
    for answer in answers:
        arrays = answer.arrays
        assert arrays["latents"].shape == (3, 1, 32)
        assert arrays["windows"].shape == (3, 2) and arrays["windows"].max() <= GRID - 2
        assert arrays["saliency"].shape == (3, LM_GRID, LM_GRID)
        np.testing.assert_allclose(arrays["cross_attention"].sum(-1), 1, atol=1e-3)
        assert arrays["attention_shares"].shape == (2, layers, heads, 4)
        np.testing.assert_allclose(arrays["attention_shares"].sum(-1), 1, atol=1e-3)
        assert len(arrays["prompt_ids"]) == answer.input_tokens
        assert set(answer.seconds) == {"vision", "prefill", "think", "decode"}
    # Padding never shows: the prompt begins with the beginning-of-text token.
    assert {int(answer.arrays["prompt_ids"][0]) for answer in answers} == {processor.tokenizer.bos_token_id}


def test_llava_has_no_latents_in_its_trace(parts):
    answer = Llava(*parts).answer(pictures(1), QUESTIONS[:1], SHORT, trace=True)[0]
    assert answer.arrays["latents"].shape[0] == 0 and answer.arrays["windows"].shape[0] == 0
    assert answer.arrays["attention_shares"][..., 3].max() == 0
    latent_start = parts[1].latent_start_id
    assert latent_start not in answer.arrays["prompt_ids"]


def test_options_change_the_computation_and_leave_the_model_alone(parts):
    model, processor = parts
    images, before = pictures(1), model.config.window
    answer = Lare(model, processor, iterations=1, window=4).answer(images, QUESTIONS[:1], SHORT, trace=True)[0]
    assert answer.latent_steps == 1 and answer.arrays["cross_attention"].shape == (1, 16)
    assert model.config.window == before
    none = Lare(model, processor, iterations=0).answer(images, QUESTIONS[:1], SHORT)[0]
    assert none.latent_steps == 0
    system = Lare(model, processor, system_prompt="Be brief.").answer(images, QUESTIONS[:1], SHORT)[0]
    assert system.input_tokens > answer.input_tokens


def test_limits_and_sampling(parts):
    method = Lare(*parts)
    images, questions = pictures(4), QUESTIONS[:4]
    short = method.answer(images, questions, Sampling(max_new_tokens=2))
    assert all(answer.output_tokens <= 2 for answer in short) and any(answer.cut for answer in short)
    hot = [method.answer(images, questions, Sampling(8, temperature=2.0, seed=seed)) for seed in (1, 1, 2)]
    texts = [[answer.text for answer in answers] for answers in hot]
    assert texts[0] == texts[1] != texts[2]
    # A task that allows 49,152 tokens must not ask for more positions than the model has.
    assert method.budget(100, 49_152) == 512 - 100 - 8 - 2
    with pytest.raises(LareError, match="too long: 600 tokens"):
        method.budget(600, 10)


def test_stop_texts_cut_and_tokens_are_counted_up_to_the_cut():
    words = ["It ", "is. ", "ASSIST", "ANT: ", "no"]
    text = cut_text(range(5), ("ASSISTANT:",), lambda ids: "".join(words[n] for n in ids))
    assert text == ("It is.", 4)
    assert cut_text(range(5), (), lambda ids: "".join(words[n] for n in ids)) == ("It is. ASSISTANT: no", 5)


def test_bad_questions_and_options_have_clear_messages(parts):
    method = Lare(*parts)
    for question, message in [("", "empty"), ("word " * 10_000, "tokens"), ("a <image> b <image>", "several images")]:
        with pytest.raises(LareError, match=message):
            method.answer(pictures(1), [question], SHORT)
    for options, message in [
        ({"window": 5}, "window is 5, but the grid has 4"),
        ({"iterations": True}, "iterations is True"),
        ({"stop": "never"}, "stop is 'never'"),
    ]:
        with pytest.raises(LareError, match=message):
            Lare(*parts, **options)
    with pytest.raises(LareError, match="'llava' has no option 'window'; it takes image, lm_grid, system_prompt"):
        Llava(*parts, window=2)
    with pytest.raises(LareError, match="max_new_tokens is 0"):
        Sampling(max_new_tokens=0)


def test_loading_a_checkpoint(checkpoint, tmp_path):
    method = load_method("lare", str(checkpoint), device="cpu", dtype="bfloat16", iterations=1)
    assert method.model.dtype == torch.bfloat16 and method.arguments()["dtype"] == "bfloat16"
    assert method.answer(pictures(1), QUESTIONS[:1], SHORT)[0].latent_steps == 1
    for arguments, message in [
        ({"pretrained": str(tmp_path / "absent")}, "no checkpoint folder"),
        ({"pretrained": str(tmp_path)}, "no config.json"),
        ({"pretrained": str(checkpoint), "dtype": "float8"}, "dtype is 'float8'"),
        ({"pretrained": str(checkpoint), "device": "moon"}, "device 'moon'"),
    ]:
        with pytest.raises(LareError, match=message):
            load_method("lare", **arguments)


def test_a_foreign_checkpoint_is_refused(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(
        LlamaConfig(vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    ).save_pretrained(tmp_path)
    with pytest.raises(LareError, match=r"llama|LaRe checkpoint"):
        load_method("lare", str(tmp_path), device="cpu")


def test_fingerprint_knows_weights_settings_and_dtype(checkpoint):
    first = load_method("lare", str(checkpoint), device="cpu")
    assert first.fingerprint() == load_method("llava", str(checkpoint), device="cpu").fingerprint()
    prints = {first.fingerprint()}
    with torch.no_grad():
        first.model.projector.linear_1.weight[0, 0] += 1e-3
    prints.add(first.fingerprint())
    first.model.config.window = 3
    prints.add(first.fingerprint())
    prints.add(load_method("lare", str(checkpoint), device="cpu", dtype="bfloat16").fingerprint())
    assert len(prints) == 4


def test_fingerprint_is_the_same_wherever_the_checkpoint_lies(checkpoint, tmp_path):
    moved = shutil.copytree(checkpoint, tmp_path / "elsewhere")
    first, other = (load_method("lare", str(path), device="cpu") for path in (checkpoint, moved))
    assert first.model.config._name_or_path != other.model.config._name_or_path
    assert first.fingerprint() == other.fingerprint()
