"""The order of an epoch's samples: what is shuffled, what stays together, what is put side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lare.data.packed import Packed

__all__ = ["Numbers", "by_image", "epoch_batches", "groups_of", "image_numbers"]

Numbers = npt.NDArray[np.int64]


def image_numbers(packs: Sequence[Packed]) -> Numbers:
    """(N,) number of the image of each sample of all packs, equal for equal ones; -1 without one."""
    known: dict[tuple[Path, str | bytes], int] = {}
    found = [
        -1 if row.image is None else known.setdefault((pack.images, row.image), len(known))
        for pack in packs
        for row in pack.rows(range(len(pack)))
    ]
    return np.array(found, dtype=np.int64)


def groups_of(images: Numbers, per_image: int) -> int:
    """How many groups `by_image` makes.

    Args:
        images: (N,) number of each sample's image.
        per_image: Q, samples of a group.
    """
    counts = np.unique(images, return_counts=True)[1]
    return int((-(-counts // per_image)).sum())


def by_image(numbers: Numbers, images: Numbers, per_image: int, rng: np.random.Generator) -> Numbers:
    """Groups (G, Q) of samples about one image each, every sample in one of them, all in random order.

    An image whose samples don't fill its last group gives some of them twice.

    Args:
        numbers: (N,) the samples.
        images: (N,) number of the image of each.
        per_image: Q.
        rng: Source of random numbers.
    """
    shuffled = rng.permutation(len(numbers))
    order = shuffled[np.argsort(images[shuffled], kind="stable")]
    counts = np.unique(images, return_counts=True)[1]
    groups = -(-counts // per_image)
    slots = groups * per_image
    inside = np.arange(slots.sum()) - np.repeat(np.cumsum(slots) - slots, slots)
    at = np.repeat(np.cumsum(counts) - counts, slots) + inside % np.repeat(counts, slots)
    found: Numbers = numbers[order[at]].reshape(-1, per_image)
    return found[rng.permutation(len(found))]


def epoch_batches(units: Numbers, lengths: Numbers, batch: int, alike: int) -> Numbers:
    """Batches (M, batch) of sample numbers; like lengths together, and what fills no batch left out.

    Args:
        units: (U, Q) samples that stay together, in random order.
        lengths: Tokens of each sample, by number.
        batch: Samples of a batch; a multiple of Q.
        alike: Batches among which units of like length are put together.
    """
    per_batch = batch // units.shape[1]
    units = units[: len(units) // per_batch * per_batch]
    chunk = per_batch * alike
    pieces = [units[at : at + chunk] for at in range(0, len(units), chunk)]
    sorted_pieces = [piece[np.argsort(lengths[piece].max(1), kind="stable")] for piece in pieces]
    return np.concatenate([units[:0], *sorted_pieces]).reshape(-1, batch)
