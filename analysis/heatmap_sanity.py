"""Sanity checks of the maps (Adebayo 2018): what must change a map when it shows what the model is looking for.

A map that stays the same under another question, another picture or random weights says nothing about the question, the
picture or the model. The reference on the other side is the map of an unrelated answer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

from analysis.heatmap_data import Maps
from analysis.heatmap_numbers import jensen_shannon, lay_out, on_things, ratio_of_sums
from analysis.report.document import Column, Table

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.methods.base import Method

__all__ = ["Check", "checks_by_model", "compare_maps", "sanity_table", "unrelated"]

BATCH = 32


@dataclass(frozen=True)
class Check:
    """A manipulation and how far the maps moved under it.

    Attributes:
        name: What was done.
        expected: What a sound map does.
        divergence: Jensen-Shannon divergence from the answer's own map, bits, (n, K).
        spearman: Rank correlation with it over the grid's cells, (n, K).
        same_window: Whether the window stayed where it was, (n, K).
        mass: Share on the things of the question, (n,) mean over steps; missing without boxes.
        clusters: (n,) names.
    """

    name: str
    expected: str
    divergence: npt.NDArray[np.float64]
    spearman: npt.NDArray[np.float64]
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
    return Check(
        name,
        expected,
        jensen_shannon(maps.extractor, changed),
        _spearman(maps.extractor, changed),
        (maps.corners == corners).all(-1).astype(np.float64),
        np.where(known, mass, np.nan),
        list(maps.table["cluster"]),
    )


def _spearman(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rank correlation over cells, (N, K); cells outside a window tie at 0."""
    ranks = [scipy_stats.rankdata(one.reshape(*one.shape[:2], -1), axis=-1) for one in (first, second)]
    gaps = [rank - rank.mean(-1, keepdims=True) for rank in ranks]
    scale = np.sqrt((gaps[0] ** 2).sum(-1) * (gaps[1] ** 2).sum(-1))
    return np.asarray(
        np.divide((gaps[0] * gaps[1]).sum(-1), scale, out=np.full(scale.shape, np.nan), where=scale > 0),
        dtype=np.float64,
    )


def unrelated(maps: Maps, seed: int) -> Check:
    """The reference: each answer's map against that of a random answer about another scene."""
    rng = np.random.default_rng(seed)
    clusters = np.asarray(maps.table["cluster"], object)
    other = rng.permutation(len(clusters))
    for _ in range(20):
        clash = np.flatnonzero(clusters == clusters[other])
        if not clash.size:
            break
        other[clash] = rng.integers(0, len(clusters), clash.size)
    return compare_maps(
        "the map of an unrelated answer", "how far apart unrelated maps are", maps, maps.extractor[other],
        maps.corners[other],
    )  # fmt: skip


def checks_by_model(method: Method, maps: Maps, pictures: Sequence[Image], seed: int) -> Iterator[Check]:
    """Checks that need the model: it is run anew on the same answers.

    Args:
        method: The model that gave the answers.
        maps: The answers' own maps.
        pictures: One an answer.
        seed: Of random weights and of who is swapped with whom.
    """
    questions = list(maps.table["question"])
    swap = np.roll(np.arange(len(questions)), 1)
    others, strangers = [questions[i] for i in swap], [pictures[int(i)] for i in swap]
    plans: list[tuple[str, str, Any, Sequence[Image], list[str]]] = [
        ("nothing changed", "stays: 0 bits", method, pictures, questions),
        ("another question, same picture", "moves", method, pictures, others),
        ("another picture, same question", "moves", method, strangers, questions),
        (
            "Extractor with random weights",
            "keeps what the window gives",
            _randomised(method, seed, False),
            pictures,
            questions,
        ),
        ("whole model with random weights", "falls to chance", _randomised(method, seed, True), pictures, questions),
    ]
    for name, expected, model, shown, asked in plans:
        changed, corners = _maps_of(model, shown, asked, maps.grid)
        yield compare_maps(name, expected, maps, changed, corners)


