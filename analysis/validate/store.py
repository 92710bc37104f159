"""What was answered, part by part on disk, so that a killed run goes on where it stopped.

A part is one batch under the settings that were asked together. It is written in one piece: JSON with one line a
setting, and latents beside it as safetensors where they are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lare.errors import LareError
from lare.files import save_text
from lare.methods.base import Answer

__all__ = ["Part", "Reply", "Store", "identity_of", "reply_of"]


_SHARES = ".shares"
"""What follows a setting's name where its attention shares lie beside its latents."""


@dataclass(frozen=True)
class Reply:
    """One answer, without what is scored of it.

    Attributes:
        text: Everything written.
        tokens: Text tokens.
        steps: Latent iterations.
        prompt: Tokens of the prompt.
        seconds: This answer's equal part of its batch's time.
    """

    text: str
    tokens: int
    steps: int
    prompt: int
    seconds: float


@dataclass(frozen=True)
class Part:
    """One batch.

    Attributes:
        replies: For each setting, in the order of the batch.
        latents: For each setting (B, K, m, d); empty where they are not kept.
        shares: For each setting (B, K, 4) what the latent steps attend to (`lare.trace.SHARES`); empty where a method's
            traces don't tell.
    """

    replies: Mapping[str, Sequence[Reply]]
    latents: Mapping[str, Tensor]
    shares: Mapping[str, Tensor] = field(default_factory=dict)


def reply_of(answer: Answer) -> Reply:
    """What is kept of an answer."""
    counts = answer.output_tokens, answer.latent_steps, answer.input_tokens
    return Reply(answer.text, *counts, round(sum(answer.seconds.values()), 6))


def identity_of(content: object) -> str:
    """A name for JSON-able content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class Store:
    """Parts of one run.

    Args:
        folder: Where runs are kept; None keeps nothing.
        identity: All that decides the answers; another identity is another run.
    """

    def __init__(self, folder: str | Path | None, identity: object) -> None:
        self.folder = None if folder is None else Path(folder) / identity_of(identity)
        self.read = self.made = 0

    def part(self, name: str, settings: Sequence[str], make: Callable[[], Part]) -> Part:
        """A part: from disk if it is whole there and has all settings, else made and written.

        Raises:
            LareError: If the folder can't be written.
        """
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.json"
        found = _read(path)
        if found is not None and set(settings) <= set(found.replies):
            self.read += 1
            return found
        part = make()
        self.made += 1
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if part.latents:
                half = path.with_suffix(".half")
                beside = {f"{key}{_SHARES}": one for key, one in part.shares.items()}
                save_file({key: one.contiguous() for key, one in {**part.latents, **beside}.items()}, half)
                half.replace(path.with_suffix(".safetensors"))
            content = {key: [asdict(one) for one in replies] for key, replies in part.replies.items()}
            save_text(path, json.dumps({"replies": content, "latents": sorted(part.latents)}, ensure_ascii=False))
        except OSError as error:
            raise LareError(
                f"{str(self.folder)!r} can't be written ({error}); name another folder with --keep"
            ) from None
        return part


def _read(path: Path) -> Part | None:
    """A part from disk; None where it is missing or torn, so that it is asked again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        replies = {key: [Reply(**one) for one in lines] for key, lines in content["replies"].items()}
        kept = load_file(path.with_suffix(".safetensors")) if content["latents"] else {}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
    latents = {key: one.to(torch.float32) for key, one in kept.items() if not key.endswith(_SHARES)}
    shares = {key.removesuffix(_SHARES): one for key, one in kept.items() if key.endswith(_SHARES)}
    return Part(replies, latents, shares) if sorted(latents) == content["latents"] else None
