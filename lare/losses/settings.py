"""Settings of the losses that need more than a weight."""

from __future__ import annotations

from dataclasses import dataclass

from lare.errors import require

__all__ = ["ImageConfig"]


@dataclass(frozen=True)
class ImageConfig:
    """Image reconstruction (eq. 7): what is rebuilt, through which tokenizer, by which U-Net.

    Attributes:
        unet: ``paper`` (Table 7) or ``small`` (for codes of 8 x 8).
        tokenizer: Folder or hub id of a diffusers `AutoencoderKL`; ``kl16`` is one of KL-16's shape with random
            weights (for tests and sizes only); or a name of `lare.registry.IMAGE_AUTOENCODERS`, which the run trains.
        size: Side in pixels to which the window's crop is resized.
        steps: T of the noise schedule.
        beta_start: Its first beta; the schedule is linear.
        beta_end: Its last beta.
        share: Share of a batch's rows that carry the loss.
        prediction: What the U-Net predicts: ``epsilon``, the noise (eq. 7), or ``v`` (Salimans and Ho 2022). At high
            noise v is nearly the picture itself, which only the latents can tell.
        cells: Side of the crop in fine cells, around the one that the Extractor attends to most; 0 is the whole window.
    """

    unet: str = "paper"
    tokenizer: str = "kl16"
    size: int = 256
    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    share: float = 1.0
    prediction: str = "epsilon"
    cells: int = 0

    def __post_init__(self) -> None:
        require(self.prediction in ("epsilon", "v"), f"image.prediction is {self.prediction!r}; give epsilon or v")
        require(self.cells >= 0, f"image.cells is {self.cells}; give 0 (the window) or a side in cells")
        require(self.unet in ("paper", "small"), f"image.unet is {self.unet!r}; give paper or small")
        require(self.size >= 8, f"image.size is {self.size}; give at least 8 pixels")
        require(self.steps >= 1, f"image.steps is {self.steps}; give at least 1")
        require(
            0 < self.beta_start <= self.beta_end < 1,
            f"image.beta_start {self.beta_start} and image.beta_end {self.beta_end} must rise between 0 and 1",
        )
        require(0 < self.share <= 1, f"image.share is {self.share}; give a share above 0 and up to 1")
