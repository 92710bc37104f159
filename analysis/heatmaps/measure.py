"""What the heat maps are computed from: a thinking trace, the boxes of what each question needs, and the controls.

From Python::

    from analysis.heatmaps.measure import HeatmapsOptions, read_maps
    from analysis.heatmaps.page import compute

    read_maps("results/demo/RUN/traces/K4").extractor.shape  # (N, K, g, g)
    document, arrays = compute(HeatmapsOptions(traces=("results/demo/RUN/traces/K4",), sanity=False))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.heatmaps.numbers import cover, lay_out
from analysis.heatmaps.resampled import on_one_grid, resample
from analysis.shared.boxes import box_shares
from analysis.shared.options import Options, option
from analysis.shared.pictures import own_grids
from analysis.shared.questions import Question
from analysis.shared.traces import frame, open_traces, scores_beside
from lare.embedded.world.benchmark import stand_in
from lare.embedded.world.scene import IMAGE_SIZE
from lare.errors import LareError
from lare.trace import TraceReader

__all__ = ["HeatmapsOptions", "Maps", "boxes_of", "read_maps", "same_items", "with_questions"]

Boxes = list[tuple[float, float, float, float]]


@dataclass(frozen=True)
class HeatmapsOptions(Options):
    """Options of the heat maps.

    Attributes:
        traces: The thinking setting's traces, one directory; none takes the newest demo run's K4.
        samples: Answers shown one by one.
        sanity: Run the checks that need the model.
        checkpoint: For `sanity`; None for the one shipped with LaRe.
        sanity_questions: For `sanity`.
        include_path: Folder of further task files, for pictures and boxes of own tasks.
    """

    name = "heatmaps"
    example = "python -m analysis.heatmaps --traces results/demo/TIME/traces/K4"

    samples: int = option(120, "answers shown one by one", metavar="N")
    sanity: bool = option(True, "run the checks that need the model")
    checkpoint: str | None = option(None, "for --sanity; default: the one shipped with LaRe", metavar="PATH")
    sanity_questions: int = option(100, "for --sanity", metavar="N")
    include_path: str | None = option(None, "folder of further task files, for pictures and boxes of own tasks",
                                      metavar="DIR")  # fmt: skip

    def __post_init__(self) -> None:
        if len(self.traces) > 1:
            raise LareError("heat maps are drawn of one setting; give one directory with --traces")
        if self.sanity_questions < 2:
            raise LareError(f"--sanity-questions is {self.sanity_questions}; give at least 2, or --no-sanity")


@dataclass(frozen=True)
class Maps:
    """A setting's maps, one entry an answer.

    Attributes:
        table: What comes from `analysis.shared.traces.frame`.
        extractor: The Extractor's attention on the fine grid, (N, K, g, g); adds up to 1.
        inside: Where its windows are, (N, K, g, g).
        saliency: Attention of the decoder to its visual tokens before each step, on their own grid, (N, K, s, s); adds
            up to 1.
        corners: Windows' top rows and left columns, (N, K, 2).
        grid: Cells a side g.
        boxes: Boxes of the things that each question needs, in the order they are needed, as shares of the image.
        checkpoint: Fingerprint of the weights.
        even: Windows looked at evenly, (N, K, g, g), where pictures had grids of their own and were brought to one
            (`analysis.heatmaps.resampled`); None where the maps are as they were made.
        stretched: Whether pictures reached the encoder whole (`LareProcessor.stretches`).
    """

    table: pd.DataFrame
    extractor: npt.NDArray[np.float64]
    inside: npt.NDArray[np.bool_]
    saliency: npt.NDArray[np.float64]
    corners: npt.NDArray[np.int64]
    grid: int
    boxes: list[Boxes]
    checkpoint: str
    even: npt.NDArray[np.float64] | None = None
    stretched: bool = False

    @property
    def steps(self) -> int:
        """Latent steps K."""
        return int(self.extractor.shape[1])

    @property
    def window(self) -> int:
        """Cells a side of a window; of the mean one, where they differ."""
        inside = self.inside[0, 0].sum() if self.even is None else self.inside.sum((-2, -1)).mean()
        return int(round(float(inside) ** 0.5))

    @property
    def evenly(self) -> npt.NDArray[np.float64]:
        """Maps of windows that are looked at evenly, (N, K, g, g)."""
        return self.inside / self.window**2 if self.even is None else self.even

    def window_at(self, row: int, step: int) -> tuple[int, int, int, int]:
        """Top row, left column, rows and columns of a step's window, in cells."""
        inside = self.inside[row, step]
        top, left = (int(value) for value in self.corners[row, step])
        return top, left, int(inside.any(1).sum()), int(inside.any(0).sum())

    @property
    def hops(self) -> npt.NDArray[np.int64]:
        """Things that each question leads through, (N,); 0 where nothing says."""
        return np.array([int(value) if value is not None else 0 for value in self.table["hops"]], dtype=np.int64)

    def covered(self, thing: int | None = None) -> npt.NDArray[np.float64]:
        """`cover` of every answer, (N, g, g): of all its things, or of its thing number `thing` alone."""
        chosen = self.boxes if thing is None else [boxes[thing : thing + 1] for boxes in self.boxes]
        return np.stack([cover(boxes, self.grid) for boxes in chosen])

    def take(self, rows: npt.NDArray[np.int64]) -> Maps:
        """The maps of some rows, in their order."""
        return Maps(
            self.table.iloc[rows].reset_index(drop=True),
            self.extractor[rows],
            self.inside[rows],
            self.saliency[rows],
            self.corners[rows],
            self.grid,
            [self.boxes[row] for row in rows],
            self.checkpoint,
            None if self.even is None else self.even[rows],
            self.stretched,
        )


