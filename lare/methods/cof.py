"""CoF, chain of focus: the model writes a box, sees that part of the picture anew, and goes on (arXiv 2505.15436).

A box is text, ``[left top right bottom]`` in percent. That part of the picture, 1.5 times as wide and high, is encoded
as a picture of its own and read where the box ends, up to 6 times. A box that is none is counted, and the whole picture
is shown. Training is supervised: box, step and answer are learnt, crops are read. The authors' rewards are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lare.methods.base import option
from lare.methods.boxes import WHOLE, box_asked, enlarged, read_box, words_of
from lare.methods.generating import GeneratingOptions
from lare.methods.layout import Box, Layout, Row, Seen, Segment, Text, crop_of
from lare.methods.splicing import Splicer, Splicing
from lare.methods.training import Training, TrainingOptions
from lare.trace import Column

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.model.loop import LoopState

__all__ = ["Cof", "CofOptions"]


@dataclass(frozen=True)
class CofOptions(GeneratingOptions):
    """Options of the looks.

    Attributes:
        turns: Crops at most.
        enlarge: Side of a crop in sides of its box.
    """

    turns: int = option(6, "crops at most", least=0)
    enlarge: float = option(1.5, "side of a crop in sides of its box", least=1)


@dataclass(frozen=True)
class CofTrainingOptions(TrainingOptions):
    """Options in a mixture.

    Attributes:
        turns, enlarge: As in `CofOptions`.
        rationale: Write the step of the rationale that needed a crop after it.
    """

    turns: int = option(6, "crops at most", least=0)
    enlarge: float = option(1.5, "side of a crop in sides of its box", least=1)
    rationale: bool = option(True, "write the rationale's step after its crop")


class CofTraining(Training):
    """Box, crop and step in turn, then the answer."""

    options_type = CofTrainingOptions
    options: CofTrainingOptions
    boxes = True

    def segments(self, row: Row, layout: Layout) -> Sequence[Segment]:
        """See `Training.segments`."""
        start, end = ([row.special[name]] for name in ("latent_start", "latent_end"))
        found: list[Segment] = []
        for step, box in enumerate(row.boxes[: self.options.turns]):
            if box is not None:
                crop = Seen(enlarged(box, self.options.enlarge), crop=True)
                found += [Text(row.encode(words_of(box))), Text(start, False), crop, Text(end, False)]
            found.append(self._steps(row, step, step + 1))
        found.append(self._steps(row, min(len(row.boxes), self.options.turns), len(row.rationale)))
        return [*(one for one in found if not isinstance(one, Text) or one.ids), Text(row.answer)]

    def _steps(self, row: Row, first: int, last: int) -> Text:
        return Text(row.rationale[row.after_steps(first) : row.after_steps(last)] if self.options.rationale else [])


class _Crops(Splicer):
    def __init__(self, method: Cof, images: Sequence[Image]) -> None:
        self.method, self.images = method, images
        self.visual = method.model.config.lm_grid**2
        self.most, self.size = method.options.turns, self.visual + 2
        self.looks: list[list[Box | None]] = [[] for _ in images]

    def due(self, newest: Tensor, following: Tensor, written: Tensor, open_rows: Tensor) -> Tensor:
        """See `Splicer.due`."""
        found = (newest >= 0) & open_rows & self.method.closing.to(newest.device)[newest.clamp_min(0)]
        for row in found.nonzero().flatten().tolist():  # few: only rows that have just closed a bracket
            inside = self.method.asked(self.method.processor.tokenizer.decode(written[row].tolist()))
            if inside is None:
                found[row] = False
            else:
                self.looks[row].append(read_box(inside))
        return found

    def block(self, due: Tensor, newest: Tensor, state: LoopState) -> Tensor:
        """See `Splicer.block`; all crops of a step are encoded together."""
        model, rows = self.method.model, due.nonzero().flatten().tolist()
        boxes = [(row, self.looks[row][-1]) for row in rows]
        wide = [(row, WHOLE if box is None else enlarged(box, self.method.options.enlarge)) for row, box in boxes]
        crops = [crop_of(self.images[row], box) for row, box in wide]
        pixels = self.method.processor.image_processor(crops, return_tensors="pt")["pixel_values"]
        seen = model.encode_images(pixels.to(model.device, model.dtype)).lm
        config, count = model.config, len(due)
        start, end = (model.embed_token(one, count) for one in (config.latent_start_id, config.latent_end_id))
        middle = torch.zeros(count, *seen.shape[1:], dtype=start.dtype, device=start.device)
        middle[due] = seen.to(start.dtype)
        return torch.cat((start, middle, end), dim=1)

    def arrays(self, row: int) -> dict[str, Any]:
        """See `Splicer.arrays`."""
        boxes = np.array([box or WHOLE for box in self.looks[row]], np.float32).reshape(-1, 4)
        return {"boxes": boxes, "malformed": np.array([self.looks[row].count(None)], np.int32)}


class Cof(Splicing):
    """Boxes as text, crops as visual tokens, then the answer."""

    name = "cof"
    options_type = CofOptions
    options: CofOptions
    training = CofTraining
    columns = {"boxes": Column("<f4", ("look", 4)), "malformed": Column("<i4", (1,))}

    @cached_property
    def closing(self) -> Tensor:
        """Whether a token holds a closing bracket, (V,)."""
        names = self.processor.tokenizer.convert_ids_to_tokens(list(range(len(self.processor.tokenizer))))
        rest = int(self.model.config.text_config.vocab_size) - len(names)
        return torch.tensor(["]" in str(name) for name in names] + [False] * rest)

    def asked(self, text: str) -> str | None:
        """What stands between the brackets that a text ends in; None where it asks for no crop."""
        return box_asked(text)

    def images_encoded(self, extra_visual_tokens: float) -> float:
        """See `Method.images_encoded`."""
        return 1 + extra_visual_tokens / (self.options.lm_grid or self.model.config.lm_grid) ** 2

    def splicer(self, images: Sequence[Image], features: Tensor | None = None) -> Splicer:
        """See `Splicing.splicer`."""
        return _Crops(self, images)
