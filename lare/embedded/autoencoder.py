"""Training of the embedded world's image tokenizer, on crops of its train split.

Run as a module:

    python -m lare.embedded.autoencoder --out runs/tokenizer
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lare.commands import command
from lare.embedded.encoder import SceneStream, add_history
from lare.embedded.world.render import render
from lare.embedded.world.scene import IMAGE_SIZE, sample_scene
from lare.errors import LareError
from lare.losses.image_codes import autoencoder, image_features, image_pixels
from lare.progress import progress
from lare.training.optimiser.schedule import learning_rate
from lare.training.precision import fast_bf16
from lare.training.saving.state import load_state, save_state

__all__ = [
    "image_features",
    "psnr",
    "small_tokenizer",
    "train_tokenizer",
    "validation_crops",
    "world_crops",
]

SIDE = 64
"""Pixels of a crop: half a picture of the world, a window of 4 of its 8 fine cells."""
BATCH, WHOLE = 8, 2
"""Crops a step, of which the last `WHOLE` are whole pictures made smaller (the target without a window)."""
KL_WEIGHT = 1e-4
"""Weight of the KL divergence per entry of the code, beside the mean squared error of pixels in [-1, 1]."""


def small_tokenizer() -> AutoencoderKL:
    """The embedded world's: f = 8, 8 channels, 0.9 M parameters, convolutions only.

    One norm group: backward through groups of few channels takes several times longer on a CPU. The posterior starts
    narrow, for at a width of 1 its noise drowns the code and hundreds of steps pass before it is used.
    """
    channels = 8
    settings = dict(layers_per_block=1, norm_num_groups=1, sample_size=SIDE, mid_block_add_attention=False)
    tokenizer = autoencoder((16, 32, 64, 64), channels, False, **settings)
    moments = tokenizer.get_submodule("quant_conv").state_dict()  # mean, then log-variance; shares the weights' memory
    moments["weight"][channels:] *= 0.1
    moments["bias"][channels:] = -5.0
    return tokenizer


def world_crops(pictures: Tensor, whole: int, generator: torch.Generator) -> Tensor:
    """Crops (B, 3, 64, 64) in [-1, 1] of uint8 pictures (B, 128, 128, 3); the last `whole` are whole pictures."""
    images = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
    windowed = len(images) - whole
    corners = torch.randint(IMAGE_SIZE - SIDE + 1, (windowed, 2), generator=generator).tolist()
    crops = [images[i, :, row : row + SIDE, column : column + SIDE] for i, (row, column) in enumerate(corners)]
    return torch.cat((torch.stack(crops), F.avg_pool2d(images[windowed:], IMAGE_SIZE // SIDE)))


def tokenizer_loss(tokenizer: AutoencoderKL, crops: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error of pixels in [-1, 1], plus the KL divergence an entry of the code times `KL_WEIGHT`."""
    images = crops.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16()):
        moments = tokenizer.encode(images).latent_dist.parameters
        posterior = DiagonalGaussianDistribution(moments.float())
        decoded = tokenizer.decode(posterior.sample(generator)).sample
    divergence: Tensor = posterior.kl().mean() / posterior.mean[0].numel()
    return F.mse_loss(decoded.float(), images) + KL_WEIGHT * divergence


@torch.no_grad()
def validation_crops(count: int = 256) -> Tensor:
    """Crops (count, 3, 64, 64) in [-1, 1] of the validation split, a quarter of them whole pictures."""
    pictures = np.stack([render(sample_scene("validation", i)) for i in range(count)])
    return world_crops(torch.from_numpy(pictures), count // 4, torch.Generator().manual_seed(0))


@torch.no_grad()
def psnr(tokenizer: AutoencoderKL, crops: Tensor) -> float:
    """Mean over crops of the peak signal-to-noise ratio in dB after coding and decoding."""
    rows: list[Tensor] = []
    for part in crops.split(64):
        shown = image_pixels(tokenizer, image_features(tokenizer, part))
        rows.append(-10 * (shown - (part + 1) / 2).square().flatten(1).mean(1).log10())
    return float(torch.cat(rows).mean())


def train_tokenizer(
    out: Path, images: int = 20_000, seed: int = 0, workers: int = 1, report_every: int = 400, rate: float = 2e-3
) -> Path:
    """Train the embedded world's tokenizer and write it to `out` (resumes from its last state).

    Args:
        out: Folder of the tokenizer, its state, and ``history.jsonl`` with loss and validation PSNR.
        images: Crops of the train split to see.
        seed: Seed of crops and posterior samples.
        workers: Processes that draw scenes.
        report_every: Steps between two entries of the history, each with a state to resume from.
        rate: Highest learning rate.

    Returns:
        `out`.

    Raises:
        LareError: If there are too few images for a step, or the state cannot be read or written.
    """
    steps = images // BATCH
    if steps < 1:
        raise LareError(f"images is {images}; give at least {BATCH}, one step")
    tokenizer = small_tokenizer()
    torch.nn.Module.to(tokenizer, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(tokenizer.parameters(), lr=rate, weight_decay=0.01)
    saved = load_state(out, [optimiser])
    first, before = 0, 0.0
    if saved is not None:
        if saved[1]["done"]:
            return out
        tokenizer.load_state_dict(saved[0])
        first, before = int(saved[1]["step"]), float(saved[1]["seconds"])
    crops, began = validation_crops(), time.time()
    loader = DataLoader(SceneStream(BATCH, first * BATCH), batch_size=None, num_workers=workers)
    bar = progress(range(first, steps), desc="image tokenizer", mininterval=5, initial=first, total=steps)
    for step, (pictures, _) in zip(bar, loader, strict=False):
        # A generator a step: a resumed run draws what the interrupted one would have drawn.
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        optimiser.param_groups[0]["lr"] = learning_rate(rate, step, steps)
        loss = tokenizer_loss(tokenizer, world_crops(pictures, WHOLE, generator), generator)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % report_every == 0 or step + 1 == steps:
            seconds = before + time.time() - began
            seen = {"images": (step + 1) * BATCH, "loss": loss.item()}
            add_history(out, {**seen, "minutes": seconds / 60, "psnr": psnr(tokenizer, crops)})
            if step + 1 == steps:
                _write(tokenizer, crops, out)
            meta = {"step": step + 1, "seconds": seconds, "done": step + 1 == steps}
            save_state(out, tokenizer.state_dict(), [optimiser], meta)
    return out


@torch.no_grad()
def _write(tokenizer: AutoencoderKL, crops: Tensor, out: Path) -> None:
    """Save in diffusers' format, with the shift and the scale that give codes mean 0 and variance 1."""
    codes = image_features(tokenizer, crops)
    tokenizer.register_to_config(shift_factor=float(codes.mean()), scaling_factor=float(1 / codes.std()))
    tokenizer.save_pretrained(out, safe_serialization=True)


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Train the small tokenizer from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lare.embedded.autoencoder",
        description="Train the image tokenizer of the embedded world; started again, it goes on where it stopped.",
        epilog="example: python -m lare.embedded.autoencoder --out runs/tokenizer --images 20000",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--images", type=int, default=20_000, help="crops to train on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    given = parser.parse_args(arguments)
    print(train_tokenizer(given.out, given.images, given.seed))


if __name__ == "__main__":
    raise SystemExit(main())
