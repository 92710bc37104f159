"""Training samples as token ids on disk: read once, checked once, then at random access from any process.

``pack`` streams a source's samples through the tokenizer into flat files, so that a data set of millions of
conversations never has to fit in memory, a run knows all lengths before it starts, and loader workers share pages.
Bad rows, samples that are too long and turns that don't fit are counted and listed on the way.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lare.data.encode import Encoded, encode_samples
from lare.data.pictures import Pictures
from lare.data.sample import BadRow, Box, Problem, Sample
from lare.data.source import Report, Source
from lare.errors import LareError
from lare.images import load_image
from lare.progress import note, progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.model import LareProcessor

__all__ = ["Packed", "PackedRow", "pack", "token_limit"]

FIND = "find such rows with lare data check --check-images decode"
PARTS = ("prompt", "rationale", "answer", "rest", "image", "where", "roles", "boxes")
"""Packs of earlier versions have no boxes."""
_TOKENS = 4  # of them; the others are bytes
_CHUNK = 512
_VERSION = 4


class Examples(Protocol):
    """What turns a sample of the data into those that a method trains on (`lare.methods.training.Training`)."""

    @property
    def identity(self) -> str:
        """Name of exactly this."""

    def examples(self, sample: Sample) -> Sequence[Sample]:
        """The samples that one becomes; none leaves it out."""


class PackedRow(NamedTuple):
    """One sample.

    Attributes:
        prompt: Ids up to where <|latent_start|> or the answer follows, image tokens included.
        rationale: Ids of the first answer's rationale; empty where the source has none.
        answer: Ids of the first answer, end token included.
        image: Name of the image inside the source's images, its encoded bytes, or None.
        where: File and row.
        rest: Ids of the turns after it.
        roles: Role of each of these ids, see `lare.data.encode`.
        boxes: Box that each step of the rationale needs, see `lare.data.Sample`.
    """

    prompt: npt.NDArray[np.int32]
    rationale: npt.NDArray[np.int32]
    answer: npt.NDArray[np.int32]
    image: str | bytes | None
    where: str
    rest: npt.NDArray[np.int32]
    roles: npt.NDArray[np.uint8]
    boxes: Sequence[Box | None] = ()


@dataclass(frozen=True)
class Packed:
    """A packed data set.

    Attributes:
        folder: Folder of its files.
        images: Folder or archive of its images.
        offsets: (N, 8, 2) start and length of each part of each sample.
        fingerprint: Name of exactly this data.
        strict: Whether an image that can't be read is an error, also in the middle of a run.
    """

    folder: Path
    images: Path
    offsets: npt.NDArray[np.int64]
    fingerprint: str
    strict: bool = False

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(N,) tokens of each sample."""
        found: npt.NDArray[np.int64] = self.offsets[:, :_TOKENS, 1].sum(1)
        return found

    @property
    def with_boxes(self) -> npt.NDArray[np.bool_]:
        """(N,) whether a sample has the boxes of its reasoning steps."""
        if self.offsets.shape[1] < len(PARTS):
            return np.zeros(len(self), dtype=bool)
        found: npt.NDArray[np.bool_] = self.offsets[:, PARTS.index("boxes"), 1] > 0
        return found

    @property
    def with_image(self) -> npt.NDArray[np.bool_]:
        """(N,) whether a sample has an image."""
        found: npt.NDArray[np.bool_] = self.offsets[:, PARTS.index("image"), 1] > 0
        return found

    def rows(self, numbers: Sequence[int]) -> list[PackedRow]:
        """Read samples."""
        tokens = np.memmap(self.folder / "tokens.bin", np.int32, "r")
        raw = np.memmap(self.folder / "bytes.bin", np.uint8, "r")
        found = []
        for number in numbers:
            spans = [slice(start, start + length) for start, length in self.offsets[number].tolist()]
            prompt, rationale, answer, rest = (np.asarray(tokens[span]) for span in spans[:_TOKENS])
            image, where, roles, *boxes = (raw[span] for span in spans[_TOKENS:])
            name = _image_of(bytes(image))
            told = _unpacked(bytes(boxes[0])) if boxes else ()
            found.append(
                PackedRow(prompt, rationale, answer, name, bytes(where).decode(), rest, np.asarray(roles), told)
            )
        return found

    def picture(self, row: PackedRow) -> Image:
        """A sample's image.

        Raises:
            LareError: If it can't be read.
        """
        assert row.image is not None
        try:
            return load_image(self.pictures.read(row.image))
        except BadRow:
            raise
        except LareError as error:
            raise LareError(f"the image {row.image!r}: {error}" if isinstance(row.image, str) else str(error)) from None

    @cached_property
    def pictures(self) -> Pictures:
        """The images."""
        return Pictures(self.images)


