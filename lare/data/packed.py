"""Training samples as token ids on disk: read once, checked once, then at random access from any process.

``pack`` streams a source's samples through the tokenizer into flat files, so that a data set of millions of
conversations never has to fit in memory, a run knows all lengths before it starts, and loader workers share pages.
Bad rows, samples without an image and samples that are too long are counted and listed on the way.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError

from lare.data.pictures import Pictures
from lare.data.sample import BadRow, Problem, Sample
from lare.data.source import Report, Source
from lare.errors import LareError
from lare.images import load_image
from lare.model.processing_lare import IMAGE_PLACEHOLDER, IMAGE_TOKEN
from lare.progress import note, progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.model import LareProcessor

__all__ = ["Packed", "PackedRow", "pack", "token_limit"]

FIND = "find such rows with lare data check --check-images decode"
PARTS = ("prompt", "rationale", "answer", "image", "where")
_CHUNK = 512
_VERSION = 3


class PackedRow(NamedTuple):
    """One sample.

    Attributes:
        prompt: Ids up to where <|latent_start|> or the answer follows, image tokens included.
        rationale: Ids of the rationale; empty where the source has none.
        answer: Ids of the answer, end token included.
        image: Name of the image inside the source's images, or its encoded bytes.
        where: File and row.
    """

    prompt: npt.NDArray[np.int32]
    rationale: npt.NDArray[np.int32]
    answer: npt.NDArray[np.int32]
    image: str | bytes
    where: str


@dataclass(frozen=True)
class Packed:
    """A packed data set.

    Attributes:
        folder: Where it is.
        images: Where its images are.
        offsets: (N, 5, 2) start and length of each part of each sample.
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
        found: npt.NDArray[np.int64] = self.offsets[:, :3, 1].sum(1)
        return found

    def rows(self, numbers: Sequence[int]) -> list[PackedRow]:
        """Read samples."""
        tokens = np.memmap(self.folder / "tokens.bin", np.int32, "r")
        raw = np.memmap(self.folder / "bytes.bin", np.uint8, "r")
        found = []
        for number in numbers:
            spans = [slice(start, start + length) for start, length in self.offsets[number].tolist()]
            ids = [np.asarray(tokens[span]) for span in spans[:3]]
            image, where = (bytes(raw[span]) for span in spans[3:])
            name = image[1:].decode() if image[:1] == b"n" else image[1:]
            found.append(PackedRow(ids[0], ids[1], ids[2], name, where.decode()))
        return found

    def picture(self, row: PackedRow) -> Image:
        """A sample's image.

        Raises:
            LareError: If it can't be read.
        """
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


def pack(
    source: Source, processor: LareProcessor, folder: Path, limit: int | None = None, max_tokens: int | None = None
) -> Packed:
    """Tokenise a source into `folder`, or open what an earlier call left there.

    Args:
        source: The data.
        processor: Its tokenizer and chat template make the ids.
        folder: Where the files go; a finished pack of the same data and tokenizer is used as it is.
        limit: Most samples.
        max_tokens: Longest sample; None takes the tokenizer's limit.

    Returns:
        The packed data; ``report.json`` and ``problems.jsonl`` beside it tell what was left out and why.

    Raises:
        LareError: If the source can't be read, holds nothing usable, or the disk is full.
    """
    key = _key(source, processor, limit, max_tokens)
    images = source.pictures().root
    done, strict = folder / "report.json", source.on_bad == "refuse"
    if done.is_file() and json.loads(done.read_text("utf8")).get("key") == key:
        return _open(folder, images, key, strict)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        summary = _write(source, processor, part, limit, max_tokens or token_limit(processor))
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
    """Say what was left out, since most of it is what somebody forgot to download."""
    left = ", ".join(f"{count:,} {kind}" for kind, count in summary["left_out"].items())
    if left:
        note(
            f"{source.path.name}: {summary['rows']:,} rows, {summary['samples']:,} samples; left out: {left}, in "
            f"{folder / 'problems.jsonl'} (once mended, remove {folder}, and all is packed anew)"
        )


def _open(folder: Path, images: Path, key: str, strict: bool) -> Packed:
    offsets = np.load(folder / "offsets.npy", mmap_mode="r", allow_pickle=False)
    return Packed(folder, images, offsets, key, strict)


def _key(source: Source, processor: LareProcessor, limit: int | None, max_tokens: int | None) -> str:
    status = source.path.stat() if source.path.is_file() else None
    identity = [_VERSION, str(source.path.resolve()), source.format, str(source.images), limit, max_tokens]
    identity += [source.on_bad, source.check_images]
    identity += [status.st_size, status.st_mtime_ns] if status else []
    identity += [_tokenizer(processor), processor.lm_grid, processor.chat_template]
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


