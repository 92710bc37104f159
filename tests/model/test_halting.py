"""Each row stops by its own latents, at the same step in a batch as alone, and never past its limits."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lare import LareError
from lare.model import LareForConditionalGeneration, Thoughts, extend, prefill, think
from lare.model.halting import parse_stop

from . import reference
from .conftest import ModelOf
from .tiny import END, Sample, collate, make_samples

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
LENGTHS = (1, 6, 3, 4, 2)


def run(
    model: LareForConditionalGeneration, samples: list[Sample], stop: str, iterations: int | None = None
) -> Thoughts:
    batch = collate(samples)
    state = prefill(model, batch["input_ids"], batch["attention_mask"], model.encode_features(batch["visual_features"]))
    return think(model, state, iterations, stop)


def gaps(model: LareForConditionalGeneration, samples: list[Sample], kind: str) -> list[list[float]]:
    """The stop measure of every row between successive iterations of a full run."""
    latents = run(model, samples, "fixed", model.config.max_iterations).latents.detach().flatten(2)
    new, old = latents[:, 1:], latents[:, :-1]
    if kind == "cosine":
        return torch.nn.functional.cosine_similarity(new, old, dim=-1).tolist()
    return torch.linalg.vector_norm(new - old, ord=1 if kind == "l1" else 2, dim=-1).tolist()


def middle(model: LareForConditionalGeneration, samples: list[Sample], kind: str) -> str:
    """A rule that stops rows at as many different steps as there are: the best threshold between two measures."""
    rows = gaps(model, samples, kind)
    values = sorted(sum(rows, []))
    rules = [f"{kind}:{(low + high) / 2}" for low, high in pairwise(values)]
    limit = model.config.max_iterations
    return max(rules, key=lambda rule: len({expected_steps(row, rule, limit) for row in rows}))


def expected_steps(measures: list[float], rule: str, limit: int) -> tuple[int, str]:
    name, number = rule.split(":")
    for index, value in enumerate(measures[: limit - 1]):
        if value > float(number) if name == "cosine" else value < float(number):
            return index + 2, "converged"
    return limit, "max_iterations"


@pytest.mark.parametrize("measure", ["cosine", "l1", "l2"])
@pytest.mark.parametrize("changes", [{}, {"refocus_source": "fine", "latents_per_iteration": 2}], ids=["m1", "m2"])
def test_rows_stop_as_they_do_alone(model_of: ModelOf, measure: str, changes: dict[str, object]) -> None:
    model = model_of("llama", **changes)
    samples = make_samples(model.config, lengths=LENGTHS, seed=3)
    rule = middle(model, samples, measure)
    together = run(model, samples, rule)
    steps = together.steps.tolist()
    wanted = [expected_steps(row, rule, model.config.max_iterations) for row in gaps(model, samples, measure)]
    assert list(zip(steps, together.stop_reason, strict=True)) == wanted
    assert len(set(steps)) > 1, "the case is of no use unless rows differ"
    for row, sample in enumerate(samples):
        alone, plain = run(model, [sample], rule), reference.think(model, sample, model.config.max_iterations, rule)
        size = int(alone.steps[0])
        assert size == steps[row] == len(plain.latents)
        assert alone.stop_reason == [together.stop_reason[row]] == [plain.reason]
        torch.testing.assert_close(together.latents[row, :size], alone.latents[0], **CLOSE)
        torch.testing.assert_close(together.latents[row, :size], torch.stack(plain.latents), **CLOSE)
        assert together.windows[row, :size].tolist() == [list(corner) for corner in plain.corners]


def test_what_follows_a_stopped_row_is_blank(model_of: ModelOf) -> None:
    model = model_of("llama")
    samples = make_samples(model.config, lengths=LENGTHS, seed=3)
    thoughts = run(model, samples, middle(model, samples, "cosine"))
    assert thoughts.latents.shape[1] == int(thoughts.steps.max())
    for row, size in enumerate(thoughts.steps.tolist()):
        assert float(thoughts.latents[row, size:].detach().abs().sum()) == 0
        assert float(thoughts.saliency[row, size:].sum()) == 0
        assert float(thoughts.cross_attention[row, size:].sum()) == 0
        assert bool((thoughts.windows[row, size:] == -1).all())
        assert bool((thoughts.windows[row, :size] >= 0).all())


def test_the_answer_of_a_stopped_row_is_that_of_its_own_run(model_of: ModelOf, kind: str) -> None:
    """Masked slots behind a row that stopped must neither be seen nor counted."""
    model = model_of(kind)
    samples = make_samples(model.config, lengths=LENGTHS, seed=3)
    rule = middle(model, samples, "l2")
    thoughts = run(model, samples, rule)
    ids = torch.tensor([[END, 9, 12]]).expand(len(samples), -1)
    hidden, _ = extend(model, thoughts.state, model.embed(ids))
    for row, sample in enumerate(samples):
        plain = reference.think(model, sample, model.config.max_iterations, rule)
        embeds = torch.cat((plain.embeds, model.embed(ids[0])))
        torch.testing.assert_close(hidden[row], reference.EagerDecoder(model)(embeds).final[-3:], **CLOSE)


@settings(deadline=None, max_examples=25)
@given(
    low=st.floats(-0.99, 1.0),
    high=st.floats(-0.99, 1.0),
    limit=st.integers(0, 6),
    measure=st.sampled_from(["cosine", "l1", "l2"]),
)
def test_thresholds_are_monotone(model_of: ModelOf, low: float, high: float, limit: int, measure: str) -> None:
    """A stricter rule never stops a row earlier; steps stay in [min(2, K), K] and latents agree where both went."""
    model = model_of("llama")
    samples = make_samples(model.config, lengths=LENGTHS, seed=3)
    strict, lax = max(low, high), min(low, high)
    if measure != "cosine":
        scale = 40.0 if measure == "l1" else 8.0
        strict, lax = ((1.01 - value) * scale for value in (strict, lax))
    hard, easy = (run(model, samples, f"{measure}:{value}", limit) for value in (strict, lax))
    assert bool((easy.steps <= hard.steps).all())
    for thoughts in (hard, easy):
        assert bool((thoughts.steps <= limit).all())
        assert bool((thoughts.steps >= min(2, limit)).all())
        assert len(thoughts.stop_reason) == len(samples)
        assert set(thoughts.stop_reason) <= {"converged", "max_iterations"}
    for row, size in enumerate(easy.steps.tolist()):
        torch.testing.assert_close(easy.latents[row, :size], hard.latents[row, :size], **CLOSE)


@pytest.mark.parametrize("limit", [0, 1, 4])
def test_fixed_rule_takes_all_iterations(model_of: ModelOf, limit: int) -> None:
    thoughts = run(model_of("llama"), make_samples(model_of("llama").config), "fixed", limit)
    assert thoughts.steps.tolist() == [limit, limit]
    assert thoughts.stop_reason == ["fixed", "fixed"]
    assert thoughts.latents.shape[1] == limit


def test_limit_defaults_to_the_configuration(model_of: ModelOf) -> None:
    model = model_of("llama")
    samples = make_samples(model.config, lengths=(2,))
    assert run(model, samples, "fixed").steps.tolist() == [model.config.iterations]
    assert run(model, samples, "l2:1e-9").steps.tolist() == [model.config.max_iterations]


def test_negative_iterations_are_refused(model_of: ModelOf) -> None:
    with pytest.raises(LareError, match="iterations is -1"):
        run(model_of("llama"), make_samples(model_of("llama").config), "fixed", -1)


@pytest.mark.parametrize(
    "text",
    ["", "cosine", "cosine:", "cosine:1.5", "cosine:-1", "cosine:nan", "l1:0", "l1:-2", "l2:inf", "linf:1", "fixed:3"],
)
def test_impossible_rules_are_refused(text: str) -> None:
    with pytest.raises(LareError, match="stop is"):
        parse_stop(text)


@given(st.sampled_from(["cosine", "l1", "l2"]), st.floats(1e-6, 1.0))
def test_rules_are_read_exactly(measure: str, threshold: float) -> None:
    rule = parse_stop(f"{measure}:{threshold!r}")
    assert (rule.kind, rule.threshold, rule.adaptive) == (measure, threshold, True)


def test_fixed_is_not_adaptive() -> None:
    assert not parse_stop("fixed").adaptive
