"""The shipped checkpoint in transformers' own hands: pipeline, batch_decode, TextStreamer, saved configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TextStreamer, pipeline

import lare
from lare.embedded.world.benchmark import make_task
from lare.embedded.world.prompts import task_prompt

ROWS = make_task("mmstar", n=2) + make_task("pope", n=2)


@pytest.fixture(scope="module")
def model() -> Any:
    return lare.LareForConditionalGeneration.from_pretrained(lare.default_checkpoint()).eval()


@pytest.fixture(scope="module")
def processor() -> Any:
    return lare.LareProcessor.from_pretrained(lare.default_checkpoint())


@pytest.fixture(scope="module")
def pipe(model: Any, processor: Any) -> Any:
    return pipeline("image-text-to-text", model=model, processor=processor)


@pytest.fixture(scope="module")
def asked() -> tuple[list[Any], list[str]]:
    tasks = ["mmstar"] * 2 + ["pope"] * 2
    return [row["image"] for row in ROWS], [task_prompt(task, row) for task, row in zip(tasks, ROWS, strict=True)]


@pytest.fixture(scope="module")
def inputs(processor: Any, asked: tuple[list[Any], list[str]]) -> Any:
    images, questions = asked
    return processor(images=images, text=processor.build_prompts(questions, latent=True))


@pytest.fixture(scope="module")
def answers(model: Any, processor: Any, inputs: Any) -> list[str]:
    return list(processor.batch_decode(model.generate(**inputs), skip_special_tokens=True))


def test_batch_decode_takes_what_generate_returns(model: Any, processor: Any, inputs: Any, answers: list[str]) -> None:
    made = model.generate(**inputs)
    wanted = [
        processor.tokenizer.decode(row[:size], skip_special_tokens=True)
        for row, size in zip(made.sequences, made.lengths.tolist(), strict=True)
    ]
    assert answers == wanted
    assert processor.batch_decode(made.sequences, skip_special_tokens=True) == wanted
    assert len(set(wanted)) > 1


def test_a_pipeline_answers_chats(pipe: Any, asked: tuple[list[Any], list[str]], answers: list[str]) -> None:
    chats = [
        [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}]
        for image, question in zip(*asked, strict=True)
    ]
    made = pipe(text=chats, return_full_text=False)
    assert [row["generated_text"] for (row,) in made] == answers
    (full,) = pipe(text=chats[0])
    assert full["generated_text"] == [*chats[0], {"role": "assistant", "content": answers[0]}]


def test_a_pipeline_answers_plain_questions(pipe: Any, asked: tuple[list[Any], list[str]], answers: list[str]) -> None:
    images, questions = asked
    made = pipe(images=images, text=questions, return_full_text=False)
    assert [row["generated_text"] for row in made] == answers
    (one,) = pipe(images=images[0], text=questions[0], return_full_text=False)
    assert one["generated_text"] == answers[0]


def test_a_pipeline_passes_options_on(pipe: Any, asked: tuple[list[Any], list[str]], answers: list[str]) -> None:
    images, questions = asked
    one = {"images": images[0], "text": questions[0], "return_full_text": False}
    (stopped,) = pipe(**one, stop_sequence=["Answer"])
    assert stopped["generated_text"] == answers[0][: answers[0].index("Answer") + len("Answer")]
    torch.manual_seed(0)
    drawn = pipe(**one, generate_kwargs={"do_sample": True, "temperature": 2.0, "num_return_sequences": 3})
    assert len(drawn) == 3
    with pytest.raises(lare.LareError, match="num_beams=2"):
        pipe(**one, generate_kwargs={"num_beams": 2})


def test_a_text_streamer_prints_the_answer(
    model: Any, processor: Any, inputs: Any, answers: list[str], capsys: Any
) -> None:
    first = {name: values[:1] for name, values in inputs.items()}
    alone = processor.batch_decode(model.generate(**first), skip_special_tokens=True)
    capsys.readouterr()
    model.generate(**first, streamer=TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True))
    assert capsys.readouterr().out == alone[0] + "\n"
    assert alone == answers[:1]


def test_a_saved_generation_configuration_is_read_again(model: Any, inputs: Any, tmp_path: Path) -> None:
    before = model.generation_config.max_new_tokens
    try:
        model.generation_config.max_new_tokens = 2
        model.save_pretrained(tmp_path)
    finally:
        model.generation_config.max_new_tokens = before
    again = lare.LareForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert again.generate(**inputs).sequences.tolist() == model.generate(**inputs, max_new_tokens=2).sequences.tolist()
