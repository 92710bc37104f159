"""The methods of a stage: which are trained, in which shares of its updates, with which options.

    methods: {llava: 0.1, cot: {share: 0.2, delimiters: true}, lare: 0.7}

An update takes one method for its whole batch. A key is a method's name, or a label of its own where ``method`` tells
the name, so that a method can stand there several times: ``{random: {method: lare, share: 0.3, window: random}, ...}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from lare.errors import LareError, require
from lare.methods import get_method
from lare.methods.layout import Layout
from lare.methods.training import Training

__all__ = ["LEGACY", "Entry", "default_methods", "drawn", "entry_of", "from_shares", "read_mixture", "typical_layout"]

LEGACY: dict[str, dict[str, Any]] = {
    "direct_share": {"method": "llava"},
    "text_share": {"method": "cot", "delimiters": True},
    "full_share": {"method": "cot", "delimiters": True, "fine": True},
    "fetch_share": {"method": "fetch"},
}
"""Keys of earlier versions and what they stand for, in the order in which updates were shared out among them."""


@dataclass(frozen=True)
class Entry:
    """A method of a mixture.

    Attributes:
        label: Its key.
        method: Its name.
        share: Share of the updates that it takes.
        training: How it is trained.
    """

    label: str
    method: str
    share: float
    training: Training


def default_methods(stage: str) -> dict[str, Any]:
    """The mixture of a stage that names none: rationales as text before there are latents, then LaRe."""
    return {"cot": 1.0} if stage == "I" else {"lare": 1.0}


def from_shares(shares: Mapping[str, float], stage: str, label: str) -> dict[str, Any]:
    """The mixture that keys of earlier versions describe; it draws the very same method in each update.

    Raises:
        LareError: If the shares are impossible.
    """
    given = [shares[name] for name in LEGACY]
    require(
        min(given) >= 0 and sum(given) <= 1 + 1e-9,
        f"{label}: text_share, direct_share, fetch_share and full_share must be 0 or more and sum up to at most 1",
    )
    found = {
        name.removesuffix("_share"): {**meant, "share": shares[name]} for name, meant in LEGACY.items() if shares[name]
    }
    rest = 1.0 - sum(given)
    if rest > 1e-6:
        found |= {name: {"share": rest} for name in default_methods(stage)}
    return found


def read_mixture(methods: Mapping[str, Any], stage: str, label: str) -> tuple[Entry, ...]:
    """The entries of a run file's ``methods``.

    Args:
        methods: Share, or share and options, by method or label; empty is the stage's default.
        stage: I, II, III or IV.
        label: Names the stage in messages.

    Raises:
        LareError: If a method is unknown or can't be trained, an option is impossible, or the shares don't sum to 1.
    """
    entries = tuple(entry_of(key, value, label) for key, value in (methods or default_methods(stage)).items())
    total = sum(entry.share for entry in entries)
    require(abs(total - 1) < 1e-6, f"{label}: the shares of its methods sum up to {total:g}; make them sum up to 1")
    return entries


def entry_of(key: str, value: Any, label: str) -> Entry:
    """One entry of a mixture.

    Args:
        key: A method's name, or a label.
        value: Its share, or share and options.
        label: Names the stage in messages.

    Raises:
        LareError: If the method is unknown or can't be trained, or share or an option is impossible.
    """
    options: dict[str, Any] = dict(value) if isinstance(value, Mapping) else {"share": value}
    name, share = str(options.pop("method", key)), options.pop("share", 1.0)
    number = isinstance(share, (int, float)) and not isinstance(share, bool) and 0 < share <= 1 + 1e-9
    require(number, f"{label}: the share of {key!r} is {share!r}; give a number above 0 and up to 1, or leave it out")
    try:
        training = get_method(name).training
        if training is None:
            raise LareError(f"the method {name!r} has no training of its own; train another, and answer with it")
        chosen = training.options_type.read(name, options)
    except LareError as error:
        raise LareError(f"{label}: {error}") from None
    return Entry(key, name, float(share), training(chosen))


def drawn(entries: Sequence[Entry], uniform: float) -> Entry:
    """The entry that an update takes.

    Args:
        entries: A stage's.
        uniform: In [0, 1), and the same on every process.
    """
    limits = accumulate(entry.share for entry in entries[:-1])
    return next((entry for entry, limit in zip(entries, limits, strict=False) if uniform < limit), entries[-1])


@dataclass(frozen=True)
class _Typical:
    """Settings that stand for those of a model that does not exist yet.

    They serve where no size counts, such as whether a layout has latents.
    """

    iterations: int = 4
    text_prefix: int = 32
    grid: int = 16
    lm_grid: int = 16


def typical_layout(entry: Entry, stage: Any) -> Layout:
    """The layout of an entry's batches for a model of typical settings; read only what does not depend on sizes."""
    return entry.training.layout(stage, _Typical())
