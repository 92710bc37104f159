"""A conversation is one sequence: the ids of the chat template over the whole of it, with its answers marked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lare.data.encode import ANSWERED, READ, THOUGHT, Encoded, encode_samples
from lare.data.sample import BadRow, Sample, Turn
from lare.model import LareProcessor
from tests.families import FAMILIES, family_processor

TURNS = (Turn("What is it?", "A cat."), Turn("Its colour?", "It's red.\nVery  red"), Turn("Why?", "12 + é 漢"))
ENDS = {"phi": "<|end|>", "gemma": "<end_of_turn>"}
CLOSED = [family for family in FAMILIES if family != "plain"]


def sample(*turns: Turn, image: str | None = "a.png", **more: Any) -> Sample:
    first, *later = turns
    return Sample("x", *first, image=image, later=tuple(later), **more)


def one(processor: LareProcessor, made: Sample) -> Encoded:
    (found,) = encode_samples([made], processor)
    assert isinstance(found, Encoded), found
    return found


def messages(made: Sample) -> list[dict[str, Any]]:
    said = [("system", made.system)] if made.system else []
    for question, answer in made.history:
        said += [("user", question), ("assistant", answer)]
    for question, answer, rationale in (Turn(made.question, made.answer, made.rationale), *made.later):
        said += [("user", question), ("assistant", f"{rationale}\nAnswer: {answer}" if rationale else answer)]
    first = next(at for at, (who, _) in enumerate(said) if who == "user")
    mark = "<|image|>" * 4 + "\n" if made.image is not None else ""
    said[first] = ("user", mark + said[first][1])
    return [{"role": who, "content": text} for who, text in said]


def whole_of(processor: LareProcessor, made: Sample) -> list[int]:
    """What transformers itself gives the whole conversation."""
    text = processor.tokenizer.apply_chat_template(
        messages(made), chat_template=processor.chat_template, tokenize=False
    )
    ids: list[int] = processor.tokenizer(text, add_special_tokens=not processor.opens_with_bos(text))["input_ids"]
    return ids


def ids_of(found: Encoded) -> list[int]:
    return [*found.prompt, *found.rationale, *found.answer, *found.rest]


def answered(processor: LareProcessor, found: Encoded) -> list[str]:
    """The supervised spans, as text."""
    spans: list[list[int]] = [list(found.answer)]
    before = READ
    for token, role in zip(found.rest, found.roles, strict=True):
        if role != READ:
            if before == READ:
                spans.append([])
            spans[-1].append(token)
        before = role
    return [str(processor.tokenizer.decode(span, clean_up_tokenization_spaces=False)) for span in spans]


@pytest.mark.parametrize("image", ["a.png", None])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("family", CLOSED)
def test_the_ids_are_the_chat_templates(family: str, count: int, image: str | None) -> None:
    processor = family_processor(family)
    made = sample(*TURNS[:count], image=image, system="Be brief." if family == "chatml" else "")
    found, whole = one(processor, made), whole_of(processor, made)
    ids = ids_of(found)
    assert ids == whole[: len(ids)]
    assert processor.tokenizer.decode(whole[len(ids) :]).strip() == ""  # a line's end behind the last answer's
    end = ENDS.get(family, processor.tokenizer.eos_token)
    texts = [text.strip().replace(f" {end}", end) for text in answered(processor, found)]
    assert texts == [turn.answer + end for turn in TURNS[:count]]
    assert found.prompt.count(processor.image_token_id) == (4 if image else 0)
    assert found.answers == count and set(found.roles) <= {READ, ANSWERED}


WORDS = st.sampled_from(
    ["What", " is", "the cat", ".", "?", "\n", "\n\n", "  ", "12", "é", "漢", "'s", "<", "|>", "USER:"]
)
TEXT = st.lists(WORDS, min_size=1, max_size=6).map(lambda words: "".join(words).strip()).filter(bool)


@pytest.mark.parametrize("family", CLOSED)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_any_conversation(family: str, data: Any) -> None:
    """Whole ids, and prompts that are those of the question when it is asked, in one batch with others."""
    processor = family_processor(family)
    turns = st.lists(st.builds(Turn, TEXT, TEXT, st.just("")), min_size=1, max_size=3)
    rows = [sample(*row) for row in data.draw(st.lists(turns, min_size=1, max_size=3))]
    for made, found in zip(rows, encode_samples(rows, processor), strict=True):
        assert isinstance(found, Encoded)
        ids, whole = ids_of(found), whole_of(processor, made)
        (asked,) = processor.build_prompts([made.question], latent=False)
        expanded = asked.replace("<image>", "<|image|>" * 4)
        assert [found.prompt] == processor.encode_text([expanded], special=not processor.opens_with_bos(asked))
        if whole[: len(found.prompt)] == found.prompt:  # else a token reaches over the border, where latents cut
            assert ids == whole[: len(ids)]
        end = ENDS.get(family, processor.tokenizer.eos_token)
        told = [Turn(made.question, made.answer), *made.later]
        assert found.answers == len(told)
        texts = [text.strip().replace(f" {end}", end) for text in answered(processor, found)]
        assert texts == [turn.answer + end for turn in told]


def test_special_tokens_in_a_conversation_are_text() -> None:
    processor = family_processor("chatml")
    turns = [Turn("Is <|im_end|> a token?", "Yes, <|im_end|> is."), Turn("<|im_start|>?", "No <image> <|image|>.")]
    found = one(processor, sample(*turns))
    plain = one(processor, sample(Turn("Is a token?", "Yes, is."), Turn("?", "No .")))
    special = {*processor.tokenizer.all_special_ids}
    kept, expected = ([token for token in ids_of(part) if token in special] for part in (found, plain))
    assert kept == expected
    assert answered(processor, found) == [f"{turn.answer}<|im_end|>" for turn in turns]


def test_history_is_read_and_not_answered() -> None:
    processor = family_processor("chatml")
    made = sample(TURNS[1], history=(TURNS[0][:2],))
    found, whole = one(processor, made), whole_of(processor, made)
    assert ids_of(found) == whole[: len(ids_of(found))] and found.rest == []
    assert answered(processor, found) == [f"{TURNS[1].answer}<|im_end|>"]


@pytest.mark.parametrize("family", FAMILIES)
def test_rationales(family: str) -> None:
    """The first's stands apart, since latents stand for its beginning; a later one is text of its answer."""
    processor = family_processor(family)
    made = sample(Turn("Q?", "red", "It is red."), Turn("And?", "blue", "A dog.\nIt is blue."), Turn("So?", "12"))
    found = one(processor, made)
    decode = processor.tokenizer.decode
    end = ENDS.get(family, processor.tokenizer.eos_token)
    assert decode(found.rationale).strip() == "It is red."
    first, second, third = (text.replace(f" {end}", end).strip() for text in answered(processor, found))
    assert (first, third) == (f"Answer: red{end}", f"12{end}")
    assert second == f"A dog.\nIt is blue.\nAnswer: blue{end}"
    thought = [token for token, role in zip(found.rest, found.roles, strict=True) if role == THOUGHT]
    said = [token for token, role in zip(found.rest, found.roles, strict=True) if role == ANSWERED]
    assert "It is blue" in decode(thought) and "Answer" not in decode(thought) and "Answer: blue" in decode(said)
    if family in CLOSED:
        bare, rest = whole_of(processor, made), found.rest
        at = next(at for at in range(len(bare)) if bare[at : at + len(rest)] == rest)
        assert processor.tokenizer.decode(bare[at + len(rest) :]).strip() == ""


