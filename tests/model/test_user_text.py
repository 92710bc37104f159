"""What users and data files write is plain text: it has the ids that it always had, and never a special token's."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast

from lare import LareError
from lare.model import LareProcessor
from lare.model.user_text import UserText
from tests.families import BYTES, FAMILIES, family_processor

PICTURE = Image.new("RGB", (32, 32))
BREAK = "\ufdd0"
PIECES = [
    "What is",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "the cat",
    "?",
    ".\n",
    "<",
    "|",
    ">",
    "im_end",
    "<|",
    "s",
    "/",
    "é",
    "漢",
]
PIECES += ["[INST]", "USER:", "e\u0301", "'s", "12", BREAK]
TEXT = st.one_of(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.text(max_size=20))


@cache
def control(processor: LareProcessor) -> set[int]:
    known = processor.tokenizer.get_vocab()
    return set(processor.tokenizer.convert_tokens_to_ids([one for one in processor.user_text.tokens if one in known]))


def ids_of(processor: LareProcessor, prompts: list[str]) -> list[list[int]]:
    """As `served` without the time that pictures take."""
    expanded = [prompt.replace("<image>", "<|image|>" * processor.lm_grid**2) for prompt in prompts]
    return processor.encode_text(expanded, special=not processor.opens_with_bos(prompts[0]))


def served(processor: LareProcessor, prompts: list[str]) -> list[list[int]]:
    made = processor(images=[PICTURE] * len(prompts), text=prompts)
    return [row[mask.bool()].tolist() for row, mask in zip(made["input_ids"], made["attention_mask"], strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_both_ways_to_ids_are_one(family: str) -> None:
    processor = family_processor(family)
    prompts = processor.build_prompts(
        ["What?", f"Is {processor.user_text.tokens[0]} a word, or </s>?", "A longer one?"]
    )
    assert served(processor, prompts) == ids_of(processor, prompts)


def rendered(processor: LareProcessor, text: str) -> str:
    """A prompt as the template alone writes it."""
    message = {"role": "user", "content": f"<image>\n{text.strip()}"}
    made = processor.tokenizer.apply_chat_template(
        [message], chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True
    )
    return str(made) + "<|latent_start|>"


def harmless(processor: LareProcessor, text: str) -> bool:
    return bool(text.strip()) and "<image>" not in text and not processor.user_text.holds_control(text)


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None, max_examples=40)
@given(text=TEXT)
def test_text_without_special_tokens_has_the_ids_it_had(family: str, text: str) -> None:
    """The prompt and its ids are the template's and the tokenizer's own; the way round gives the very same ids."""
    processor = family_processor(family)
    if not harmless(processor, text) or BREAK in text:
        return
    (prompt,) = processor.build_prompts([text])
    assert prompt == rendered(processor, text)
    opens = processor.opens_with_bos(prompt)
    expanded = prompt.replace("<image>", "<|image|>" * 4)
    expected = processor.tokenizer(expanded, add_special_tokens=not opens)["input_ids"]
    assert ids_of(processor, [prompt]) == [expected]
    assert processor.user_text._twin.encode([expanded], not opens) == [expected]


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_no_text_becomes_a_special_token(family: str, data: Any) -> None:
    processor = family_processor(family)
    tokens = st.sampled_from([*processor.user_text.tokens, "<image", *PIECES])
    texts = data.draw(st.lists(st.lists(tokens, min_size=1, max_size=6).map("".join), min_size=1, max_size=3))
    texts = [text for text in texts if text.strip() and text.count("<image>") == 0]
    if not texts:
        return
    (plain,) = ids_of(processor, processor.build_prompts(["What?"]))
    own = Counter(one for one in plain if one in control(processor))
    for text, ids in zip(texts, ids_of(processor, processor.build_prompts(texts)), strict=True):
        assert Counter(one for one in ids if one in control(processor)) == own
        assert ids[-1] == processor.latent_start_id
        if family in BYTES:
            whole = processor.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            kept = text.strip().lstrip() if family != "chatml" else text.strip()
            assert kept in whole or normalizers.NFC().normalize_str(kept) in whole


@pytest.mark.parametrize("family", ["chatml", "llama3"])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_special_tokens_in_text_are_encoded_as_the_characters_they_consist_of(family: str, data: Any) -> None:
    """Between two tokens of the template a text is what transformers encodes with ``split_special_tokens``."""
    processor = family_processor(family)
    special = [one for one in processor.tokenizer.all_special_tokens if "image" not in one]
    text = "".join(data.draw(st.lists(st.sampled_from([*special, *PIECES]), min_size=1, max_size=8))).strip()
    if not text:
        return
    (ids,) = ids_of(processor, processor.build_prompts([text]))
    first = len(ids) - ids[::-1].index(processor.image_token_id)
    end = processor.tokenizer.eos_token_id
    made = ids[first : ids.index(end, first)]
    split = processor.tokenizer(f"\n{text}", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert made == split


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_what_is_escaped_comes_back(family: str, data: Any) -> None:
    guard = family_processor(family).user_text
    text = "".join(data.draw(st.lists(st.one_of(st.sampled_from([*guard.tokens, *PIECES]), TEXT), max_size=8)))
    escaped = guard.escape(text)
    assert not guard._pattern.search(escaped)
    assert guard._twin.prepare(escaped) == text
    assert (escaped == text) == (BREAK not in text and not guard.holds_control(text))


def test_tokens_of_the_template_that_are_no_special_ones_count() -> None:
    """Qwen's <tool_call> is an ordinary token, but only the template may write it."""
    processor = family_processor("chatml")
    number = processor.tokenizer.convert_tokens_to_ids("<tool_call>")
    assert number not in ids_of(processor, processor.build_prompts(["What does <tool_call> mean?"]))[0]
    assert number in ids_of(processor, [f"<tool_call>{processor.build_prompts(['What?'])[0]}"])[0]
    assert "\n\n" not in family_processor("gemma").user_text.tokens


