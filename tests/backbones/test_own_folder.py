"""A publisher's folder is a checkpoint for the methods that make no latents."""

from __future__ import annotations

import pytest

from lare.methods import load_method
from lare.methods.base import Sampling

from .vlms import Vlm

QUESTIONS = ["Is it red?", "Where?"]


@pytest.mark.parametrize("method", ["llava", pytest.param("cot", marks=pytest.mark.slow)])
def test_plain_methods_answer_as_transformers_does(vlm: Vlm, method: str) -> None:
    """By their names and the folder alone, whatever else is in the batch."""
    asked = load_method(method, str(vlm.folder), "cpu")
    answers = asked.answer(vlm.pictures(2), QUESTIONS, Sampling(max_new_tokens=4), trace=True)
    spare = list(range(len(vlm.own_processor.tokenizer), vlm.own.config.get_text_config().vocab_size))
    for one, question, answer in zip(vlm.pictures(2), QUESTIONS, answers, strict=True):
        own = vlm.own_inputs([one], [question])
        said = vlm.own.generate(**own, max_new_tokens=4, do_sample=False, suppress_tokens=spare or None)
        text = vlm.own_processor.tokenizer.decode(said[0, own["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer.text == text.strip()
        assert answer.input_tokens == own["input_ids"].shape[1]
