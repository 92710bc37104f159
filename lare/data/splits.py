"""Which part of a data set an image belongs to: told by the image alone, so all questions about it fall into one part.

The part is a hash of the image's name, so it needs no list, and never changes as rows are added.
"""

from __future__ import annotations

import hashlib

__all__ = ["SPLITS", "share_of", "split_of"]

SPLITS = ("train", "validation", "test")
_LIMITS = ((0.8, "train"), (0.9, "validation"), (1.0, "test"))


def share_of(key: str | bytes) -> float:
    """A number in [0, 1) that depends on nothing but the key, evenly spread over keys."""
    content = key if isinstance(key, bytes) else key.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") / 2**64


def split_of(image: str | bytes) -> str:
    """Name of an image's split: train (80 %), validation (10 %) or test (10 %).

    Args:
        image: Its name inside the source's images, or its encoded bytes.
    """
    share = share_of(image)
    return next(name for limit, name in _LIMITS if share < limit)
