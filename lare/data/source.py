"""A data file as a stream of samples, with every bad row counted and listed, or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lare.data.conversations import parse_llava, parse_vision_r1
from lare.data.foreign import parse_nlvr, parse_puzzlevqa
from lare.data.pictures import Pictures
from lare.data.rows import read_rows
from lare.data.sample import TURNS, BadRow, Problem, Sample, take_turns
from lare.errors import LareError
from lare.images import load_image

__all__ = ["FORMATS", "IMAGE_CHECKS", "ON_BAD", "Report", "Source", "guess_format"]

FORMATS: dict[str, Callable[[Any], list[Sample]]] = {
    "llava": parse_llava,
    "vision_r1": parse_vision_r1,
    "nlvr": parse_nlvr,
    "puzzlevqa": parse_puzzlevqa,
}
"""Format name -> what turns a row into samples."""

ON_BAD = ("skip", "refuse")
IMAGE_CHECKS = ("none", "exist", "decode")


@dataclass
class Report:
    """What reading a file met.

    Attributes:
        rows: Rows read, good and bad.
        samples: Samples given out.
        answers: Answers in them, more than one in a conversation.
        with_image: Of these, samples with an image.
        with_rationale: Of these, samples with a rationale.
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

    Raises:
        LareError: If an option is unknown.
    """

    path: Path
    format: str = "auto"
    images: Path | None = None
    on_bad: str = "skip"
    check_images: str = "none"
    turns: str = "all"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("format", self.format, ("auto", *FORMATS)),
            ("on_bad", self.on_bad, ON_BAD),
            ("check_images", self.check_images, IMAGE_CHECKS),
            ("turns", self.turns, TURNS),
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
        parse = FORMATS[guess_format(self.path) if self.format == "auto" else self.format]
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
                for sample in take_turns(replace(whole, id=whole.id or str(number), where=where), self.turns):
                    report.samples += 1
                    report.answers += 1 + len(sample.later)
                    report.with_image += sample.image is not None
                    report.with_rationale += bool(sample.rationale)
                    yield sample

    def _row(
        self, row: Any, parse: Callable[[Any], list[Sample]], pictures: Pictures | None, seen: set[int]
    ) -> list[Sample]:
        if isinstance(row, BadRow):
            raise row
        samples = parse(row)
        # LLaVA's mix gives the conversations about one image one id: only the same again is double.
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
            if "sentence" in row:
                return "nlvr"
            if "deduction" in row:
                return "puzzlevqa"
    raise LareError(f"the format of {str(path)!r} can't be told by its rows; name it: {', '.join(FORMATS)}")
