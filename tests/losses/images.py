"""A tiny image reconstruction and its inputs."""

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from lare.losses.image import ImageReconstruction
from lare.losses.image_codes import autoencoder
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


def inputs(module: ImageReconstruction) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(ROWS, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    crops = torch.rand(ROWS, 3, SIDE, SIDE, generator=generator, dtype=torch.float64) * 2 - 1
    noise, timesteps = module.draw(ROWS, generator)
    return latents, crops, noise.double(), timesteps


def assert_near(found, expected) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
