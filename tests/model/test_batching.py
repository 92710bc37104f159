"""A row's numbers do not depend on its neighbours, on padding, or on a shared image prefix; nor do gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lare import LareError
from lare.model import LareForConditionalGeneration, LareOutput

from .conftest import ModelOf
from .test_loop import assert_gradients, gradients
from .tiny import PAD, Sample, collate, make_samples, pad

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def total(output: LareOutput) -> Tensor:
    loss = output.lm_loss[0]
    return loss if output.prefix_loss is None else loss + 0.5 * output.prefix_loss[0]


def singles(model: LareForConditionalGeneration, samples: list[Sample], iterations: int) -> list[LareOutput]:
    return [model(**collate([sample], prefixes=iterations > 0), iterations=iterations) for sample in samples]


def assert_rows(output: LareOutput, alone: list[LareOutput]) -> None:
    """Each row of `output` equals its own run."""
    for row, single in enumerate(alone):
        for name in ("latents", "windows", "saliency", "cross_attention", "window_masses", "steps"):
            torch.testing.assert_close(getattr(output.thoughts, name)[row], getattr(single.thoughts, name)[0], **CLOSE)
        size = single.target_hidden.shape[1]
        torch.testing.assert_close(output.target_hidden[row, :size], single.target_hidden[0], **CLOSE)
    torch.testing.assert_close(output.logits, torch.cat([single.logits for single in alone]), **CLOSE)


@pytest.mark.parametrize("iterations", [0, 3])
@pytest.mark.parametrize("source", ["lm", "fine"])
def test_batch_equals_single(model_of: ModelOf, kind: str, source: str, iterations: int) -> None:
    model = model_of(kind, refocus_source=source)
    samples = make_samples(model.config, lengths=(1, 7, 4), seed=5)
    output = model(**collate(samples, prefixes=iterations > 0), iterations=iterations)
    alone = singles(model, samples, iterations)
    assert_rows(output, alone)
    assert int(output.lm_loss[1]) == sum(int(single.lm_loss[1]) for single in alone)
    expected = torch.stack([total(single) for single in alone]).sum()
    assert_gradients(gradients(model, total(output)), gradients(model, expected))


def test_what_padding_holds_does_not_matter(model_of: ModelOf, kind: str) -> None:
    model = model_of(kind)
    batch = collate(make_samples(model.config, lengths=(2, 6)))
    expected = model(**batch)
    for name in ("input_ids", "target_ids", "prefix_ids"):
        mask = batch["attention_mask" if name == "input_ids" else name.replace("ids", "mask")]
        batch[name] = torch.where(mask.bool(), batch[name], 9)
    torch.testing.assert_close(model(**batch).lm_loss[0], expected.lm_loss[0])
    torch.testing.assert_close(model(**batch).prefix_loss[0], expected.prefix_loss[0])


@settings(deadline=None, max_examples=12)
@given(lengths=st.lists(st.integers(0, 8), min_size=1, max_size=4), extra=st.integers(0, 5), seed=st.integers(0, 99))
def test_more_padding_changes_nothing(model_of: ModelOf, lengths: list[int], extra: int, seed: int) -> None:
    model = model_of("llama", refocus_source="fine")
    batch = collate(make_samples(model.config, lengths=lengths, seed=seed))
    expected = model(**batch, iterations=2)
    rows = len(lengths)
    for name, left in (("input_ids", True), ("attention_mask", True), ("target_ids", False), ("target_mask", False)):
        gap = torch.full((rows, extra), PAD if name.endswith("ids") else 0)
        batch[name] = torch.cat((gap, batch[name]) if left else (batch[name], gap), dim=1)
    output = model(**batch, iterations=2)
    torch.testing.assert_close(output.thoughts.latents, expected.thoughts.latents, **CLOSE)
    assert torch.equal(output.thoughts.windows, expected.thoughts.windows)
    torch.testing.assert_close(output.lm_loss[0], expected.lm_loss[0], **CLOSE)


def test_right_padded_prompt_differs(model_of: ModelOf) -> None:
    """The promise is about left padding; this shows that the comparison above can tell."""
    model = model_of("llama")
    batch = collate(make_samples(model.config, lengths=(4,)))
    expected = model(**batch)
    batch["input_ids"] = torch.cat((batch["input_ids"], torch.full((1, 1), PAD)), dim=1)
    batch["attention_mask"] = torch.cat((batch["attention_mask"], torch.zeros(1, 1, dtype=torch.long)), dim=1)
    output = model(**batch)
    assert not torch.allclose(output.thoughts.latents, expected.thoughts.latents, atol=1e-3)


def shared_batch(samples: list[Sample], questions: int, **options: Any) -> dict[str, Any]:
    """The same samples with one prefix an image: `questions` neighbours have the same features."""
    batch: dict[str, Any] = collate(samples, **options)
    batch["input_ids"], batch["attention_mask"] = pad([sample.after for sample in samples], left=True)
    firsts = samples[::questions]
    batch["shared_ids"] = torch.tensor([sample.shared for sample in firsts])
    batch["visual_features"] = torch.stack([sample.features for sample in firsts])
    batch["questions_per_image"] = questions
    return batch


def by_image(samples: list[Sample], questions: int) -> list[Sample]:
    """Give each run of `questions` samples the features of its first."""
    return [replace(sample, features=samples[row - row % questions].features) for row, sample in enumerate(samples)]


@pytest.mark.parametrize("iterations", [0, 3])
@pytest.mark.parametrize(("source", "extractor"), [("lm", True), ("fine", True), ("fine", False)])
def test_shared_prefix_equals_unshared(
    model_of: ModelOf, kind: str, source: str, extractor: bool, iterations: int
) -> None:
    model = model_of(kind, refocus_source=source, use_extractor=extractor)
    samples = by_image(make_samples(model.config, lengths=(3, 6, 1, 4, 4, 2), seed=8), 3)
    output = model(**shared_batch(samples, 3, prefixes=iterations > 0), iterations=iterations)
    alone = singles(model, samples, iterations)
    assert_rows(output, alone)
    expected = torch.stack([total(single) for single in alone]).sum()
    assert_gradients(gradients(model, total(output)), gradients(model, expected))


def test_shared_prefix_with_one_question_each(model_of: ModelOf, kind: str) -> None:
    model = model_of(kind)
    samples = make_samples(model.config, lengths=(3, 5))
    assert_rows(model(**shared_batch(samples, 1)), singles(model, samples, 3))


def test_questions_share_an_image_without_shared_ids(model_of: ModelOf) -> None:
    """Whole prompts, one set of features for several of them."""
    model = model_of("llama", refocus_source="fine")
    samples = by_image(make_samples(model.config, lengths=(3, 5, 2, 2)), 2)
    batch: dict[str, Any] = collate(samples)
    batch["visual_features"] = batch["visual_features"][::2]
    assert_rows(model(**batch, questions_per_image=2), singles(model, samples, 3))


def test_prefix_behind_shared_ids_without_a_question(model_of: ModelOf) -> None:
    """Only <|latent_start|> follows the image: prefill continues with one position."""
    model = model_of("llama")
    samples = make_samples(model.config, lengths=(0, 0))
    assert_rows(model(**shared_batch(samples, 1)), singles(model, samples, 3))


def test_numbers_of_prompts_and_images_must_fit(model_of: ModelOf) -> None:
    model = model_of("llama")
    batch = shared_batch(make_samples(model.config, lengths=(3, 5, 2)), 1)
    with pytest.raises(LareError, match="questions_per_image=2"):
        model(**(batch | {"questions_per_image": 2}))


@pytest.mark.parametrize("count", [0, 15, 17])
def test_wrong_number_of_image_tokens_is_named(model_of: ModelOf, count: int) -> None:
    model = model_of("llama")
    samples = [replace(sample, slots=count) for sample in make_samples(model.config, lengths=(3,))]
    with pytest.raises(LareError, match=rf"\[{count}\] image tokens per row, yet an image has 16"):
        model(**collate(samples))


def test_features_or_pixels_but_not_both_or_neither(model_of: ModelOf) -> None:
    model = model_of("llama")
    batch = collate(make_samples(model.config))
    with pytest.raises(LareError, match="exactly one of pixel_values and visual_features"):
        model(**batch, pixel_values=torch.zeros(2, 3, 32, 32))
    del batch["visual_features"]
    with pytest.raises(LareError, match="exactly one of pixel_values and visual_features"):
        model(**batch)
    with pytest.raises(LareError, match=r"visual_features has shape \(2, 9, 24\)"):
        model(**batch, visual_features=torch.zeros(2, 9, 24))
