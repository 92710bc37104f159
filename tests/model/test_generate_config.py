"""transformers' way of asking: generation configurations, processors, criteria, streamers, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from lare import LareError
from lare.model import LareForConditionalGeneration, LareGeneration
from lare.model.choosing import choose_tokens, end_ids
from lare.model.generation_options import GenerationOptions
from lare.model.loop import embed_prompt

from .conftest import ModelOf
from .test_batching import by_image, shared_batch
from .test_generate import LENGTHS, NEW, prompts, texts
from .tiny import PAD, VOCABULARY, make_samples


@pytest.fixture(scope="session")
def model(model_of: ModelOf) -> LareForConditionalGeneration:
    """A model whose answers vary."""
    return model_of("llama", lively=True)


def batch(model: LareForConditionalGeneration, **options: Any) -> dict[str, Any]:
    return prompts(make_samples(model.config, lengths=LENGTHS, **options))


PLAIN: dict[str, Any] = {"max_new_tokens": NEW, "eos_token_ids": []}


def test_ends_of_several_sources_count_once() -> None:
    one, several, none = (SimpleNamespace(eos_token_id=ids) for ids in (7, [5, 7], None))
    assert end_ids(several, None, one, none, SimpleNamespace()) == [5, 7] and end_ids(one, several) == [7, 5]


# Configurations ------------------------------------------------------------------------------------------------


def test_a_configuration_says_what_keywords_say(model: LareForConditionalGeneration) -> None:
    config = GenerationConfig(max_new_tokens=5, eos_token_id=[3, 4], repetition_penalty=1.5)
    told = model.generate(**batch(model), generation_config=config)
    named = model.generate(**batch(model), max_new_tokens=5, eos_token_ids=[3, 4], repetition_penalty=1.5)
    assert torch.equal(told.sequences, named.sequences)
    assert model.generate(**batch(model), generation_config=config, max_new_tokens=2).sequences.shape[1] == 2


def test_the_models_own_configuration_counts_once_it_is_set(model_of: ModelOf) -> None:
    model = model_of("llama", lively=True)
    own = model.generation_config
    try:
        assert model.generate(**batch(model), eos_token_id=[]).sequences.shape[1] == 64
        model.generation_config.max_new_tokens = 3
        assert model.generate(**batch(model), eos_token_id=[]).sequences.shape[1] == 3
        model.generation_config = GenerationConfig(max_new_tokens=4, eos_token_id=[])
        assert model.generate(**batch(model)).sequences.shape[1] == 4
    finally:
        own.max_new_tokens = None
        model.generation_config = own


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 4},
        {"penalty_alpha": 0.6},
        {"num_beam_groups": 2, "diversity_penalty": 0.5},
        {"constraints": [object()]},
        {"force_words_ids": [[1]]},
        {"assistant_model": object()},
        {"prompt_lookup_num_tokens": 3},
        {"prefix_allowed_tokens_fn": print},
        {"guidance_scale": 2.0},
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"output_scores": True},
        {"dola_layers": "low"},
        {"max_length": 20},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_cannot_be_done_is_refused_by_name(model: LareForConditionalGeneration, options: dict[str, Any]) -> None:
    with pytest.raises(LareError, match="generate can't do") as error:
        model.generate(**batch(model), **options)
    assert all(name in str(error.value) for name in options)


def test_refusals_come_from_configurations_too_and_at_once(model: LareForConditionalGeneration) -> None:
    config = GenerationConfig(num_beams=2, length_penalty=2.0)
    with pytest.raises(LareError, match=r"guidance_scale=2.0, length_penalty=2.0, num_beams=2"):
        model.generate(**batch(model), generation_config=config, guidance_scale=2.0)


def test_values_that_ask_for_nothing_are_taken(model: LareForConditionalGeneration) -> None:
    neutral = {"num_beams": 1, "use_cache": True, "output_scores": False, "guidance_scale": 1.0, "synced_gpus": False}
    plain = model.generate(**batch(model), **PLAIN)
    assert torch.equal(model.generate(**batch(model), **PLAIN, **neutral).sequences, plain.sequences)


def test_unknown_names_are_named(model: LareForConditionalGeneration) -> None:
    with pytest.raises(LareError, match="unknown arguments: beam_size, iteration"):
        model.generate(**batch(model), iteration=3, beam_size=2)


# Processors ----------------------------------------------------------------------------------------------------

PENALTIES: list[dict[str, Any]] = [
    {"repetition_penalty": 1.7},
    {"no_repeat_ngram_size": 2},
    {"bad_words_ids": [[65], [59, 21]]},
    {"min_new_tokens": 4, "eos_token_id": list(range(10, 30))},
    {"suppress_tokens": list(range(20))},
    {"begin_suppress_tokens": list(range(1, VOCABULARY, 2))},
    {"sequence_bias": [[[6], 4.0], [[9], -4.0]]},
    {"exponential_decay_length_penalty": (1, 1.5), "eos_token_id": [11]},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 3, "bad_words_ids": [[4]]},
]


def by_transformers(model: LareForConditionalGeneration, inputs: dict[str, Any], **options: Any) -> list[list[int]]:
    """The decoder's own `generate` over the same embedded prompts, without latents."""
    with torch.no_grad():
        visual = model.visual_tokens(inputs.get("pixel_values"), inputs.get("visual_features"))
        embeds, _ = embed_prompt(model, inputs["input_ids"], visual)
        said = model.language_model.generate(
            inputs["input_ids"],
            inputs_embeds=embeds,
            attention_mask=inputs["attention_mask"],
            pad_token_id=PAD,
            **options,
        )
    return [row.tolist() for row in said[:, inputs["input_ids"].shape[1] :]]


