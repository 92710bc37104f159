"""Interventions on another project's model: what is fed, how many latents, and which visual tokens a region has.

Draws and partners are each question's own, so that rows which think at different steps are treated as if alone.

Shapes: B rows, K latents, M blocks, d width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lare.errors import LareError
from lare.interventions import Asked, Bank, Replacer, Setting
from lare.interventions.regions import cell_at, points_of
from lare.reasoners.blocks import Change
from lare.reasoners.loop import Replies
from lare.reasoners.stream import Stream

__all__ = ["bank_of", "change_of", "counts_of", "region_latents"]


def change_of(
    setting: Setting, asked: Sequence[Asked], dummy: Tensor | None, given: Tensor | None = None
) -> Change | None:
    """What is fed in place of latents under a setting; None where they are fed as they are.

    Args:
        setting: The intervention.
        asked: The B questions.
        dummy: (d,) embedding of a dummy.
        given: (B, K, 1, d) latents to feed, for settings that feed some; None takes the setting's bank.
    """
    if setting.intervention.content is None:
        return None
    rows = [
        Replacer(setting, [one], dummy, None if given is None else given[place : place + 1])
        for place, one in enumerate(asked)
    ]

    def change(made: Tensor, numbers: Tensor, which: Tensor) -> Tensor:
        fed = made.clone()
        for row in which.nonzero()[:, 0].tolist():
            fed[row] = rows[row](made[row][None, None], int(numbers[row]))[0, 0].to(fed)
        return fed

    return change


def counts_of(setting: Setting, lengths: Sequence[Sequence[int]], usual: int) -> Tensor:
    """Latents of each row's blocks under a setting, (B, M).

    Args:
        setting: The intervention.
        lengths: Latents of each block that each row made without the intervention.
        usual: Latents of a block in a row that made none.
    """
    steps = setting.intervention.steps
    most = max(1, *(len(one) for one in lengths))
    filled = [[*one, *[one[-1] if one else usual] * (most - len(one))] for one in lengths]
    return torch.tensor([[steps(count) if steps is not None else count for count in one] for one in filled])


def bank_of(asked: Sequence[Asked], replies: Replies) -> Bank | None:
    """The latents that a batch made; None if it made none."""
    longest = max(len(one) for one in replies.latents)
    if not longest:
        return None
    width = next(one.shape[1] for one in replies.latents if len(one))
    wide = torch.zeros(len(asked), longest, 1, width)
    for row, one in enumerate(replies.latents):
        if len(one):
            wide[row, : len(one), 0] = one.float().cpu()
    return Bank(tuple(asked), wide, torch.tensor([len(one) for one in replies.latents]))


def region_latents(
    stream: Stream, inputs: dict[str, Tensor], asked: Sequence[Asked], setting: Setting, steps: int
) -> Tensor:
    """The visual embeddings in the regions of each question's steps, (B, K, 1, d).

    Raises:
        LareError: If the model sees no picture, or a question has no boxes.
    """
    if stream.visual is None or not bool(stream.is_image.any()):
        raise LareError("this model sees no picture, so no region has tokens")
    merge = getattr(getattr(stream.model.config, "vision_config", None), "spatial_merge_size", 1)
    found = []
    for row, one in enumerate(asked):
        tokens = stream.visual[row][stream.is_image[row]]
        if "image_grid_thw" in inputs:
            down, across = (int(side) // merge for side in inputs["image_grid_thw"][row, 1:])
        else:
            down = across = round(len(tokens) ** 0.5)
        (points,) = points_of([one], setting, steps, min(down, across))
        cells = [cell_at(point, down, across) for point in points]
        found.append(tokens[torch.tensor(cells, device=tokens.device)])
    return torch.stack(found)[:, :, None]
