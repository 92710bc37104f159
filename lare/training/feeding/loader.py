"""A stage's batches as a function of the update's number, so that a resumed run needs no state and repeats every bit.

`PackedBatches` reads data files, in an order that is shuffled anew each epoch and keeps samples of like length
together, and samples without an image in batches of their own. Several samples about one image can stay together
(`StageConfig.per_image`); what their prompts begin with is then read once an image. Data formats of
`lare.registry.DATA_FORMATS` bring batches of their own. All hand a process its own micro-batches of the global batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lare.data.packed import FIND, Packed, PackedRow
from lare.errors import LareError
from lare.methods.layout import Layout
from lare.training.feeding.batch import MicroBatch, Replaced
from lare.training.feeding.features import PackedFeatures
from lare.training.feeding.mode import Mode, stage_mode
from lare.training.feeding.order import by_image, epoch_batches, groups_of, image_numbers
from lare.training.feeding.rows import (
    crop_pixels,
    encode_rows,
    on_grid,
    rows_of,
    seen_pixels,
    shared_beginnings,
    step_boxes,
    step_ends,
    targets_of,
)
from lare.training.plan.config import StageConfig
from lare.training.plan.mixture import Entry, drawn
from lare.training.plan.stages import parts_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.model import LareConfig, LareProcessor

__all__ = ["Mode", "PackedBatches", "Split", "StageBatches", "batch_loader", "encode_rows", "on_grid", "stage_mode"]

_TRIES = 16  # samples drawn in the place of one whose image can't be read


@dataclass(frozen=True)
class Split:
    """How a global batch is shared out.

    Attributes:
        rank: Number of this process.
        processes: Number of processes.
        micro_batch: Rows in a forward pass; None is all of a process's share.
    """

    rank: int = 0
    processes: int = 1
    micro_batch: int | None = None

    def starts(self, batch: int, unit: int = 1) -> list[tuple[int, int]]:
        """First row and number of rows of each of this process's micro-batches.

        Args:
            batch: Rows of the global batch.
            unit: Rows that stay together, such as the questions about one image.

        Raises:
            LareError: If the sizes don't divide.
        """
        share = batch // self.processes
        size = self.micro_batch or share
        if batch % self.processes or share % size or size % unit:
            raise LareError(
                f"a batch of {batch} does not split over {self.processes} processes in micro-batches of {size} that "
                f"hold whole images of {unit} questions; change batch, micro_batch or per_image"
            )
        first = self.rank * share
        return [(start, size) for start in range(first, first + share, size)]


class _Seen(NamedTuple):
    """A sample, its number, and what the encoder sees of it."""

    number: int
    row: PackedRow
    pack: Packed
    image: Image | None
    features: np.ndarray | None
    replaced: Replaced | None = None


class StageBatches(ABC):
    """Batches of one stage.

    Attributes:
        samples: Samples in one epoch.
        fingerprint: Name of exactly this data.
    """

    samples: int
    fingerprint: str

    @abstractmethod
    def micro_batches(self, step: int) -> list[MicroBatch]:
        """This process's micro-batches of an update; depends on nothing but its number."""


