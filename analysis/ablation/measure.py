"""Numbers of the ablations: rows over seeds, each against the reference.

From Python::

    from analysis.ablation.measure import AblationOptions, measure

    found = measure(AblationOptions(rows=("reports/refocus/rows.json",)))
    {name: gap.estimate for name, gap in found.gaps.items()}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.ablation.curves import Curve, curves
from analysis.ablation.rows import Difference, Row, compare, merge, read_rows
from analysis.shared.options import Options, option
from analysis.shared.tasks import Apart, find_apart
from lare.errors import LareError

__all__ = ["AblationOptions", "Measured", "differences", "measure", "moves_by_row"]

DEFAULT = "reports/refocus/rows.json"


@dataclass(frozen=True)
class AblationOptions(Options):
    """Options of the ablations.

    Attributes:
        rows: Folders of experiments, or JSON files of rows.
        split: Split whose rows are read from a folder: validation or test.
        reference: Name of the row that others are compared with; None for the first.
    """

    name = "ablation"
    example = "python analysis/ablation.py --rows reports/refocus/rows.json"

    seeds: tuple[int, ...] = option((0,), "random seeds; the first draws the bootstrap", metavar="N")
    rows: tuple[str, ...] = option((DEFAULT,), "folders of experiments, or JSON files of rows", metavar="PLACE")
    split: str = option("validation", "of a folder's rows", choices=("validation", "test"))
    reference: str | None = option(None, "row that others are compared with (default: the first)", metavar="ROW")

    def __post_init__(self) -> None:
        if self.traces:
            raise LareError("ablation reads rows.json and no traces; leave --traces out and give --rows")


@dataclass(frozen=True)
class Measured:
    """Rows and what they differ by.

    Attributes:
        content: What the files hold.
        rows: The rows by name.
        reference: Name of the row that others are compared with.
        found: Each other row against it, over all tasks.
        sweeps: Rows that stand in an order.
        apart: Tasks apart.
        kept: The rows over the tasks that remain.
        gaps: Each against the reference, over the tasks that remain.
    """

    content: list[dict[str, Any]]
    rows: dict[str, Row]
    reference: str
    found: dict[str, Difference]
    sweeps: list[Curve]
    apart: Apart
    kept: dict[str, Row]
    gaps: dict[str, Difference]


def measure(options: AblationOptions) -> Measured:
    """Aggregate rows over seeds and compare them with the reference.

    Raises:
        LareError: If a file can't be read, a row is damaged or there twice, the reference is missing, or rows were
            asked different questions.
    """
    content = read_rows(options.rows, options.split)
    rows = merge(content)
    reference = next(iter(rows)) if options.reference is None else options.reference
    if reference not in rows:
        raise LareError(f"there is no row {reference!r}; --reference takes one of {', '.join(rows)}")
    seed = options.seeds[0]
    found, sweeps = differences(rows, reference, seed), list(curves(rows))
    apart = moves_by_row(rows, reference, sweeps)
    kept = {name: row.of(apart.kept) for name, row in rows.items()} if apart.aside else rows
    gaps = differences(kept, reference, seed) if apart.aside else found
    return Measured(content, rows, reference, found, sweeps, apart, kept, gaps)


def moves_by_row(rows: Mapping[str, Row], reference: str, sweeps: Sequence[Curve]) -> Apart:
    """Which tasks move against the rest from the reference to a row, or back and forth along a curve of rows.

    A question's value is its mean over a row's seeds.
    """
    first = rows[reference]
    tasks = [task for task, table in zip(first.tasks, first.tables, strict=True) for _ in range(table.shape[1])]
    scenes = [scene for each in first.scenes for scene in each]
    values = {name: np.concatenate([table.mean(0) for table in row.tables]) for name, row in rows.items()}
    for sweep in sweeps:
        names = [name for _, name in sweep.rows]
        found = find_apart(np.stack([values[name] for name in names], 1), tasks, scenes, names)
        if found.aside or found.contested:
            return found
    order = [reference, *(name for name in rows if name != reference)]
    if len(order) == 1:
        return Apart((), ())
    columns = np.stack([values[name] for name in order], 1)
    return find_apart(columns, tasks, scenes, order, [(0, place) for place in range(1, len(order))])


def differences(rows: Mapping[str, Row], reference: str, seed: int = 0) -> dict[str, Difference]:
    """Every other row against the reference, where they have seeds in common."""
    found = {name: compare(row, rows[reference], seed) for name, row in rows.items() if name != reference}
    return {name: one for name, one in found.items() if one is not None}
