"""The cached, batched loop gives what the plain one gives: latents, windows, losses and every gradient."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lare.model import LareForConditionalGeneration, LareOutput

from . import reference
from .conftest import ModelOf
from .tiny import Sample, collate, make_samples, tiny_model, trainable

SWITCHES = [
    dict(zip(("use_window", "use_extractor", "refocus_source", "latents_per_iteration"), values, strict=True))
    for values in itertools.product((True, False), (True, False), ("lm", "fine"), (1, 2))
]


def name_of(switches: dict[str, Any]) -> str:
    window, extractor, source, tokens = switches.values()
    return f"{source}-m{tokens}{'' if window else '-nowindow'}{'' if extractor else '-noextractor'}"


def plain_losses(
    model: LareForConditionalGeneration, samples: list[Sample], iterations: int, **options: Any
) -> tuple[list[reference.Thinking], Tensor, Tensor]:
    """Reference thoughts and summed losses of single samples."""
    thoughts = [reference.think(model, sample, iterations, **options) for sample in samples]
    pairs = list(zip(samples, thoughts, strict=True))
    lm = torch.stack([reference.lm_loss(model, sample, thinking) for sample, thinking in pairs]).sum()
    if not iterations:
        return thoughts, lm, torch.zeros(())
    return (
        thoughts,
        lm,
        torch.stack([reference.prefix_loss(model, sample, thinking) for sample, thinking in pairs]).sum(),
    )


def gradients(model: LareForConditionalGeneration, loss: Tensor) -> dict[str, Tensor]:
    """Gradients of all trainable parameters; zeros where none arrives."""
    parameters = trainable(model)
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    pairs = zip(parameters.items(), found, strict=True)
    return {name: torch.zeros_like(value) if grad is None else grad for (name, value), grad in pairs}


def assert_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    """Equal to `tolerance` of each parameter's largest entry.

    Some gradients are zero but for rounding (a key's bias shifts all scores alike), so the scale has a floor at a
    hundredth of the largest gradient of the model.
    """
    floor = 1e-2 * max(float(value.abs().max()) for value in expected.values())
    assert floor > 0
    for name, value in expected.items():
        gap = float((actual[name] - value).abs().max()) / max(float(value.abs().max()), floor)
        assert gap < tolerance, f"{name}: gradient off by {gap:.1e} of its scale"


def assert_thoughts(output: LareOutput, thoughts: list[reference.Thinking], tolerance: float = 1e-5) -> None:
    """Latents, windows, saliency, looks and masses equal the reference's, row by row."""
    ours = output.thoughts
    assert ours is not None
    for row, plain in enumerate(thoughts):
        steps = len(plain.latents)
        assert int(ours.steps[row]) == steps
        assert ours.windows[row, :steps].tolist() == [list(corner) for corner in plain.corners]
        for step in range(steps):
            close = {"atol": tolerance, "rtol": tolerance, "check_dtype": False}  # saliency and looks are float32
            torch.testing.assert_close(ours.latents[row, step], plain.latents[step], **close)
            torch.testing.assert_close(ours.saliency[row, step].flatten(), plain.saliency[step], **close)
            torch.testing.assert_close(ours.cross_attention[row, step], plain.looks[step], **close)
            assert abs(float(ours.window_masses[row, step]) - plain.masses[step]) < tolerance


def compare(model: LareForConditionalGeneration, iterations: int) -> None:
    """Against single plain runs: values to 1e-5 in float32, gradients to 1e-5 in float64.

    In float32 both sides' gradients carry rounding of up to 1e-5 of their own, more or less by processor, so there the
    bound is wider.
    """
    compare_in(model, iterations, gradient_tolerance=5e-5)
    compare_in(copy.deepcopy(model).double(), iterations, gradient_tolerance=1e-5)


def compare_in(
    model: LareForConditionalGeneration, iterations: int, gradient_tolerance: float, tolerance: float = 1e-5
) -> None:
    """Thoughts, losses and gradients of a left-padded batch against single plain runs, in the model's own dtype."""
    drawn = make_samples(model.config, lengths=(5, 2), seed=iterations)
    samples = [replace(sample, features=sample.features.to(model.dtype)) for sample in drawn]
    batch = collate(samples, prefixes=iterations > 0)
    output = model(**batch, iterations=iterations)
    thoughts, lm, prefix = plain_losses(model, samples, iterations)
    assert_thoughts(output, thoughts, tolerance)
    close = {"atol": tolerance, "rtol": tolerance, "check_dtype": False}  # losses are float32
    total, expected = output.lm_loss[0], lm
    torch.testing.assert_close(total, expected, **close)
    assert int(output.lm_loss[1]) == sum(len(sample.target) for sample in samples)
    if iterations:
        torch.testing.assert_close(output.prefix_loss[0], prefix, **close)
        assert int(output.prefix_loss[1]) == sum(len(sample.prefix) for sample in samples)
        total, expected = total + 0.5 * output.prefix_loss[0], expected + 0.5 * prefix
    assert_gradients(gradients(model, total), gradients(model, expected), gradient_tolerance)


@pytest.mark.parametrize("switches", SWITCHES, ids=name_of)
def test_loop_equals_reference(model_of: ModelOf, kind: str, switches: dict[str, Any]) -> None:
    compare(model_of(kind, **switches), iterations=4)


@pytest.mark.parametrize("iterations", [0, 1])
@pytest.mark.parametrize("source", ["lm", "fine"])
def test_few_iterations_equal_reference(model_of: ModelOf, kind: str, source: str, iterations: int) -> None:
    compare(model_of(kind, refocus_source=source, latents_per_iteration=2), iterations)


@pytest.mark.parametrize("changes", [{"rms_scale": False}, {"residual_feedback": False, "extractor_output_init": 0.1}])
def test_other_feedback_equals_reference(model_of: ModelOf, changes: dict[str, Any]) -> None:
    compare(model_of("llama", **changes), iterations=3)


def test_window_of_odd_size_on_coarser_saliency(model_of: ModelOf) -> None:
    compare(model_of("qwen2", refocus_source="fine", window=3), iterations=3)


def test_single_coarse_token(model_of: ModelOf) -> None:
    """One visual token for the decoder: saliency is flat and the first window wins."""
    model = model_of("llama", refocus_source="fine", lm_grid=1)
    compare(model, iterations=2)


def test_loop_in_double_precision() -> None:
    """Only the norms' and softmax's own float32 remain, so a small systematic error can't hide in rounding."""
    model = tiny_model("qwen2", latents_per_iteration=2).double()
    samples = make_samples(model.config)
    for sample in samples:
        sample.features = sample.features.double()
    output = model(**collate(samples), iterations=3)
    thoughts, lm, prefix = plain_losses(model, samples, 3)
    assert_thoughts(output, thoughts, tolerance=2e-6)
    expected = gradients(model, lm + prefix)
    assert_gradients(gradients(model, output.lm_loss[0] + output.prefix_loss[0]), expected, tolerance=2e-6)


def test_gradient_is_that_of_finite_differences() -> None:
    """Reference and model could share a detached tensor: move one weight of each sort and look."""
    model = tiny_model("llama").double()
    samples = make_samples(model.config, lengths=(3,))
    batch = collate(samples)
    batch["visual_features"] = batch["visual_features"].double()

    def loss() -> Tensor:
        output = model(**batch, iterations=2)
        return output.lm_loss[0] + output.prefix_loss[0]

    found = gradients(model, loss())
    names = ("projector.linear_1.weight", "extractor.state_proj.weight", "extractor.cross_attention.0.key_value.weight")
    for name in (*names, "language_model.model.layers.0.self_attn.v_proj.weight"):
        parameter = trainable(model)[name]
        index = int(found[name].abs().argmax())
        with torch.no_grad():
            entry, step, values = parameter.view(-1), 1e-3, []
            for shift in (step, -2 * step, step):
                entry[index] += shift
                values.append(float(loss()))
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(float(found[name].view(-1)[index]), rel=2e-2), name
