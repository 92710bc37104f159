"""Sanity checks of the maps (Adebayo 2018): what must change a map when it shows what the model is looking for.

A map that stays the same under another question, another picture or random weights says nothing about the question, the
picture or the model. The reference on the other side is the map of an unrelated answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from analysis.heatmaps.disturbed import cascade, maps_of, mirrored, mirrored_back, randomised, shuffled_heads
from analysis.heatmaps.measure import Maps
from analysis.heatmaps.numbers import entropy_bits, jensen_shannon, lay_out, on_things, ratio_of_sums
from analysis.heatmaps.overlap import spearman, spearman_within
from analysis.shared.cells import with_interval
from analysis.shared.report.document import Column, Table
from analysis.shared.traces import strangers

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.methods.base import Method

__all__ = ["Check", "cascade_table", "checks_by_model", "compare_maps", "sanity_table", "steps_of_cascade", "unrelated"]


@dataclass(frozen=True)
class Check:
    """A manipulation and how far the maps moved under it.

    Attributes:
        name: What was done.
        expected: What a sound map does.
        divergence: Jensen-Shannon divergence from the answer's own map, bits, (n, K).
        spearman: Rank correlation with it over the grid's cells, (n, K).
        within: The same over the cells that lie in both maps' windows, (n, K); missing where there are few.
        entropy: Entropy of the changed map, bits, (n, K).
        same_window: Whether the window stayed where it was, (n, K).
        mass: Share of the changed map on the things of the question, (n,) mean over steps; missing without boxes.
        clusters: (n,) names.
    """

    name: str
    expected: str
    divergence: npt.NDArray[np.float64]
    spearman: npt.NDArray[np.float64]
    within: npt.NDArray[np.float64]
    entropy: npt.NDArray[np.float64]
    same_window: npt.NDArray[np.float64]
    mass: npt.NDArray[np.float64]
    clusters: Sequence[object]


def compare_maps(
    name: str,
    expected: str,
    maps: Maps,
    changed: npt.NDArray[np.float64],
    corners: npt.NDArray[np.int64],
) -> Check:
    """Compare the maps of a manipulated model or input, (N, K, g, g), with the answers' own.

    Args:
        name: What was done.
        expected: What a sound map does.
        maps: The answers' own.
        changed: Maps of the same answers, manipulated.
        corners: Their windows, (N, K, 2).
    """
    mass = on_things(changed, maps.covered()).mass.mean(1)
    known = np.array([bool(boxes) for boxes in maps.boxes])
    inside = changed > 0  # what windows of several sizes leave on one grid
    if maps.even is None:
        inside = lay_out(np.ones((*corners.shape[:2], maps.window**2)), corners, maps.grid)[1]
    return Check(
        name,
        expected,
        jensen_shannon(maps.extractor, changed),
        spearman(maps.extractor, changed),
        spearman_within(maps.extractor, changed, maps.inside & inside),
        entropy_bits(changed),
        (maps.corners == corners).all(-1).astype(np.float64),
        np.where(known, mass, np.nan),
        list(maps.table["cluster"]),
    )


def unrelated(maps: Maps, seed: int) -> Check:
    """The reference: each answer's map against that of a random answer about another scene."""
    other = strangers(maps.table["cluster"], seed, 20)
    return compare_maps(
        "the map of an unrelated answer", "how far apart unrelated maps are", maps, maps.extractor[other],
        maps.corners[other],
    )  # fmt: skip


def checks_by_model(
    method: Method, maps: Maps, pictures: Sequence[Image], seed: int, mirror: bool = True
) -> Iterator[Check]:
    """Checks that need the model: it is run anew on the same answers.

    Args:
        method: The model that gave the answers.
        maps: The answers' own maps.
        pictures: One an answer.
        seed: Seed of random weights and of who is swapped with whom.
        mirror: Also mirror picture and question, which needs questions that name places as the embedded world does.
    """
    questions = list(maps.table["question"])
    swap = np.roll(np.arange(len(questions)), 1)
    others, swapped = [questions[i] for i in swap], [pictures[int(i)] for i in swap]
    plans: list[tuple[str, str, Any, Sequence[Image], list[str]]] = [
        ("nothing changed", "stays: 0 bits", method, pictures, questions),
        ("another question, same picture", "moves", method, pictures, others),
        ("another picture, same question", "moves", method, swapped, questions),
        (
            "Extractor's heads shuffled",
            "keeps what the window gives",
            shuffled_heads(method, seed),
            pictures,
            questions,
        ),
        (
            "Extractor with random weights",
            "keeps what the window gives",
            randomised(method, seed, ["extractor."]),
            pictures,
            questions,
        ),
        ("whole model with random weights", "falls to chance", randomised(method, seed, [""]), pictures, questions),
    ]
    for name, expected, model, shown, asked in plans:
        yield compare_maps(name, expected, maps, *maps_of(model, shown, asked, maps.grid))
    if not mirror:
        return
    turned = [mirrored(*pair) for pair in zip(pictures, questions, strict=True)]
    changed, corners = maps_of(method, [one for one, _ in turned], [asked for _, asked in turned], maps.grid)
    yield compare_maps("picture and question mirrored: the map as it is", "moves", maps, changed, corners)
    back = mirrored_back(changed, corners, maps.window)
    yield compare_maps("picture and question mirrored: the map mirrored back", "stays near", maps, *back)


