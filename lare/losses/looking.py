"""Box supervision (L_look): a loss on the saliency, the attention that chooses the windows. Beyond the paper.

The window is an arg-max, through which no gradient flows, so the other losses do not teach the model where to look.
This one does, for data that name the box each reasoning step needs: the embedded world, and grounded reasoning data.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lare.errors import LareError
from lare.losses.base import Loss, Run
from lare.losses.batch import Draws, MicroBatch

__all__ = ["LOOK", "Looking", "look_loss", "pick_tokens", "tokens_in_boxes"]


def tokens_in_boxes(boxes: Tensor, grid: int) -> Tensor:
    """Which tokens of a grid a box touches.

    Args:
        boxes: (B, K, 4) top, left, bottom, right as shares of the image; negative where there is none.
        grid: g.

    Returns:
        Booleans (B, K, g * g), all False where there is no box.
    """
    low = torch.arange(grid, device=boxes.device) / grid
    high, slack = low + 1 / grid, 1e-4 / grid
    top, left, bottom, right = (side[..., None] for side in boxes.unbind(-1))
    rows = (top < high - slack) & (bottom > low + slack)
    columns = (left < high - slack) & (right > low + slack)
    return (rows[..., :, None] & columns[..., None, :]).flatten(-2)


def look_loss(saliency: Tensor, boxes: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Cross-entropy of looking at the box, given that the image is looked at.

    Args:
        saliency: (B, K, g, g) attention to the decoder's visual tokens that chose each window, with gradient.
        boxes: (B, K, 4), see `tokens_in_boxes`.
        grid: g.

    Returns:
        (sum, count) over the steps that have a box.
    """
    inside = tokens_in_boxes(boxes, grid)
    known = inside.any(-1)
    weights = saliency.flatten(2).float()[known]
    share = (weights * inside[known]).sum(-1) / weights.sum(-1).clamp_min(1e-9)
    return -share.clamp_min(1e-4).log().sum(), known.sum()


def pick_tokens(boxes: Tensor, uniform: Tensor, grid: int) -> Tensor:
    """One fine token of each step's box.

    Args:
        boxes: (B, K, 4).
        uniform: (B, >= K) numbers in [0, 1) that choose among a box's tokens.
        grid: g of the fine grid.

    Returns:
        (B, K) token numbers; a step without a box takes the one of the step before it, or token 0.
    """
    inside = tokens_in_boxes(boxes, grid)
    count = inside.sum(-1)
    wanted = (uniform[:, : boxes.shape[1]] * count).long() + 1
    chosen = ((inside.cumsum(-1) == wanted[..., None]) & inside).float().argmax(-1)
    steps = torch.arange(boxes.shape[1], device=boxes.device)
    last = torch.where(count > 0, steps, torch.zeros_like(steps)).cummax(1).values
    return chosen.gather(1, last)


class Looking(Loss):
    """Box supervision of every step that has a box; teacher latents take part."""

    name, label = "look", "L_look"

    def count(self, batch: MicroBatch, draws: Draws) -> int:
        """Steps with a box."""
        return 0 if batch.boxes is None else int((batch.boxes[..., 0] >= 0).sum())

    def request(self, batch: MicroBatch) -> dict[str, Any]:
        """The saliency with its gradient."""
        return {"saliency_gradient": batch.boxes is not None}

    def value(self, run: Run) -> Tensor | None:
        """See `Loss.value`."""
        thoughts, boxes = run.out.thoughts, run.batch.boxes
        if boxes is None or thoughts is None or not thoughts.latents.shape[1]:
            return None
        assert run.out.visual is not None
        if run.out.visual.sizes is not None:
            raise LareError("the loss on where the model looks needs pictures of one grid; set losses.look to 0")
        return look_loss(thoughts.saliency, boxes, run.out.visual.lm_grid)[0]


LOOK = Looking()
