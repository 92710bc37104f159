"""Training rows that a test set knows are found and left out (the paper's "Data Decontamination", Appendix B).

1. **Exact**: a row whose question and answer, as text, stand in a set that is to be excluded, such as a benchmark's
   official training split. Case, spacing and punctuation don't count.
2. **Images**: a row whose image has a cosine of at least the threshold with an image of a test set, by CLIP embeddings.

Every removed row is listed with its reason and what it matched.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lare.data.embedding import Embedder
from lare.data.neighbours import nearest
from lare.data.pictures import Pictures
from lare.data.rows import read_rows
from lare.data.sample import BadRow, Problem, Sample
from lare.data.source import Report, Source
from lare.errors import LareError
from lare.images import load_image

__all__ = ["Removed", "Result", "copy_rows", "decontaminate", "qa_keys", "images_of", "text_key"]

BATCH = 64
"""Images embedded at once."""
THRESHOLD = 0.95
"""Least cosine of CLIP embeddings that counts as a near-duplicate; the paper's own number is lost, this is ours."""

SMALL_THRESHOLD = 0.85
"""The same for `EFFICIENTNET`: between the cosines of copies and of different photographs (see `_Efficientnet`)."""

_ROUNDING = 1e-6  # so that a threshold of 1 still removes identical images
_SIDE = 448  # embedders look at 224 pixels; more than twice that is thrown away at once
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")

Named = tuple[str, "str | bytes"]
"""A test image's name for the report, and what `Pictures` reads it by."""


@dataclass(frozen=True)
class Removed:
    """Why a row was left out.

    Attributes:
        where: The row.
        id: Its sample's id.
        reason: "exact" or "image".
        match: The excluded text, or the name of the test image, that it matched.
        similarity: Cosine of the images; 1 for exact text.
    """

    where: str
    id: str
    reason: str
    match: str
    similarity: float


@dataclass
class Result:
    """What a run found.

    Attributes:
        report: Report of reading the training file.
        removed: Rows left out, in the file's order.
        rows: Numbers (from 1) of the rows that stay.
        unreadable: Rows whose image can't be opened; they are left out too, and listed here.
    """

    report: Report = field(default_factory=Report)
    removed: list[Removed] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    unreadable: list[Problem] = field(default_factory=list)


def text_key(question: str, answer: str) -> str:
    """Question and answer without case, spacing and punctuation."""
    text = unicodedata.normalize("NFKC", f"{question}\n{answer}").casefold()
    parts = ("".join(c if c.isalnum() else " " for c in part).split() for part in text.split("\n", 1))
    return " | ".join(" ".join(part) for part in parts)


def qa_keys(path: Path, rows: Iterable[Any] | None = None) -> set[str]:
    """Text keys of a set that is to be excluded.

    Rows may be of any known format, or have `question` and `answer`; a numbered answer is looked up in `choices`.

    Raises:
        LareError: If the file can't be read or no row has a question and an answer.
    """
    keys = set()
    for row in read_rows(path) if rows is None else rows:
        if isinstance(row, Mapping) and isinstance(row.get("question"), str) and "answer" in row:
            keys.add(text_key(row["question"], _answer(row)))
    if not keys:
        keys = {text_key(sample.question, sample.answer) for sample in Source(path, turns="each").samples()}
    if not keys:
        raise LareError(f"{str(path)!r} has no row with a question and an answer")
    return keys


def _answer(row: Mapping[str, Any]) -> str:
    answer, choices = row["answer"], row.get("choices")
    if isinstance(answer, int) and isinstance(choices, Sequence) and 0 <= answer < len(choices):
        return str(choices[answer])
    return str(answer)


def images_of(path: Path) -> tuple[Pictures, list[Named]]:
    """Find the images of a test set.

    Args:
        path: A folder of image files, or a Parquet or JSON file whose rows have an `image`.

    Raises:
        LareError: If there are none.
    """
    named: list[Named] = []
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
        named = [(str(file.relative_to(path)), file.relative_to(path).as_posix()) for file in files]
        pictures = Pictures(path)
    else:
        pictures = Pictures(path.parent)
        for number, row in enumerate(read_rows(path)):
            image = row.get("image") if isinstance(row, Mapping) else None
            image = image.get("bytes") or image.get("path") if isinstance(image, Mapping) else image
            if isinstance(image, (str, bytes)) and image:
                named.append((f"{path.name}:{number + 1}", image))
    if not named:
        raise LareError(f"{str(path)!r} holds no images; give a folder of images, or a file whose rows have an 'image'")
    return pictures, named


