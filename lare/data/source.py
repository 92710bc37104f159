"""A data file as a stream of samples, with every bad row counted and listed, or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lare.data.animals import ANIMAL_FAMILIES, parse_animals
from lare.data.captions import CAPTION_FAMILIES, Captions, captions_of
from lare.data.conversations import parse_llava, parse_vision_r1
from lare.data.daquar import DAQUAR_FAMILIES, parse_daquar
from lare.data.foreign import parse_nlvr, parse_puzzlevqa
from lare.data.pictures import Pictures
from lare.data.rows import read_rows
from lare.data.sample import TURNS, BadRow, Problem, Sample, take_turns
from lare.data.splits import SPLITS, share_of, split_of
from lare.errors import LareError, require
from lare.images import load_image

__all__ = ["FAMILIES", "FORMATS", "IMAGE_CHECKS", "ON_BAD", "Report", "Source", "check_take", "guess_format"]

FORMATS: dict[str, Callable[[Any], list[Sample]]] = {
    "llava": parse_llava,
    "vision_r1": parse_vision_r1,
    "nlvr": parse_nlvr,
    "puzzlevqa": parse_puzzlevqa,
    "daquar": parse_daquar,
    "captions": Captions(),
    "animals": parse_animals,
}
"""Format name -> what turns a row into samples."""

_OF_FILE: dict[str, Callable[[Path], Callable[[Any], list[Sample]]]] = {"captions": captions_of}
"""Formats whose rows are read by what the whole file tells."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "daquar": DAQUAR_FAMILIES,
    "captions": CAPTION_FAMILIES,
    "animals": ANIMAL_FAMILIES,
}
"""Format name -> the families of its questions; other formats have none."""

ON_BAD = ("skip", "refuse")
IMAGE_CHECKS = ("none", "exist", "decode")


@dataclass
class Report:
    """Counts and bad rows of a file that was read.

    Attributes:
        rows: Rows read, good and bad.
        samples: Samples given out.
        answers: Answers in these samples, more than one in a conversation.
        with_image: Samples with an image.
        with_rationale: Samples with a rationale.
        kinds: Bad rows by kind.
        problems: Every bad row, in order.
    """

    rows: int = 0
    samples: int = 0
    answers: int = 0
    with_image: int = 0
    with_rationale: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    @property
    def bad(self) -> int:
        """Number of bad rows."""
        return sum(self.kinds.values())


