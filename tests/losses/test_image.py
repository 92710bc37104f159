"""Image reconstruction equals a plain loop over rows; crops equal slices; sampling, identification, the tokenizer."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from lare.embedded import autoencoder as image_tokenizer
from lare.embedded.autoencoder import train_tokenizer
from lare.errors import LareError
from lare.losses.image import ImageReconstruction, build_unet
from lare.losses.image_codes import autoencoder, build_tokenizer, image_features, image_pixels
from lare.losses.image_sampling import (
    choose_crop,
    control_latents,
    crop_windows,
    identify,
    looked_at,
    sample_images,
)
from lare.training.plan.config import ImageConfig

ROWS, TOKENS, WIDTH, SIDE = 6, 3, 10, 16
CONFIG = ImageConfig(unet="small", tokenizer="tiny", size=SIDE)


def tiny_tokenizer() -> AutoencoderKL:
    return autoencoder((4, 4), 2, False, layers_per_block=1, norm_num_groups=1, sample_size=SIDE)


def tiny() -> ImageReconstruction:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=2, out_channels=2, layers_per_block=1, block_out_channels=(8, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12, attention_head_dim=2, norm_num_groups=2,
    )  # fmt: skip
    return ImageReconstruction(WIDTH, CONFIG, tiny_tokenizer(), unet)


@pytest.fixture(scope="module")
def module() -> ImageReconstruction:
    return tiny().double()


def inputs(module: ImageReconstruction) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(ROWS, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    crops = torch.rand(ROWS, 3, SIDE, SIDE, generator=generator, dtype=torch.float64) * 2 - 1
    noise, timesteps = module.draw(ROWS, generator)
    return latents, crops, noise.double(), timesteps


def plain(module: ImageReconstruction, latents, crops, noise, timesteps) -> torch.Tensor:
    """Eq. 7 row by row, with the schedule written out."""
    kept = torch.linspace(1 - CONFIG.beta_start, 1 - CONFIG.beta_end, CONFIG.steps).double().cumprod(0)
    total = torch.zeros((), dtype=torch.float64)
    for z, crop, eps, t in zip(latents, crops, noise, timesteps, strict=True):
        x0 = module.tokenizer.encode(crop[None]).latent_dist.mode() * module.tokenizer.config.scaling_factor
        noisy = kept[t].sqrt() * x0 + (1 - kept[t]).sqrt() * eps
        predicted = module.unet(
            noisy, t[None], encoder_hidden_states=module.project(z * z.square().mean(-1, keepdim=True).rsqrt())[None]
        ).sample
        total = total + ((predicted - eps) ** 2).mean()
    return total


def gradients(module: ImageReconstruction, loss: torch.Tensor, latents: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [latents, *module.parameters()], allow_unused=True, materialize_grads=True))


def assert_near(found, expected) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_it_equals_the_plain_loop_in_value_and_gradient(module):
    latents, *rest = inputs(module)
    latents.requires_grad_()
    total, count = module.loss(latents, *rest)
    expected = plain(module, latents, *rest)
    assert_near(total, expected)
    assert int(count) == ROWS
    found = gradients(module, total, latents)
    assert_near(found, gradients(module, expected, latents))
    assert bool((found[0].flatten(1).abs().sum(1) > 0).all()), "every row's latents get a gradient"


def test_v_is_what_the_noise_and_the_code_make_of_it():
    module = tiny().double()
    module.config = replace(CONFIG, prediction="v")
    latents, crops, noise, timesteps = inputs(module)
    kept = torch.linspace(1 - CONFIG.beta_start, 1 - CONFIG.beta_end, CONFIG.steps).double().cumprod(0)
    a = kept[timesteps].view(-1, 1, 1, 1)
    code = image_features(module.tokenizer, crops).double()
    predicted = module(a.sqrt() * code + (1 - a).sqrt() * noise, timesteps, latents)
    expected = (predicted - (a.sqrt() * noise - (1 - a).sqrt() * code)).square().flatten(1).mean(1).sum()
    assert_near(module.loss(latents, crops, noise, timesteps)[0], expected)


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


@pytest.mark.parametrize("size", [1, 2, 3])
def test_micro_batches_are_one_batch(module, size):
    latents, *rest = inputs(module)
    latents.requires_grad_()
    whole, count = module.loss(latents, *rest)
    parts = [module.loss(*(x[i : i + size] for x in (latents, *rest))) for i in range(0, ROWS, size)]
    assert sum(int(one) for _, one in parts) == int(count)
    total = torch.stack([one for one, _ in parts]).sum()
    assert_near(total, whole)
    assert_near(gradients(module, total, latents), gradients(module, whole, latents))


def test_rows_left_out_count_for_nothing(module):
    latents, crops, noise, timesteps = inputs(module)
    mask = torch.tensor([1, 0, 1, 1, 0, 1])
    some, count = module.loss(latents, crops, noise, timesteps, mask)
    kept = mask.bool()
    expected, _ = module.loss(latents[kept], crops[kept], noise[kept], timesteps[kept])
    assert int(count) == 4
    assert_near(some, expected)
    latents[1] = float("nan")
    assert_near(module.loss(latents, crops, noise, timesteps, mask)[0], expected)


def test_no_row_left_is_zero_with_gradients(module):
    total, count = module.loss(*inputs(module), torch.zeros(ROWS))
    assert float(total.detach()) == 0 and int(count) == 0
    (found,) = torch.autograd.grad(total, [module.project.weight])
    assert float(found.abs().sum()) == 0


def test_codes_stand_for_crops(module):
    latents, crops, noise, timesteps = inputs(module)
    codes = image_features(module.tokenizer, crops).double()
    assert codes.shape == noise.shape and not codes.requires_grad
    assert_near(module.loss(latents, codes, noise, timesteps)[0], module.loss(latents, crops, noise, timesteps)[0])


def test_the_tokenizer_is_frozen_and_hidden():
    module = tiny()
    assert not any("tokenizer" in name or "encoder" in name for name in module.state_dict())
    assert {name.split(".")[0] for name, _ in module.named_parameters()} == {"project", "unet"}
    module.train()
    assert not module.tokenizer.training
    assert not any(parameter.requires_grad for parameter in module.tokenizer.parameters())
    assert module.double().tokenizer.dtype == torch.float64


def test_bfloat16_autocast():
    module = tiny()
    latents, crops, noise, timesteps = (x.float() if x.is_floating_point() else x for x in inputs(module))
    latents.requires_grad_()
    exact, _ = module.loss(latents, crops, noise, timesteps)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = module.loss(latents, crops, noise, timesteps)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.03, atol=0.03)
    rounded.backward()
    assert float(latents.grad.abs().sum()) > 0


def test_draws_follow_the_generator(module):
    one, two = (module.draw(4, torch.Generator().manual_seed(5)) for _ in range(2))
    torch.testing.assert_close(one, two)
    assert one[0].shape == (4, 2, 8, 8) and int(one[1].max()) < CONFIG.steps


def test_shapes_that_do_not_fit_are_refused(module):
    latents, crops, noise, timesteps = inputs(module)
    with pytest.raises(LareError, match="draw both"):
        module.loss(latents, crops, noise[:2], timesteps)
    with pytest.raises(LareError, match="give crops"):
        module.loss(latents, crops[..., :8], noise, timesteps)
    with pytest.raises(LareError, match="channels"):
        ImageReconstruction(WIDTH, CONFIG, tiny_tokenizer(), build_unet("small", 4, 8))
    with pytest.raises(LareError, match="multiple"):
        ImageReconstruction(WIDTH, ImageConfig(size=9), tiny_tokenizer(), build_unet("small", 2, 8))


def test_the_papers_unet():
    with torch.device("meta"):
        paper, small = build_unet("paper", 16, 16), build_unet("small", 4, 8)
    assert sum(p.numel() for p in paper.parameters()) == 132_900_592
    assert sum(p.numel() for p in small.parameters()) < 1_000_000
    attentions = [block.attn2 for block in paper.modules() if hasattr(block, "attn2")]
    assert {one.to_q.out_features // one.heads for one in attentions} == {64}
    assert {one.to_k.in_features for one in attentions} == {768}
    # Layers a block: three on the way down, one more on the way up.
    assert [len(b.resnets) for b in (*paper.down_blocks, *paper.up_blocks)] == [3] * 4 + [4] * 4
    with pytest.raises(LareError, match="paper or small"):
        build_unet("large", 4, 8)


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


def small_run(out: Path) -> Path:
    return train_tokenizer(out, images=64, seed=1, workers=0, report_every=3)


@pytest.fixture
def quick(monkeypatch):
    """Without augmented drawings, whose making takes seconds, and with few crops to validate on."""
    stream, crops = image_tokenizer.SceneStream, image_tokenizer.validation_crops(8)
    monkeypatch.setattr(image_tokenizer, "SceneStream", lambda size, start: stream(size, start, variants=0))
    monkeypatch.setattr(image_tokenizer, "validation_crops", lambda: crops)
    return crops


def test_the_tokenizer_trains_resumes_and_loads(tmp_path, quick, monkeypatch):
    whole = small_run(tmp_path / "whole")
    steps, loss = [], image_tokenizer.tokenizer_loss

    def interrupted(*arguments):
        steps.append(1)
        if len(steps) == 5:  # between two states
            raise KeyboardInterrupt
        return loss(*arguments)

    monkeypatch.setattr(image_tokenizer, "tokenizer_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "parts")
    assert not (tmp_path / "parts" / "config.json").exists(), "an unfinished run is not to be taken for a tokenizer"
    small_run(tmp_path / "parts")
    assert len(steps) == 5 + 8 - 3, "it went on after the last state"
    name = "diffusion_pytorch_model.safetensors"
    assert_near(load_file(tmp_path / "parts" / name), load_file(whole / name))
    histories = [(tmp_path / run / "history.jsonl").read_text().splitlines() for run in ("whole", "parts")]
    found, expected = ([json.loads(row)["psnr"] for row in rows] for rows in histories)
    assert len(found) == 3 and found == pytest.approx(expected, rel=1e-3)
    small_run(whole)
    assert len((whole / "history.jsonl").read_text().splitlines()) == 3, "a finished run is left alone"

    loaded = build_tokenizer(str(whole))
    codes = image_features(loaded, quick)
    assert codes.shape[-2:] == (8, 8)
    assert float(codes.mean()) == pytest.approx(0, abs=0.01) and float(codes.std()) == pytest.approx(1, abs=0.01)
    assert image_pixels(loaded, codes).shape == quick.shape
    reconstruction = ImageReconstruction.from_config(WIDTH, ImageConfig("small", str(whole), 64))
    assert reconstruction.code_shape == codes.shape[1:]


def test_the_command_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        image_tokenizer.main(["--help"])
    assert stopped.value.code == 0 and "example:" in capsys.readouterr().out
    with pytest.raises(LareError, match="at least 8"):
        image_tokenizer.main(["--out", str(tmp_path), "--images", "3"])


def test_kl16_has_its_shape():
    state = torch.random.get_rng_state()
    with torch.device("meta"):
        tokenizer = build_tokenizer("kl16")
    assert torch.equal(state, torch.random.get_rng_state()), "a run's random numbers are not disturbed"
    assert not tokenizer.training and not any(p.requires_grad for p in tokenizer.parameters())
    features = image_features(tokenizer, torch.zeros(1, 3, 64, 64, device="meta"))
    assert features.shape == (1, 16, 4, 4)


def test_tokenizers_that_cannot_be_loaded_are_named(tmp_path):
    with pytest.raises(LareError, match="made by a run"):
        build_tokenizer("embedded")
    with pytest.raises(LareError, match="nowhere"):
        build_tokenizer(str(tmp_path / "nowhere"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"_class_name": "VQModel"}')
    with pytest.raises(LareError, match="VQModel"):
        build_tokenizer(str(tmp_path / "other"))
    folder = tmp_path / "damaged"
    tiny_tokenizer().save_pretrained(folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    left_out = sorted(tensors)[0]
    save_file({name: value for name, value in tensors.items() if name != left_out}, weights)
    with pytest.raises(LareError, match=left_out):
        build_tokenizer(str(folder))
    save_file(tensors | {left_out: tensors[left_out][:1]}, weights)
    with pytest.raises(LareError, match="can't be loaded"):
        build_tokenizer(str(folder))
    weights.write_bytes(b"damaged")
    with pytest.raises(LareError, match="damaged"):
        build_tokenizer(str(folder))
    weights.unlink()
    torch.save(tensors, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(LareError, match="safetensors"):
        build_tokenizer(str(folder))