def _image_of(stored: bytes) -> str | bytes | None:
    if not stored:
        return None
    return stored[1:].decode() if stored[:1] == b"n" else stored[1:]


def _unpacked(stored: bytes) -> list[Box | None]:
    """Boxes as they were; a step without one is stored as -1."""
    sides = np.frombuffer(stored, np.float32).reshape(-1, 4).tolist()
    return [None if box[0] < 0 else (box[0], box[1], box[2], box[3]) for box in sides]


def pack(
    source: Source,
    processor: LareProcessor,
    folder: Path,
    limit: int | None = None,
    max_tokens: int | None = None,
    examples: Examples | None = None,
) -> Packed:
    """Tokenise a source into `folder`, or open what an earlier call left there.

    Args:
        source: The data.
        processor: Its tokenizer and chat template make the ids.
        folder: Where the files go; a finished pack of the same data and tokenizer is used as it is.
        limit: Most samples.
        max_tokens: Longest sample; None takes the tokenizer's limit.
        examples: What a method makes of each sample; None leaves it as it is.

    Returns:
        The packed data; ``report.json`` and ``problems.jsonl`` beside it tell what was left out and why.

    Raises:
        LareError: If the source can't be read, holds nothing usable, or the disk is full.
    """
    key = _key(source, processor, limit, max_tokens, examples)
    images = source.pictures().root
    done, strict = folder / "report.json", source.on_bad == "refuse"
    if done.is_file() and json.loads(done.read_text("utf8")).get("key") == key:
        return _open(folder, images, key, strict)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        summary = _write(source, processor, part, limit, max_tokens or token_limit(processor), examples)
        if not summary["samples"]:
            raise LareError(f"{str(source.path)!r} holds no usable sample ({summary['left_out']}); see lare data check")
        (part / "report.json").write_text(json.dumps(summary | {"key": key}, indent=1), encoding="utf8")
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except LareError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise LareError(f"{str(folder)!r} can't be written ({error}); free some space or change out") from None
    _tell(source, summary, folder)
    return _open(folder, images, key, strict)


def _tell(source: Source, summary: dict[str, Any], folder: Path) -> None:
    """Say what was left out; most often it is what somebody forgot to download."""
    left = ", ".join(f"{count:,} {kind}" for kind, count in summary["left_out"].items()) or "nothing"
    if summary["shortened"]:
        left += f"; {summary['shortened']:,} samples without the turns that did not fit"
    if summary["left_out"] or summary["shortened"]:
        note(
            f"{source.path.name}: {summary['rows']:,} rows, {summary['samples']:,} samples; left out: {left}, in "
            f"{folder / 'problems.jsonl'} (once mended, remove {folder}, and all is packed anew)"
        )


def _open(folder: Path, images: Path, key: str, strict: bool) -> Packed:
    offsets = np.load(folder / "offsets.npy", mmap_mode="r", allow_pickle=False)
    return Packed(folder, images, offsets, key, strict)


def _key(
    source: Source, processor: LareProcessor, limit: int | None, max_tokens: int | None, examples: Examples | None
) -> str:
    status = source.path.stat() if source.path.is_file() else None
    identity = [_VERSION, str(source.path.resolve()), source.format, str(source.images), limit, max_tokens]
    identity += [source.on_bad, source.check_images, source.turns]
    identity += [status.st_size, status.st_mtime_ns] if status else []
    identity += [_tokenizer(processor), processor.lm_grid, processor.chat_template]
    identity += [source.split] if source.split != "all" else []
    identity += [sorted(source.take.items())] if source.take else []
    identity += [] if examples is None else [examples.identity]
    return hashlib.sha256(json.dumps(identity, default=str).encode()).hexdigest()[:16]


