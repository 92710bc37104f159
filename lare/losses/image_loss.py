"""L_image: image reconstruction (eq. 7) as a loss of a training step; its U-Net stands in `lare.losses.image`."""

from __future__ import annotations

from contextlib import nullcontext
from math import isqrt
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lare.losses.base import Loss, Run
from lare.losses.batch import Draws, MicroBatch
from lare.losses.image_codes import image_features
from lare.losses.image_sampling import choose_crop, crop_of_each, crop_windows, looked_at

if TYPE_CHECKING:
    from lare.losses.image import ImageReconstruction
    from lare.model import LareConfig
    from lare.model.thinking import Thoughts

__all__ = ["IMAGE", "ImageLoss", "image_crop"]


def image_crop(
    config: LareConfig, cells: int, thoughts: Thoughts, rows: Tensor, step: Tensor, corners: Tensor
) -> tuple[Tensor, int]:
    """The crop that the latents of an iteration have to rebuild: its corners (R, 2) and its side, in cells.

    Args:
        config: The model's.
        cells: Side of the crop (`ImageConfig.cells`); 0 is all that the Extractor could attend to: the window, or the
            whole picture without one.
        thoughts: The latents and how they came about.
        rows: (R,) rows of the batch.
        step: (R,) iteration of each row.
        corners: (R, 2) top left cell of the window at that iteration.
    """
    window = isqrt(thoughts.cross_attention.shape[-1])  # the grid's side in the mode "full"
    if not cells:
        return corners, window
    return looked_at(corners, thoughts.cross_attention[rows, step], window, config.grid, cells), cells


class ImageLoss(Loss):
    """Eq. 7 on a share of the rows: the crop of one iteration's window from that iteration's latents."""

    name, label, owner = "image", "L_image", "image"
    pictures = True

    def count(self, batch: MicroBatch, draws: Draws) -> int:
        """Rows that carry it."""
        return int(draws.carried.sum()) if batch.latents else 0

    def draw(self, head: Any, rows: int, generator: torch.Generator, share: float) -> dict[str, Tensor]:
        """Which rows carry the loss, which iteration each rebuilds, noise and noise levels."""
        found = {"carried": torch.rand(rows, generator=generator) < share}
        found["pick"] = torch.rand(rows, generator=generator)
        if head is not None:
            found["noise"], found["timesteps"] = head.draw(rows, generator)
        return found

    def value(self, run: Run) -> Tensor | None:
        """See `Loss.value`."""
        image, thoughts, draws, batch = run.model.head(self), run.out.thoughts, run.draws, run.batch
        if image is None or thoughts is None or draws is None or not batch.latents:
            return None
        assert batch.pictures is not None and draws.noise is not None and draws.timesteps is not None
        chosen, weight = draws.carried.nonzero().squeeze(1), 1.0
        if not len(chosen):
            if not run.model.whole_graph:
                return thoughts.latents.sum() * 0.0
            chosen, weight = draws.carried.new_zeros(1, dtype=torch.long), 0.0
        step, corners = choose_crop(thoughts.windows[chosen], draws.pick[chosen])
        x0 = self._code(run, image, chosen, step, corners)
        total, _ = image.loss(thoughts.latents[chosen, step], x0, draws.noise[chosen], draws.timesteps[chosen])
        scaled: Tensor = total * weight
        return scaled

    @staticmethod
    def _code(run: Run, image: ImageReconstruction, chosen: Tensor, step: Tensor, corners: Tensor) -> Tensor:
        """x_0 of the chosen rows' crops."""
        batch, config, thoughts = run.batch, run.model.lare.config, run.out.thoughts
        assert batch.pictures is not None and thoughts is not None
        per_image = batch.rows // len(batch.pictures)
        pictures = batch.pictures[chosen // per_image].float() / 127.5 - 1.0
        half = run.model.precision == "fp16"
        # An image tokenizer's activations may be larger than fp16 can hold.
        exact = torch.autocast(pictures.device.type, enabled=False) if half else nullcontext()
        if config.backbone_config is not None:
            with torch.no_grad(), exact:
                return image_features(image.tokenizer, ImageLoss._on_own_grids(run, chosen, corners, pictures, image))
        side = config.grid  # the whole picture, where latents look nowhere
        if batch.inputs.get("refocus", True):
            corners, side = image_crop(config, image.config.cells, thoughts, chosen, step, corners)
        with torch.no_grad(), exact:
            crops = crop_windows(pictures, corners, side, config.grid, image.size)
            return image_features(image.tokenizer, crops)

    @staticmethod
    def _on_own_grids(
        run: Run, chosen: Tensor, corners: Tensor, pictures: Tensor, image: ImageReconstruction
    ) -> Tensor:
        """Crops of the chosen rows whose pictures have grids of their own; the whole window, or picture."""
        visual, config = run.out.visual, run.model.lare.config
        assert visual is not None
        sizes = torch.tensor(visual.shape, device=corners.device).expand(len(visual.lm), 2)
        sizes = sizes if visual.sizes is None else visual.sizes
        own = sizes[chosen // (run.batch.rows // len(sizes))]
        looks = config.use_window and run.batch.inputs.get("refocus", True)
        sides = torch.minimum(own, torch.full_like(own, config.window)) if looks else own
        return crop_of_each(pictures, corners if looks else corners * 0, sides, own, image.size)


IMAGE = ImageLoss()