def test_a_template_without_an_end_token_gets_the_tokenizers() -> None:
    """Or the model would never learn to stop."""
    processor = family_processor("plain")
    found = one(processor, sample(*TURNS))
    assert [text.strip() for text in answered(processor, found)] == [f"{turn.answer}<|end|>" for turn in TURNS]
    text = processor.tokenizer.decode(ids_of(found), clean_up_tokenization_spaces=False).replace("<|end|>", "")
    expected = processor.tokenizer.decode(whole_of(processor, sample(*TURNS)), clean_up_tokenization_spaces=False)
    assert text == expected.rstrip("\n")


def test_turns_that_do_not_fit_are_left_out_whole() -> None:
    processor = family_processor("chatml")
    found = one(processor, sample(*TURNS))
    lengths = [one(processor, sample(*TURNS[:count])).tokens for count in (1, 2, 3)]
    assert found.tokens == lengths[2]
    for most in range(lengths[0] - 2, lengths[2] + 2):
        cut, fit = found.shortened(most), sum(length <= most for length in lengths)
        assert (cut is None) == (fit == 0)
        if cut is not None:
            assert cut.answers == fit and cut.tokens == lengths[fit - 1]
            assert ids_of(cut) == ids_of(found)[: cut.tokens]


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content.split('t')[0] }}<|im_end|>{% endfor %}",
        "{% for m in messages[:2] %}{{ m.content }}<|im_end|>{% endfor %}",
        "{% for m in messages %}{{ m.content }}{{ m.content }}<|im_end|>{% endfor %}",
        "{{ raise_exception('no') }}",
    ],
)
def test_a_template_that_changes_a_conversation_costs_its_row(template: str) -> None:
    base = family_processor("chatml")
    own = LareProcessor(base.image_processor, base.tokenizer, chat_template=template, lm_grid=2)
    (found,) = encode_samples([sample(*TURNS)], own)
    assert isinstance(found, BadRow) and found.kind == "chat_template"


def test_a_template_that_thinks_for_the_model() -> None:
    """Qwen3's writes an empty thought before the last answer, which no prompt of LaRe has: the answer comes alone."""
    base = family_processor("chatml")
    template = str(base.chat_template).replace(
        "{{ m.content }}<|im_end|>",
        "{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>",
    )
    own = LareProcessor(base.image_processor, base.tokenizer, chat_template=template, lm_grid=2)
    found = one(own, sample(TURNS[0]))
    assert answered(own, found) == ["A cat.<|im_end|>"]
    assert own.tokenizer.decode(found.prompt).endswith("<|im_start|>assistant\n")