def steps_of_cascade(method: Method, maps: Maps, pictures: Sequence[Image], seed: int) -> Iterator[Check]:
    """Cascading randomisation: the maps while more and more of the Extractor is drawn anew, see `cascade`.

    Args:
        method: The model that gave the answers.
        maps: The answers' own maps.
        pictures: One an answer.
        seed: Seed of the random weights.
    """
    yield compare_maps("nothing", "", maps, maps.extractor, maps.corners)
    questions = list(maps.table["question"])
    for number, (label, model) in enumerate(cascade(method, seed)):
        found = maps_of(model, pictures, questions, maps.grid)
        yield compare_maps(label if number == 0 else f"+ {label}", "", maps, *found)


def sanity_table(checks: Sequence[Check]) -> Table:
    """All checks, one a row."""
    caption = "Sanity checks: how far the Extractor's maps move."
    columns = (Column("check", "What was changed"), Column("expected", "A sound map"), *_measures(checks))
    return Table("sanity", caption, columns, tuple(_row(check) for check in checks), _NOTE)


def cascade_table(checks: Sequence[Check]) -> Table:
    """The steps of the cascade, one a row."""
    caption = (
        "Cascading randomisation: the Extractor is drawn anew from its output to its input, a layer more each row."
    )
    columns = (Column("check", "Drawn anew"), *_measures(checks))
    note = (
        "A map that holds the model's weights leaves its own and spreads (entropy rises). Over all cells two maps with "
        "one window are alike whatever is in it: what is left of the Extractor's own choice is the correlation in both "
        "windows. The window is the decoder's choice; it moves because the Extractor feeds the decoder."
    )
    return Table("cascade", caption, columns, tuple(_row(check) for check in checks), note)


_columns = partial(with_interval, of="", head="95 % interval")
_MEASURES = (
    *_columns("divergence", "Distance from own map (bits)", 2, "Jensen-Shannon: 0 equal, 1 no shared cell"),
    *_columns("spearman", "Rank correlation", 2, "Spearman over all cells; cells outside the window tie"),
    *_columns("within", "In both windows", 2, "Spearman over the cells in both windows, where there are 4 or more"),
    *_columns("entropy", "Entropy (bits)", 2, "Of the changed map"),
    Column("window", "Same window", "percent", 1, "Share of steps whose window stayed where it was"),
    Column("mass", "On the things asked about", "percent", 1),
    Column("mass_interval", "95 % interval", "interval", 1),
    Column("n", "n", "count"),
)


def _measures(checks: Sequence[Check]) -> list[Column]:
    """The columns; without those on things where no question has a box of one."""
    boxed = any(np.isfinite(check.mass).any() for check in checks)
    return [column for column in _MEASURES if boxed or not column.key.startswith("mass")]


def _row(check: Check) -> dict[str, Any]:
    parts = {
        "divergence": check.divergence.mean(1),
        "spearman": _mean_known(check.spearman),
        "within": _mean_known(check.within),
        "entropy": check.entropy.mean(1),
        "window": 100 * check.same_window.mean(1),
        "mass": 100 * check.mass,
    }
    if not np.isfinite(check.mass).any():
        del parts["mass"]
    mean, low, high = ratio_of_sums(np.stack(list(parts.values()), 1), None, check.clusters)
    row: dict[str, Any] = {"check": check.name, "expected": check.expected, "n": len(check.mass)}
    for i, key in enumerate(parts):
        row |= {key: mean[i], f"{key}_interval": (low[i], high[i])}
    del row["window_interval"]
    return row


_NOTE = (
    "Means over steps, then over answers; intervals by bootstrap over scenes. Checks with fewer answers were run anew "
    "on a seeded sample of them. Random weights are those that training starts from, drawn anew. Heads shuffled: the "
    "queries of each head meet the keys of another. Mirrored: the picture left to right, and with it left and right "
    "and the columns' letters in the question, so that the same things are asked about."
)


def _mean_known(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(1)
    mean = np.divide(total, known.sum(1), out=np.full(len(values), np.nan), where=known.any(1))
    return np.asarray(mean, dtype=np.float64)