def _write(source: Source, processor: LareProcessor, part: Path, limit: int | None, longest: int) -> dict[str, Any]:
    report, left = Report(), Counter[str]()
    problems: list[Problem] = []
    offsets: list[list[tuple[int, int]]] = []
    size = source.path.stat().st_size if source.path.is_file() else None
    with (
        open(part / "tokens.bin", "wb") as tokens,
        open(part / "bytes.bin", "wb") as raw,
        progress(total=size, unit="B", unit_scale=True, desc=f"packing {source.path.name}", mininterval=2) as bar,
    ):
        samples = islice(source.samples(report, bar.update), limit)
        while chunk := list(islice(samples, _CHUNK)):
            usable, prompts = [], []
            for sample in chunk:
                try:
                    prompts.append(_prompt(sample, processor))
                    usable.append(sample)
                except BadRow as bad:
                    left[bad.kind] += 1
                    problems.append(Problem(sample.where, bad.kind, str(bad)))
            for sample, ids in zip(usable, _encoded(usable, prompts, processor), strict=True):
                if isinstance(ids, BadRow):
                    left[ids.kind] += 1
                    problems.append(Problem(sample.where, ids.kind, str(ids)))
                    continue
                total = sum(map(len, ids))
                if total > longest:
                    left["too_long"] += 1
                    problems.append(Problem(sample.where, "too_long", f"{total} tokens; the model takes {longest}"))
                    continue
                offsets.append(_append(tokens, raw, ids, sample))
    np.save(part / "offsets.npy", np.array(offsets, dtype=np.int64).reshape(-1, len(PARTS), 2), allow_pickle=False)
    lines = "".join(json.dumps(asdict(problem)) + "\n" for problem in [*report.problems, *problems])
    (part / "problems.jsonl").write_text(lines, encoding="utf8")
    left.update(report.kinds)
    return {"samples": len(offsets), "rows": report.rows, "left_out": {k: n for k, n in left.items() if n}}


def _check(sample: Sample, processor: LareProcessor) -> None:
    """Refuse a sample that can't be trained on."""
    if sample.image is None:
        raise BadRow("no_image", "the sample has no image, and LaRe answers about exactly one")


def _append(tokens: Any, raw: Any, ids: Sequence[Sequence[int]], sample: Sample) -> list[tuple[int, int]]:
    """Write one sample; returns start and length of each part, in items of its file."""
    spans = []
    for part in ids:
        spans.append((tokens.tell() // 4, len(part)))
        tokens.write(np.asarray(part, dtype=np.int32).tobytes())
    image = sample.image
    for content in (b"n" + image.encode() if isinstance(image, str) else b"b" + (image or b""), sample.where.encode()):
        spans.append((raw.tell(), len(content)))
        raw.write(content)
    return spans


_Ids = tuple[list[int], list[int], list[int]]


def _encoded(samples: Sequence[Sample], prompts: Sequence[str], processor: LareProcessor) -> Sequence[_Ids | BadRow]:
    """Ids of each sample, or why it has none; all at once, unless one of them can't be encoded."""
    try:
        return _encode(samples, prompts, processor)
    except LareError as error:
        if len(samples) == 1:
            return [BadRow("special_token", str(error))]
    pairs = zip(samples, prompts, strict=True)
    return [_encoded([sample], [prompt], processor)[0] for sample, prompt in pairs]


def _encode(samples: Sequence[Sample], prompts: Sequence[str], processor: LareProcessor) -> list[_Ids]:
    """Ids of prompts, rationales and answers."""
    if not samples:
        return []
    image, escape = IMAGE_TOKEN * processor.lm_grid**2, processor.user_text.escape
    expanded = [prompt.replace(IMAGE_PLACEHOLDER, image, 1) for prompt in prompts]
    ids = processor.encode_text(expanded, special=not processor.opens_with_bos(prompts[0]))
    end = processor.tokenizer.eos_token or ""
    marks = ["\nAnswer: " if sample.rationale else "" for sample in samples]
    answers = [f"{mark}{escape(sample.answer)}{end}" for mark, sample in zip(marks, samples, strict=True)]
    rationales = processor.encode_text([escape(sample.rationale) for sample in samples])
    return list(zip(ids, rationales, processor.encode_text(answers), strict=True))


def _prompt(sample: Sample, processor: LareProcessor) -> str:
    """The conversation so far, the image first, ready for latents or for the answer.

    Raises:
        BadRow: If the sample can't be trained on, or the chat template refuses it.
    """
    _check(sample, processor)
    system = sample.system.replace(IMAGE_PLACEHOLDER, "").strip()
    said = [("system", system)] if system else []
    for question, answer in sample.history:
        said += [("user", question), ("assistant", answer)]
    said.append(("user", sample.question))
    # As parts, in which an <image> is text like any other.
    turns: list[dict[str, Any]] = [{"role": who, "content": [{"type": "text", "text": text}]} for who, text in said]
    first = next(turn for turn in turns if turn["role"] == "user")
    first["content"].insert(0, {"type": "image"})
    try:
        return str(processor.apply_chat_template(turns, add_generation_prompt=True))
    except TemplateError as error:
        raise BadRow("chat_template", f"the model's chat template refuses the conversation ({error})") from None
    except LareError as error:
        raise BadRow("special_token", str(error)) from None