@dataclass(frozen=True)
class Source:
    """A data file and how it is read.

    Attributes:
        path: The file.
        format: One of `FORMATS`, or "auto".
        images: Folder or zip archive that image names are relative to; None looks beside the file.
        on_bad: "skip" leaves bad rows out, counted and listed; "refuse" stops at the first.
        check_images: "none", "exist" (named files are there and not empty; one look at each), or "decode" (they can be
            opened).
        turns: One of `TURNS`: what becomes of a conversation.
        split: One of `lare.data.splits.SPLITS`, or "all".
        take: Share of each question family's samples that is taken, for formats of `FAMILIES`; those that are not named
            are left out, and all are taken if it is empty.

    Raises:
        LareError: If an option is unknown.
    """

    path: Path
    format: str = "auto"
    images: Path | None = None
    on_bad: str = "skip"
    check_images: str = "none"
    turns: str = "all"
    split: str = "all"
    take: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_take(self.take, self.format)
        for name, value, known in (
            ("format", self.format, ("auto", *FORMATS)),
            ("on_bad", self.on_bad, ON_BAD),
            ("check_images", self.check_images, IMAGE_CHECKS),
            ("turns", self.turns, TURNS),
            ("split", self.split, ("all", *SPLITS)),
        ):
            if value not in known:
                raise LareError(f"{name} is {value!r}; choose one of {', '.join(known)}")

    def pictures(self) -> Pictures:
        """The images of this source."""
        return Pictures(self.images if self.images is not None else self.path.parent)

    def samples(
        self, report: Report | None = None, progress: Callable[[int], object] | None = None
    ) -> Iterator[Sample]:
        """Yield samples in the file's order.

        Args:
            report: Filled while reading.
            progress: Called with the number of bytes read since the last call.

        Raises:
            LareError: If the file can't be read at all, or a row is bad and `on_bad` is "refuse".
        """
        report = report if report is not None else Report()
        name = guess_format(self.path) if self.format == "auto" else self.format
        parse = _OF_FILE[name](self.path) if name in _OF_FILE else FORMATS[name]
        pictures = self.pictures() if self.check_images != "none" else None
        seen: set[int] = set()
        for number, row in enumerate(read_rows(self.path, progress)):
            report.rows += 1
            where = f"{self.path.name}:{number + 1}"
            try:
                found = self._row(row, parse, pictures, seen)
            except BadRow as bad:
                if self.on_bad == "refuse":
                    raise LareError(f"{where}: {bad}; mend the row, or skip bad rows with --on-bad skip") from None
                report.kinds[bad.kind] += 1
                report.problems.append(Problem(where, bad.kind, str(bad)))
                continue
            for whole in found:
                if not self._takes(whole, whole.id or str(number)):
                    continue
                for sample in take_turns(replace(whole, id=whole.id or str(number), where=where), self.turns):
                    report.samples += 1
                    report.answers += 1 + len(sample.later)
                    report.with_image += sample.image is not None
                    report.with_rationale += bool(sample.rationale)
                    yield sample

    def _takes(self, sample: Sample, name: str) -> bool:
        """Whether a sample is of the split and the share that are taken; the same one always."""
        key = sample.image if sample.image is not None else name
        if self.split != "all" and split_of(key) != self.split:
            return False
        share = self.take.get(sample.family, 0.0) if self.take else 1.0
        return share >= 1.0 or share_of(f"{sample.family} {name}") < share

    def _row(
        self, row: Any, parse: Callable[[Any], list[Sample]], pictures: Pictures | None, seen: set[int]
    ) -> list[Sample]:
        if isinstance(row, BadRow):
            raise row
        samples = parse(row)
        # LLaVA's mix gives all conversations about an image the same id, so only an equal row counts as a duplicate.
        own = hash(tuple(samples))
        if samples[0].id and own in seen:
            raise BadRow("double_row", f"the row with the id {samples[0].id!r} stood in an earlier row, word by word")
        if pictures is not None:
            for image in {sample.image: None for sample in samples if sample.image is not None}:
                pictures.check(image)
                if self.check_images == "decode":
                    _decode(pictures.read(image))
        seen.add(own)
        return samples


def check_take(take: Mapping[str, float], name: str) -> None:
    """Refuse shares of families that a format does not have.

    Raises:
        LareError: If a family is unknown, or a share is not from 0 to 1, or all are 0.
    """
    known = FAMILIES.get(name, ())
    unknown = [one for one in take if one not in known]
    require(
        not unknown,
        f"take names {', '.join(unknown)}, and the format {name!r} has "
        + (f"the question families {', '.join(known)}" if known else "no question families")
        + f"; formats that have some are {', '.join(FAMILIES)}",
    )
    require(
        all(0 <= share <= 1 for share in take.values()) and (not take or any(take.values())),
        f"take is {dict(take)}; give shares from 0 to 1, one above 0",
    )


def _decode(data: bytes) -> None:
    try:
        load_image(data)
    except LareError as error:
        raise BadRow("image_damaged", str(error)) from None


def guess_format(path: Path) -> str:
    """Tell a file's format by its first row that is an object.

    Raises:
        LareError: If there is none among the first hundred rows, or it is like none of the known formats.
    """
    rows = (row for _, row in zip(range(100), read_rows(path), strict=False))
    for row in rows:
        if isinstance(row, dict):
            if "conversations" in row or "messages" in row:
                return "vision_r1" if "<think>" in str(row.get("conversations", row.get("messages"))) else "llava"
            if "captions" in row:
                return "captions"
            if "animals" in row:
                return "animals"
            if "sentence" in row:
                return "nlvr"
            if "deduction" in row:
                return "puzzlevqa"
            if {"question", "answer", "image"} <= set(row):
                return "daquar"
    raise LareError(f"the format of {str(path)!r} can't be told by its rows; name it: {', '.join(FORMATS)}")
