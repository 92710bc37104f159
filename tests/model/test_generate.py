"""Answers: the cached batch decoder writes what the plain one writes, and every option does what it says."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lare import LareError
from lare.model import LareForConditionalGeneration, LareGeneration
from lare.model.generation import GenerationOptions, choose_tokens

from . import reference
from .conftest import ModelOf
from .test_batching import by_image, shared_batch
from .test_halting import middle
from .tiny import BOS, EOS, LAYERS, PAD, VOCABULARY, WIDTH, WINDOW, Sample, collate, make_samples

NEW = 10
LENGTHS = (5, 1, 8, 3)


@pytest.fixture(scope="session")
def model_of(model_of: ModelOf) -> ModelOf:
    """Models whose answers vary."""
    return lambda kind, **changes: model_of(kind, lively=True, **changes)


def prompts(samples: list[Sample]) -> dict[str, Any]:
    return dict(collate(samples, targets=False, prefixes=False))


def texts(output: LareGeneration) -> list[list[int]]:
    """Generated ids without what follows their ends."""
    return [row[:size].tolist() for row, size in zip(output.sequences, output.lengths.tolist(), strict=True)]


def common_eos(model: LareForConditionalGeneration, samples: list[Sample]) -> list[int]:
    """The two ids that end these answers at the most different places; random weights hardly ever say EOS."""
    free = model.generate(**prompts(samples), max_new_tokens=NEW, eos_token_ids=[]).sequences.tolist()

    def places(ends: tuple[int, ...]) -> int:
        return len({next((i for i, token in enumerate(row) if token in ends), NEW) for row in free})

    said = sorted({token for row in free for token in row})
    return list(max(itertools.combinations(said, 2), key=places))


@pytest.mark.parametrize(
    "changes",
    [{}, {"refocus_source": "fine"}, {"latents_per_iteration": 2}, {"use_extractor": False}],
    ids=["lm", "fine", "m2", "noextractor"],
)
def test_greedy_text_equals_reference(model_of: ModelOf, kind: str, changes: dict[str, Any]) -> None:
    model = model_of(kind, **changes)
    samples = make_samples(model.config, lengths=LENGTHS, seed=2)
    eos = common_eos(model, samples)
    together = model.generate(**prompts(samples), max_new_tokens=NEW, eos_token_ids=eos)
    for row, sample in enumerate(samples):
        with torch.no_grad():
            plain = reference.greedy(model, sample, reference.think(model, sample, 3), NEW, eos=eos)
        alone = model.generate(**prompts([sample]), max_new_tokens=NEW, eos_token_ids=eos)
        assert texts(alone) == [plain]
        assert texts(together)[row] == plain


def test_rows_end_at_different_places(model_of: ModelOf, kind: str) -> None:
    """The comparison above is of use only if rows really are dropped on the way."""
    model = model_of(kind)
    samples = make_samples(model.config, lengths=LENGTHS, seed=2)
    output = model.generate(**prompts(samples), max_new_tokens=NEW, eos_token_ids=common_eos(model, samples))
    assert len(set(output.lengths.tolist())) >= 3


@pytest.mark.parametrize("delimiters", [True, False])
def test_greedy_without_latents(model_of: ModelOf, kind: str, delimiters: bool) -> None:
    model = model_of(kind)
    samples = make_samples(model.config, lengths=LENGTHS, start=delimiters)
    output = model.generate(**prompts(samples), max_new_tokens=5, eos_token_ids=[], iterations=0, delimiters=delimiters)
    for row, sample in enumerate(samples):
        plain = reference.greedy(model, sample, reference.think(model, sample, 0), 5, delimiters, eos=())
        assert texts(output)[row] == plain
    assert output.steps.tolist() == [0] * len(samples)


def test_greedy_after_an_adaptive_stop(model_of: ModelOf, kind: str) -> None:
    model = model_of(kind)
    samples = make_samples(model.config, lengths=(1, 6, 3, 4, 2), seed=3)
    rule = middle(model, samples, "cosine")
    output = model.generate(**prompts(samples), max_new_tokens=6, eos_token_ids=[], stop=rule, output_trace=True)
    assert len(set(output.steps.tolist())) > 1
    for row, sample in enumerate(samples):
        with torch.no_grad():
            thinking = reference.think(model, sample, model.config.max_iterations, rule)
        assert int(output.steps[row]) == len(thinking.latents)
        assert output.stop_reason[row] == thinking.reason
        assert texts(output)[row] == reference.greedy(model, sample, thinking, 6, eos=())
        token = int(output.sequences[row, 0])
        for place, shares in enumerate((None, token)):
            wanted = reference.attention_shares(model, sample, thinking, shares)
            torch.testing.assert_close(output.attention_shares[row, place], wanted, atol=1e-5, rtol=1e-4)


@settings(deadline=None, max_examples=10)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    iterations=st.integers(0, 3),
    seed=st.integers(0, 99),
    eos=st.sets(st.integers(0, VOCABULARY - 1), max_size=12),
)
def test_batch_equals_single(model_of: ModelOf, lengths: list[int], iterations: int, seed: int, eos: set[int]) -> None:
    model = model_of("llama", refocus_source="fine")
    samples = make_samples(model.config, lengths=lengths, seed=seed)
    options: dict[str, Any] = {"max_new_tokens": 6, "eos_token_ids": sorted(eos), "iterations": iterations}
    together = model.generate(**prompts(samples), **options)
    alone = [model.generate(**prompts([sample]), **options) for sample in samples]
    assert texts(together) == [texts(single)[0] for single in alone]
    assert together.sequences.shape[1] == max(single.sequences.shape[1] for single in alone)


def test_shared_prefix_gives_the_same_answers(model_of: ModelOf, kind: str) -> None:
    model = model_of(kind, refocus_source="fine")
    samples = by_image(make_samples(model.config, lengths=(3, 6, 1, 4)), 2)
    shared = shared_batch(samples, 2, targets=False, prefixes=False)
    ours = model.generate(**shared, max_new_tokens=NEW, output_trace=True)
    theirs = model.generate(**prompts(samples), max_new_tokens=NEW, output_trace=True)
    assert texts(ours) == texts(theirs)
    torch.testing.assert_close(ours.attention_shares, theirs.attention_shares, atol=1e-5, rtol=1e-4)


# Ends ----------------------------------------------------------------------------------------------------------


def test_lengths_leave_the_end_of_sequence_out_and_padding_follows(model_of: ModelOf) -> None:
    model = model_of("llama")
    samples = make_samples(model.config, lengths=LENGTHS, seed=2)
    eos = common_eos(model, samples)
    output = model.generate(**prompts(samples), max_new_tokens=NEW, eos_token_ids=eos)
    for row, size in zip(output.sequences.tolist(), output.lengths.tolist(), strict=True):
        assert not set(row[:size]) & set(eos)
        if size < len(row):
            assert row[size] in eos
            assert set(row[size + 1 :]) <= {PAD}
    sizes = [min(size + 1, NEW) for size in output.lengths.tolist()]
    assert output.sequences.shape[1] == max(sizes)


def test_a_batch_ends_with_its_last_row(model_of: ModelOf) -> None:
    model = model_of("llama")
    samples = make_samples(model.config, lengths=(3,))
    first = int(model.generate(**prompts(samples), max_new_tokens=1, eos_token_ids=[]).sequences[0, 0])
    output = model.generate(**prompts(samples), max_new_tokens=500, eos_token_ids=[first])
    assert output.sequences.tolist() == [[first]]
    assert output.lengths.tolist() == [0]


def test_end_of_sequence_defaults_to_the_text_configuration(model_of: ModelOf) -> None:
    model = model_of("llama")
    samples = make_samples(model.config, lengths=LENGTHS)
    free = model.generate(**prompts(samples), max_new_tokens=NEW)
    named = model.generate(**prompts(samples), max_new_tokens=NEW, eos_token_ids=[EOS])
    assert torch.equal(free.sequences, named.sequences)


def test_stop_check_ends_rows_and_keeps_their_last_token(model_of: ModelOf) -> None:
    model = model_of("llama")
    samples = make_samples(model.config, lengths=LENGTHS)
    free = texts(model.generate(**prompts(samples), max_new_tokens=NEW, eos_token_ids=[]))

    def third_for_even_rows(ids: torch.Tensor) -> torch.Tensor:
        assert ids.shape[0] == len(samples)
        return (torch.arange(len(ids)) % 2 == 0) & (ids.shape[1] >= 3)

    output = model.generate(**prompts(samples), max_new_tokens=NEW, eos_token_ids=[], stop_check=third_for_even_rows)
    assert texts(output) == [row[:3] if index % 2 == 0 else row for index, row in enumerate(free)]


@pytest.mark.parametrize("tokens", [1, 2, 90])
def test_any_number_of_new_tokens(model_of: ModelOf, tokens: int) -> None:
    """90 outgrow any room that the cache made for a few."""
    model = model_of("llama", latents_per_iteration=3)
    samples = make_samples(model.config, lengths=(3, 1))
    output = model.generate(**prompts(samples), max_new_tokens=tokens, eos_token_ids=[])
    assert output.sequences.shape == (2, tokens)
    assert output.lengths.tolist() == [tokens, tokens]


# Sampling ------------------------------------------------------------------------------------------------------


def sample_text(model: LareForConditionalGeneration, seed: int | None, **options: Any) -> list[list[int]]:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    samples = make_samples(model.config, lengths=LENGTHS)
    values = {"max_new_tokens": NEW, "eos_token_ids": [], "do_sample": True, "generator": generator}
    return texts(model.generate(**prompts(samples), **(values | options)))


def test_sampling_repeats_with_a_generator(model_of: ModelOf, kind: str) -> None:
    model = model_of(kind)
    assert sample_text(model, 1) == sample_text(model, 1)
    assert sample_text(model, 1) != sample_text(model, 2)
    state = torch.random.get_rng_state()
    sample_text(model, 1)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator must be left alone"


def test_sampling_narrows_to_greedy(model_of: ModelOf) -> None:
    model = model_of("llama")
    greedy = sample_text(model, None, do_sample=False)
    assert sample_text(model, 5, top_k=1) == greedy
    assert sample_text(model, 5, top_p=1e-6) == greedy
    assert sample_text(model, 5, temperature=1e-4) == greedy


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    top_k=st.integers(0, 12),
    top_p=st.floats(0.05, 1.0),
    temperature=st.floats(0.2, 3.0),
)
def test_only_allowed_tokens_are_drawn(seed: int, top_k: int, top_p: float, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 10, generator=generator).expand(64, -1) * 2
    options = GenerationOptions(do_sample=True, top_k=top_k, top_p=top_p, temperature=temperature, generator=generator)
    drawn = set(choose_tokens(logits, options).tolist())
    order = logits[0].argsort(descending=True).tolist()
    order = order[:top_k] if top_k else order
    probs = (logits[0][order] / temperature).softmax(0).tolist()
    allowed, mass = set(), 0.0
    for token, prob in zip(order, probs, strict=True):
        allowed.add(token)
        mass += prob
        if mass >= top_p + 1e-6:
            break
    assert drawn <= allowed


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(20000, -1) * 2.0
    options = GenerationOptions(do_sample=True, temperature=2.0, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(choose_tokens(logits, options), minlength=3) / 20000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_new_tokens", 0), ("temperature", 0.0), ("temperature", -1.0), ("top_p", 0.0), ("top_p", 1.5), ("top_k", -1)],
)
def test_impossible_options_are_named(model_of: ModelOf, field: str, value: float) -> None:
    model = model_of("llama")
    with pytest.raises(LareError, match=f"{field} is {value}"):
        model.generate(**prompts(make_samples(model.config)), **{field: value})


def test_iterations_need_delimiters(model_of: ModelOf) -> None:
    model = model_of("llama")
    with pytest.raises(LareError, match="needs delimiters"):
        model.generate(**prompts(make_samples(model.config)), iterations=2, delimiters=False)


# Trace ---------------------------------------------------------------------------------------------------------


def test_trace_holds_what_the_loop_did(model_of: ModelOf, kind: str) -> None:
    model = model_of(kind, refocus_source="fine")
    samples = make_samples(model.config, lengths=LENGTHS)
    output = model.generate(**prompts(samples), max_new_tokens=4, eos_token_ids=[], output_trace=True)
    rows = len(samples)
    assert output.latents.shape == (rows, 3, 1, WIDTH)
    assert output.cross_attention.shape == (rows, 3, WINDOW**2)
    assert output.saliency.shape == (rows, 3, 2, 2)
    assert output.attention_shares.shape == (rows, 2, LAYERS, 4, 4)
    torch.testing.assert_close(output.attention_shares.sum(-1), torch.ones(rows, 2, LAYERS, 4), atol=1e-5, rtol=0)
    assert set(output.seconds) == {"vision", "prefill", "think", "decode"}
    assert all(value >= 0 for value in output.seconds.values())
    for row, sample in enumerate(samples):
        with torch.no_grad():
            plain = reference.think(model, sample, 3)
        torch.testing.assert_close(output.latents[row], torch.stack(plain.latents), atol=1e-5, rtol=1e-5)
        assert output.windows[row].tolist() == [list(corner) for corner in plain.corners]
        assert output.stop_reason[row] == "fixed"
        tokens = (None, int(output.sequences[row, 0]))
        wanted = torch.stack([reference.attention_shares(model, sample, plain, token) for token in tokens])
        torch.testing.assert_close(output.attention_shares[row], wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("delimiters", [True, False])
def test_shares_exist_for_any_answer(model_of: ModelOf, tokens: int, delimiters: bool) -> None:
    """Both rows are there for an answer of one token, for an empty one, and without any latent."""
    model = model_of("llama")
    samples = make_samples(model.config, lengths=(3, 1), start=delimiters)
    first = int(
        model.generate(**prompts(samples), max_new_tokens=1, iterations=0, delimiters=delimiters).sequences[0, 0]
    )
    output = model.generate(
        **prompts(samples),
        max_new_tokens=tokens,
        iterations=0,
        delimiters=delimiters,
        output_trace=True,
        eos_token_ids=[first],
    )
    assert output.lengths.tolist()[0] == 0
    assert output.attention_shares.shape == (2, 2, LAYERS, 4, 4)
    torch.testing.assert_close(output.attention_shares.sum(-1), torch.ones(2, 2, LAYERS, 4), atol=1e-5, rtol=0)
    assert float(output.attention_shares[..., 3].abs().sum()) == 0, "no latents, no attention to them"


def test_the_trace_changes_no_answer(model_of: ModelOf, kind: str) -> None:
    model = model_of(kind)
    samples = make_samples(model.config, lengths=LENGTHS, seed=2)
    eos = common_eos(model, samples)
    plain, traced = (
        model.generate(**prompts(samples), max_new_tokens=NEW, eos_token_ids=eos, output_trace=trace)
        for trace in (False, True)
    )
    assert torch.equal(plain.sequences, traced.sequences)
    assert torch.equal(plain.lengths, traced.lengths)
    assert plain.latents is None


def test_outputs_may_enter_autograd(model_of: ModelOf) -> None:
    """A probe is trained on latents later: they must not be inference tensors."""
    model = model_of("llama")
    output = model.generate(**prompts(make_samples(model.config)), max_new_tokens=2, output_trace=True)
    weight = torch.randn(WIDTH, requires_grad=True)
    (output.latents @ weight).sum().backward()
    assert weight.grad is not None
    assert not output.latents.requires_grad


# Controls ------------------------------------------------------------------------------------------------------


def test_overridden_latents_change_the_answer(model_of: ModelOf) -> None:
    model = model_of("llama")
    samples = make_samples(model.config, lengths=LENGTHS)
    natural = model.generate(**prompts(samples), max_new_tokens=NEW, output_trace=True, eos_token_ids=[])
    zeros = model.generate(
        **prompts(samples), max_new_tokens=NEW, eos_token_ids=[], latent_override="zeros", output_trace=True
    )
    same = model.generate(**prompts(samples), max_new_tokens=NEW, eos_token_ids=[], latent_override=natural.latents)
    assert float(zeros.latents.abs().sum()) == 0
    assert not torch.equal(zeros.sequences, natural.sequences)
    assert torch.equal(same.sequences, natural.sequences)


def test_hidden_image_is_not_attended_to(model_of: ModelOf, kind: str) -> None:
    model = model_of(kind)
    samples = make_samples(model.config, lengths=LENGTHS)
    seen, hidden = (
        model.generate(**prompts(samples), max_new_tokens=4, eos_token_ids=[], output_trace=True, hide_image=hide)
        for hide in (False, True)
    )
    assert torch.equal(seen.latents, hidden.latents), "thinking comes first and still sees"
    assert float(hidden.attention_shares[..., 2].sum()) == 0
    assert float(seen.attention_shares[..., 2].sum()) > 0
    torch.testing.assert_close(
        hidden.attention_shares.sum(-1), torch.ones(len(samples), 2, LAYERS, 4), atol=1e-5, rtol=0
    )
    assert not torch.equal(seen.sequences, hidden.sequences)


def test_first_token_is_the_rows_own(model_of: ModelOf) -> None:
    """The share of the sequence's first token is that of BOS, not of the padding before it."""
    model = model_of("llama")
    samples = make_samples(model.config, lengths=(8, 1))
    assert samples[1].before[0] == BOS
    both = model.generate(**prompts(samples), max_new_tokens=1, output_trace=True)
    alone = model.generate(**prompts(samples[1:]), max_new_tokens=1, output_trace=True)
    torch.testing.assert_close(both.attention_shares[1], alone.attention_shares[0], atol=1e-5, rtol=1e-4)
    assert float(both.attention_shares[1, ..., 0].max()) > 0


@pytest.mark.parametrize("autocast", [False, True], ids=["weights", "autocast"])
def test_bfloat16_generates(model_of: ModelOf, kind: str, autocast: bool) -> None:
    """A padded batch in half precision ends well and mostly says what float32 says first."""
    model = model_of(kind)
    samples = make_samples(model.config, lengths=LENGTHS)
    exact = model.generate(**prompts(samples), max_new_tokens=NEW, eos_token_ids=[])
    other = model if autocast else copy.deepcopy(model).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        rough = other.generate(**prompts(samples), max_new_tokens=NEW, eos_token_ids=[], output_trace=True)
    assert rough.sequences.shape == exact.sequences.shape
    assert int((rough.sequences[:, 0] == exact.sequences[:, 0]).sum()) >= 3
    assert bool(torch.isfinite(rough.latents.float()).all())
