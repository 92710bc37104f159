"""Pictures sampled back from latents, and how well they match what the latents looked at.

Shapes: N questions, K latent iterations, m latents an iteration, d width, S side of a crop in pixels, C candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from analysis.shared.asking import Asker
from lare.errors import LareError
from lare.losses.image import ImageReconstruction
from lare.losses.image_codes import image_features, image_pixels
from lare.losses.image_sampling import crop_windows, identify, sample_images
from lare.training.plan.run_file import load_run_config

if TYPE_CHECKING:
    from lare.model import LareConfig, LareGeneration

__all__ = [
    "TITLES",
    "Looks",
    "Scores",
    "Target",
    "conditions",
    "final_folder",
    "load_reconstruction",
    "look",
    "nearest",
    "through_tokenizer",
    "score_pictures",
    "target_of",
    "training_crops",
]

TITLES = {
    "own": "Own latents",
    "other": "Another picture's latents",
    "mean": "Mean latents",
    "noise": "Noise of the same norm",
    "zeros": "Zeros",
    "tokenizer": "Bound: the window's crop through the tokenizer",
    "training": "Bound: the training crop nearest to the window's crop",
    "crop": "Floor: the mean of all crops",
}
"""Name of a condition to its title in tables."""

Array = npt.NDArray[np.float64]

TRAIN_FIRST = "run `lare train lare/configs/embedded.yaml` first, or give the folder of a run with --run"


def final_folder(run: Path) -> Path:
    """The finished last stage of a run.

    Raises:
        LareError: If the run, its last stage or the trained parts of image reconstruction are not there.
    """
    if not (run / "run.yaml").is_file():
        raise LareError(f"there is no run {str(run)!r} (no run.yaml), so nothing can sample pictures; {TRAIN_FIRST}")
    config = load_run_config(run / "run.yaml", [f"out={run}"])
    folder = run / config.stages[-1].name / "final"
    for needed in ("heads.safetensors", "config.json"):
        if not (folder / needed).is_file():
            raise LareError(f"there is no {str(folder / needed)!r}: the run is not finished; {TRAIN_FIRST}")
    return folder


def load_reconstruction(run: Path, width: int) -> ImageReconstruction:
    """The trained U-Net and the image tokenizer of a run (eq. 7).

    Args:
        run: The run's folder.
        width: d.

    Raises:
        LareError: If a part is missing, or was not trained.
    """
    folder = final_folder(run)
    config = load_run_config(run / "run.yaml", [f"out={run}"])
    image = config.image
    if image.tokenizer == "embedded":
        places = [one / "image_tokenizer" for one in (run, *([Path(config.start).parent] if config.start else []))]
        tokenizer = next((one for one in places if (one / "config.json").is_file()), None)
        if tokenizer is None:
            raise LareError(f"there is no image tokenizer {str(places[0])!r}; {TRAIN_FIRST}")
        image = replace(image, tokenizer=str(tokenizer))
    try:
        heads = load_file(folder / "heads.safetensors")
    except (OSError, SafetensorError) as error:
        raise LareError(f"{str(folder / 'heads.safetensors')!r} can't be read ({error}); {TRAIN_FIRST}") from None
    own = {name.removeprefix("image."): value for name, value in heads.items() if name.startswith("image.")}
    if not own:
        raise LareError(f"{str(run)!r} trained no image reconstruction (losses.image); {TRAIN_FIRST}")
    made = ImageReconstruction.from_config(width, image)
    try:
        made.load_state_dict(own)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise LareError(f"the U-Net in {str(folder)!r} does not fit run.yaml ({reason}); {TRAIN_FIRST}") from None
    return made.eval()


@dataclass(frozen=True)
class Looks:
    """What was seen while thinking.

    Attributes:
        latents: (N, K, m, d).
        corners: (N, K, 2) top left cells of the windows.
        pictures: (N, 3, H, W) in [0, 1], what the encoder saw.
        window: Side in cells of what is compared: of the window, or of the square inside it (`look`).
        grid: g.
    """

    latents: Tensor
    corners: Tensor
    pictures: Tensor
    window: int
    grid: int

    def crops(self, step: int, size: int) -> Tensor:
        """What each row's window showed at a step: (N, 3, S, S)."""
        return crop_windows(self.pictures, self.corners[:, step], self.window, self.grid, size)


