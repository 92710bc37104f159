"""What a sample's viewer shows of a trace: the question's picture, and where each latent step looked.

A trace does not keep pictures; those of the mini tasks are drawn again.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from analysis.shared.report.document import Picture, Step, View
from analysis.shared.showing import picture
from lare.embedded.world.benchmark import SIZES_BY_TASK, make_task, stand_in
from lare.trace import TraceReader

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

__all__ = ["Looks", "mini_images", "mini_pictures", "own_grids", "paired_views"]


def mini_images(wanted: Iterable[tuple[str, int, str | None]], any_scene: bool = False) -> dict[tuple[str, int], Image]:
    """Pictures of the mini tasks' questions, the very ones that were asked about; none for questions of other tasks.

    Args:
        wanted: Task, question number, and the scene that the trace names; a picture of another scene is left out (the
            trace is then of another version of the task).
        any_scene: Don't look at scenes.

    Returns:
        Task and question number to picture.
    """
    scenes = {(task, doc): scene for task, doc, scene in wanted if stand_in(task)}
    found = {}
    for task in sorted({task for task, _ in scenes}):
        known = stand_in(task)
        assert known is not None
        # A task's first rows are the same however many are made; pairs need an even number.
        last = max(doc for asked, doc in scenes if asked == task)
        count = min(last + 1 + (last + 1) % 2, SIZES_BY_TASK[known.name])
        rows = make_task(known.name, known.split, count, version=known.version)
        for doc, row in enumerate(rows):
            if (task, doc) in scenes and (any_scene or scenes[task, doc] == row["scene"]):
                found[task, doc] = row["image"]
    return found


def mini_pictures(wanted: Iterable[tuple[str, int, str | None]]) -> Mapping[tuple[str, int], Picture]:
    """The same as reports hold them."""
    return {
        (task, doc): picture(image, f"The picture of question {doc} of {task}")
        for (task, doc), image in mini_images(wanted).items()
    }


def paired_views(
    item: pd.Series, names: Sequence[str], looks: Sequence[Looks], rights: Sequence[bool | None],
    facts: Sequence[Mapping[str, Any]],
) -> tuple[View, ...]:  # fmt: skip
    """What two settings answered to an item that `analysis.shared.traces.pair` has put side by side.

    Args:
        item: Its row, with columns ``_a`` and ``_b``.
        names: Names of A and B.
        looks: Where their steps looked.
        rights: Whether each is right.
        facts: What stands beside each.
    """
    made = []
    for mark, name, look, right, known in zip("ab", names, looks, rights, facts, strict=True):
        steps, grid = look.steps(int(item[f"row_{mark}"])) if f"row_{mark}" in item else ((), 0)
        made.append(View(name, str(item[f"answer_{mark}"]), right, str(item[f"text_{mark}"]), steps, grid, known))
    return tuple(made)


def own_grids(reader: TraceReader) -> bool:
    """Whether the pictures of a trace have grids of their own sizes, as vision-language models give them."""
    config = reader.infos[0].get("config", {}) if reader.infos else {}
    if not config.get("backbone_config"):
        return False
    side = config.get("grid")
    return any(tuple(shape[1:]) != (side, side) for shape in reader.column("saliency").shapes if shape[0])


class Looks:
    """Where each latent step of an answer looked: the Extractor's attention over its window of the fine grid.

    Args:
        reader: The trace; None for a log without one.
    """

    def __init__(self, reader: TraceReader | None) -> None:
        self._grid = 0
        if reader is not None and reader.infos:
            self._grid = 0 if own_grids(reader) else int(reader.infos[0].get("config", {}).get("grid", 0))
            self._windows, self._shares = reader.column("windows"), reader.column("cross_attention")

    def steps(self, row: int) -> tuple[tuple[Step, ...], int]:
        """Steps of an answer, and the side g of their maps.

        None and 0 for an answer without latent steps, or a trace that does not say its grid.

        Args:
            row: The answer's place in the trace.
        """
        if not self._grid:
            return (), 0
        windows, shares = self._windows[row], self._shares[row].astype(np.float64)
        side = math.isqrt(shares.shape[1]) if shares.size else 0
        if not side or side * side != shares.shape[1] or len(windows) != len(shares):
            return (), 0
        places = enumerate(zip(windows.tolist(), shares, strict=True), start=1)
        scale = float(shares.max())
        return tuple(
            self._step(f"step {place} of {len(shares)}", top, left, share.reshape(side, side), scale)
            for place, ((top, left), share) in places
        ), self._grid

    def _step(self, label: str, top: int, left: int, share: npt.NDArray[np.float64], scale: float) -> Step:
        """One step; every step of an answer is drawn on one scale."""
        side, grid = len(share), self._grid
        whole, inside = np.zeros((grid, grid)), np.zeros((grid, grid))
        whole[top : top + side, left : left + side] = share
        inside[top : top + side, left : left + side] = 1
        even = share[share > 0] / share.sum()
        return Step(
            label=label,
            map=_packed(np.round(255 * whole / scale)),
            scale=scale,
            inside=_packed(inside),
            window=(top, left, side, side),
            numbers={"entropy (bits)": round(float(-(even * np.log2(even)).sum()), 3)},
        )


def _packed(values: npt.NDArray[Any]) -> str:
    return base64.b64encode(values.astype(np.uint8).tobytes()).decode("ascii")
