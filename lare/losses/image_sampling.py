"""Around eq. 7: the crop that a latent has to rebuild, pictures sampled from latents, and a test of whose they are.

The test: among N crops, is the one nearest to the picture sampled from a latent the crop that the latent saw? Chance is
1 / N; sampling from a wrong row's latents or from noise must fall to it.

Shapes: B rows, K iterations, m latents an iteration, g side of the fine grid, w side of the window, S side of a crop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor
from torch.nn import functional as F

from lare.errors import LareError
from lare.losses.image_codes import image_features, image_pixels

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from lare.losses.image import ImageReconstruction

__all__ = [
    "Identification",
    "choose_crop",
    "control_latents",
    "crop_of_each",
    "crop_windows",
    "identify",
    "looked_at",
    "sample_images",
]


@torch.no_grad()
def crop_of_each(images: Tensor, corners: Tensor, sides: Tensor, sizes: Tensor, size: int) -> Tensor:
    """Cut out each picture's window on a grid of its own and resize it.

    Args:
        images: (B, 3, H, W), each squeezed into the same square.
        corners: (B, 2) row and column of the window's top left cell.
        sides: (B, 2) rows and columns that the window has.
        sizes: (B, 2) rows and columns of each picture's grid.
        size: S.

    Returns:
        (B, 3, S, S), bilinear with antialiasing.
    """
    extent = torch.tensor(images.shape[-2:], device=corners.device)
    first = (corners * extent // sizes).tolist()
    last = ((corners + sides) * extent / sizes).ceil().long().tolist()
    crops = [
        F.interpolate(image[None, :, top:bottom, left:right], (size, size), mode="bilinear", antialias=True)
        for image, (top, left), (bottom, right) in zip(images, first, last, strict=True)
    ]
    return torch.cat(crops)


def crop_windows(images: Tensor, corners: Tensor, window: int, grid: int, size: int) -> Tensor:
    """Cut each picture's window out and resize it.

    Args:
        images: (B, 3, H, W), the pixels that the vision encoder saw, in any range of values.
        corners: (B, 2) row and column of the window's top left cell on the fine grid.
        window: w in cells; with `corners` of 0, `window` = `grid` gives the whole picture.
        grid: g.
        size: S.

    Returns:
        (B, 3, S, S), bilinear with antialiasing; a crop that has this size already is not touched.

    Raises:
        LareError: If the grid does not divide the picture, or a window lies outside of it.
    """
    height, width = images.shape[-2] // grid, images.shape[-1] // grid
    if images.shape[-2] != height * grid or images.shape[-1] != width * grid:
        raise LareError(
            f"pictures of {tuple(images.shape[-2:])} pixels have no grid of {grid} cells; resize them first"
        )
    if bool(((corners < 0) | (corners > grid - window)).any()):
        raise LareError(f"a window of {window} cells lies outside the grid of {grid}; leave out rows that had stopped")
    rows = corners[:, 0, None] * height + torch.arange(window * height, device=corners.device)
    columns = corners[:, 1, None] * width + torch.arange(window * width, device=corners.device)
    batch = torch.arange(images.shape[0], device=corners.device)[:, None, None]
    crops = images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
    if crops.shape[-2:] == (size, size):
        return crops
    return F.interpolate(crops, (size, size), mode="bilinear", align_corners=False, antialias=True)


def choose_crop(
    windows: Tensor, pick: Tensor | None = None, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Choose the iteration whose latents are asked for their window.

    Args:
        windows: (B, K, 2) of `lare.model.thinking.Thoughts`; -1 after a row stopped.
        pick: (B,) uniform numbers in [0, 1), drawn before for a whole global batch; each stands for one of the
            iterations that its row took.
        generator: Draws `pick` where it is None.

    Returns:
        The iteration (B,) and its window's corner (B, 2); ``latents[torch.arange(B), iteration]`` is the condition.

    Raises:
        LareError: If a row took no iteration, or a number is outside [0, 1).
    """
    if pick is None:
        device = windows.device if generator is None else generator.device
        pick = torch.rand(windows.shape[0], generator=generator, device=device)
    pick = pick.to(windows.device)
    if bool(((pick < 0) | (pick >= 1)).any()):
        raise LareError("pick has numbers outside [0, 1); draw them with torch.rand")
    steps = (windows[..., 0] >= 0).sum(1)
    if not bool(steps.all()):
        raise LareError("a row took no iteration and has no window to rebuild; leave such rows out")
    iteration = (pick * steps).long().minimum(steps - 1)  # the product may round up
    return iteration, windows[torch.arange(windows.shape[0], device=windows.device), iteration]


