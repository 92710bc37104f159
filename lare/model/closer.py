"""A closer look: the window's crop of the picture, encoded again by the model's own tower (``refocus_source: fine``).

On a vision-language model a window of w x w visual tokens can be seen finer than the decoder read it. The crop is cut
out of the picture as it came, so pixels that were lost when the picture was scaled down come back. It becomes a picture
of its own: the family's own image processor makes its pixels (a tower of any size gets it `finer` times as fine, one of
a fixed size at that size), and the family's own tower and connector make its visual tokens. These alone are the
Extractor's V_t of that step (eq. 4). The decoder reads nothing but the latent, so its positions count on as ever, and
DeepStack features of a crop are not used.

Crops of a batch are encoded in one pass. Only the step's windows are, so K steps cost about K further pictures a row
at most, and nothing where windows are off.

Shapes: B rows, I images, Q = B / I, w side of the window, R x C canvas of the crops' grids, d width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lare.errors import LareError
from lare.model.pictures import FINER
from lare.model.vision import Shape, VisualTokens
from lare.model.window import image_cells

if TYPE_CHECKING:
    from lare.model.configuration_lare import LareConfig
    from lare.model.reasoner import Reasoner

__all__ = ["Glimpse", "crop_box", "look_closer", "refocusing_on", "shares_of_cells"]

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""


@dataclass
class Glimpse:
    """What the Extractor sees of B crops.

    Attributes:
        tokens: (B, R * C, d) visual tokens.
        mask: (B, R * C) True where a crop has a token; None where all have.
        shape: R and C.
        sizes: (B, 2) rows and columns of each crop's own grid.
        covered: (B, 2) rows and columns of window cells that each crop shows; w, or less on a shorter side.
    """

    tokens: Tensor
    mask: Tensor | None
    shape: Shape
    sizes: Tensor
    covered: Tensor

    def by_cells(self, attention: Tensor, window: int) -> Tensor:
        """Attention (B, R * C) to the crop's tokens as that to the window's cells, (B, w * w), of the same sum."""
        grid = attention.reshape(-1, *self.shape)
        down, across = (
            shares_of_cells(self.covered[:, axis], self.sizes[:, axis], window, self.shape[axis]).to(grid)
            for axis in (0, 1)
        )
        return torch.einsum("brc,bir,bjc->bij", grid, down, across).flatten(1)


def shares_of_cells(cells: Tensor, tokens: Tensor, most: int, longest: int) -> Tensor:
    """How much of each token lies in each cell, where both divide one side evenly.

    Args:
        cells: (B,) cells of the side.
        tokens: (B,) tokens of the side.
        most: Rows of the result.
        longest: Its columns.

    Returns:
        (B, most, longest); columns of tokens that there are sum to 1.
    """
    cell = torch.arange(most, device=cells.device) / cells[:, None]
    token = torch.arange(longest, device=cells.device) / tokens[:, None]
    last = torch.minimum(cell[:, :, None] + 1 / cells[:, None, None], token[:, None] + 1 / tokens[:, None, None])
    overlap = (last - torch.maximum(cell[:, :, None], token[:, None])).clamp_min(0)
    return overlap * tokens[:, None, None] * (token < 1 - 1e-6)[:, None]


def crop_box(region: Box, size: Shape, corner: Shape, covered: Shape) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a window in whole pixels, rounded outwards.

    Args:
        region: The part of the picture that the grid covers.
        size: Rows and columns of the grid.
        corner: Row and column of the window's top left cell.
        covered: Rows and columns of the window.
    """
    left, top, right, bottom = region
    tall, wide = (bottom - top) / size[0], (right - left) / size[1]
    first = (left + corner[1] * wide, top + corner[0] * tall)
    last = (first[0] + covered[1] * wide, first[1] + covered[0] * tall)
    x, y = (math.floor(round(one, 6)) for one in first)
    far_x, far_y = (math.ceil(round(one, 6)) for one in last)
    return x, y, max(far_x, x + 1), max(far_y, y + 1)


@contextmanager
def refocusing_on(config: LareConfig, processor: Any, window: int | None, source: str | None) -> Iterator[None]:
    """Let a model and its processor refocus on another window or source inside the block; None changes nothing."""
    before, settings = (config.window, config.refocus_source), dict(processor.backbone_settings)
    config.window = config.window if window is None else window
    if source is not None and config.backbone_config is not None:
        config.refocus_source = source
        rest = {name: value for name, value in settings.items() if name != FINER}
        processor.backbone_settings = rest | ({FINER: config.fine_scale} if config.looks_closer else {})
    try:
        yield
    finally:
        (config.window, config.refocus_source), processor.backbone_settings = before, settings


def look_closer(model: Reasoner, visual: VisualTokens, corner: Tensor) -> Glimpse:
    """Encode each row's window again.

    Args:
        model: The model.
        visual: The I images' tokens, with their pictures.
        corner: (B, 2) top left cells.

    Raises:
        LareError: If the pictures are not at hand.
    """
    pictures = visual.pictures
    if pictures is None:
        raise LareError(
            "refocus_source is fine, and pictures are missing beside pixel_values; give all that LareProcessor makes, "
            "of the processor that was saved with the model"
        )
    images, rows, window = len(pictures.images), len(corner), model.config.window
    grids = [visual.shape] * images if visual.sizes is None else [_shape(one) for one in visual.sizes.tolist()]
    backbone, boxes, shown = model.backbone, [], []
    for number, place in enumerate(corner.tolist()):
        image = number // (rows // images)
        covered = min(window, grids[image][0]), min(window, grids[image][1])
        region = backbone.region(pictures.eyes, pictures.images[image].size)
        boxes.append((image, crop_box(region, grids[image], _shape(place), covered)))
        shown.append(covered)
    crops = [pictures.images[image].crop(box) for image, box in boxes]
    inputs = backbone.crops(pictures.eyes, crops, shown)
    pixels, device = inputs.pop("pixel_values"), corner.device
    further = {name: value.to(device) for name, value in inputs.items()}
    seen: VisualTokens = backbone.see(model, pixels.to(device, visual.lm.dtype), further, None)
    sizes = torch.tensor([seen.shape], device=device).expand(rows, 2) if seen.sizes is None else seen.sizes
    mask = None if seen.sizes is None else image_cells(seen.sizes, seen.shape)
    return Glimpse(seen.refocus, mask, seen.shape, sizes, torch.tensor(shown, device=device))


def _shape(pair: Sequence[int]) -> Shape:
    return int(pair[0]), int(pair[1])
