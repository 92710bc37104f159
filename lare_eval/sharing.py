"""Visual features shared between passes over the same pictures: the frozen encoder sees every picture once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lare.methods.base import Answer, Method

__all__ = ["SharedFeatures"]

MOST_BYTES = 1 << 30
"""Features that are kept; what comes after them is encoded each time."""


class SharedFeatures:
    """Encoder features of pictures by what the encoder reads, and what encoding them took.

    A batch is looked up as a whole: if one of its pictures is new, all are encoded together, so that features are those
    of a run without sharing, to the bit. The time that a look-up saves is charged to the answer all the same: its
    seconds are those that it would take by itself.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Tensor, float]] = {}
        self._bytes = 0
        self._charged: float | None = None

    def __len__(self) -> int:
        return len(self._known)

    @contextmanager
    def of(self, method: Method) -> Iterator[None]:
        """Let a method take features from here, and put those that it makes here; the method is left as it was.

        Args:
            method: Any method whose model encodes pictures on the CPU with an encoder of its own (nothing is shared
                elsewhere, and of vision-language models).
        """
        tower = getattr(method.model, "vision_tower", None)
        if tower is None or method.model.device.type != "cpu":
            yield
            return
        encode, answer = tower.forward, method.answer

        def forward(pixel_values: Tensor) -> Tensor:
            return self._features(encode, pixel_values)

        def answered(images: Sequence[Any], *given: Any, **options: Any) -> list[Answer]:
            self._charged = None
            answers = answer(images, *given, **options)
            return self._charge(answers)

        tower.forward, method.answer = forward, answered  # type: ignore[method-assign]
        try:
            yield
        finally:
            del tower.forward, method.answer

    def _charge(self, answers: list[Answer]) -> list[Answer]:
        """Put what encoding took in place of what the look-up took."""
        if self._charged is None:
            return answers
        vision = self._charged / len(answers)
        return [replace(one, seconds={**one.seconds, "vision": vision}) for one in answers]

    def _features(self, encode: Any, pixels: Tensor) -> Tensor:
        keys = [hashlib.blake2b(row.contiguous().view(torch.uint8).numpy(), digest_size=16).digest() for row in pixels]
        if all(key in self._known for key in keys):
            self._charged = sum(self._known[key][1] for key in keys)
            return torch.stack([self._known[key][0] for key in keys])
        started = time.perf_counter()
        features: Tensor = encode(pixels)
        seconds = (time.perf_counter() - started) / len(keys)
        for key, row in zip(keys, features, strict=True):
            size = row.numel() * row.element_size()
            if key not in self._known and self._bytes + size <= MOST_BYTES:
                self._known[key] = (row.clone(), seconds)
                self._bytes += size
        return features
