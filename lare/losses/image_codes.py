"""Image tokenizers of eq. 7: a frozen autoencoder, pictures to codes (x_0) and back.

Shapes: B rows, S side of a crop in pixels, C channels and S / f side of its code.
"""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors import SafetensorError
from torch import Tensor

from lare.errors import LareError
from lare.registry import IMAGE_AUTOENCODERS

__all__ = ["autoencoder", "build_tokenizer", "downscaling", "image_features", "image_pixels"]


def autoencoder(widths: tuple[int, ...], channels: int, attend: bool, **settings: int | bool) -> AutoencoderKL:
    """An autoencoder with random weights that neither depend on nor disturb the global random state.

    Args:
        widths: Channels of each scale, the finest first.
        channels: C, channels of a code.
        attend: Whether the coarsest scale has attention.
        **settings: Further settings of `AutoencoderKL`.
    """
    down, up = ["DownEncoderBlock2D"] * len(widths), ["UpDecoderBlock2D"] * len(widths)
    if attend:  # at the coarsest scale
        down[-1], up[0] = "AttnDownEncoderBlock2D", "AttnUpDecoderBlock2D"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: AutoencoderKL = AutoencoderKL(
            block_out_channels=widths, down_block_types=tuple(down), up_block_types=tuple(up),
            latent_channels=channels, scaling_factor=1.0, **settings,
        )  # fmt: skip
    return made


def build_tokenizer(name: str) -> AutoencoderKL:
    """A frozen image tokenizer in evaluation mode.

    Args:
        name: ``kl16`` has the shape of KL-16 (Rombach et al. 2022: f = 16, 16 channels, attention at the coarsest
            scale) with random weights; anything else is the folder or hub id of a diffusers `AutoencoderKL` in
            safetensors.

    Raises:
        LareError: If there is none of that name, or it is of another kind, incomplete or damaged.
    """
    if name in IMAGE_AUTOENCODERS:
        raise LareError(f"the {name} image tokenizer is made by a run; give the folder it was written to")
    if name == "kl16":
        tokenizer = autoencoder((128, 128, 256, 256, 512), 16, True, layers_per_block=2, sample_size=256)
    else:
        tokenizer = _load(name)
    frozen: AutoencoderKL = tokenizer.eval().requires_grad_(False)
    return frozen


def _load(name: str) -> AutoencoderKL:
    made = ", ".join(IMAGE_AUTOENCODERS.names())
    mend = f"give kl16, a folder or hub id of an AutoencoderKL in safetensors, or one that a run trains itself ({made})"
    try:
        kind = AutoencoderKL.load_config(name).get("_class_name")
        if kind == "AutoencoderKL":
            tokenizer, found = AutoencoderKL.from_pretrained(name, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0].split(". ")[0].rstrip(".")
        raise LareError(f"the image tokenizer {name} can't be loaded ({first}); {mend}") from error
    if kind != "AutoencoderKL":
        raise LareError(f"{name} holds a {kind}, not an AutoencoderKL; {mend}")
    if found["missing_keys"]:
        raise LareError(f"the image tokenizer {name} has no weights for {found['missing_keys'][0]}; copy it again")
    loaded: AutoencoderKL = tokenizer
    return loaded


def downscaling(tokenizer: AutoencoderKL) -> int:
    """f: pixels of a side that one entry of the code stands for."""
    return int(2 ** (len(tokenizer.config["block_out_channels"]) - 1))


@torch.no_grad()
def image_features(tokenizer: AutoencoderKL, crops: Tensor) -> Tensor:
    """x_0: crops (B, 3, S, S) in [-1, 1] -> (B, C, S / f, S / f), the posterior's mode at about unit variance."""
    mode = tokenizer.encode(crops.to(tokenizer.dtype)).latent_dist.mode().float()
    features: Tensor = (mode - (tokenizer.config["shift_factor"] or 0.0)) * tokenizer.config["scaling_factor"]
    return features


@torch.no_grad()
def image_pixels(tokenizer: AutoencoderKL, features: Tensor) -> Tensor:
    """The way back, to pictures that can be shown: (B, C, h, h) -> (B, 3, S, S) in [0, 1]."""
    code = features / tokenizer.config["scaling_factor"] + (tokenizer.config["shift_factor"] or 0.0)
    decoded: Tensor = tokenizer.decode(code.to(tokenizer.dtype)).sample.float()
    return (decoded / 2 + 0.5).clamp(0, 1)
