"""The answers that the heat maps' report shows one by one: picture, map, window, text and numbers by step."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.heatmaps.measure import Maps
from analysis.shared.report.document import Sample, Step, View
from analysis.shared.showing import picture

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["TEXT_RULE", "by_step", "choose", "samples_of"]

TEXT_RULE = (
    "Text by step: a sentence that names a place (a letter for the column, a number for the row, on a 4 x 4 division "
    "of the picture) belongs to the step whose map has the largest share on that place; the share stands after it. A "
    "sentence that names no place, or a place on which no map has anything, belongs to the step of the sentence before "
    "it (the first step, if there is none); the final answer belongs to the last step."
)

_PLACE = re.compile(r"\b([a-d])([1-4])\b")
_SIDE = 4  # places a side in the embedded world's rationales


def choose(
    table: pd.DataFrame, other: pd.DataFrame | None, most: int, seed: int
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Which answers to show: those that one setting alone got right first, then others at random.

    Args:
        table: The thinking answers.
        other: Those without thinking, in the same order; None for none.
        most: How many at most; two thirds of them go to the first kind.
        seed: Seed of both draws.

    Returns:
        Their rows, and why each is shown.
    """
    rng = np.random.default_rng(seed)
    differs = np.zeros(len(table), bool)
    if other is not None:
        right = [np.array([value is True for value in one["right"]]) for one in (table, other)]
        differs = right[0] != right[1]
    first = rng.permutation(np.flatnonzero(differs))[: round(most * 2 / 3)]
    rest = rng.permutation(np.setdiff1d(np.arange(len(table)), first))[: max(0, most - len(first))]
    return np.concatenate([first, rest]).astype(np.int64), ["discordant"] * len(first) + ["random"] * len(rest)


def by_step(text: str, maps: npt.NDArray[np.float64]) -> list[str]:
    """Sentences of a text by step, see `TEXT_RULE`.

    Args:
        text: What was written.
        maps: (K, g, g), adding up to 1 each.
    """
    lines: list[list[str]] = [[] for _ in maps]
    step = 0
    for sentence in (part.strip() for part in re.split(r"(?<=[.?!])\s+", text)):
        if not sentence:
            continue
        share = None
        if sentence.startswith("Answer:"):
            step = len(lines) - 1
        elif (shares := _shares_on_place(sentence, maps)) is not None and shares.max() > 0:
            step = int(shares.argmax())
            share = float(shares[step])
        lines[step].append(sentence if share is None else f"{sentence} ({100 * share:.0f} % on the place)")
    return [" ".join(parts) for parts in lines]


def _shares_on_place(sentence: str, maps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    found = _PLACE.search(sentence)
    if found is None or maps.shape[-1] % _SIDE:
        return None
    size = maps.shape[-1] // _SIDE
    left, top = "abcd".index(found[1]) * size, (int(found[2]) - 1) * size
    return np.asarray(maps[:, top : top + size, left : left + size].sum((-2, -1)))


def samples_of(
    maps: Maps,
    numbers: Mapping[str, npt.NDArray[np.float64]],
    other: pd.DataFrame | None,
    chosen: tuple[npt.NDArray[np.int64], list[str]],
    pictures: Mapping[tuple[str, int], Image],
) -> tuple[Sample, ...]:
    """Samples for the report.

    Args:
        maps: The thinking answers.
        numbers: (N, K) each, by the name that stands beside a picture.
        other: The answers without thinking, in the same order.
        chosen: Rows and reasons from `choose`.
        pictures: Pictures by task and question number; an answer without one is shown without.
    """
    made = []
    for number, (row, why) in enumerate(zip(*chosen, strict=True)):
        facts = maps.table.iloc[row]
        image = pictures.get((str(facts["task"]), int(facts["doc_id"])))
        views = [
            _view(f"K = {maps.steps}", facts, _extractor_steps(maps, row, numbers, str(facts["text"])), maps.grid),
            View(
                "where to look", "(attention before each step, which chooses the window)", None, "",
                _saliency_steps(maps, row), maps.grid,
            ),
        ]  # fmt: skip
        if other is not None:
            views.append(_view("K = 0", other.iloc[row], (), 0))
        made.append(
            Sample(
                id=f"s{number:04d}",
                task=str(facts["task"]),
                question=str(facts["question"]),
                target=str(facts["target"] or ""),
                views=tuple(views),
                picture=None if image is None else picture(image),
                facts={"hops": facts["hops"], "sort": facts["sort"], "number": int(facts["doc_id"])},
                chosen=why,
            )
        )
    return tuple(made)


def _view(name: str, facts: pd.Series, steps: tuple[Step, ...], grid: int) -> View:
    counts = {"text tokens": int(facts["output_tokens"]), "latent steps": int(facts["latent_steps"])}
    right = facts["right"] if isinstance(facts["right"], bool) else None
    return View(name, str(facts["answer"]), right, str(facts["text"]), steps, grid, counts)


def _extractor_steps(
    maps: Maps, row: int, numbers: Mapping[str, npt.NDArray[np.float64]], text: str
) -> tuple[Step, ...]:
    words = by_step(text, maps.extractor[row])
    return tuple(
        Step(
            label=f"step {k + 1} of {maps.steps}",
            inside=_packed(maps.inside[row, k].astype(np.uint8)),
            window=maps.window_at(row, k),
            boxes=tuple(maps.boxes[row]),
            text=words[k],
            numbers={name: _rounded(values[row, k]) for name, values in numbers.items()},
            **_scaled(maps.extractor[row, k]),
        )
        for k in range(maps.steps)
    )


def _saliency_steps(maps: Maps, row: int) -> tuple[Step, ...]:
    factor = maps.grid // maps.saliency.shape[-1]
    steps = []
    for k in range(maps.steps):
        coarse = maps.saliency[row, k]
        fine = np.repeat(np.repeat(coarse, factor, 0), factor, 1)  # a coarse cell's value on each fine cell it covers
        window = maps.window_at(row, k)
        in_window = float((fine * maps.inside[row, k]).sum() / fine.sum()) if fine.sum() else float("nan")
        numbers = {
            "of it in the window (%)": _rounded(100 * in_window),
            "strongest cell (%)": _rounded(100 * coarse.max()),
        }
        steps.append(
            Step(
                label=f"step {k + 1} of {maps.steps}", window=window, boxes=tuple(maps.boxes[row]), numbers=numbers,
                **_scaled(fine),
            )
        )  # fmt: skip
    return tuple(steps)


def _scaled(values: npt.NDArray[np.float64]) -> dict[str, Any]:
    peak = float(values.max())
    return {"map": _packed(np.rint(255 * values / (peak or 1.0)).astype(np.uint8)), "scale": round(peak, 5)}


def _packed(values: npt.NDArray[np.uint8]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def _rounded(value: float) -> float | None:
    return round(float(value), 3) if np.isfinite(value) else None
