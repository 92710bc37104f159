"""Rows of ids to the arguments of the model's forward: prompts, prefixes, and targets of text and visual tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lare.data.encode import READ, THOUGHT
from lare.errors import LareError
from lare.methods.layout import ENDS, NEWLINES, OPENS, Box, Layout, Row, Seen, Segment, Text, cells_in_box, crop_of
from lare.training.feeding.batch import pad

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.model import LareConfig, LareProcessor

__all__ = [
    "Targets",
    "crop_pixels",
    "encode_rows",
    "on_grid",
    "rows_of",
    "seen_pixels",
    "shared_beginnings",
    "special_ids",
    "step_boxes",
    "step_ends",
    "targets_of",
    "text_encoder",
]


class Targets(NamedTuple):
    """The targets of a batch's rows, token by token.

    Attributes:
        ids: Token ids of each row; the image token's id where a visual token stands.
        labels: 1 where a token is supervised, 0 where it is only read.
        visual: Numbers of visual tokens as in the model's `forward`; -1 where the id counts.
        crops: Image and box of each crop.
    """

    ids: list[list[int]]
    labels: list[list[int]]
    visual: list[list[int]]
    crops: list[tuple[int, Box]]


def targets_of(
    made: Sequence[Sequence[Segment] | None],
    rows: Sequence[Row],
    layout: Layout,
    config: LareConfig,
    per_image: int = 1,
) -> Targets:
    """Lay out the segments of all rows of a batch.

    Args:
        made: The segments of each row; None is the rationale (as the layout has it) and the answer.
        rows: The rows.
        layout: Their layout.
        config: The model's.
        per_image: Rows an image; those of an image are neighbours.

    Raises:
        LareError: If a target holds visual tokens and the model is not LaRe's own assembly.
    """
    targets = Targets([], [], [], [])
    images, cells = len(rows) // per_image, config.grid**2
    tokens = (layout.lm_grid or config.lm_grid) ** 2
    for number, (segments, row) in enumerate(zip(made, rows, strict=True)):
        ids: list[int] = []
        labels: list[int] = []
        visual: list[int] = []
        for segment in segments if segments is not None else [_usual(row, layout)]:
            if not isinstance(segment, Seen):
                ids += segment.ids
                labels += [int(segment.answered)] * len(segment.ids)
                visual += [-1] * len(segment.ids)
                continue
            if config.backbone_config is not None:
                raise LareError(
                    f"methods whose targets hold visual tokens are for LaRe's own assembly, and not for "
                    f"{config.backbone}; leave such methods out of the mixture"
                )
            image = number // per_image
            if segment.crop:
                first = images * cells + len(targets.crops) * tokens
                targets.crops.append((image, segment.box))
                numbers = list(range(first, first + tokens))
            else:
                numbers = [image * cells + cell for cell in cells_in_box(segment.box, config.grid)]
            ids += [config.image_token_id] * len(numbers)
            labels += [0] * len(numbers)
            visual += numbers
        targets.ids.append(ids)
        targets.labels.append(labels)
        targets.visual.append(visual)
    return targets


def rows_of(
    prompts: Sequence[list[int]],
    rationales: Sequence[list[int]],
    answers: Sequence[list[int]],
    boxes: Sequence[Sequence[Box | None]],
    processor: LareProcessor,
    config: LareConfig,
) -> list[Row]:
    """A batch's rows for methods that arrange their targets themselves: ids of each part, and boxes of the steps."""
    encode, special = text_encoder(processor), special_ids(config)
    return [
        Row(prompt, rationale, answer, needed, step_ends(processor.tokenizer, rationale), encode, special)
        for prompt, rationale, answer, needed in zip(prompts, rationales, answers, boxes, strict=True)
    ]


def _usual(row: Row, layout: Layout) -> Text:
    return Text([*list(row.rationale)[layout.replaced :], *row.answer] if layout.rationale else list(row.answer))