def read_maps(path: str | Path) -> Maps:
    """Read a setting's traces; grids of several sizes are brought to the model's usual one.

    Raises:
        LareError: If they are damaged (see `open_traces`), of a run without latent steps, or say nothing of their grid.
    """
    reader = open_traces([path])
    table = frame(reader, scores_beside([path]))
    facts = _configuration(reader, path)
    attention, corners = reader.column("cross_attention"), reader.column("windows")
    steps = sorted({shape[0] for shape in attention.shapes})
    if steps[0] == 0 or len(steps) > 1:
        counts = ", ".join(str(step) for step in steps)
        raise LareError(
            f"the answers of {str(path)!r} have {counts} latent steps; give traces of a fixed number of steps above 0"
        )
    places, grid, even = np.asarray(corners.stack(), np.int64), int(facts["grid"]), None
    if own_grids(reader):
        column = reader.column("saliency")
        shapes = [(int(shape[1]), int(shape[2])) for shape in column.shapes]
        found = on_one_grid(np.asarray(attention.stack(), np.float64), places, shapes, grid)
        extractor, inside, places, even = found.extractor, found.inside, found.corners, found.even
        saliency = np.stack([resample(np.asarray(column[row], np.float64), grid) for row in range(len(shapes))])
    else:
        extractor, inside = lay_out(attention.stack(), places, grid)
        saliency = np.asarray(reader.column("saliency").stack(), np.float64)
    total = saliency.sum((-2, -1), keepdims=True)
    saliency = np.divide(saliency, total, out=np.zeros_like(saliency), where=total > 0)
    # A vision-language model scales pictures by itself, so boxes are in pixels of the picture that was drawn.
    size = float(IMAGE_SIZE if facts.get("backbone_config") else facts["image_size"])
    boxes = [boxes_of(value, size, path) for value in table["boxes"]]
    checkpoint = str(table["checkpoint"].iloc[0])
    stretched = bool(reader.infos[0].get("stretches", False))
    return Maps(table, extractor, inside, saliency, places, grid, boxes, checkpoint, even, stretched)


def _configuration(reader: TraceReader, path: str | Path) -> dict[str, Any]:
    facts = dict(reader.infos[0].get("config", {}))
    if not all(isinstance(facts.get(name), int) for name in ("grid", "image_size")):
        raise LareError(f"the traces {str(path)!r} do not say the model's grid; evaluate again with trace=")
    return facts


def boxes_of(value: Any, size: float, path: str | Path) -> Boxes:
    """Boxes as shares of the image, from the trace's JSON text in pixels; none where a question has none.

    Raises:
        LareError: If the text is no list of boxes.
    """
    return [(a, b, c, d) for a, b, c, d in box_shares(value, (size, size), f"the traces {str(path)!r}")]


def with_questions(maps: Maps, questions: Mapping[tuple[str, int], Question]) -> Maps:
    """Boxes as the tasks' rows have them, where a task of lmms-eval has any, in shares of its own picture.

    Traces know the side of the encoder's picture alone, which is right for pictures of that side. A picture that is not
    square may reach the encoder cut, so its boxes are left out, unless the trace says that pictures were stretched, or
    they have grids of their own.
    """
    boxes = list(maps.boxes)
    for row, key in enumerate(zip(maps.table["task"], maps.table["doc_id"], strict=True)):
        one = questions.get((str(key[0]), int(key[1])))
        if stand_in(str(key[0])) is None:
            kept = maps.stretched or maps.even is not None
            whole = one is not None and (kept or one.image.width == one.image.height)
            boxes[row] = [(a, b, c, d) for a, b, c, d in one.boxes] if one is not None and whole else []
    return replace(maps, boxes=boxes)


def same_items(maps: Maps, other: Maps, name: str) -> Maps:
    """`other` in the order of `maps`.

    Raises:
        LareError: If the two answer different questions or come from different weights.
    """
    if maps.checkpoint != other.checkpoint or maps.grid != other.grid:
        raise LareError(
            f"the traces {name!r} are of other weights ({other.checkpoint}) than the thinking ones "
            f"({maps.checkpoint}); evaluate both settings with one checkpoint"
        )
    ours, theirs = (list(zip(one.table["task"], one.table["doc_id"], strict=True)) for one in (maps, other))
    places = {key: row for row, key in enumerate(theirs)}
    lacking = [key for key in ours if key not in places] + [key for key in theirs if key not in set(ours)]
    if lacking:
        shown = ", ".join(f"{task} {doc}" for task, doc in lacking[:8])
        raise LareError(f"{name!r} and the thinking traces answer different questions ({len(lacking)}: {shown})")
    return other.take(np.array([places[key] for key in ours]))