class PackedBatches(StageBatches):
    """Batches of data files.

    Args:
        packs: The stage's sources.
        processor: Makes pixels.
        config: The model's.
        stage: The plan's entry.
        split: This process's share.
        seed: Seed of the order.
        pictures: Whether images come along for reconstruction.
        features: The encoder's features of each source; None encodes pixels as they come.

    Attributes:
        own: Batches of those methods of the mixture that make their own samples from the data, by label.
    """

    def __init__(
        self,
        packs: Sequence[Packed],
        processor: LareProcessor,
        config: LareConfig,
        stage: StageConfig,
        split: Split,
        seed: int,
        pictures: bool = False,
        features: Sequence[PackedFeatures] | None = None,
    ) -> None:
        self.features = features
        self.own: dict[str, PackedBatches] = {}
        self.packs, self.processor, self.config, self.stage = list(packs), processor, config, stage
        self.split, self.seed, self.with_pictures = split, seed, pictures
        self.lengths = np.concatenate([pack.lengths for pack in packs])
        self.starts = np.cumsum([0, *(len(pack) for pack in packs)])
        self.kinds, self.without_image = self._usable(np.concatenate([pack.with_image for pack in packs]))
        if stage.per_image > 1 and processor.backbone:
            raise LareError(
                f"stage {stage.name}: per_image is for LaRe's own assembly, and not for {config.backbone}; leave it out"
            )
        self.images = image_numbers(packs) if stage.per_image > 1 else np.full(len(self.lengths), -1)
        self.samples = sum(map(len, self.kinds))
        self.updates = sum(self._units(kind) // stage.batch for kind in self.kinds)
        self.fingerprint = "-".join(pack.fingerprint for pack in packs)
        self._order = lru_cache(maxsize=2)(self._epoch)
        if not self.updates:
            raise LareError(
                f"stage {stage.name}: {self.samples} samples are fewer than one batch of {stage.batch}; lower batch"
            )

    def _usable(self, with_image: np.ndarray) -> tuple[list[np.ndarray], int]:
        """Numbers of the samples of each kind (with an image, without), and how many without are left out.

        Text alone trains the decoder and nothing else; where that is frozen, or where there are too few for one batch,
        it is left out.
        """
        seen, text = np.flatnonzero(with_image), np.flatnonzero(~with_image)
        if "language_model" not in parts_of(self.stage) or len(text) < self.stage.batch:
            return [seen], len(text)
        return [seen, text], 0

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._order = lru_cache(maxsize=2)(self._epoch)

    def _units(self, kind: np.ndarray) -> int:
        """Samples of a kind in an epoch; those that come twice to fill a group about one image count twice."""
        unit = self.stage.per_image
        return groups_of(self.images[kind], unit) * unit if self.images[kind[0]] >= 0 else len(kind)

    def _epoch(self, epoch: int) -> np.ndarray:
        """(batches, batch) sample numbers; like lengths together, each batch of one kind, batches in random order."""
        rng = np.random.default_rng((self.seed, epoch, 7))
        found = []
        for kind in self.kinds:
            if self.images[kind[0]] >= 0:
                units = by_image(kind, self.images[kind], self.stage.per_image, rng)
            else:
                units = kind[rng.permutation(len(kind))][:, None]
            found.append(epoch_batches(units, self.lengths, self.stage.batch, self.stage.alike))
        batches = np.concatenate(found)
        return batches[rng.permutation(len(batches))]

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """See `StageBatches`."""
        flip = float(np.random.default_rng((self.seed, step, 8)).random())
        entry = drawn(self.stage.mixture, flip)
        return self.own.get(entry.label, self).batches_of(entry, step)

    def batches_of(self, entry: Entry, step: int) -> list[MicroBatch]:
        """This process's micro-batches of an update that a method of the mixture takes."""
        epoch, at = divmod(step, self.updates)
        numbers = self._order(epoch)[at]
        layout = entry.training.layout(self.stage, self.config)
        unit = self.stage.per_image
        if self._row(int(numbers[0]))[0].image is None:
            layout, unit = Layout(rationale=layout.rationale), 1  # nothing to look at
        return [
            self._encode(numbers[start : start + size], start, entry, layout, unit)
            for start, size in self.split.starts(self.stage.batch, unit)
        ]

    def _encode(self, numbers: np.ndarray, start: int, entry: Entry, layout: Layout, unit: int) -> MicroBatch:
        pictured = self.with_pictures and bool(layout.iterations) and not layout.fetch
        segmented = entry.training.own_segments
        groups = numbers.reshape(-1, unit).tolist()
        found = [one for group in groups for one in self._together(group, pictured or segmented)]
        rows = [(one.row, one.pack) for one in found]
        told = [row.rationale if len(row.rationale) else row.answer for row, _ in rows]
        images = [one.image for one in found[::unit] if one.image is not None]
        features = [one.features for one in found[::unit] if one.features is not None]
        processor = self.processor
        seen, grids = processor.pictures(images) if images else ({}, [])
        inputs, rationale, mask = self._text(found, entry, layout, grids, unit)
        if features:
            inputs["visual_features"] = torch.from_numpy(np.stack(features))
        else:
            inputs |= seen
        crops = inputs.pop("crops", None)
        if crops:
            inputs["crop_values"] = crop_pixels(images, crops, self.processor)
        return MicroBatch(
            inputs,
            rationale,
            mask,
            self._pictures(images, seen) if pictured and images else None,
            step_boxes([row.boxes for row, _ in rows], layout.iterations),
            layout.fetch,
            text_groups=torch.tensor([crc32(ids.tobytes()) for ids in told]),
            image_groups=torch.tensor([_image_group(row, pack) for row, pack in rows]),
            start=start,
            where=[row.where for row, _ in rows],
            replaced=[one.replaced for one in found if one.replaced is not None],
            losses=dict(entry.training.losses()),
        )

    def _pictures(self, images: Sequence[Image], seen: Mapping[str, Tensor]) -> Tensor:
        """(I, 3, H, W) uint8 pixels that the encoder sees; pictures that keep their sizes are squeezed into squares.

        Windows and boxes are shares of the picture, so a squeezed one has them where the picture has.
        """
        if seen["pixel_values"].dim() == 4:  # one square a picture
            return seen_pixels(seen["pixel_values"], self.processor.image_processor)
        side = int(self.config.image_size)
        squares = [np.asarray(one.convert("RGB").resize((side, side), resample=3)) for one in images]
        return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous()

    def _text(
        self, found: Sequence[_Seen], entry: Entry, layout: Layout, grids: Sequence[Any], unit: int
    ) -> tuple[dict[str, Any], Tensor | None, Tensor | None]:
        """What `encode_rows` gives, and ``crops`` where a target holds some."""
        rows, side = [one.row for one in found], layout.lm_grid or self.config.lm_grid
        prompts = [row.prompt.tolist() for row in rows]
        pictured = rows[0].image is not None
        if pictured and self.processor.backbone:
            prompts = [self.processor.on_picture(one, grid) for one, grid in zip(prompts, grids, strict=True)]
        elif pictured:
            prompts = [on_grid(prompt, self.config.image_token_id, side) for prompt in prompts]
        shared, prompts = shared_beginnings(prompts, self.config.image_token_id, unit)
        rationales, answers = [row.rationale.tolist() for row in rows], [row.answer.tolist() for row in rows]
        rests = [(row.rest.tolist(), row.roles.tolist()) for row in rows]
        targets = None
        if entry.training.own_segments and pictured:
            boxes = [row.boxes for row in rows]
            made = rows_of(prompts, rationales, answers, boxes, self.processor, self.config)
            parts = [entry.training.segments(one, layout) for one in made]
            targets = targets_of(parts, made, layout, self.config, unit)
        fill = int(self.processor.tokenizer.pad_token_id)
        ends = [step_ends(self.processor.tokenizer, one) for one in rationales] if layout.by_step else None
        inputs, *told = encode_rows(prompts, rationales, answers, layout, self.config, fill, rests, targets, ends)
        if unit > 1:
            inputs["questions_per_image"] = unit
        if shared:
            inputs["shared_ids"] = torch.tensor(shared)
        return inputs, told[0], told[1]

    def _together(self, numbers: Sequence[int], picture: bool) -> list[_Seen]:
        """Samples about one image, which is read once; those about another in their place if it can't be read."""
        first = self._seen(numbers[0], picture)
        asked = list(numbers)
        if first.replaced is not None and len(asked) > 1:
            about = np.flatnonzero(self.images == self.images[first.number])
            asked = [first.number, *np.resize(about, len(asked) - 1).tolist()]
        found = [first]
        for number, instead in zip(numbers[1:], asked[1:], strict=True):
            row, lost = self._row(instead)[0], first.replaced
            if lost is not None:
                lost = Replaced(self._row(number)[0].where, lost.reason, row.where)
            found.append(first._replace(number=instead, row=row, replaced=lost))
        return found

    def _seen(self, number: int, picture: bool) -> _Seen:
        """A sample with what the encoder sees of it; another in its place if its image can't be read.

        Which one depends on the seed and the sample alone, so that a resumed run, or another number of workers or
        processes, takes the same.

        Raises:
            LareError: If its source is strict, or no other can be read either.
        """
        found = self._look(number, picture)
        if isinstance(found, _Seen):
            return found
        row, pack = self._row(number)
        if not pack.strict:
            others = np.random.default_rng((self.seed, number, 9)).integers(len(self.kinds[0]), size=_TRIES)
            for other in self.kinds[0][others]:
                instead = self._look(int(other), picture)
                if isinstance(instead, _Seen):
                    return instead._replace(replaced=Replaced(row.where, str(found), instead.row.where))
        raise LareError(f"{row.where}: {found}; {FIND}")

    def _look(self, number: int, picture: bool) -> _Seen | LareError:
        """A sample with its image, or features, or both; or why there are none."""
        row, pack = self._row(number)
        if row.image is None:
            return _Seen(number, row, pack, None, None)
        features = None if self.features is None else self._feature(number)
        if features is not None and np.isnan(features[0]).all():
            return LareError("the image could not be read when its features were cached")
        try:
            image = pack.picture(row) if picture or features is None else None
        except LareError as error:
            return error
        return _Seen(number, row, pack, image, features)

    def _place(self, number: int) -> tuple[int, int]:
        """Which source a sample is of, and its number there."""
        which = int(np.searchsorted(self.starts, number, side="right")) - 1
        return which, number - int(self.starts[which])

    def _row(self, number: int) -> tuple[PackedRow, Packed]:
        which, inside = self._place(number)
        return self.packs[which].rows([inside])[0], self.packs[which]

    def _feature(self, number: int) -> np.ndarray:
        assert self.features is not None
        which, inside = self._place(number)
        found: np.ndarray = self.features[which].features[self.features[which].which[inside]].astype(np.float32)
        return found


def _image_group(row: PackedRow, pack: Packed) -> int:
    """Equal for equal images; two sources may give different images one name."""
    if row.image is None:
        return 0
    if isinstance(row.image, bytes):
        return crc32(row.image)
    return crc32(row.image.encode(), crc32(str(pack.images.resolve()).encode(errors="surrogateescape")))


class _Steps(Dataset[list[MicroBatch] | LareError]):
    """Updates by number; hands an error over as a value, since a worker would raise it with its traceback inside."""

    def __init__(self, batches: StageBatches, first: int, last: int) -> None:
        self.batches, self.first, self.last = batches, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> list[MicroBatch] | LareError:
        if index >= len(self):
            raise IndexError(index)
        try:
            return self.batches.micro_batches(self.first + index)
        except LareError as error:
            return LareError(str(error))


def batch_loader(batches: StageBatches, first: int, last: int, workers: int) -> Iterator[list[MicroBatch]]:
    """Micro-batches of updates `first` to `last` - 1 in order, made ahead of time by workers if there are any."""
    loader = DataLoader(
        _Steps(batches, first, last), batch_size=None, shuffle=False, num_workers=workers, generator=torch.Generator()
    )
    for made in loader:
        if isinstance(made, LareError):
            raise made
        yield made
