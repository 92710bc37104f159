"""How rows are laid out for training: latents, delimiters, what the text holds, and targets of several segments.

A target is one teacher-forced sequence. Its segments are text, which is answered (supervised) or read only, and visual
tokens: those of the image's fine grid inside a box, or those of a crop that is encoded again. Latents come first,
before the target, by `Layout.iterations`. This module needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ENDS", "NEWLINES", "OPENS", "Box", "Layout", "Row", "Segment", "Seen", "Text", "cells_in_box", "crop_of"]

ENDS = (".", "!", "?")
"""A token that ends so ends a reasoning step, if the next one begins with one of `OPENS`."""
NEWLINES = ("\n", "\u010a", "<0x0A>")
"""A token that holds one ends a reasoning step: line breaks as they are, of byte-level and SentencePiece tokenizers."""
OPENS = (" ", "\u0120", "\u2581", *NEWLINES)
"""How a token begins that opens a word or a line."""


Box = tuple[float, float, float, float]
"""Left, top, right and bottom as shares of the image."""


@dataclass(frozen=True)
class Layout:
    """How the rows of an update are answered.

    Attributes:
        iterations: K; 0 makes no latents.
        delimiters: Whether the latent delimiters are written.
        rationale: Whether the text holds the rationale.
        prefix: P, rationale tokens to reconstruct from the latents.
        replaced: Rationale tokens that the text leaves out.
        window: Window mode: where the Extractor looks (see `lare.model.thinking.think`).
        fetch: Whether visual tokens stand in place of the latents (teacher latents).
        refocus: Whether latents look at the image again; False feeds the last hidden state back.
        lm_grid: Side of the decoder's visual grid; None is the model's.
        by_step: Whether eq. 8 asks each latent step for its own step of the rationale, instead of one prefix from all
            latents together.
        per_step: Latents that tell the same step.
    """

    iterations: int = 0
    delimiters: bool = False
    rationale: bool = False
    prefix: int = 0
    replaced: int = 0
    window: str = "saliency"
    fetch: bool = False
    refocus: bool = True
    lm_grid: int | None = None
    by_step: bool = False
    per_step: int = 1


class Text(NamedTuple):
    """Tokens of a target.

    Attributes:
        ids: Token ids.
        answered: Whether they are supervised; else they are read only.
    """

    ids: Sequence[int]
    answered: bool = True


class Seen(NamedTuple):
    """Visual tokens inside a target; they are read, never supervised.

    Attributes:
        box: Part of the image.
        crop: True encodes that part again, as a picture of its own, and takes the decoder's tokens of it; False takes
            the fine tokens that the box touches, row by row.
    """

    box: Box
    crop: bool = False


Segment = Text | Seen


@dataclass(frozen=True)
class Row:
    """A sample's ids, as a method arranges them.

    Attributes:
        prompt: Ids up to where <|latent_start|> or the answer follows, image tokens included.
        rationale: Ids of the rationale; empty where there is none.
        answer: Ids of the answer, end token included.
        boxes: What each reasoning step needs; None where a step has none.
        ends: Where each step of the rationale ends, in tokens; a step is a sentence or a line.
        encode: Ids of a further text.
        special: Ids of ``latent_start`` and ``latent_end``.
    """

    prompt: Sequence[int]
    rationale: Sequence[int]
    answer: Sequence[int]
    boxes: Sequence[Box | None] = ()
    ends: Sequence[int] = ()
    encode: Callable[[str], list[int]] = field(default=lambda text: [])
    special: Mapping[str, int] = field(default_factory=dict)

    def after_steps(self, steps: int) -> int:
        """Tokens of the rationale's first steps; all of them where it has no more."""
        if steps <= 0:
            return 0
        return self.ends[steps - 1] if steps <= len(self.ends) else len(self.rationale)


def cells_in_box(box: Box, grid: int) -> list[int]:
    """Numbers of the cells of a g x g grid that a box touches, row by row; at least one."""
    left, top, right, bottom = box
    slack = 1e-4 / grid

    def span(low: float, high: float) -> range:
        touched = [at for at in range(grid) if low < (at + 1) / grid - slack and high > at / grid + slack]
        at = min(grid - 1, max(0, int((low + high) / 2 * grid)))
        return range(touched[0], touched[-1] + 1) if touched else range(at, at + 1)

    return [row * grid + column for row in span(top, bottom) for column in span(left, right)]


def crop_of(image: Image, box: Box) -> Image:
    """The part of a picture inside a box; a box of less than a pixel is widened to one."""
    left, top, right, bottom = box
    width, height = image.size
    x, y = min(int(left * width), width - 1), min(int(top * height), height - 1)
    return image.crop((x, y, max(x + 1, round(right * width)), max(y + 1, round(bottom * height))))
