"""Image reconstruction (eq. 7): latents must let a small U-Net rebuild what the window showed.

    L_image = E_{t, eps} || eps - eps_theta(sqrt(a_t) x_0 + sqrt(1 - a_t) eps, t | z) ||^2

x_0 is the image tokenizer's code of the crop at a window W, z are latent tokens, a_t is the product of (1 - beta) up to
t. The paper leaves open which latents see which window. Our reading: a row draws one of its iterations, and the m
tokens of that iteration alone are the condition for the crop at that iteration's window. So each latent has to hold
what was looked at when it was made, and cannot lean on another one.

Two settings depart from the equation. With the noise as target a small U-Net never came to listen to its condition: at
high noise, where the condition is all there is, it can hardly lower that loss. With v, sqrt(a_t) eps - sqrt(1 - a_t)
x_0, as target (`prediction`) it listened after 16,000 crops (own latents 0.99 against another row's 1.38 at t = 800).
And a latent that is read off one cell says little about a window of sixteen; `cells` cuts the crop down to what it saw.

Shapes: B rows, n condition tokens, d width of a latent, S side of a crop in pixels, C and h x h the tokenizer's code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from lare.errors import LareError
from lare.losses.image_codes import build_tokenizer, downscaling, image_features

if TYPE_CHECKING:
    from lare.losses.settings import ImageConfig

__all__ = ["ImageReconstruction", "build_unet"]

_PAPER = dict(
    layers_per_block=3,
    block_out_channels=(96, 192, 384, 512),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=768,
    # diffusers takes the number of heads under this name: 192 / 3 = 384 / 6 = 512 / 8 = 64 wide. Block 0 has none.
    attention_head_dim=(1, 3, 6, 8),
    norm_num_groups=32,
)
_SMALL = dict(
    layers_per_block=1,
    block_out_channels=(32, 48),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=96,
    attention_head_dim=(2, 4),
    norm_num_groups=8,
)


def build_unet(kind: str, latent_channels: int, sample_size: int) -> UNet2DConditionModel:
    """A conditional denoiser with random weights.

    The paper's Table 7 gives layers a block, the four widths, the block types, a cross-attention width of 768, 32 norm
    groups, and ``attention_head_dim`` 64. Our reading of the last is what it says, heads 64 wide; diffusers, given the
    number, would make 64 heads instead, with the very same weights. Whatever the table does not name (the middle block,
    activations, time embedding) is diffusers' default.

    Args:
        kind: ``paper`` (Table 7; 133 M parameters) or ``small`` (for codes of 8 x 8; 0.6 M).
        latent_channels: C.
        sample_size: h; written into the configuration only, other sides work as well.

    Raises:
        LareError: If the kind is unknown.
    """
    shapes: dict[str, dict[str, Any]] = {"paper": _PAPER, "small": _SMALL}
    if kind not in shapes:
        raise LareError(f"unet is {kind!r}; give paper or small")
    unet: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=sample_size, in_channels=latent_channels, out_channels=latent_channels, **shapes[kind]
    )
    return unet


class ImageReconstruction(nn.Module):
    """The trained parts of eq. 7, `project` and `unet`, and the frozen tokenizer beside them.

    The tokenizer is not a submodule: it is in no `state_dict` and in no `parameters()`, so that it is neither saved
    with the model nor handed to an optimiser. It does follow `.to(...)`.

    Args:
        hidden_dim: d.
        config: Schedule and size of the crop.
        tokenizer: See `build_tokenizer`.
        unet: See `build_unet`.

    Raises:
        LareError: If U-Net, tokenizer and size do not fit together.
    """

    def __init__(
        self, hidden_dim: int, config: ImageConfig, tokenizer: AutoencoderKL, unet: UNet2DConditionModel
    ) -> None:
        super().__init__()
        channels, factor = int(tokenizer.config["latent_channels"]), downscaling(tokenizer)
        if unet.config["in_channels"] != channels:
            raise LareError(f"the U-Net takes {unet.config['in_channels']} channels and the tokenizer makes {channels}")
        if config.size % factor:
            raise LareError(f"image.size is {config.size}; give a multiple of the tokenizer's {factor} pixels a code")
        self.config = config
        self.code_shape = (channels, config.size // factor, config.size // factor)
        self.project = nn.Linear(hidden_dim, int(unet.config["cross_attention_dim"]))
        self.unet = unet
        self._hidden = (tokenizer.eval().requires_grad_(False),)  # a tuple hides it from nn.Module
        self._scheduler = DDPMScheduler(config.steps, config.beta_start, config.beta_end, "linear")

    @classmethod
    def from_config(cls, hidden_dim: int, config: ImageConfig) -> ImageReconstruction:
        """Build or load tokenizer and U-Net as a configuration names them."""
        tokenizer = build_tokenizer(config.tokenizer)
        side = config.size // downscaling(tokenizer)
        return cls(hidden_dim, config, tokenizer, build_unet(config.unet, tokenizer.config["latent_channels"], side))

    @property
    def tokenizer(self) -> AutoencoderKL:
        """The frozen image tokenizer."""
        return self._hidden[0]

    @property
    def size(self) -> int:
        """S, the side of a crop in pixels."""
        return self.config.size

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ImageReconstruction:
        self.tokenizer._apply(fn)
        nn.Module._apply(self, fn, recurse)
        return self

    def forward(self, noisy: Tensor, timesteps: Tensor, latents: Tensor) -> Tensor:
        """Predict the noise (or v) in `noisy` (B, C, h, h) at `timesteps` (B,) from `latents` (B, n, d)."""
        # Latents are as short as token embeddings are (their root mean square is 0.1 in a small decoder). Taken as they
        # are, the U-Net never came to listen to them in 200,000 samples of the embedded world.
        latents = nn.functional.rms_norm(latents.float(), latents.shape[-1:])
        condition = self.project(latents.to(self.project.weight.dtype))
        predicted: Tensor = self.unet(noisy.to(self.unet.dtype), timesteps, encoder_hidden_states=condition).sample
        return predicted

    def draw(self, rows: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Noise (rows, C, h, h) and timesteps (rows,) of a whole global batch.

        Drawn once for all rows and then cut, they make the loss independent of how the batch is cut.
        """
        device = None if generator is None else generator.device
        timesteps = torch.randint(self.config.steps, (rows,), generator=generator, device=device)
        noise = torch.randn((rows, *self.code_shape), generator=generator, device=device)
        here = self.project.weight.device
        return noise.to(here), timesteps.to(here)

    def loss(
        self, latents: Tensor, images: Tensor, noise: Tensor, timesteps: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Eq. 7.

        Args:
            latents: (B, n, d) condition.
            images: (B, 3, S, S) crops in [-1, 1], or their codes (B, C, h, h) as `image_features` makes them.
            noise: (B, C, h, h) from `draw`.
            timesteps: (B,) from `draw`.
            mask: (B,), 0 for rows that carry no loss; they are left out before anything is computed.

        Returns:
            (sum, count): each row's mean squared error, summed over rows, and the number of rows.

        Raises:
            LareError: If the tensors do not fit each other or the configuration.
        """
        self._check(latents, images, noise, timesteps)
        weights = torch.ones(latents.shape[0], dtype=torch.bool) if mask is None else mask.bool()
        if mask is not None:
            # With no row left one is computed all the same, at weight 0: parallel wrappers wait for every gradient.
            rows = weights.nonzero().squeeze(1) if bool(weights.any()) else weights.new_zeros(1, dtype=torch.long)
            latents, images, noise, timesteps, weights = (x[rows] for x in (latents, images, noise, timesteps, weights))
        code = images if images.shape[1:] == noise.shape[1:] else image_features(self.tokenizer, images)
        noisy = self._scheduler.add_noise(code.to(noise), noise, timesteps)
        target = noise if self.config.prediction == "epsilon" else self._velocity(code.to(noise), noise, timesteps)
        error = (self(noisy, timesteps, latents).to(noise) - target).square().flatten(1).mean(1)
        return (error * weights.to(error)).sum(), weights.sum().to(error.device)

    def _velocity(self, code: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        velocity: Tensor = self._scheduler.get_velocity(code, noise, timesteps)
        return velocity

    def _check(self, latents: Tensor, images: Tensor, noise: Tensor, timesteps: Tensor) -> None:
        rows, size = latents.shape[0], self.size
        if tuple(noise.shape) != (rows, *self.code_shape) or tuple(timesteps.shape) != (rows,):
            raise LareError(
                f"noise is {tuple(noise.shape)} and timesteps {tuple(timesteps.shape)} for {rows} rows; draw both"
            )
        if tuple(images.shape) not in ((rows, 3, size, size), (rows, *self.code_shape)):
            raise LareError(
                f"images are {tuple(images.shape)}; give crops {(rows, 3, size, size)} or {(rows, *self.code_shape)}"
            )