@pytest.mark.parametrize("options", PENALTIES, ids=lambda options: "+".join(options))
def test_penalties_are_those_of_transformers(model: LareForConditionalGeneration, options: dict[str, Any]) -> None:
    """Greedy answers equal those of transformers' own `generate` on the same decoder and prompts."""
    inputs = batch(model, start=False, seed=2)
    wanted = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": [VOCABULARY - 1], **options}
    ours = model.generate(**inputs, **wanted, iterations=0, delimiters=False)
    theirs = by_transformers(model, inputs, **wanted)
    assert ours.sequences.tolist() == theirs
    plain = {"max_new_tokens": NEW, "eos_token_id": wanted["eos_token_id"]}
    free = model.generate(**inputs, **plain, iterations=0, delimiters=False)
    assert ours.sequences.tolist() != free.sequences.tolist(), "the option changes something"


@pytest.mark.parametrize("options", PENALTIES, ids=lambda options: "+".join(options))
def test_a_row_does_not_depend_on_the_others(model: LareForConditionalGeneration, options: dict[str, Any]) -> None:
    samples = make_samples(model.config, lengths=LENGTHS, seed=2)
    together = texts(model.generate(**prompts(samples), max_new_tokens=NEW, **options))
    alone = [texts(model.generate(**prompts([one]), max_new_tokens=NEW, **options))[0] for one in samples]
    assert together == alone


def test_a_shared_prefix_is_part_of_what_was_said(model: LareForConditionalGeneration) -> None:
    samples = by_image(make_samples(model.config, lengths=(3, 6, 1, 4)), 2)
    options = {"max_new_tokens": NEW, "repetition_penalty": 3.0, "no_repeat_ngram_size": 2}
    ours = model.generate(**shared_batch(samples, 2, targets=False, prefixes=False), **options)
    assert texts(ours) == texts(model.generate(**prompts(samples), **options))


class Only(LogitsProcessor):
    """Leaves one token, told by how many were said."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        wanted = input_ids.shape[1] % VOCABULARY
        return torch.full_like(scores, float("-inf")).index_fill(1, torch.tensor([wanted]), 0.0)


def test_the_callers_processors_see_prompt_and_answer(model: LareForConditionalGeneration) -> None:
    inputs = batch(model)
    size = inputs["input_ids"].shape[1]
    output = model.generate(**inputs, max_new_tokens=3, eos_token_ids=[], logits_processor=[Only()])
    assert output.sequences.tolist() == [[(size + step) % VOCABULARY for step in range(3)]] * len(LENGTHS)


@pytest.mark.parametrize("option", [{"repetition_penalty": -1.0}, {"no_repeat_ngram_size": -2}, {"bad_words_ids": 3}])
def test_impossible_penalties_are_named(model: LareForConditionalGeneration, option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(LareError, match=f"{name} is "):
        model.generate(**batch(model), **option)


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
@pytest.mark.parametrize("top_k", [0, 7])
def test_draws_are_those_of_the_plain_formula(top_p: float, top_k: int) -> None:
    """Temperature, then the k best, then the smallest set that reaches top_p, then one multinomial draw."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(64, 300, generator=generator) * 3
    scores = logits / 0.7
    if top_k:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], float("-inf"))
    ordered, index = scores.sort(dim=-1, descending=True)
    mass = ordered.softmax(-1)
    outside = mass.cumsum(-1) - mass >= top_p
    kept = scores.masked_fill(outside.scatter(1, index, outside), float("-inf")) if top_p < 1 else scores
    wanted = torch.multinomial(kept.softmax(-1), 1, generator=torch.Generator().manual_seed(5)).squeeze(1)
    options = GenerationOptions(
        do_sample=True, temperature=0.7, top_p=top_p, top_k=top_k, generator=torch.Generator().manual_seed(5)
    )
    assert torch.equal(choose_tokens(logits, options), wanted)


