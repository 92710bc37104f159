"""Crops equal slices, sampling follows the latents, and identification tells whose picture it is."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lare.errors import LareError
from lare.losses.image_codes import image_pixels
from lare.losses.image_sampling import (
    choose_crop,
    control_latents,
    crop_windows,
    identify,
    looked_at,
    sample_images,
)
from lare.training.plan.config import ImageConfig
from tests.losses.images import CONFIG, ROWS, SIDE, TOKENS, WIDTH, inputs, tiny, tiny_tokenizer


@given(st.integers(1, 4), st.integers(0, 4), st.integers(0, 4), st.integers(0, 15))
def test_the_looked_at_square_holds_the_peak(cells, row, column, peak):
    attention = torch.full((1, 16), 0.01)
    attention[0, peak] = 0.5
    corner = looked_at(torch.tensor([[row, column]]), attention, 4, 8, cells)[0]
    place = torch.tensor([row + peak // 4, column + peak % 4])
    assert bool((corner >= 0).all()) and bool((corner + cells <= 8).all())
    assert bool((corner <= place).all()) and bool((place < corner + cells).all())


def test_squares_that_do_not_fit_are_refused():
    with pytest.raises(LareError, match="window of 4"):
        looked_at(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 9), 4, 8, 2)
    with pytest.raises(LareError, match="does not fit the grid"):
        looked_at(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 16), 4, 8, 9)
    for wrong in ({"prediction": "x0"}, {"cells": -1}):
        with pytest.raises(LareError, match=next(iter(wrong))):
            ImageConfig(**wrong)


@settings(max_examples=40, deadline=None)
@given(
    window=st.integers(1, 5),
    extra=st.integers(0, 4),
    cell=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    size=st.integers(1, 24),
    seed=st.integers(0, 1000),
)
def test_crops_equal_slices(window, extra, cell, size, seed):
    generator, grid = torch.Generator().manual_seed(seed), window + extra
    images = torch.rand(3, 3, grid * cell[0], grid * cell[1], generator=generator)
    corners = torch.randint(extra + 1, (3, 2), generator=generator)
    found = crop_windows(images, corners, window, grid, size)
    for image, (row, column), crop in zip(images, corners.tolist(), found, strict=True):
        top, left = row * cell[0], column * cell[1]
        expected = image[None, :, top : top + window * cell[0], left : left + window * cell[1]]
        if expected.shape[-2:] != (size, size):
            expected = F.interpolate(expected, (size, size), mode="bilinear", antialias=True)
        assert torch.equal(crop, expected[0])


def test_impossible_crops_are_refused():
    images = torch.rand(1, 3, 16, 16)
    with pytest.raises(LareError, match="outside"):
        crop_windows(images, torch.tensor([[-1, -1]]), 2, 4, 8)
    with pytest.raises(LareError, match="no grid"):
        crop_windows(images, torch.tensor([[0, 0]]), 2, 5, 8)


def test_only_iterations_that_were_taken_are_chosen():
    windows = torch.arange(24).reshape(3, 4, 2)
    windows[1, 2:] = -1
    step, corner = choose_crop(windows, torch.tensor([0.99, 0.99, 0.0]))
    assert step.tolist() == [3, 1, 0]
    assert torch.equal(corner, torch.stack((windows[0, 3], windows[1, 1], windows[2, 0])))
    many = choose_crop(windows[1:2].expand(400, -1, -1), generator=torch.Generator().manual_seed(0))[0]
    assert 150 < int(many.sum()) < 250
    with pytest.raises(LareError, match="took no iteration"):
        choose_crop(torch.full((2, 3, 2), -1))
    with pytest.raises(LareError, match=r"\[0, 1\)"):
        choose_crop(windows, torch.tensor([0.0, 1.0, 2.0]))


def test_sampling_is_deterministic_and_follows_the_latents():
    module = tiny()
    latents = inputs(module)[0].float()
    one, two = (sample_images(module, latents, 4, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == (ROWS, 3, SIDE, SIDE) and 0 <= float(one.min()) <= float(one.max()) <= 1
    noise, _ = module.draw(ROWS, torch.Generator().manual_seed(1))
    whole = sample_images(module, latents, 4, noise=noise)
    parts = [sample_images(module, latents[i : i + 2], 4, noise=noise[i : i + 2]) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-4)
    assert not torch.equal(sample_images(module, latents.flip(0), 4, noise=noise), whole)
    with pytest.raises(LareError, match="steps"):
        sample_images(module, latents, CONFIG.steps + 1)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_sampling_with_a_perfect_denoiser_gives_the_codes_back(monkeypatch, prediction):
    module = tiny()
    module.config = replace(CONFIG, prediction=prediction)
    codes = torch.randn(ROWS, *module.code_shape)

    def perfect(noisy, timesteps, latents):
        kept = module._scheduler.alphas_cumprod[timesteps][:, None, None, None]
        noise = (noisy - kept.sqrt() * codes) / (1 - kept).sqrt()
        return noise if prediction == "epsilon" else kept.sqrt() * noise - (1 - kept).sqrt() * codes

    monkeypatch.setattr(module, "forward", perfect)
    found = sample_images(module, torch.zeros(ROWS, TOKENS, WIDTH), 10)
    torch.testing.assert_close(found, image_pixels(module.tokenizer, codes), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("space", ["pixels", "codes"])
def test_identification_of_copies_is_perfect_and_of_noise_is_chance(space):
    generator = torch.Generator().manual_seed(0)
    tokenizer = None if space == "pixels" else tiny_tokenizer()
    candidates = torch.rand(200, 4, 3, SIDE, SIDE, generator=generator)
    perfect = identify(candidates[:, 0], candidates, tokenizer)
    assert perfect.accuracy == 1 and perfect.standard_error == 0 and perfect.chance == 0.25
    noise = identify(torch.rand(200, 3, SIDE, SIDE, generator=generator), candidates, tokenizer)
    assert abs(noise.accuracy - noise.chance) < 4 * noise.standard_error
    assert identify(candidates[:, 1], candidates, tokenizer).accuracy == 0


def test_equally_near_crops_share():
    same = torch.rand(2, 1, 3, 4, 4).expand(-1, 5, -1, -1, -1)
    assert identify(same[:, 0], same).accuracy == pytest.approx(0.2)
    with pytest.raises(LareError, match="candidates"):
        identify(same[:1, 0], same)


def test_controls():
    latents = torch.randn(4, TOKENS, WIDTH)
    controls = control_latents(latents, torch.Generator().manual_seed(0))
    assert torch.equal(controls["own"], latents)
    assert torch.equal(controls["wrong"][0], latents[1]) and torch.equal(controls["wrong"][3], latents[0])
    torch.testing.assert_close(controls["noise"].norm(dim=-1), latents.norm(dim=-1))
    with pytest.raises(LareError, match="two rows"):
        control_latents(latents[:1])