def decontaminate(
    source: Source,
    excluded: Mapping[str, str],
    tests: Sequence[tuple[Pictures, Sequence[Named]]],
    embedder: Embedder | None,
    threshold: float = THRESHOLD,
    progress: Callable[[int], object] | None = None,
) -> Result:
    """Find the rows of a training file that may stay.

    Args:
        source: The training file.
        excluded: Text key -> where it comes from, for the report.
        tests: Test images, set by set.
        embedder: Turns images into unit vectors; None compares no images.
        threshold: Least cosine that removes a row.
        progress: Called with the number of bytes read since the last call.

    Returns:
        Rows that stay and rows that don't, each with its reason.

    Raises:
        LareError: If the threshold is outside (0, 1], or a file can't be read.
    """
    if not 0 < threshold <= 1:
        raise LareError(f"the threshold is {threshold}, but a cosine that removes a row lies above 0 and up to 1")
    result = Result()
    names, keys = _embed_tests(tests, embedder) if embedder is not None and tests else ([], torch.zeros(0, 1))
    looks = _Looks(source.pictures(), embedder) if names else None
    rows: dict[int, list[Sample]] = {}
    for sample in replace(source, turns="each").samples(result.report, progress):
        rows.setdefault(int(sample.where.rsplit(":", 1)[1]), []).append(_light(sample, looks))
    cosines, found = looks.compare(keys) if looks is not None else ({}, {})
    for number, samples in rows.items():
        first = samples[0]
        exact = next((key for key in (text_key(s.question, s.answer) for s in samples) if key in excluded), None)
        image = first.image if isinstance(first.image, str) else None
        if exact is not None:
            result.removed.append(Removed(first.where, first.id, "exact", f"{excluded[exact]}: {exact}", 1.0))
        elif looks is not None and image in looks.broken:
            result.unreadable.append(Problem(first.where, "image_damaged", looks.broken[image]))
        elif image is not None and cosines.get(image, -1.0) >= threshold - _ROUNDING:
            result.removed.append(Removed(first.where, first.id, "image", names[found[image]], cosines[image]))
        else:
            result.rows.append(number)
    return result


def _light(sample: Sample, looks: _Looks | None) -> Sample:
    """The sample with its image queued for embedding, and only a name of it kept."""
    if looks is None or sample.image is None:
        return replace(sample, image=None, rationale="", history=())
    return replace(sample, image=looks.add(sample.image), rationale="", history=())


class _Looks:
    """Embeds every different image of a source once."""

    def __init__(self, pictures: Pictures, embedder: Embedder | None) -> None:
        assert embedder is not None
        self.pictures, self.embedder = pictures, embedder
        self.names: list[str] = []
        self.seen: set[str] = set()
        self.broken: dict[str, str] = {}
        self.parts: list[Tensor] = []
        self.waiting: list[Image.Image] = []

    def add(self, image: str | bytes) -> str:
        """Queue an image; returns its name."""
        name = image if isinstance(image, str) else hashlib.sha256(image).hexdigest()
        if name not in self.seen:
            self.seen.add(name)
            try:
                self.waiting.append(load_image(self.pictures.read(image), max_side=_SIDE))
                self.names.append(name)
            except (BadRow, LareError) as error:
                self.broken[name] = str(error)
        if len(self.waiting) >= BATCH:
            self.flush()
        return name

    def flush(self) -> None:
        """Embed what waits."""
        if self.waiting:
            self.parts.append(self.embedder(self.waiting).half())
            self.waiting = []

    def vectors(self) -> Tensor:
        """All embeddings, (n, d) float16."""
        self.flush()
        return torch.cat(self.parts) if self.parts else torch.zeros(0, 1)

    def compare(self, keys: Tensor) -> tuple[dict[str, float], dict[str, int]]:
        """Greatest cosine with the keys, and which, by image name."""
        vectors = self.vectors()
        if not len(vectors):
            return {}, {}
        cosines, index = nearest(vectors, keys)
        return dict(zip(self.names, cosines.tolist(), strict=True)), dict(zip(self.names, index.tolist(), strict=True))


def _embed_tests(tests: Sequence[tuple[Pictures, Sequence[Named]]], embedder: Embedder) -> tuple[list[str], Tensor]:
    """Names and embeddings of all test images; one that can't be opened ends the run, since it could hide a match."""
    names: list[str] = []
    parts: list[Tensor] = []
    for pictures, named in tests:
        for low in range(0, len(named), BATCH):
            chunk = named[low : low + BATCH]
            names += [name for name, _ in chunk]
            parts.append(embedder(list(_load(pictures, chunk))).half())
    return names, torch.cat(parts)


def _load(pictures: Pictures, named: Sequence[Named]) -> Iterator[Image.Image]:
    for name, image in named:
        try:
            yield load_image(pictures.read(image), max_side=_SIDE)
        except LareError as error:
            raise LareError(f"test image {name!r}: {error}") from None


def copy_rows(path: Path, numbers: set[int], out: Path) -> None:
    """Copy the rows of these numbers (from 1) as they are: Parquet to Parquet, JSON of either kind to JSON Lines.

    Raises:
        LareError: If `out` has the wrong ending, is the input itself, or can't be written.
    """
    parquet = path.suffix.lower() == ".parquet"
    ending = ".parquet" if parquet else ".jsonl"
    if out.suffix.lower() != ending:
        raise LareError(f"the clean copy of {path.name!r} should end in {ending}; it is {str(out)!r}")
    if out.resolve() == path.resolve():
        raise LareError(f"{str(out)!r} is the file that is read; give another place for the clean copy")
    temporary = out.with_name(out.name + ".tmp")
    try:
        (_copy_parquet if parquet else _copy_json)(path, numbers, temporary)
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise LareError(f"{str(out)!r} can't be written ({error}); free space or give another place") from None


def _copy_json(path: Path, numbers: set[int], out: Path) -> None:
    with open(out, "w", encoding="utf-8") as file:
        for number, row in enumerate(read_rows(path), start=1):
            if number in numbers:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _copy_parquet(path: Path, numbers: set[int], out: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    with parquet.ParquetFile(path) as table, parquet.ParquetWriter(out, table.schema_arrow) as writer:
        start = 1
        for batch in table.iter_batches(batch_size=256):
            mask = [number in numbers for number in range(start, start + len(batch))]
            writer.write_batch(batch.filter(pyarrow.array(mask, pyarrow.bool_())))
            start += len(batch)
