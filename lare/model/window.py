"""Where to look again: saliency over the grid, and the sliding window with the most of it.

Shapes: B rows, g side of the fine grid, w side of the window, d width. A window is the (row, column) of its top left
cell on the fine grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lare.errors import LareError
from lare.window_modes import WINDOW_MODES

__all__ = [
    "WINDOW_MODES",
    "saliency_grid",
    "select_window",
    "soft_window",
    "window_cells",
    "window_mask",
]


def soft_window(saliency: Tensor, window: int, temperature: float) -> Tensor:
    """A window that is a mixture of all places, so that a gradient reaches the saliency.

    Each place weighs softmax(share / T) of the saliency's share inside it; as T falls the mixture becomes the arg-max.

    Args:
        saliency: (B, g, g) on the fine grid, with its gradient.
        window: Side w in fine cells.
        temperature: T.

    Returns:
        (B, g * g) logarithm of the probability that a fine token lies inside, at least log 1e-4.
    """
    share = saliency.float() / saliency.float().sum((1, 2), keepdim=True).clamp_min(1e-9)
    sums = window_sums(share, window)
    places = (sums.flatten(1) / temperature).softmax(-1).reshape(sums.shape).unsqueeze(1)
    kernel = torch.ones(1, 1, window, window, dtype=places.dtype, device=places.device)
    inside = torch.nn.functional.conv_transpose2d(places, kernel)
    return inside.flatten(1).clamp(1e-4, 1.0).log()


def saliency_grid(saliency: Tensor, lm_grid: int, grid: int) -> Tensor:
    """Lay the saliency of the decoder's visual tokens out on the fine grid.

    Args:
        saliency: (B, lm_grid * lm_grid), row by row.
        lm_grid: Side of the decoder's grid.
        grid: Side g of the fine grid, a multiple of `lm_grid`.

    Returns:
        (B, g, g); each coarse cell's value is repeated over the fine cells that it covers.
    """
    coarse = saliency.reshape(-1, lm_grid, lm_grid)
    factor = grid // lm_grid
    return coarse if factor == 1 else coarse.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def window_sums(saliency: Tensor, window: int) -> Tensor:
    """Summed saliency of every w x w window: (B, g, g) -> (B, g-w+1, g-w+1), stride 1."""
    pooled = torch.nn.functional.avg_pool2d(saliency.float().unsqueeze(1), window, stride=1)
    return pooled.squeeze(1) * float(window * window)


def select_window(
    saliency: Tensor, window: int, mode: str = "saliency", generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Choose one window per row.

    Args:
        saliency: (B, g, g) on the fine grid.
        window: Side w in fine cells.
        mode: "saliency": the window of greatest summed saliency. "random": a uniformly drawn one (causal control).
        generator: Source of the random windows.

    Returns:
        The window's (row, column) as int64 (B, 2), and the share of the saliency that lies inside it, (B,).

    Raises:
        LareError: If the mode is unknown.
    """
    sums = window_sums(saliency, window)
    flat, side = sums.flatten(1), sums.shape[-1]
    if mode == "saliency":
        index = flat.argmax(-1)
    elif mode == "random":
        device = generator.device if generator is not None else flat.device
        draw = torch.randint(flat.shape[1], (flat.shape[0],), generator=generator, device=device)
        index = draw.to(flat.device)
    else:
        raise LareError(f"window_mode is {mode!r}; give one of {', '.join(WINDOW_MODES)}.")
    inside = flat.gather(1, index[:, None]).squeeze(1)
    share = inside / saliency.float().flatten(1).sum(-1).clamp_min(torch.finfo(torch.float32).tiny)
    return torch.stack((index // side, index % side), dim=-1), share


def window_mask(corner: Tensor, window: int, grid: int) -> Tensor:
    """Booleans over the fine tokens, (B, g * g), True inside the window with top left cell `corner` (B, 2)."""
    cells = torch.arange(grid, device=corner.device)
    inside = (cells >= corner[..., None]) & (cells < corner[..., None] + window)  # (B, 2, g)
    return (inside[:, 0, :, None] & inside[:, 1, None, :]).flatten(1)


def window_cells(corner: Tensor, window: int, grid: int) -> Tensor:
    """Indices of the window's tokens on the flattened fine grid, (B, w * w), row by row."""
    steps = torch.arange(window, device=corner.device)
    rows = corner[:, 0, None] + steps
    columns = corner[:, 1, None] + steps
    return (rows[:, :, None] * grid + columns[:, None, :]).flatten(1)
