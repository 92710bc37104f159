"""Prompts, image placeholders, left padding and the processor's own checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoProcessor, CLIPImageProcessor, PreTrainedTokenizerFast

from lare import LareError
from lare.model import LareForConditionalGeneration, LareProcessor

from .tiny import clip_vision, text_config, tiny_config

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def tokenizer(special: bool = True, **options: Any) -> PreTrainedTokenizerFast:
    """One token per byte, plus the special ones."""
    names = ["<pad>", "<s>", "</s>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names + letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    values: dict[str, Any] = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, **(values | options))
    if special:
        wrapped.add_tokens(["<|image|>", "<|latent_start|>", "<|latent_end|>"], special_tokens=True)
    return wrapped


def processor(lm_grid: int = 2, template: str | None = TEMPLATE, **options: Any) -> LareProcessor:
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return LareProcessor(images, tokenizer(**options), chat_template=template, lm_grid=lm_grid)


@pytest.fixture(scope="module")
def shared() -> LareProcessor:
    return processor()


def picture(value: int = 0, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, value if mode == "L" else (value, 100, 200, 255)[: len(mode)])


def test_image_becomes_as_many_tokens_as_the_decoder_sees(shared: LareProcessor) -> None:
    inputs = shared(images=[picture(), picture(9)], text=shared.build_prompts(["What?", "Which is it?"], latent=True))
    assert set(inputs) == {"input_ids", "attention_mask", "pixel_values"}
    assert inputs["pixel_values"].shape == (2, 3, 32, 32)
    ids = inputs["input_ids"]
    assert (ids == shared.image_token_id).sum(1).tolist() == [4, 4]
    assert ids[:, -1].tolist() == [shared.latent_start_id] * 2
    for row in ids:
        places = (row == shared.image_token_id).nonzero().flatten()
        assert int(places[-1] - places[0]) == 3


def test_it_says_whether_pictures_are_stretched_or_cut(shared: LareProcessor) -> None:
    square = {"height": 8, "width": 8}
    assert LareProcessor(CLIPImageProcessor(size=square, do_center_crop=False), tokenizer()).stretches
    for cut in (
        {"size": square, "do_center_crop": True},
        {"size": {"shortest_edge": 8}, "do_center_crop": False},
        {"size": square, "do_center_crop": False, "do_pad": True},
    ):
        assert not LareProcessor(CLIPImageProcessor(**cut), tokenizer()).stretches, cut


def test_padding_is_on_the_left(shared: LareProcessor) -> None:
    inputs = shared(images=[picture()] * 2, text=shared.build_prompts(["Hi?", "A much longer question?"], latent=False))
    mask = inputs["attention_mask"]
    gap = int((mask[0] == 0).sum())
    assert gap > 0
    assert mask[0].tolist() == [0] * gap + [1] * (mask.shape[1] - gap)
    assert inputs["input_ids"][0, :gap].tolist() == [shared.tokenizer.pad_token_id] * gap
    assert mask[1].all()
    alone = shared(images=picture(), text=shared.build_prompts(["Hi?"], latent=False)[0])
    assert inputs["input_ids"][0, gap:].tolist() == alone["input_ids"][0].tolist()


def test_prompts_are_the_chat_template_image_first(shared: LareProcessor) -> None:
    plain, latent = (shared.build_prompts(["What?"], latent=flag)[0] for flag in (False, True))
    assert latent == plain + "<|latent_start|>"
    assert plain.endswith("[assistant]")
    assert plain.index("<image>") < plain.index("What?")
    assert plain.count("<image>") == 1


def test_the_first_token_is_bos_once(shared: LareProcessor) -> None:
    row = shared(images=picture(), text=shared.build_prompts(["What?"], latent=True))["input_ids"][0].tolist()
    assert row[0] == shared.tokenizer.bos_token_id
    assert row.count(shared.tokenizer.bos_token_id) == 1


@settings(deadline=None, max_examples=40)
@given(st.text(st.characters(codec="utf-8", exclude_characters="<>|"), min_size=1, max_size=30).filter(str.strip))
def test_any_question_survives(shared: LareProcessor, question: str) -> None:
    inputs = shared(images=picture(), text=shared.build_prompts([question], latent=True))
    assert int((inputs["input_ids"] == shared.image_token_id).sum()) == 4
    text = shared.tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert question.strip() in text


@pytest.mark.parametrize("token", ["<|image|>", "<|latent_start|>", "<|latent_end|>", "</s>", "<s>", "<pad>"])
def test_special_tokens_in_a_question_are_text(shared: LareProcessor, token: str) -> None:
    asked, plain = (
        shared(images=picture(), text=shared.build_prompts([question]))["input_ids"][0].tolist()
        for question in (f"What is {token}?", "What is ?")
    )
    special = {*shared.tokenizer.all_special_ids}
    assert [one for one in asked if one in special] == [one for one in plain if one in special]
    assert len(asked) == len(plain) + len(token)  # a token a byte
    assert f"What is {token}?" in shared.tokenizer.decode(asked)


def test_placeholder_in_a_question_is_not_a_second_image(shared: LareProcessor) -> None:
    prompt = shared.build_prompts(["<image>\nWhat?"], latent=True)
    assert prompt == shared.build_prompts(["What?"], latent=True)


@pytest.mark.parametrize(
    ("images", "text", "message"),
    [
        ([], ["<image> a"], "0 images for 1 prompts"),
        (None, ["<image> a"], "0 images for 1 prompts"),
        ([picture()], ["a <|latent_start|>"], "exactly once"),
        ([picture()], ["<image> <image> a"], "exactly once"),
        ([picture(), picture()], ["<image> a"], "2 images for 1 prompts"),
        ([[picture(), picture()]], ["<image> a"], "2 images"),
        ([picture()], ["<image>"], "no question"),
        ([picture()], ["<image>   "], "no question"),
        ([picture()], [], "No prompt"),
        ([picture()], [None], "Prompt 0 is a NoneType"),
    ],
)
def test_wrong_inputs_are_named(shared: LareProcessor, images: Any, text: Any, message: str) -> None:
    with pytest.raises(LareError, match=message):
        shared(images=images, text=text)


def test_a_rendered_prompt_without_its_image_is_refused(shared: LareProcessor) -> None:
    (prompt,) = shared.build_prompts(["a"], latent=False)
    with pytest.raises(LareError, match="exactly once"):
        shared(images=[picture()], text=[prompt.replace("<image>", "")])


def test_a_bare_question_becomes_a_prompt(shared: LareProcessor) -> None:
    bare = shared(images=[picture(1), picture(2)], text=["What?", "Which one?"], padding=True)
    built = shared(images=[picture(1), picture(2)], text=shared.build_prompts(["What?", "Which one?"], latent=False))
    assert torch.equal(bare["input_ids"], built["input_ids"])
    assert torch.equal(bare["pixel_values"], built["pixel_values"])


@pytest.mark.parametrize("question", ["", "   ", "\n"])
def test_empty_questions_are_refused(shared: LareProcessor, question: str) -> None:
    with pytest.raises(LareError, match="Question 1 is empty"):
        shared.build_prompts(["What?", question], latent=True)


def test_too_long_a_prompt_is_refused() -> None:
    short = processor(model_max_length=40)
    with pytest.raises(LareError, match="tokens with its image, the model takes 40"):
        short(images=picture(), text=short.build_prompts(["What? " * 20], latent=True))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_pictures_of_any_mode(shared: LareProcessor, mode: str) -> None:
    assert shared(images=picture(mode=mode), text="<image> a")["pixel_values"].shape == (1, 3, 32, 32)


def test_arrays_and_nested_lists(shared: LareProcessor) -> None:
    array = np.asarray(picture(7))
    wanted = shared(images=picture(7), text="<image> a")["pixel_values"]
    torch.testing.assert_close(shared(images=array, text="<image> a")["pixel_values"], wanted)
    torch.testing.assert_close(shared(images=[[picture(7)]], text=["<image> a"])["pixel_values"], wanted)


def test_chat_template_takes_image_parts(shared: LareProcessor) -> None:
    parts = [{"type": "image", "image": picture(3)}, {"type": "text", "text": "What?"}]
    conversation = [{"role": "user", "content": parts}]
    text = shared.apply_chat_template(conversation, add_generation_prompt=True)
    assert text == shared.build_prompts(["What?"], latent=False)[0]
    inputs = shared.apply_chat_template(conversation, add_generation_prompt=True, tokenize=True, return_dict=True)
    wanted = shared(images=picture(3), text=text)
    assert inputs["input_ids"].tolist() == wanted["input_ids"].tolist()
    torch.testing.assert_close(inputs["pixel_values"], wanted["pixel_values"])


def test_lacking_special_tokens_are_added_once() -> None:
    before = tokenizer(special=False)
    assert "<|image|>" not in before.get_vocab()
    made = processor(special=False)
    ids = (made.image_token_id, made.latent_start_id, made.latent_end_id)
    assert len(set(ids)) == 3
    assert min(ids) >= len(before)
    assert len(processor().tokenizer) == len(tokenizer())
    for token, index in zip(("<|image|>", "<|latent_start|>", "<|latent_end|>"), ids, strict=True):
        assert made.tokenizer(f"a{token}b", add_special_tokens=False)["input_ids"][1] == index


def test_a_tokenizer_without_padding_or_template_still_works() -> None:
    bare = processor(template=None, pad_token=None)
    inputs = bare(images=[picture()] * 2, text=bare.build_prompts(["a?", "much longer?"], latent=True))
    assert inputs["attention_mask"][0, 0] == 0
    assert int((inputs["input_ids"] == bare.image_token_id).sum()) == 8


@pytest.mark.parametrize("loader", [LareProcessor, AutoProcessor], ids=["own", "auto"])
def test_round_trip(loader: Any, tmp_path: Path) -> None:
    """Through its own class and, beside a configuration, through AutoProcessor."""
    made = processor(lm_grid=3)
    made.save_pretrained(tmp_path)
    tiny_config().save_pretrained(tmp_path)
    again = loader.from_pretrained(tmp_path)
    assert isinstance(again, LareProcessor)
    assert again.lm_grid == 3
    assert again.chat_template == made.chat_template
    assert again.tokenizer.padding_side == "left"
    questions = ["What?", "Which of the two?"]
    assert again.build_prompts(questions, latent=True) == made.build_prompts(questions, latent=True)
    ours, theirs = (
        p(images=[picture(1), picture(2)], text=p.build_prompts(questions, latent=True)) for p in (made, again)
    )
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert (again.image_token_id, again.latent_start_id, again.latent_end_id) == (
        made.image_token_id,
        made.latent_start_id,
        made.latent_end_id,
    )


def test_from_picture_to_answer(tmp_path: Path) -> None:
    """Model and processor as a user has them: built, saved, loaded by Auto classes, asked."""
    from transformers import AutoModelForImageTextToText

    made = processor()
    config = tiny_config(
        text_config=text_config(vocab_size=len(made.tokenizer)),
        vision_config=clip_vision(),
        refocus_source="fine",
        image_token_id=made.image_token_id,
        latent_start_id=made.latent_start_id,
        latent_end_id=made.latent_end_id,
    )
    LareForConditionalGeneration(config).save_pretrained(tmp_path)
    made.save_pretrained(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    inputs = loaded(images=[picture(), picture(90)], text=loaded.build_prompts(["What?", "Which?"], latent=True))
    output = model.generate(**inputs, max_new_tokens=5)
    assert output.steps.tolist() == [3, 3]
    answers = loaded.tokenizer.batch_decode(output.sequences, skip_special_tokens=True)
    assert len(answers) == 2


def test_lm_grid_must_be_positive() -> None:
    with pytest.raises(LareError, match="lm_grid is 0"):
        processor(lm_grid=0)
