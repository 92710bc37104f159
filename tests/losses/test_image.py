"""Image reconstruction equals a plain loop over rows; crops equal slices; sampling, identification, the tokenizer."""

from dataclasses import replace

import pytest
import torch

from lare.errors import LareError
from lare.losses.image import ImageReconstruction, build_unet
from lare.losses.image_codes import image_features
from lare.training.plan.config import ImageConfig
from tests.losses.images import CONFIG, ROWS, WIDTH, assert_near, inputs, tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def module() -> ImageReconstruction:
    return tiny().double()


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
