"""Learned stop rules decide live as they would on a finished run, alone as in a batch; their file is whole or named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lare.errors import LareError
from lare.model import LareForConditionalGeneration, extend, prefill, think
from lare.model.halting import StopRule, parse_stop
from lare.model.loop import LoopState
from lare.model.stop_head import HEADS_FILE, KINDS, Seen, StopHead, StopHeads, head_inputs, inputs_of
from lare.model.thinking import Thoughts, first_token

from . import reference
from .conftest import ModelOf
from .heads import random_heads
from .tiny import END, Sample, collate, make_samples, tiny_model

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
LENGTHS = (1, 6, 3, 4, 2, 5, 1, 3)
T = 6


@pytest.fixture(params=[{}, {"refocus_source": "fine", "latents_per_iteration": 2}], ids=["m1", "m2"])
def model(model_of: ModelOf, request: pytest.FixtureRequest) -> Iterator[LareForConditionalGeneration]:
    found = model_of("llama", **request.param)
    found.stop_heads = random_heads(found)
    yield found
    found.stop_heads = None


def begin(model: LareForConditionalGeneration, samples: list[Sample]) -> LoopState:
    batch = collate(samples)
    return prefill(model, batch["input_ids"], batch["attention_mask"], model.encode_features(batch["visual_features"]))


def run(model: LareForConditionalGeneration, samples: list[Sample], stop: str, **options: object) -> Thoughts:
    with torch.no_grad():
        return think(model, begin(model, samples), stop=stop, **options)  # type: ignore[arg-type]


@torch.no_grad()
def values_of(model: LareForConditionalGeneration, samples: list[Sample], kind: str) -> Tensor:
    """(N, T) what a head says after each step of a run of T single steps."""
    assert model.stop_heads is not None
    state, previous, inputs = begin(model, samples), None, []
    for step in range(T):
        before = state.last_hidden
        thoughts = think(model, state, 1, "fixed")
        state, latents = thoughts.state, thoughts.latents[:, 0]
        first = first_token(model, state)
        inputs.append(head_inputs(kind, Seen(step + 1, latents, previous, state.last_hidden, before, first)))
        previous = latents
    return model.stop_heads.get(kind).values(torch.stack(inputs, 1))


def threshold_of(values: Tensor) -> float:
    """Between two values, so that rounding decides nothing, and such that rows differ the most."""
    ordered = values.flatten().sort().values
    wide = ((ordered[1:] + ordered[:-1]) / 2)[ordered.diff() > 1e-4].tolist()
    return max(wide, key=lambda one: len(set(stops(values, one))))


def stops(values: Tensor, threshold: float) -> list[int]:
    fired = values > threshold
    return [int(row.float().argmax()) + 1 if bool(row.any()) else T for row in fired]


@pytest.mark.parametrize("kind", KINDS)
def test_live_stops_are_those_of_a_finished_run(model: LareForConditionalGeneration, kind: str) -> None:
    samples = make_samples(model.config, lengths=LENGTHS, seed=3)
    values = values_of(model, samples, kind)
    threshold = threshold_of(values)
    rule, wanted = f"learned:{kind}:{threshold:.9f}", stops(values, threshold)
    assert len(set(wanted)) > 2, "the case is of no use unless rows differ"
    full = run(model, samples, "fixed", iterations=T)
    for compact in (True, False):
        made = run(model, samples, rule, compact=compact)
        assert made.steps.tolist() == wanted
        for row, size in enumerate(wanted):
            torch.testing.assert_close(made.latents[row, :size], full.latents[row, :size], **CLOSE)
            assert made.stop_reason[row] == "converged" or size == T
    assert [int(run(model, [one], rule).steps[0]) for one in samples] == wanted


def test_the_look_ahead_is_what_the_text_would_begin_with(model: LareForConditionalGeneration) -> None:
    """Against a recompute over the whole sequence; and the cache is as it was."""
    samples = make_samples(model.config, lengths=(2, 5))
    with torch.no_grad():
        state = think(model, begin(model, samples), 2, "fixed").state
        length = state.cache.get_seq_length()
        ahead = first_token(model, state)
        assert state.cache.get_seq_length() == length
        again, _ = extend(model, state, model.embed_token(END, 2))
        torch.testing.assert_close(model.lm_head(again[:, -1]), ahead, atol=0, rtol=0)
        for row, sample in enumerate(samples):
            plain = reference.think(model, sample, 2)
            embeds = torch.cat((plain.embeds, model.embed(torch.tensor([END]))))
            final = reference.EagerDecoder(model)(embeds).final[-1]
            torch.testing.assert_close(ahead[row], model.lm_head(final), **CLOSE)


@pytest.mark.parametrize("stop", ["learned", "learned:confidence:0.4"])
def test_answers_in_a_batch_are_those_alone(model: LareForConditionalGeneration, stop: str) -> None:
    samples = make_samples(model.config, lengths=LENGTHS[:5], seed=3)
    options = {"max_new_tokens": 3, "stop": stop, "eos_token_ids": []}
    together = model.generate(**collate(samples, False, False), **options)
    for row, sample in enumerate(samples):
        alone = model.generate(**collate([sample], False, False), **options)
        assert alone.sequences[0].tolist() == together.sequences[row].tolist()
        assert int(alone.steps[0]) == int(together.steps[row])


def test_a_rule_takes_its_heads_threshold_and_no_more_steps_than_it_knows(model: LareForConditionalGeneration) -> None:
    samples = make_samples(model.config, lengths=LENGTHS, seed=3)
    assert model.stop_heads is not None
    for head in model.stop_heads.heads.values():
        head.threshold = 1.0
    model.stop_heads.steps = 4
    assert run(model, samples, "learned").steps.tolist() == [4] * len(samples)
    model.stop_heads.get("ponder").threshold = 1e-6
    assert run(model, samples, "learned:ponder").steps.tolist() == [1] * len(samples)
    assert run(model, samples, "learned:ponder:0.999999", iterations=3).steps.max() == 3


def test_a_checkpoint_without_heads_says_so(model_of: ModelOf) -> None:
    model = model_of("llama")
    samples = make_samples(model.config)
    with pytest.raises(LareError, match="no learned stop rule"):
        run(model, samples, "learned")
    heads = random_heads(model)
    del heads.heads["ponder"]
    model.stop_heads = heads
    try:
        with pytest.raises(LareError, match="no stop head 'ponder'"):
            run(model, samples, "learned:ponder")
    finally:
        model.stop_heads = None


def test_pondering_counts_what_is_left() -> None:
    """The value after step k is the probability of having stopped by then, and so never falls."""
    head = StopHead("ponder", inputs_of("ponder", 4), 6)
    inputs = torch.randn(5, T, 10)
    values = head.values(inputs)
    share = head(inputs, torch.arange(1, T + 1)).sigmoid()
    torch.testing.assert_close(values[:, 1], share[:, 0] + (1 - share[:, 0]) * share[:, 1])
    assert bool((values.diff(dim=1) >= 0).all())


def test_heads_lie_beside_the_weights(tmp_path: Path) -> None:
    model = tiny_model()
    names = set(model.state_dict())
    model.save_pretrained(tmp_path / "without")
    heads = model.stop_heads = random_heads(model)
    assert set(model.state_dict()) == names
    model.save_pretrained(tmp_path / "with")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("without", "with")]
    configs = [(tmp_path / name / "config.json").read_text() for name in ("without", "with")]
    assert weights[0] == weights[1] and configs[0] == configs[1]
    assert LareForConditionalGeneration.from_pretrained(tmp_path / "without").stop_heads is None
    found = LareForConditionalGeneration.from_pretrained(tmp_path / "with").stop_heads
    assert found is not None
    assert (found.digest, found.chosen, found.steps, found.facts) == (heads.digest, "agreement", 6, {"margin": 0.01})
    inputs = torch.randn(3, T, inputs_of("ponder", 32))
    assert torch.equal(found.get("ponder").values(inputs), heads.get("ponder").values(inputs))
    found.get("ponder").threshold = 0.25
    assert found.digest != heads.digest
    model.stop_heads = None
    model.save_pretrained(tmp_path / "with")
    assert not (tmp_path / "with" / HEADS_FILE).exists(), "heads of other weights"


def test_a_damaged_file_of_heads_is_named(tmp_path: Path) -> None:
    model = tiny_model()
    path = random_heads(model).save(tmp_path)
    assert StopHeads.load(path, 32).steps == 6
    with pytest.raises(LareError, match="agreement reads 66 numbers, this model gives 98"):
        StopHeads.load(path, 48)
    whole = path.read_bytes()
    for damaged in (whole[:100], whole[:-20], b"", whole.replace(b"agreement.at", b"agreement.xx")):
        path.write_bytes(damaged)
        with pytest.raises(LareError, match=r"stop_heads\.safetensors can't be used"):
            StopHeads.load(path, 32)


def test_what_looks_ahead_needs_a_look() -> None:
    seen = Seen(1, torch.zeros(2, 1, 4), None, torch.zeros(2, 4), torch.zeros(2, 4))
    with pytest.raises(LareError, match="look ahead"):
        head_inputs("confidence", seen)
    assert head_inputs("agreement", seen).shape == (2, 10)
    with pytest.raises(LareError, match="no stop head"):
        StopHead("angle", 3, 2)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("learned", StopRule("learned")),
        ("learned:ponder", StopRule("learned", 0.0, "ponder")),
        ("learned:0.9", StopRule("learned", 0.9)),
        ("learned:confidence:0.9", StopRule("learned", 0.9, "confidence")),
    ],
)
def test_learned_rules_are_read(text: str, rule: StopRule) -> None:
    assert parse_stop(text) == rule
    assert rule.adaptive and rule.learned


@pytest.mark.parametrize("text", ["learned:", "learned:angle", "learned:0", "learned:1.5", "learned:ponder:0.9:1"])
def test_impossible_learned_rules_are_refused(text: str) -> None:
    with pytest.raises(LareError, match="stop is"):
        parse_stop(text)