def _maps_of(
    method: Method, pictures: Sequence[Image], questions: Sequence[str], grid: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    from lare.methods.base import Sampling

    attention, corners = [], []
    for start in range(0, len(questions), BATCH):
        part = slice(start, start + BATCH)
        for answer in method.answer(pictures[part], questions[part], Sampling(max_new_tokens=1), trace=True):
            attention.append(answer.arrays["cross_attention"])
            corners.append(answer.arrays["windows"])
    places = np.stack(corners).astype(np.int64)
    return lay_out(np.stack(attention), places, grid)[0], places


def _randomised(method: Method, seed: int, whole: bool) -> Method:
    """A copy whose Extractor, or everything, has the weights that training starts from, drawn anew."""
    import torch

    from lare.model import LareForConditionalGeneration

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = LareForConditionalGeneration(copy.deepcopy(method.model.config))
    fresh.to(method.model.device, method.model.dtype).eval()  # type: ignore[arg-type]
    if not whole:
        weights = dict(method.model.state_dict())
        weights |= {name: value for name, value in fresh.state_dict().items() if "extractor" in name}
        fresh.load_state_dict(weights)
    return type(method)(fresh, method.processor, iterations=method.iterations, window=method.window)


def sanity_table(checks: Sequence[Check], own_mass: npt.NDArray[np.float64], own: Sequence[object]) -> Table:
    """All checks, one a row; the first row is the answers' own maps.

    Args:
        checks: The manipulations.
        own_mass: Share of the answers' own maps on the things, (N,).
        own: Their clusters.
    """
    columns = (
        Column("check", "What was changed"),
        Column("expected", "A sound map"),
        Column("divergence", "Distance from own map (bits)", "number", 2, "Jensen-Shannon: 0 equal, 1 no shared cell"),
        Column("divergence_interval", "95 % interval", "interval", 2),
        Column("spearman", "Rank correlation", "number", 2, "Spearman over all cells; cells outside the window tie"),
        Column("spearman_interval", "95 % interval", "interval", 2),
        Column("window", "Same window", "percent", 1, "Share of steps whose window stayed where it was"),
        Column("mass", "On the things asked about", "percent", 1),
        Column("mass_interval", "95 % interval", "interval", 1),
        Column("n", "n", "count"),
    )
    mass, low, high = ratio_of_sums(100 * own_mass[:, None], None, own)
    rows = [
        {"check": "nothing: the traced answers", "expected": "–", "divergence": 0.0, "spearman": 1.0, "window": 100.0,
         "mass": mass[0], "mass_interval": (low[0], high[0]), "n": len(own)}
    ]  # fmt: skip
    for check in checks:
        values = np.stack(
            [
                np.nanmean(check.divergence, 1), _mean_known(check.spearman), 100 * check.same_window.mean(1),
                100 * check.mass,
            ],
            1,
        )  # fmt: skip
        mean, low, high = ratio_of_sums(values, None, check.clusters)
        rows.append(
            {
                "check": check.name, "expected": check.expected, "divergence": mean[0],
                "divergence_interval": (low[0], high[0]), "spearman": mean[1], "spearman_interval": (low[1], high[1]),
                "window": mean[2], "mass": mean[3], "mass_interval": (low[3], high[3]), "n": len(check.mass),
            }
        )  # fmt: skip
    return Table("sanity", "Sanity checks: how far the Extractor's maps move.", columns, tuple(rows), _NOTE)


_NOTE = (
    "Means over steps, then over answers; intervals by bootstrap over scenes. Checks with fewer answers were run anew "
    "on a seeded sample of them. Random weights are those that training starts from, drawn anew."
)


def _mean_known(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(1)
    mean = np.divide(total, known.sum(1), out=np.full(len(values), np.nan), where=known.any(1))
    return np.asarray(mean, dtype=np.float64)
