"""A soft window is the mixture of all windows, carries a gradient into the saliency, and hardens as T falls."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lare import LareError
from lare.model import prefill, think
from lare.model.window import select_window, soft_window, window_mask
from lare.window_modes import check_window_mode, soft_temperature

from .test_controls import run
from .tiny import GRID, collate, make_samples, tiny_model

SEEDS = st.integers(0, 2**31)


def grid(seed: int, side: int, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, side, side, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(2, 7), st.data(), st.sampled_from([0.05, 0.3, 2.0]))
def test_it_is_the_mixture_of_all_windows(seed: int, side: int, data: st.DataObject, temperature: float) -> None:
    size = data.draw(st.integers(1, side))
    saliency = grid(seed, side)
    found = soft_window(saliency, size, temperature).exp()
    for row, one in enumerate(saliency / saliency.sum((1, 2), keepdim=True)):
        places = [(top, left) for top in range(side - size + 1) for left in range(side - size + 1)]
        shares = torch.stack([one[top : top + size, left : left + size].sum() for top, left in places])
        inside = torch.zeros(side, side)
        for weight, (top, left) in zip((shares / temperature).softmax(0), places, strict=True):
            inside[top : top + size, left : left + size] += weight
        torch.testing.assert_close(found[row], inside.flatten().clamp(1e-4, 1.0), atol=1e-5, rtol=1e-4)


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(2, 6))
def test_it_hardens_to_the_window_of_most_saliency(seed: int, side: int) -> None:
    saliency = grid(seed, side)
    corners, _ = select_window(saliency, 2 if side > 2 else 1)
    hard = window_mask(corners, 2 if side > 2 else 1, side)
    soft = soft_window(saliency, 2 if side > 2 else 1, 1e-6).exp()
    torch.testing.assert_close(soft, hard.float().clamp_min(1e-4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("source", ["lm", "fine"])
@pytest.mark.parametrize("extractor", [True, False])
def test_latents_tell_the_attention_where_to_look(source: str, extractor: bool) -> None:
    """Through an arg-max no gradient flows; through the mixture it does."""
    model = tiny_model("llama", refocus_source=source, use_extractor=extractor)
    batch = collate(make_samples(model.config))
    for mode, flows in (("saliency", False), ("soft:0.2", True)):
        visual = model.encode_features(batch["visual_features"])
        state = prefill(model, batch["input_ids"], batch["attention_mask"], visual, saliency_gradient=True)
        latents = think(model, state, 1, window_mode=mode).latents
        (found,) = torch.autograd.grad(latents.square().sum() + latents.sum(), [state.saliency], allow_unused=True)
        assert (found is not None and float(found.abs().max()) > 1e-6) == flows


def test_a_training_step_asks_for_the_gradient_by_itself() -> None:
    model = tiny_model("llama", refocus_source="fine").train()
    batch = collate(make_samples(model.config))
    query = model.language_model.model.layers[-1].self_attn.q_proj.weight
    sizes = {}
    for mode in ("saliency", "soft:0.2"):
        model.zero_grad()
        out = model(**batch, iterations=1, window_mode=mode)
        assert out.thoughts is not None
        out.thoughts.latents.sum().backward()
        sizes[mode] = 0.0 if query.grad is None else float(query.grad.abs().max())
        assert out.thoughts.saliency.requires_grad == (mode != "saliency")
    assert sizes["soft:0.2"] != sizes["saliency"]


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 99))
def test_a_batch_is_its_rows_alone(seed: int) -> None:
    model = tiny_model("qwen2", refocus_source="fine")
    samples = make_samples(model.config, seed=seed)
    together = run(model, samples, window_mode="soft:0.1").latents
    for row, sample in enumerate(samples):
        alone = run(model, [sample], window_mode="soft:0.1").latents
        torch.testing.assert_close(together[row], alone[0], atol=2e-5, rtol=2e-4)


def test_a_wide_mixture_is_the_full_window_without_its_edges() -> None:
    model = tiny_model("llama", window=GRID)
    samples = make_samples(model.config)
    soft, full = run(model, samples, window_mode="soft:1"), run(model, samples, window_mode="full")
    torch.testing.assert_close(soft.latents, full.latents, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", ["soft:", "soft:0", "soft:-1", "soft:nan", "soft:inf", "soft:x", "softest", "mean"])
def test_a_wrong_name_is_refused(mode: str) -> None:
    with pytest.raises(LareError, match="soft:T"):
        check_window_mode(mode)


def test_temperatures_are_read() -> None:
    assert [soft_temperature(mode) for mode in ("soft:0.5", "soft:2", "saliency")] == [0.5, 2.0, None]