def step_ends(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """Where each sentence or line of a text ends, in tokens; the last step ends with the text."""
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(list(ids))]
    after = [*tokens[1:], "\n"]
    found = [
        at + 1
        for at, (token, following) in enumerate(zip(tokens, after, strict=False))
        if any(mark in token for mark in NEWLINES) or (token.endswith(ENDS) and following.startswith(OPENS))
    ]
    return found if not tokens or (found and found[-1] == len(tokens)) else [*found, len(tokens)]


def text_encoder(processor: LareProcessor) -> Callable[[str], list[int]]:
    """What gives the ids of a text that is no special token."""
    return lambda text: processor.encode_text([processor.user_text.escape(text)])[0]


def special_ids(config: LareConfig) -> dict[str, int]:
    """Ids of the latent delimiters by name."""
    return {"latent_start": config.latent_start_id, "latent_end": config.latent_end_id}


def step_boxes(boxes: Sequence[Sequence[Box | None]], iterations: int) -> Tensor | None:
    """(B, K, 4) top, left, bottom, right of what the first K steps need; -1 where there is none.

    None without latents, and where no row has a box.
    """
    if not iterations or not any(boxes):
        return None
    found = torch.full((len(boxes), iterations, 4), -1.0)
    for row, steps in enumerate(boxes):
        for step, box in enumerate(steps[:iterations]):
            if box is not None:
                left, top, right, bottom = box
                found[row, step] = torch.tensor([top, left, bottom, right])
    return found


def crop_pixels(images: Sequence[Image], crops: Sequence[tuple[int, Box]], processor: LareProcessor) -> Tensor:
    """Pixels (C, 3, H, W) of crops, each resized as an image of its own is.

    Args:
        images: The batch's.
        crops: Number of the image, and box, of each; a box of less than a pixel is widened to one.
        processor: Makes pixels.
    """
    cut = [crop_of(images[number], box) for number, box in crops]
    pixels: Tensor = processor.image_processor(cut, return_tensors="pt")["pixel_values"]
    return pixels