def _tokenizer(processor: LareProcessor) -> Any:
    """What decides a tokenizer's ids; the padding and truncation of its last call do not."""
    tokenizer = processor.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    kept = {name: value for name, value in state.items() if name not in ("padding", "truncation")}
    return [kept, tokenizer.bos_token, tokenizer.eos_token]


def token_limit(processor: LareProcessor) -> int:
    """Tokens that a processor's model takes; a tokenizer without a limit says 10^30."""
    return min(int(processor.tokenizer.model_max_length), 1_000_000)


def _write(
    source: Source,
    processor: LareProcessor,
    part: Path,
    limit: int | None,
    longest: int,
    examples: Examples | None,
) -> dict[str, Any]:
    report, left, shortened = Report(), Counter[str](), 0
    problems: list[Problem] = []
    offsets: list[list[tuple[int, int]]] = []
    size = source.path.stat().st_size if source.path.is_file() else None
    with (
        open(part / "tokens.bin", "wb") as tokens,
        open(part / "bytes.bin", "wb") as raw,
        progress(total=size, unit="B", unit_scale=True, desc=f"packing {source.path.name}", mininterval=2) as bar,
    ):
        samples: Iterator[Sample] = islice(source.samples(report, bar.update), limit)
        if examples is not None:
            samples = _made(samples, examples, left, problems)
        while chunk := list(islice(samples, _CHUNK)):
            for sample, ids in zip(chunk, encode_samples(chunk, processor), strict=True):
                kept = ids if isinstance(ids, BadRow) else _fitting(ids, longest)
                if isinstance(kept, BadRow):
                    left[kept.kind] += 1
                    problems.append(Problem(sample.where, kept.kind, str(kept)))
                    continue
                if kept is not ids:
                    shortened += 1
                    message = f"{kept.answers} of {1 + len(sample.later)} turns fit in {longest} tokens"
                    problems.append(Problem(sample.where, "shortened", message))
                offsets.append(_append(tokens, raw, kept, sample))
    np.save(part / "offsets.npy", np.array(offsets, dtype=np.int64).reshape(-1, len(PARTS), 2), allow_pickle=False)
    lines = "".join(json.dumps(asdict(problem)) + "\n" for problem in [*report.problems, *problems])
    (part / "problems.jsonl").write_text(lines, encoding="utf8")
    left.update(report.kinds)
    counts = {"samples": len(offsets), "rows": report.rows, "shortened": shortened}
    return counts | {"left_out": {kind: count for kind, count in left.items() if count}}


def _made(
    samples: Iterator[Sample], examples: Examples, left: Counter[str], problems: list[Problem]
) -> Iterator[Sample]:
    """What a method makes of each sample; those of which it makes none are listed."""
    for sample in samples:
        found = examples.examples(sample)
        if not found:
            left["no_example"] += 1
            problems.append(Problem(sample.where, "no_example", f"{examples.identity} makes no example of it"))
        yield from found


def _fitting(ids: Encoded, longest: int) -> Encoded | BadRow:
    """A sample with as many turns as fit; itself if all do."""
    if ids.tokens <= longest:
        return ids
    kept = ids.shortened(longest)
    return BadRow("too_long", f"{ids.tokens} tokens; the model takes {longest}") if kept is None else kept


def _append(tokens: Any, raw: Any, ids: Encoded, sample: Sample) -> list[tuple[int, int]]:
    """Write one sample; returns start and length of each part, in items of its file."""
    spans = []
    for part in (ids.prompt, ids.rationale, ids.answer, ids.rest):
        spans.append((tokens.tell() // 4, len(part)))
        tokens.write(np.asarray(part, dtype=np.int32).tobytes())
    image = b"" if sample.image is None else sample.image
    named = b"n" + image.encode() if isinstance(image, str) else b"b" * bool(image) + image
    boxes = np.array([box or (-1.0,) * 4 for box in sample.boxes], dtype=np.float32).tobytes()
    for content in (named, sample.where.encode(), bytes(ids.roles), boxes):
        spans.append((raw.tell(), len(content)))
        raw.write(content)
    return spans
