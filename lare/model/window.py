"""Where to refocus (paper, section 3): saliency over the grid, and the sliding window with the largest sum of it.

Shapes: B rows, R x C fine grid (of g a side where it is a square), w side of the window, d width. A window is the
(row, column) of its top left cell on the fine grid. Images of several sizes lie on one canvas, each at its top left.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lare.errors import LareError
from lare.model.vision import Shape
from lare.window_modes import WINDOW_MODES

__all__ = [
    "WINDOW_MODES",
    "as_shape",
    "image_cells",
    "saliency_grid",
    "select_window",
    "soft_window",
    "window_cells",
    "window_mask",
]


def as_shape(grid: int | Shape) -> Shape:
    """Rows and columns of a grid that is told by its side or by both."""
    return (grid, grid) if isinstance(grid, int) else grid


def soft_window(saliency: Tensor, window: int, temperature: float, sizes: Tensor | None = None) -> Tensor:
    """A window that is a mixture of all places, so that a gradient reaches the saliency.

    Each place weighs softmax(share / T) of the saliency's share inside it; as T falls the mixture becomes the arg-max.

    Args:
        saliency: (B, R, C) on the fine grid, with its gradient.
        window: Side w in fine cells.
        temperature: T.
        sizes: (B, 2) rows and columns that hold an image; None means all.

    Returns:
        (B, R * C) logarithm of the probability that a fine token lies inside, at least log 1e-4; minus infinity where
        there is no token.
    """
    share = saliency.float() / saliency.float().sum((1, 2), keepdim=True).clamp_min(1e-9)
    sums = _allowed(window_sums(share, window), window, sizes)
    places = (sums.flatten(1) / temperature).softmax(-1).reshape(sums.shape).unsqueeze(1)
    kernel = torch.ones(1, 1, window, window, dtype=places.dtype, device=places.device)
    inside = torch.nn.functional.conv_transpose2d(places, kernel)
    found = inside.flatten(1).clamp(1e-4, 1.0).log()
    if sizes is None:
        return found
    return found.masked_fill(~image_cells(sizes, (saliency.shape[1], saliency.shape[2])), float("-inf"))


def image_cells(sizes: Tensor, shape: Shape) -> Tensor:
    """Booleans (B, R * C), True where an image of `sizes` (B, 2) has a token on a canvas of `shape`."""
    rows, columns = (torch.arange(side, device=sizes.device) for side in shape)
    inside = (rows[:, None] < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None])
    return inside.flatten(1)


def _allowed(sums: Tensor, window: int, sizes: Tensor | None) -> Tensor:
    """Window sums (B, ., .) with minus infinity for windows that reach beyond an image which is wide enough."""
    if sizes is None:
        return sums
    places = (sizes - window).clamp_min(0) + 1
    free = image_cells(places, (sums.shape[1], sums.shape[2])).reshape(sums.shape)
    return sums.masked_fill(~free, float("-inf"))


def saliency_grid(saliency: Tensor, lm_grid: int | Shape, grid: int | Shape) -> Tensor:
    """Lay the saliency of the decoder's visual tokens out on the fine grid.

    Args:
        saliency: (B, rows * columns), row by row.
        lm_grid: Side of the decoder's grid, or its rows and columns.
        grid: Those of the fine grid, a multiple.

    Returns:
        (B, R, C); each coarse cell's value is repeated over the fine cells that it covers.
    """
    (rows, columns), (height, width) = as_shape(lm_grid), as_shape(grid)
    coarse = saliency.reshape(-1, rows, columns)
    if (rows, columns) == (height, width):
        return coarse
    return coarse.repeat_interleave(height // rows, 1).repeat_interleave(width // columns, 2)


def window_sums(saliency: Tensor, window: int) -> Tensor:
    """Summed saliency of every w x w window: (B, R, C) -> (B, R-w+1, C-w+1), stride 1."""
    pooled = torch.nn.functional.avg_pool2d(saliency.float().unsqueeze(1), window, stride=1)
    return pooled.squeeze(1) * float(window * window)


def select_window(
    saliency: Tensor,
    window: int,
    mode: str = "saliency",
    generator: torch.Generator | None = None,
    sizes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose one window per row.

    Args:
        saliency: (B, R, C) on the fine grid; 0 where there is no token.
        window: Side w in fine cells; R and C are at least that.
        mode: "saliency": the window of greatest summed saliency. "random": a uniformly drawn one (causal control).
        generator: Source of the random windows.
        sizes: (B, 2) rows and columns that hold an image; None means all. A window stays inside them, or covers a side
            that is shorter than it.

    Returns:
        The window's (row, column) as int64 (B, 2), and the share of the saliency that lies inside it, (B,).

    Raises:
        LareError: If the mode is unknown.
    """
    sums = window_sums(saliency, window)
    flat, side = sums.flatten(1), sums.shape[-1]
    if mode == "saliency":
        index = _allowed(sums, window, sizes).flatten(1).argmax(-1)
    elif mode == "random":
        index = _drawn(flat, side, window, generator, sizes)
    else:
        raise LareError(f"window_mode is {mode!r}; give one of {', '.join(WINDOW_MODES)}.")
    inside = flat.gather(1, index[:, None]).squeeze(1)
    share = inside / saliency.float().flatten(1).sum(-1).clamp_min(torch.finfo(torch.float32).tiny)
    return torch.stack((index // side, index % side), dim=-1), share


def _drawn(flat: Tensor, side: int, window: int, generator: torch.Generator | None, sizes: Tensor | None) -> Tensor:
    """Numbers (B,) of random windows among places (B, n) of `side` columns."""
    device = generator.device if generator is not None else flat.device
    if sizes is None:
        draw = torch.randint(flat.shape[1], (flat.shape[0],), generator=generator, device=device)
        return draw.to(flat.device)
    places = (sizes - window).clamp_min(0) + 1
    draw = torch.rand((flat.shape[0], 2), generator=generator, device=device).to(flat.device)
    corner = torch.minimum((draw * places).long(), places - 1)
    return corner[:, 0] * side + corner[:, 1]


def window_mask(corner: Tensor, window: int, grid: int | Shape, sizes: Tensor | None = None) -> Tensor:
    """Booleans over the fine tokens, (B, R * C), True inside the window with top left cell `corner` (B, 2)."""
    rows, columns = (torch.arange(side, device=corner.device) for side in as_shape(grid))
    tall = (rows >= corner[:, 0, None]) & (rows < corner[:, 0, None] + window)
    wide = (columns >= corner[:, 1, None]) & (columns < corner[:, 1, None] + window)
    inside = (tall[:, :, None] & wide[:, None, :]).flatten(1)
    return inside if sizes is None else inside & image_cells(sizes, as_shape(grid))


def window_cells(corner: Tensor, window: int, grid: int | Shape) -> Tensor:
    """Indices of the window's tokens on the flattened fine grid, (B, w * w), row by row."""
    steps = torch.arange(window, device=corner.device)
    rows = corner[:, 0, None] + steps
    columns = corner[:, 1, None] + steps
    return (rows[:, :, None] * as_shape(grid)[1] + columns[:, None, :]).flatten(1)