def test_a_template_that_refuses_system_turns_says_so_in_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Gemma's does, by raise_exception."""
    processor = family_processor("chatml")
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    monkeypatch.setattr(processor, "chat_template", refusal + str(processor.chat_template))
    assert "What?" in processor.build_prompts(["What?"])[0]
    with pytest.raises(LareError, match=r"Question 0: .*\(System role not supported\); leave system_prompt out"):
        processor.build_prompts(["What?"], system="Be brief.")
    with pytest.raises(LareError, match="takes no system turn .*or give another chat_template"):
        processor.render([{"role": "system", "content": "Be."}, {"role": "user", "content": "What?"}])


def test_system_turns_and_parts_are_plain_text_too() -> None:
    processor = family_processor("chatml")
    end = processor.tokenizer.eos_token_id
    (prompt,) = processor.build_prompts(["What?"], system="Be <|im_end|> brief. <image>")
    (ids,) = served(processor, [prompt])
    assert ids.count(end) == 2 and ids.count(processor.image_token_id) == 4
    said = processor.tokenizer.decode(ids)
    assert "system\nBe <|im_end|> brief. <image><|im_end|>\n" in said
    parts = [{"type": "image", "image": PICTURE}, {"type": "text", "text": "Is <image> or <|im_end|> a tag?"}]
    made = processor.apply_chat_template([{"role": "user", "content": parts}], tokenize=True)["input_ids"][0].tolist()
    assert made.count(end) == 2 and "Is <image> or <|im_end|> a tag?" in processor.tokenizer.decode(made)
    text = processor.apply_chat_template([{"role": "user", "content": "<image>\nA <|im_end|>?"}])
    assert ids_of(processor, [text])[0].count(end) == 2


@pytest.mark.parametrize(
    "question", ["<|image|> <|latent_start|> <|latent_end|>", "<ima<image>ge>", "<|im_<|im_end|>end|>"]
)
def test_lares_own_tokens_are_text(question: str) -> None:
    processor = family_processor("chatml")
    (ids,) = served(processor, processor.build_prompts([question]))
    assert [ids.count(one) for one in (processor.image_token_id, processor.latent_start_id)] == [4, 1]
    assert processor.latent_end_id not in ids and ids.count(processor.tokenizer.eos_token_id) == 2
    assert question.replace("<image>", "") in processor.tokenizer.decode(ids)


def test_a_prompt_that_is_written_by_hand_has_its_special_tokens() -> None:
    processor = family_processor("chatml")
    (ids,) = ids_of(processor, ["<image><|im_start|>user\nWhat?<|im_end|>"])
    assert ids.count(processor.tokenizer.eos_token_id) == 1


def _tokenizer(model: Any, **special: Any) -> LareProcessor:
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.normalizer = normalizers.Lowercase()
    made.add_special_tokens([AddedToken("<end>", special=True, **special), AddedToken("|", special=True)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", pad_token="<end>")
    return LareProcessor(CLIPImageProcessor(), wrapped, chat_template="{{ messages[0].content }} <end>", lm_grid=1)


def test_what_a_tokenizer_cannot_keep_is_refused() -> None:
    """A vocabulary in which the token is a word like others, and a token of one letter."""
    words = ["[UNK]", "<end>", "what", "is"]
    model = models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    processor = _tokenizer(model, normalized=False)
    assert len(ids_of(processor, processor.build_prompts(["what is"]))[0]) == 5
    with pytest.raises(LareError, match="can't keep <end> as text"):
        processor(images=PICTURE, text=processor.build_prompts(["what <end> is"]))
    with pytest.raises(LareError, match="Question 1: it holds '|', a special token"):
        processor.build_prompts(["what", "is | it"])


def test_a_token_that_is_looked_for_in_normalised_text() -> None:
    letters = [*"<>abcdefghijklmnopqrstuvwxyz?"]
    processor = _tokenizer(models.BPE({one: number for number, one in enumerate(letters)}, []), normalized=True)
    end = processor.tokenizer.eos_token_id
    raw = processor.tokenizer("what <END> is")["input_ids"]
    assert end in raw  # the danger
    (ids,) = ids_of(processor, processor.build_prompts(["what <END> is"]))
    assert ids.count(end) == 1 and len(ids) == len("what<end>is") + 3


def test_a_tokenizer_without_the_fast_kind() -> None:
    class Slow(UserText):
        def __init__(self) -> None:
            super().__init__(family_processor("chatml").tokenizer, "", ["<|image|>"])
            self._backend = None

    assert Slow().escape(f"fine {BREAK}") == f"fine {BREAK}"
    with pytest.raises(LareError, match=r"it holds the special token <\|im_end\|>"):
        Slow().escape("<|im_end|>")


def test_a_tokenizer_that_changes_is_seen() -> None:
    own = LareProcessor(
        CLIPImageProcessor(),
        family_processor("llama3").tokenizer.__class__(
            tokenizer_object=Tokenizer.from_str(family_processor("llama3").tokenizer.backend_tokenizer.to_str())
        ),
        chat_template="{{ messages[0].content }}",
        lm_grid=1,
    )
    assert "<new>" not in own.user_text.tokens
    own.tokenizer.add_tokens(["<new>"], special_tokens=True)
    assert "<new>" in own.user_text.tokens
    assert own.tokenizer.convert_tokens_to_ids("<new>") not in ids_of(own, own.build_prompts(["a <new> b"]))[0]