def test_min_p_leaves_what_is_likely_enough(model: LareForConditionalGeneration) -> None:
    greedy = model.generate(**batch(model), **PLAIN)
    drawn = model.generate(**batch(model), **PLAIN, do_sample=True, min_p=1.0, renormalize_logits=True)
    assert torch.equal(drawn.sequences, greedy.sequences)


# Ends ----------------------------------------------------------------------------------------------------------


class ThirdOfEvenRows(StoppingCriteria):
    """Ends every other row once its answer has three tokens."""

    def __init__(self, prompt: int) -> None:
        self.prompt = prompt

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return (torch.arange(len(input_ids)) % 2 == 0) & (input_ids.shape[1] >= self.prompt + 3)


def test_criteria_end_rows_and_keep_their_last_token(model: LareForConditionalGeneration) -> None:
    inputs = batch(model)
    free = texts(model.generate(**inputs, **PLAIN))
    criteria = [ThirdOfEvenRows(inputs["input_ids"].shape[1])]
    output = model.generate(**inputs, **PLAIN, stopping_criteria=criteria)
    assert texts(output) == [row[:3] if index % 2 == 0 else row for index, row in enumerate(free)]


def test_no_time_left_ends_after_one_token(model: LareForConditionalGeneration) -> None:
    assert model.generate(**batch(model), **PLAIN, max_time=0.0).lengths.tolist() == [1] * len(LENGTHS)


def test_stop_strings_need_their_tokenizer(model: LareForConditionalGeneration) -> None:
    with pytest.raises(LareError, match="pass tokenizer="):
        model.generate(**batch(model), stop_strings=["a"])


# Several answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiters", [True, False])
def test_several_answers_are_those_of_repeated_prompts(model: LareForConditionalGeneration, delimiters: bool) -> None:
    """Rows of a prompt are neighbours, and one thinking serves all of them."""
    samples = make_samples(model.config, lengths=LENGTHS, start=delimiters)
    options: dict[str, Any] = {**PLAIN, "do_sample": True, "output_trace": True, "delimiters": delimiters}
    options["iterations"] = None if delimiters else 0

    def draw(asked: list[Any], **more: Any) -> LareGeneration:
        return model.generate(**prompts(asked), **options, **more, generator=torch.Generator().manual_seed(4))

    several = draw(samples, num_return_sequences=3)
    repeated = draw([one for one in samples for _ in range(3)])
    assert torch.equal(several.sequences, repeated.sequences)
    assert len({tuple(row) for row in texts(several)[:3]}) > 1
    for name in ("latents", "windows", "saliency", "attention_shares", "steps"):
        torch.testing.assert_close(getattr(several, name), getattr(repeated, name), atol=1e-5, rtol=1e-4)
    assert several.stop_reason == repeated.stop_reason


def test_several_greedy_answers_are_refused(model: LareForConditionalGeneration) -> None:
    with pytest.raises(LareError, match="num_return_sequences is 2"):
        model.generate(**batch(model), num_return_sequences=2)


# Outputs -------------------------------------------------------------------------------------------------------


def test_an_output_is_a_sequence_of_its_rows(model: LareForConditionalGeneration) -> None:
    output = model.generate(**batch(model), **PLAIN)
    assert len(output) == len(LENGTHS)
    assert torch.equal(torch.stack(list(output)), output.sequences)
    assert torch.equal(output[1], output.sequences[1])
    ids = model.generate(**batch(model), **PLAIN, return_dict_in_generate=False)
    assert isinstance(ids, torch.Tensor)
    assert torch.equal(ids, output.sequences)


class Kept(BaseStreamer):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[list[int]] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        self.given.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended += 1


@pytest.mark.parametrize("trace", [False, True])
def test_a_streamer_gets_the_prompt_and_every_token(model: LareForConditionalGeneration, trace: bool) -> None:
    inputs = prompts(make_samples(model.config, lengths=(3,)))
    kept = Kept()
    output = model.generate(**inputs, **PLAIN, streamer=kept, output_trace=trace)
    assert kept.given == [inputs["input_ids"][0].tolist(), *([token] for token in output.sequences[0].tolist())]
    assert kept.ended == 1


def test_a_streamer_takes_one_answer(model: LareForConditionalGeneration) -> None:
    with pytest.raises(LareError, match="streamer writes one answer"):
        model.generate(**batch(model), streamer=Kept())


# Prompts -------------------------------------------------------------------------------------------------------


def test_thinking_is_opened_where_a_prompt_does_not(model: LareForConditionalGeneration) -> None:
    """A chat template ends in the generation prompt; <|latent_start|> then follows by itself."""
    opened = model.generate(**batch(model), **PLAIN)
    closed = model.generate(**batch(model, start=False), **PLAIN)
    assert torch.equal(opened.sequences, closed.sequences)
    mixed = batch(model)
    mixed["input_ids"][0, -1] = 5
    with pytest.raises(LareError, match="Some prompts end in"):
        model.generate(**mixed)
