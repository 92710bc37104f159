"""Every question family of version 2 by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from lare.embedded.world.questions import caption
from lare.embedded.world.v2 import chains, groups, looks
from lare.embedded.world.v2.existence import exist
from lare.embedded.world.v2.scene import MAX_HOPS
from lare.embedded.world.wording import Question

__all__ = ["FAMILIES", "TRAINING_FAMILIES"]

Family = Callable[[Any, Random], Question | None]

TRAINING_FAMILIES: dict[str, Family] = {"caption": caption}
"""Families that only train; they have no short answer to score."""

FAMILIES: dict[str, Family] = {
    "what_at": looks.what_at,
    "where": looks.where,
    **{name: looks.attribute(name) for name in chains.ATTRIBUTES},
    "exist": exist,
    "count": groups.count,
    "more": groups.more,
    "larger_digit": groups.larger_digit,
    "further": groups.further,
    "common_colour": groups.common_colour,
    **{f"beside{hops}": partial(chains.beside, hops=hops) for hops in range(1, MAX_HOPS + 1)},
    **{f"gaze{hops}": partial(chains.gaze, hops=hops) for hops in range(1, MAX_HOPS + 1)},
    "chain_attribute": chains.chain_attribute,
    "function": chains.function,
}
"""Every scored family: (scene, random) -> question, or None where the scene holds no such question."""
