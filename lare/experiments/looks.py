"""Keeps the test questions of a row from being asked twice, unless that is asked for; and tells a row's split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lare.embedded.world.benchmark import stand_in
from lare.errors import LareError
from lare.experiments.plan import Plan
from lare.experiments.store import Slot, read_row

__all__ = ["check_look", "split_of"]


def split_of(row: Mapping[str, Any]) -> str:
    """``validation`` or ``test``, by the tasks that a row has scores of; ``other`` for tasks that are no stand-ins.

    Args:
        row: With ``scores`` by task.
    """
    splits = {known.split if (known := stand_in(task)) else "other" for task in row["scores"]}
    return splits.pop() if len(splits) == 1 else "other"


def check_look(plan: Plan, slot: Slot, again: bool) -> list[Any]:
    """Refuse to ask a row's test questions a second time.

    Args:
        plan: The grid.
        slot: The row.
        again: Let it be done.

    Returns:
        Earlier times, each with ``time`` and ``weights``; of the validation split none.

    Raises:
        LareError: If it was asked them, by whatever weights, unless `again`.
    """
    earlier = read_row(slot.path(plan)) if slot.split == "test" else None
    if earlier is None:
        return []
    looks = list(earlier.get("asked") or [{"time": "unknown", "weights": str(earlier.get("fingerprint", "unknown"))}])
    if not again:
        raise LareError(
            f"the test questions were asked already ({slot.run.name}, {slot.ask}: {looks[-1]['time']}); choose on the "
            "validation split (leave --test out), or give --again, which is recorded"
        )
    return looks
