"""Features of the frozen encoder on disk, each image encoded once; float16 arrays that loader workers map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from filelock import FileLock

from lare.data.packed import FIND, Packed, PackedRow
from lare.errors import LareError
from lare.progress import note, progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.model import LareForConditionalGeneration, LareProcessor

__all__ = ["PackedFeatures", "cache_packed_features", "open_array", "write_array"]

_BATCH = 64


class PackedFeatures(NamedTuple):
    """Features of a packed data set.

    Attributes:
        features: (U, N_f, d_vis) float16 of its U different images; NaN where an image can't be read.
        which: (N,) number of each sample's image; -1 without one.
    """

    features: np.ndarray
    which: np.ndarray


def open_array(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Map an array file if it is there and of this shape."""
    if not path.is_file():
        return None
    found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return found if found.shape == shape else None


def write_array(path: Path, shape: tuple[int, ...], parts: Iterable[np.ndarray]) -> np.ndarray:
    """Write float16 parts one after another as one array file, and map it.

    Of runs that want the same file at once, one makes it and the others wait.

    Args:
        path: The file; one of this shape that is there already is taken.
        shape: Shape of the whole array.
        parts: Its rows, in order.

    Raises:
        LareError: If the disk is full, or if making a part raises it; nothing but the lock file stays on disk.
    """
    temporary = path.with_suffix(".part.npy")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            found = open_array(path, shape)
            if found is not None:
                return found
            with open(temporary, "wb") as file:  # not through a memory map, which a full disk would end with SIGBUS
                header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False}
                np.lib.format.write_array_header_1_0(file, header | {"shape": shape})
                for part in parts:
                    file.write(part.astype(np.float16).tobytes())
            temporary.replace(path)
    except LareError:
        temporary.unlink(missing_ok=True)
        raise
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise LareError(f"{str(path)!r} can't be written ({error}); free some space or change out") from None
    made: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return made


def cache_packed_features(
    model: LareForConditionalGeneration, processor: LareProcessor, packed: Packed
) -> PackedFeatures:
    """Encode a packed data set's images, or open what an earlier call left beside it.

    Images that can't be read are counted and reported, and their features are NaN: the loader takes other samples
    instead of theirs.

    Raises:
        LareError: If an image can't be read and the data are strict, none can be read, or the disk is full.
    """
    first: dict[str | bytes, int] = {}
    images = [row.image for row in packed.rows(range(len(packed)))]
    index = np.array([-1 if image is None else first.setdefault(image, len(first)) for image in images])
    numbers, firsts = np.unique(index, return_index=True)
    firsts = firsts[numbers >= 0].tolist()
    config = model.config
    shape = (len(first), config.grid**2, int(model.projector.linear_1.weight.shape[1]))
    path = packed.folder / f"features_{packed.fingerprint}.npy"
    found = open_array(path, shape)
    if found is None:
        found = write_array(path, shape, _encoded(model, processor, packed, firsts))
    return PackedFeatures(found, index)


@torch.no_grad()
def _encoded(
    model: LareForConditionalGeneration, processor: LareProcessor, packed: Packed, numbers: list[int]
) -> Iterator[np.ndarray]:
    device = next(model.vision_tower.parameters()).device
    shape = (model.config.grid**2, int(model.projector.linear_1.weight.shape[1]))
    problems: list[str] = []
    for start in progress(range(0, len(numbers), _BATCH), desc="encoding images", mininterval=2):
        rows = packed.rows(numbers[start : start + _BATCH])
        found = np.full((len(rows), *shape), np.nan, np.float32)
        readable, images = _readable(packed, rows, problems)
        if images:
            pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
            found[readable] = model.vision_tower(pixels.to(device)).float().cpu().numpy()
        yield found
    if len(problems) == len(numbers):
        raise LareError(f"none of the {len(numbers):,} images can be read; {problems[0]}; {FIND}")
    if problems:
        note(
            f"{len(problems):,} of {len(numbers):,} images can't be read, and other samples take the place of theirs: "
            + "; ".join(problems[:5])
            + ("; ..." if len(problems) > 5 else "")
        )


def _readable(packed: Packed, rows: Sequence[PackedRow], problems: list[str]) -> tuple[list[int], list[Image]]:
    """Numbers and images of the rows whose image can be read; the others' reasons go to `problems`."""
    numbers, images = [], []
    for number, row in enumerate(rows):
        try:
            images.append(packed.picture(row))
            numbers.append(number)
        except LareError as error:
            if packed.strict:
                raise LareError(f"{row.where}: {error}; {FIND}") from None
            problems.append(f"{row.where}: {error}")
    return numbers, images
