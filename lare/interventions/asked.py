"""A question as interventions know it, and random draws that depend on it alone, never on its place in a batch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

__all__ = ["Asked", "generator_of", "normal", "question_key"]

Box = tuple[float, ...]


@dataclass(frozen=True)
class Asked:
    """A question as interventions know it.

    Attributes:
        key: Its name; draws are a function of the seed and of this name.
        group: Its picture or its text; questions of one group never get each other's latents.
        task: Its task; partners are of the same task where that is known.
        boxes: (left, top, right, bottom) of the regions that it is about, in the order of its steps, as shares of the
            picture; empty where nothing says.
    """

    key: str
    group: str
    task: str = ""
    boxes: tuple[Box, ...] = ()


def question_key(image: Image, text: str) -> str:
    """Name of a question: a hash of its picture's pixels and its text."""
    digest = hashlib.sha256(f"{image.mode} {image.size} {text}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()[:32]


def generator_of(seed: int, *names: object) -> torch.Generator:
    """A source of random numbers that is the same for the same seed and names, on every machine."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def normal(asked: Sequence[Asked], shape: Sequence[int], seed: int, step: int) -> Tensor:
    """Standard normal numbers (B, *shape), a row each from its own question."""
    return torch.stack([torch.randn(*shape, generator=generator_of(seed, one.key, step)) for one in asked])