@torch.inference_mode()
def look(asker: Asker, cells: int = 0) -> Looks:
    """Think about every question; keep latents, windows and pictures.

    Args:
        asker: Checkpoint and questions.
        cells: Side of the square around the most attended cell that stands for the window, as `image.cells` of the run
            has it; 0 is the whole window.

    Raises:
        LareError: If the checkpoint takes no fixed number of steps.
    """
    count, config = len(asker.questions), asker.model.config
    steps = int(config.iterations)
    if steps < 1:
        raise LareError("the checkpoint makes no latents (iterations 0), so there is nothing to sample from")
    width = int(config.text_config.hidden_size)
    latents = torch.zeros(count, steps, config.latents_per_iteration, width)
    corners = torch.zeros(count, steps, 2, dtype=torch.long)
    for rows, inputs in asker.batches("looks"):
        made = asker.model.generate(**inputs, max_new_tokens=1, output_trace=True, iterations=steps, stop="fixed")
        assert made.latents is not None and made.windows is not None
        latents[rows], corners[rows] = made.latents.float().cpu(), made.windows.cpu()
        if cells:
            corners[rows] = _attended(made, config, cells).cpu()
    processor = asker.processor.image_processor
    pixels = processor(images=[one.image for one in asker.questions], return_tensors="pt")["pixel_values"].float()
    mean, deviation = (torch.tensor(one).view(1, 3, 1, 1) for one in (processor.image_mean, processor.image_std))
    pictures = (pixels * deviation + mean).clamp(0, 1)
    window = int(config.window) if config.use_window else int(config.grid)
    return Looks(latents, corners, pictures, cells or window, int(config.grid))


def _attended(made: LareGeneration, config: LareConfig, cells: int) -> Tensor:
    """(B, K, 2) corners of the squares around the most attended cells."""
    from lare.losses.image_sampling import looked_at

    assert made.windows is not None and made.cross_attention is not None
    side = int(config.window) if config.use_window else int(config.grid)
    corners = looked_at(made.windows.flatten(0, 1), made.cross_attention.flatten(0, 1), side, int(config.grid), cells)
    unfolded: Tensor = corners.unflatten(0, made.windows.shape[:2])
    return unfolded


