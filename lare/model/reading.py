"""Prompts as a decoder reads them: embeddings with the visual tokens in their slots, and what else a prefill takes.

Shapes: B rows, S positions, N image tokens of a row, n cells of the decoder's visual grid, d width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lare.errors import LareError
from lare.model.vision import VisualTokens

__all__ = ["Reading", "image_slots", "place_visual", "repeat_visual"]


@dataclass
class Reading:
    """A prompt, ready for the prefill.

    Attributes:
        embeds: (B, S, d).
        slots: (B, N) columns of the image tokens; a row with fewer repeats its first one.
        cells: (B, n) columns of the image tokens in the order of the grid's cells, -1 where there is none; None where
            that is `slots`.
        positions: (B, S) position ids, or (axes, B, S); None counts a row's real positions.
        next_position: (B,) position id of what follows; None counts on.
        together: (B, S), equal numbers above 0 at positions that attend to one another in both directions; None for
            plain causal attention.
        keywords: Further keyword arguments of the decoder's forward for this pass.
    """

    embeds: Tensor
    slots: Tensor
    cells: Tensor | None = None
    positions: Tensor | None = None
    next_position: Tensor | None = None
    together: Tensor | None = None
    keywords: dict[str, Any] = field(default_factory=dict)


def image_slots(input_ids: Tensor, image_token_id: int, count: int, counts: Tensor | None = None) -> Tensor:
    """Columns of the image tokens, (B, N), in the order of the prompt.

    Args:
        input_ids: (B, S).
        image_token_id: Id of the image's tokens.
        count: N.
        counts: (B,) image tokens of each row, at most N; None means N in each. A row with fewer repeats its first.

    Raises:
        LareError: If a row does not hold exactly that many.
    """
    is_image = input_ids == image_token_id
    found = is_image.sum(1)
    wanted = torch.full_like(found, count) if counts is None else counts
    if not bool((found == wanted).all()):
        each = count if counts is None else counts.tolist()
        raise LareError(
            f"A prompt holds {found.tolist()} image tokens per row, yet an image has {each}; "
            "build prompts with LareProcessor, one image each."
        )
    if counts is None:
        return is_image.nonzero()[:, 1].reshape(input_ids.shape[0], count)
    slots = is_image.long().argsort(dim=1, descending=True, stable=True)[:, :count]
    held = torch.arange(count, device=slots.device) < counts[:, None]
    return torch.where(held, slots, slots[:, :1])


def place_visual(embeds: Tensor, input_ids: Tensor, image_token_id: int, visual: VisualTokens) -> tuple[Tensor, Tensor]:
    """Put visual tokens (B, N, d) into the slots of embedded ids (B, S, d); returns those and the slots (B, N)."""
    slots = image_slots(input_ids, image_token_id, visual.lm.shape[1], visual.counts)
    tokens = visual.lm.to(embeds.dtype)
    if visual.counts is None:
        return embeds.scatter(1, slots[..., None].expand(-1, -1, embeds.shape[-1]), tokens), slots
    held = torch.arange(tokens.shape[1], device=tokens.device) < visual.counts[:, None]
    return embeds.masked_scatter((input_ids == image_token_id)[..., None], tokens[held]), slots


def cells_of(slots: Tensor, visual: VisualTokens) -> Tensor | None:
    """Columns of the grid's cells, as `Reading.cells` has them."""
    if visual.places is None:
        return None
    return slots.gather(1, visual.places.clamp_min(0)).masked_fill(visual.places < 0, -1)


def repeat_visual(visual: VisualTokens, times: int) -> VisualTokens:
    """What a prompt reads of the images, each `times` times in a row; `refocus` and `sizes` stay as they are."""
    if times == 1:
        return visual

    def again(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [again(one) for one in value]
        return value.repeat_interleave(times, 0) if isinstance(value, Tensor) else value

    extra = {name: again(value) for name, value in visual.extra.items()}
    return replace(visual, lm=again(visual.lm), counts=again(visual.counts), places=again(visual.places), extra=extra)
