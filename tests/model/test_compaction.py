"""Rows that leave the batch change no number, and cost nothing any more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lare.model import LareForConditionalGeneration, extend, prefill, think
from lare.model.compaction import Working
from lare.model.thinking import Thoughts

from .conftest import ModelOf
from .tiny import END, Sample, collate, make_samples

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
MODELS: dict[str, dict[str, Any]] = {
    "window": {},
    "fine": {"refocus_source": "fine", "latents_per_iteration": 2},
    "all": {"use_window": False},
    "fed back": {"use_extractor": False},
}


def run(
    model: LareForConditionalGeneration, samples: list[Sample], limits: list[int], questions: int, **options: Any
) -> Thoughts:
    batch = collate(samples, False, False)
    visual = model.encode_features(batch["visual_features"][::questions])
    state = prefill(model, batch["input_ids"], batch["attention_mask"], visual, questions_per_image=questions)
    return think(model, state, step_limits=torch.tensor(limits), **options)


def same(model: LareForConditionalGeneration, one: Thoughts, other: Thoughts) -> None:
    """All that is told of the thinking, what the next position sees, and what is read after it."""
    for name in ("latents", "steps", "windows", "saliency", "cross_attention", "window_masses"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), **CLOSE)
    assert one.stop_reason == other.stop_reason
    for name in ("attention_mask", "next_position", "layer_hidden", "last_hidden", "saliency", "visual_slots"):
        torch.testing.assert_close(getattr(one.state, name), getattr(other.state, name), **CLOSE)
    assert one.state.padded == other.state.padded
    assert one.state.questions_per_image == other.state.questions_per_image
    ids = torch.tensor([[END, 9, 12]]).expand(len(one.steps), -1)
    read = [extend(model, thoughts.state, model.embed(ids), capture=True) for thoughts in (one, other)]
    torch.testing.assert_close(read[0][0], read[1][0], **CLOSE)
    torch.testing.assert_close(read[0][1].saliency, read[1][1].saliency, **CLOSE)


@settings(deadline=None, max_examples=12)
@given(
    kind=st.sampled_from(sorted(MODELS)),
    limits=st.lists(st.integers(0, 5), min_size=8, max_size=8),
    questions=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
)
def test_a_compacted_batch_is_a_masked_one(
    model_of: ModelOf, kind: str, limits: list[int], questions: int, seed: int
) -> None:
    model = model_of("llama", **MODELS[kind])
    samples = make_samples(model.config, lengths=(1, 6, 3, 4, 2, 5, 1, 3), seed=seed)
    with torch.no_grad():
        left, masked = (
            run(model, samples, limits, questions, iterations=5, compact=compact) for compact in (True, False)
        )
    assert left.steps.tolist() == limits
    with torch.no_grad():
        same(model, left, masked)


def test_a_compacted_batch_is_one_with_gradients(model_of: ModelOf, kind: str) -> None:
    """Where autograd needs the cache's history, rows are masked; the numbers are the same."""
    model = model_of(kind)
    samples = make_samples(model.config, lengths=(1, 6, 3, 4))
    slow = run(model, samples, [1, 4, 2, 1], 1, iterations=4)
    assert slow.latents.requires_grad
    with torch.no_grad():
        fast = run(model, samples, [1, 4, 2, 1], 1, iterations=4)
        torch.testing.assert_close(fast.latents, slow.latents, **CLOSE)
        torch.testing.assert_close(fast.state.last_hidden, slow.state.last_hidden, **CLOSE)


def counted(model: LareForConditionalGeneration, samples: list[Sample], **options: Any) -> list[int]:
    """Rows of each of the decoder's calls while thinking."""
    sizes: list[int] = []
    hook = model.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    try:
        with torch.no_grad():
            run(model, samples, iterations=5, questions=1, **options)
    finally:
        hook.remove()
    return sizes[1:]  # the first is the prompt's


def test_rows_that_left_are_not_computed(model_of: ModelOf) -> None:
    model = model_of("llama")
    samples = make_samples(model.config, lengths=(2,) * 8)
    limits = [1, 1, 1, 2, 2, 4, 5, 5]
    assert counted(model, samples, limits=limits) == [8, 5, 3, 3, 2]
    assert counted(model, samples, limits=limits, compact=False) == [8] * 5
    # Fewer than a quarter is not worth the copy; the row is masked until others stop too.
    assert counted(model, samples, limits=[1, 5, 5, 5, 5, 5, 5, 5]) == [8] * 5


@pytest.mark.parametrize(
    "option", [{"window_mode": "random"}, {"latent_override": "noise"}, {"latent_override": "own"}]
)
def test_what_is_drawn_or_told_by_row_keeps_its_batch(model_of: ModelOf, option: dict[str, Any]) -> None:
    model = model_of("llama")
    if option.get("latent_override") == "own":
        option = {"latent_override": lambda latents, step: latents}
    options = {**option, "generator": torch.Generator().manual_seed(0)}
    assert counted(model, make_samples(model.config, lengths=(2,) * 4), limits=[1, 1, 1, 3], **options) == [4] * 3


def test_answers_are_those_of_single_questions(model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through `generate`, for branches of one prompt that take 1, 2, ... steps."""
    model = model_of("llama")
    samples = make_samples(model.config, lengths=(3, 5))
    options = {"max_new_tokens": 4, "iterations": 4, "eos_token_ids": []}
    left: list[int] = []
    leave = Working.leave
    monkeypatch.setattr(Working, "leave", lambda self, active: left.append(1) or leave(self, active))
    made = model.generate(
        **collate(samples, False, False), **options, branches=4, step_limits=torch.tensor([1, 2, 3, 4] * 2)
    )
    assert left
    for row, sample in enumerate(samples):
        for steps in range(1, 5):
            alone = model.generate(**collate([sample], False, False), **{**options, "iterations": steps})
            assert made.sequences[row * 4 + steps - 1].tolist() == alone.sequences[0].tolist()
