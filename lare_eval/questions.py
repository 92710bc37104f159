"""Reads lmms-eval's requests: the question and picture of each, and how its text is to be decoded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageFile

from lare.errors import LareError
from lare.images import load_image
from lare.methods.base import Sampling
from lare_eval.store import image_digest

__all__ = ["DEFAULT_MAX_NEW_TOKENS", "Question", "Request", "read_question", "sampling_of"]

DEFAULT_MAX_NEW_TOKENS = 256
"""Text tokens where neither the task nor the user says a number (MMStar's task file, for one)."""

# What opening somebody's picture raises, beside LareError: Pillow's own errors are all of these kinds.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, Image.DecompressionBombError)

_FACT_BYTES = 2000  # longest JSON of one column that is kept as a fact of the question


@dataclass(frozen=True)
class Request:
    """One request, before its picture is opened.

    Attributes:
        context: The question as the task writes it, for sorting and for the key.
        to_messages: Turns the task's row into chat messages.
        sampling: How its text is decoded.
        doc_id: Number of the row.
        task: Name of the task.
        split: Name of the split.
    """

    context: str
    to_messages: Any
    sampling: Sampling
    doc_id: int
    task: str
    split: str


@dataclass(frozen=True)
class Question:
    """A question that can be answered.

    Attributes:
        text: What is asked, without the chat template.
        image: RGB picture.
        facts: Columns of the row that are text or numbers.
        digest: Hash of text and picture.
    """

    text: str
    image: Image.Image
    facts: Mapping[str, Any]
    digest: str


def read_question(request: Request, documents: Mapping[str, Any]) -> Question:
    """Open a request's row: its question and its one picture.

    Args:
        request: The request.
        documents: lmms-eval's data sets, task to split to rows.

    Raises:
        LareError: If the picture is damaged, or there is not exactly one, or the question is empty.
    """
    try:
        with _whole_pictures_only():
            row = documents[request.task][request.split][request.doc_id]
            messages = request.to_messages(row)
            texts, pictures = _contents(messages)
            images = [load_image(picture) for picture in pictures[:2]]
    except LareError:
        raise
    except _DAMAGE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LareError(f"its picture can't be opened ({reason}); make or download it again") from None
    if len(pictures) != 1:
        raise LareError(f"the question has {len(pictures)} images; LaRe takes exactly one")
    text = "\n".join(texts).strip()
    if not text:
        raise LareError("the question is empty")
    digest = hashlib.sha256(f"{image_digest(images[0])} {text}".encode()).hexdigest()[:32]
    return Question(text, images[0], _facts(row), digest)


@contextmanager
def _whole_pictures_only() -> Iterator[None]:
    """Refuse cut files: lmms-eval tells Pillow to fill what is missing with grey, which no answer should rest on."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _contents(messages: Any) -> tuple[list[str], list[Any]]:
    texts, pictures = [], []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "text":
                texts.append(str(part["text"]))
            elif part["type"] == "image":
                pictures.append(part.get("url", part.get("image")))
            else:
                raise LareError(f"the question has {part['type']}; LaRe takes one image and text")
    return texts, pictures


def _facts(row: Mapping[str, Any]) -> dict[str, Any]:
    facts = {}
    for name, value in row.items():
        if isinstance(value, (str, int, float, list, dict)):
            try:
                if len(json.dumps(value)) <= _FACT_BYTES:
                    facts[name] = value
            except (TypeError, ValueError):
                continue  # a list of pictures or the like
    return facts


def sampling_of(arguments: Mapping[str, Any], max_new_tokens: int | None) -> Sampling:
    """Read a task's generation arguments.

    The task's `max_new_tokens` is kept to, unless the user gave the model an own number. A temperature above 0 samples,
    whatever `do_sample` says, since ``--gen_kwargs temperature=0.7`` leaves the task's ``do_sample: false`` in place. A
    blank line is no end of an answer here: lmms-eval puts it into every task that names no end, and it would cut a
    rationale in two.

    Args:
        arguments: The request's generation arguments.
        max_new_tokens: The user's number, or None.

    Raises:
        LareError: If an argument asks for what LaRe can't do.
    """
    if int(arguments.get("num_beams") or 1) != 1:
        raise LareError(
            f"num_beams is {arguments['num_beams']}; LaRe decodes greedily or samples, leave num_beams at 1"
        )
    until = arguments.get("until") or []
    marks = [until] if isinstance(until, str) else list(until)
    wanted = max_new_tokens or arguments.get("max_new_tokens") or arguments.get("max_gen_toks")
    temperature = float(arguments.get("temperature") or 0.0)
    if arguments.get("do_sample") and "temperature" not in arguments:
        temperature = 1.0
    return Sampling(
        max_new_tokens=int(wanted or DEFAULT_MAX_NEW_TOKENS),
        temperature=temperature,
        top_p=float(arguments.get("top_p") or 1.0),
        top_k=int(arguments.get("top_k") or 0),
        stop=tuple(str(mark) for mark in marks if str(mark).strip()),
    )