def conditions(latents: Tensor, seed: int, group: int) -> dict[str, Tensor]:
    """What pictures are sampled from: latents (N, K, m, d) and their controls, each of that shape.

    Args:
        latents: Latents of N questions.
        seed: Seed of noise.
        group: Rows of a group (see `target_of`); another picture's latents are of the next group, so that the picture
            they belong to is no candidate, and a sampler that knows nothing of the row is right once in C.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latents.shape, generator=generator)
    noise = noise / noise.norm(dim=-1, keepdim=True) * latents.norm(dim=-1, keepdim=True)
    other = latents.roll(-group, 0)
    return {
        "own": latents,
        "other": other,
        "mean": latents.mean(0, keepdim=True).expand_as(latents),
        "noise": noise,
        "zeros": torch.zeros_like(latents),
    }


@torch.inference_mode()
def draw(reconstruction: ImageReconstruction, latents: Tensor, noise: Tensor, steps: int) -> Tensor:
    """Sample (N, 3, S, S) pictures from latents (N, m, d), all from the same noise (N, C, h, h)."""
    parts = zip(latents.split(64), noise.split(64), strict=True)
    return torch.cat([sample_images(reconstruction, some, steps, noise=own) for some, own in parts])


@dataclass(frozen=True)
class Scores:
    """How well pictures match what the windows showed; each (N,).

    Attributes:
        psnr: Decibels.
        ssim: Structural similarity.
        code: Mean squared difference of the tokenizer's codes.
        found: 1 where the own crop is the nearest of C by pixels, shared among ties.
        copied: 1 where a training crop is nearer than the own crop; missing where none was looked for.
    """

    psnr: Array
    ssim: Array
    code: Array
    found: Array
    copied: Array


@dataclass(frozen=True)
class Target:
    """What pictures of one step are compared with.

    Attributes:
        crops: (N, 3, S, S) what the windows showed.
        candidates: (N, C, 3, S, S) what the windows of a row's group showed; its own is first. All were looked at, so
            before anything is known of the latents each is as likely as the other.
        codes: (N, ...) the tokenizer's codes of the crops.
        corners: (N, 2) of the windows.
    """

    crops: Tensor
    candidates: Tensor
    codes: Tensor
    corners: Tensor


@torch.inference_mode()
def target_of(looks: Looks, step: int, reconstruction: ImageReconstruction, group: int) -> Target:
    """What to compare with at a step; N is a multiple of `group`, C."""
    size = reconstruction.size
    places = torch.arange(len(looks.pictures))
    start = places // group * group
    shifted = [start + (places - start + shift) % group for shift in range(group)]
    crops = looks.crops(step, size)
    candidates = torch.stack([crops[rows] for rows in shifted], 1)
    codes = image_features(reconstruction.tokenizer, crops * 2 - 1)
    return Target(crops, candidates, codes, looks.corners[:, step])


@torch.inference_mode()
def score_pictures(
    pictures: Mapping[str, Tensor], target: Target, looks: Looks, reconstruction: ImageReconstruction,
    training: Tensor | None,
) -> dict[str, Scores]:  # fmt: skip
    """Score each condition's pictures of one step.

    Args:
        pictures: Condition to (N, 3, S, S) in [0, 1].
        target: What comes from `target_of`.
        looks: What was seen.
        reconstruction: Its tokenizer measures codes.
        training: (T, 3, H, W) training pictures, cut at the row's window; None looks for no copies.
    """
    together = torch.cat(list(pictures.values()))
    copies = torch.full((len(together),), torch.nan)
    if training is not None:
        _, copies = nearest(together, target.corners.repeat(len(pictures), 1), looks, training)
    scores = {}
    for (name, made), copy in zip(pictures.items(), copies.split(len(target.crops)), strict=True):
        wanted, got = (one.permute(0, 2, 3, 1).double().numpy() for one in (target.crops, made))
        pairs = list(zip(wanted, got, strict=True))
        codes = image_features(reconstruction.tokenizer, made * 2 - 1)
        apart = (made - target.crops).square().flatten(1).mean(1)
        scores[name] = Scores(
            np.array([peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in pairs]),
            np.array([structural_similarity(a, b, channel_axis=-1, data_range=1.0) for a, b in pairs]),
            (codes - target.codes).square().flatten(1).mean(1).double().numpy(),
            identify(made, target.candidates).right.double().numpy(),
            torch.where(copy.isnan(), torch.nan, (copy < apart).double()).double().numpy(),
        )
    return scores


@torch.inference_mode()
def nearest(made: Tensor, corners: Tensor, looks: Looks, training: Tensor) -> tuple[Tensor, Tensor]:
    """The training crop nearest to each picture.

    Args:
        made: (M, 3, S, S).
        corners: (M, 2) windows at which training pictures are cut.
        looks: For the window's size.
        training: (T, 3, H, W).

    Returns:
        (M, 3, S, S) and its mean squared distance (M,).
    """
    crops, distances, size = torch.empty_like(made), torch.empty(len(made)), made.shape[-1]
    for corner in torch.unique(corners, dim=0):
        rows = (corners == corner).all(1).nonzero().squeeze(1)
        cut = crop_windows(training, corner.expand(len(training), 2), looks.window, looks.grid, size)
        index = torch.cdist(made[rows].flatten(1), cut.flatten(1)).argmin(1)
        crops[rows] = cut[index]
        distances[rows] = (made[rows] - cut[index]).square().flatten(1).mean(1)
    return crops, distances


@torch.inference_mode()
def through_tokenizer(reconstruction: ImageReconstruction, crops: Tensor) -> Tensor:
    """Crops (N, 3, S, S) encoded and decoded: the best that any sample could be."""
    return image_pixels(reconstruction.tokenizer, image_features(reconstruction.tokenizer, crops * 2 - 1))


def training_crops(count: int, side: int) -> Tensor:
    """(T, 3, side, side) pictures of the embedded world's training scenes, as training drew them, in [0, 1]."""
    from lare.embedded.batches import VARIANTS
    from lare.embedded.world.render import render
    from lare.embedded.world.scene import sample_scene

    drawn = np.stack([render(sample_scene("train", number), VARIANTS) for number in range(count)])
    pictures = torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255
    if pictures.shape[-1] != side:
        pictures = torch.nn.functional.interpolate(pictures, (side, side), mode="bilinear", antialias=True)
    return pictures