def seen_pixels(pixels: Tensor, processor: Any) -> Tensor:
    """The very pixels (B, 3, H, W) that the encoder sees, un-normalised to uint8."""
    mean = torch.tensor(processor.image_mean).view(1, -1, 1, 1)
    std = torch.tensor(processor.image_std).view(1, -1, 1, 1)
    return ((pixels * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def on_grid(ids: Sequence[int], image: int, lm_grid: int) -> list[int]:
    """A prompt whose image has as many tokens as a visual grid of this side."""
    at = list(ids).index(image)
    rest = [token for token in ids if token != image]
    return [*rest[:at], *[image] * lm_grid**2, *rest[at:]]


def shared_beginnings(
    prompts: Sequence[list[int]], image: int, per_image: int
) -> tuple[list[list[int]] | None, list[list[int]]]:
    """What the prompts about each image begin with, up to its last token, and what follows in each prompt.

    Where they begin differently, as with different system messages, nothing is shared and the prompts stay whole.

    Args:
        prompts: Ids of each prompt; those about an image are neighbours.
        image: Id of an image token.
        per_image: Prompts an image.
    """
    if per_image == 1:
        return None, list(prompts)
    ends = [len(prompt) - prompt[::-1].index(image) for prompt in prompts]
    heads = [prompt[:end] for prompt, end in zip(prompts, ends, strict=True)]
    firsts = [head for head in heads[::per_image] for _ in range(per_image)]
    if firsts != heads or len(set(ends)) > 1:
        return None, list(prompts)
    return heads[::per_image], [prompt[end:] for prompt, end in zip(prompts, ends, strict=True)]


def encode_rows(
    prompts: Sequence[Sequence[int]],
    rationales: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    mode: Layout,
    config: LareConfig,
    fill: int,
    rests: Sequence[tuple[Sequence[int], Sequence[int]]] | None = None,
    own: Targets | None = None,
    ends: Sequence[Sequence[int]] | None = None,
) -> tuple[dict[str, Any], Tensor | None, Tensor | None]:
    """Ids to the text arguments of the model's forward, and the rationale's ids and mask for the alignment.

    Where a row has no rationale its answer stands for it in the losses on latents, and the text leaves nothing out.

    Args:
        prompts: Ids of each row's prompt.
        rationales: Ids of its rationale; empty where it has none.
        answers: Ids of its answer.
        mode: The rows' layout.
        config: The model's.
        fill: Id of padding.
        rests: Ids and roles of the turns after the first answer. They follow as text; their rationales are written
            where the first one's is, and whole, since no latents stand for them.
        own: Targets that a method has arranged, in place of rationale and answer; ``crops`` then names their crops.
        ends: Where each rationale's steps end, for a layout `by_step`.
    """
    inputs: dict[str, Any] = {"iterations": mode.iterations, "delimiters": mode.delimiters, "window_mode": mode.window}
    if not mode.refocus:
        inputs["refocus"] = False
    if mode.lm_grid is not None:
        inputs["lm_grid"] = mode.lm_grid
    opening = [config.latent_start_id] if mode.delimiters else []
    inputs["input_ids"], inputs["attention_mask"] = pad([[*prompt, *opening] for prompt in prompts], fill, left=True)
    thoughts = [list(r) if len(r) else list(a) for r, a in zip(rationales, answers, strict=True)]
    rationale, mask = None, None
    if mode.iterations and not mode.fetch:
        if mode.prefix:
            inputs["prefix_ids"], inputs["prefix_mask"] = _told(thoughts, ends or [()] * len(thoughts), mode, fill)
        rationale, mask = pad(thoughts, fill, left=False)
    targets = [
        [*list(r)[mode.replaced :], *a] if mode.rationale else list(a) for r, a in zip(rationales, answers, strict=True)
    ]
    if own is not None:
        targets = own.ids
    later = [_later_turns(rest, mode) for rest in rests or []]
    if own is not None or any(ids for ids, _ in later):
        later = later or [([], [])] * len(targets)
        labels = [[1] * len(target) for target in targets] if own is None else own.labels
        labels = [first + answered for first, (_, answered) in zip(labels, later, strict=True)]
        targets = [target + ids for target, (ids, _) in zip(targets, later, strict=True)]
        inputs["label_mask"] = pad(labels, 0, left=False)[0]
    inputs["target_ids"], inputs["target_mask"] = pad(targets, fill, left=False)
    if own is not None and any(number >= 0 for row in own.visual for number in row):
        visual = [numbers + [-1] * len(ids) for numbers, (ids, _) in zip(own.visual, later, strict=True)]
        inputs["target_visual"] = pad(visual, -1, left=False)[0]
        inputs["crops"] = own.crops
    return inputs, rationale, mask


def _told(
    thoughts: Sequence[Sequence[int]], ends: Sequence[Sequence[int]], mode: Layout, fill: int
) -> tuple[Tensor, Tensor]:
    """The targets of eq. 8 and their mask: a prefix (B, P) for all latents, or `by_step` (B, K, P) for each step."""
    if not mode.by_step:
        return pad([thought[: mode.prefix] for thought in thoughts], fill, left=False)
    steps: list[Sequence[int]] = []
    told = -(-mode.iterations // mode.per_step)
    for thought, own in zip(thoughts, ends, strict=True):
        cuts = [0, *own[: told - 1], len(thought)] if own else [0, len(thought)]
        parts = [thought[first:last][: mode.prefix] for first, last in pairwise(cuts)]
        each = [part for part in parts for _ in range(mode.per_step)][: mode.iterations]
        steps += [*each, *[()] * (mode.iterations - len(each))]
    ids, mask = pad(steps, fill, left=False)
    return ids.reshape(len(thoughts), mode.iterations, -1), mask.reshape(len(thoughts), mode.iterations, -1)


def _later_turns(rest: tuple[Sequence[int], Sequence[int]], mode: Layout) -> tuple[list[int], list[int]]:
    """Ids of the turns after the first answer, and which of them are supervised (1) or only read (0)."""
    kept = [(token, int(role != READ)) for token, role in zip(*rest, strict=True) if mode.rationale or role != THOUGHT]
    return [token for token, _ in kept], [answered for _, answered in kept]
