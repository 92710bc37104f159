"""Questions to be answered and marked, in contrast to samples that train: a picture, a text, and what is right."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lare.data.sample import Sample
from lare.data.source import Source
from lare.errors import LareError
from lare.images import load_image

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Question", "file_questions", "is_right"]


@dataclass(frozen=True)
class Question:
    """A question about a picture.

    Attributes:
        text: What is asked, without the chat template.
        answer: The right answer.
        image: The picture.
        group: Name of its picture or scene; questions of one group are not independent.
    """

    text: str
    answer: str
    image: Image = field(repr=False, compare=False)
    group: str = ""


def is_right(text: str, answer: str) -> bool:
    """Whether a text ends in an answer: what follows its last "Answer:", else all of it; case and full stop aside."""
    return _plain(text.rpartition("Answer:")[2]) == _plain(answer.rpartition("Answer:")[2])


def _plain(text: str) -> str:
    return " ".join(text.split()).removesuffix(".").casefold()


def file_questions(source: Source, split: str) -> Iterator[Question]:
    """Questions of a data file whose picture is in a split (`lare.data.splits`).

    The first turn of a conversation counts. Rows without a picture, or whose picture can't be read, are left out.

    Args:
        source: The file.
        split: "train", "validation" or "test".

    Raises:
        LareError: If the file or the split is impossible.
    """
    source = replace(source, turns="all", split=split)
    pictures = source.pictures()
    for sample in source.samples():
        group = _group(sample)
        if group is None:
            continue
        try:
            image = load_image(pictures.read(sample.image or b""))
        except LareError:  # BadRow too
            continue
        yield Question(sample.question, sample.answer, image, group)


def _group(sample: Sample) -> str | None:
    """Name of a sample's picture; None without one."""
    if sample.image is None:
        return None
    name = sample.image if isinstance(sample.image, bytes) else sample.image.encode("utf-8", "surrogatepass")
    return hashlib.sha256(name).hexdigest()[:12]