def looked_at(corners: Tensor, attention: Tensor, window: int, grid: int, cells: int) -> Tensor:
    """Corner of the square around the cell that the Extractor attends to most.

    Args:
        corners: (B, 2) of the windows.
        attention: (B, w * w) the Extractor's attention inside the window, row by row.
        window: w.
        grid: g.
        cells: Side of the square in cells.

    Returns:
        (B, 2) row and column of its top left cell; moved inside where it would leave the grid.

    Raises:
        LareError: If the attention is not that of a window, or the square is wider than the grid.
    """
    if attention.shape[-1] != window * window:
        raise LareError(f"attention over {attention.shape[-1]} tokens is not that of a window of {window} cells a side")
    if not 1 <= cells <= grid:
        raise LareError(f"a crop of {cells} cells does not fit the grid of {grid}; change image.cells")
    peak = attention.argmax(-1)
    place = corners + torch.stack((peak // window, peak % window), -1).to(corners)
    return (place - (cells - 1) // 2).clamp(0, grid - cells)


def control_latents(latents: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Conditions to compare: latents (B, n, d) as they are, the next row's, and noise.

    Returns:
        "own"; "wrong": row b has the latents of row b + 1; "noise": Gaussian, each token as long as the latent it
        stands for.

    Raises:
        LareError: If there is one row only, which has no other row's latents.
    """
    if len(latents) < 2:
        raise LareError("the wrong latents are another row's; give at least two rows")
    device = latents.device if generator is None else generator.device
    noise = torch.randn(latents.shape, generator=generator, device=device).to(latents)
    noise = noise * (latents.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True))
    return {"own": latents, "wrong": latents.roll(-1, 0), "noise": noise}


@torch.no_grad()
def sample_images(
    reconstruction: ImageReconstruction,
    latents: Tensor,
    steps: int = 20,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """Sample a picture from each row's latents with DDIM (no noise is added on the way).

    Args:
        reconstruction: The trained parts.
        latents: (B, n, d).
        steps: Denoising steps.
        generator: Draws the noise to start from.
        noise: (B, C, h, h) to start from instead, to compare conditions from the same noise.

    Returns:
        (B, 3, S, S) in [0, 1].

    Raises:
        LareError: If there are more steps than the schedule has.
    """
    config = reconstruction.config
    if not 1 <= steps <= config.steps:
        raise LareError(f"steps is {steps}; give 1 to {config.steps}, the length of the noise schedule")
    # "trailing" begins at the last timestep, where training saw all but pure noise; codes have no bound to clip to.
    scheduler = DDIMScheduler(
        config.steps,
        config.beta_start,
        config.beta_end,
        "linear",
        clip_sample=False,
        timestep_spacing="trailing",
        prediction_type="epsilon" if config.prediction == "epsilon" else "v_prediction",
    )
    scheduler.set_timesteps(steps)
    code = reconstruction.draw(latents.shape[0], generator)[0] if noise is None else noise
    for step in scheduler.timesteps:
        timesteps = torch.full((latents.shape[0],), int(step), device=code.device)
        predicted = reconstruction(code, timesteps, latents).to(code)
        code = scheduler.step(predicted, step, code).prev_sample
    return image_pixels(reconstruction.tokenizer, code)


class Identification(NamedTuple):
    """Whose crop was nearest.

    Attributes:
        right: (B,) 1 where the row's own crop is nearest; shared among crops that are equally near.
        distances: (B, N) mean squared differences.
    """

    right: Tensor
    distances: Tensor

    @property
    def accuracy(self) -> float:
        """Share of rows whose own crop is nearest."""
        return float(self.right.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the accuracy."""
        return float(self.right.std(correction=0) / len(self.right) ** 0.5)

    @property
    def chance(self) -> float:
        """What guessing gives."""
        return 1 / self.distances.shape[1]


def identify(samples: Tensor, candidates: Tensor, tokenizer: AutoencoderKL | None = None) -> Identification:
    """Find each sample among N candidates by mean squared difference.

    Args:
        samples: (B, 3, S, S) in [0, 1], sampled from latents (or from a control, see `control_latents`).
        candidates: (B, N, 3, S, S) in [0, 1]; number 0 is the row's own crop.
        tokenizer: Compare the tokenizer's codes instead of pixels.

    Raises:
        LareError: If the shapes do not fit.
    """
    if candidates.dim() != 5 or candidates.shape[:1] + candidates.shape[2:] != samples.shape:
        raise LareError(
            f"candidates are {tuple(candidates.shape)} for samples {tuple(samples.shape)}; give (B, N, ...)"
        )
    left, right = samples, candidates
    if tokenizer is not None:
        left = image_features(tokenizer, samples * 2 - 1)
        right = image_features(tokenizer, candidates.flatten(0, 1) * 2 - 1).unflatten(0, candidates.shape[:2])
    distances = (left[:, None] - right).square().flatten(2).mean(2)
    nearest = distances == distances.amin(1, keepdim=True)
    return Identification(nearest[:, 0].to(distances) / nearest.sum(1), distances)
