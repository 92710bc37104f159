"""Which split a row of a comparison was asked, and how often its test questions were: once, unless somebody insists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lare.embedded.world.benchmark import stand_in
from lare.errors import LareError

__all__ = ["check_looks", "earlier_looks", "split_of"]


def split_of(row: Mapping[str, Any]) -> str:
    """``validation`` or ``test``, by the tasks that a row has scores of; ``other`` for tasks that are no stand-ins.

    Args:
        row: With ``scores`` by task.
    """
    splits = {known.split if (known := stand_in(task)) else "other" for task in row["scores"]}
    return splits.pop() if len(splits) == 1 else "other"


def earlier_looks(rows: Sequence[Mapping[str, Any]], name: str, seed: int) -> list[dict[str, str]]:
    """When a row was asked test questions and by which weights, the first time first.

    Args:
        rows: Rows of earlier calls; those that don't say when count with the time ``unknown``.
        name: The row's name.
        seed: Its seed.
    """
    found: list[dict[str, str]] = []
    for row in rows:
        if (row["name"], row["seed"]) == (name, seed) and split_of(row) == "test":
            found += row.get("asked") or [{"time": "unknown", "weights": str(row.get("fingerprint", "unknown"))}]
    return found


def check_looks(rows: Sequence[Mapping[str, Any]], jobs: Sequence[tuple[str, int]], again: bool) -> None:
    """Refuse to ask test questions a second time.

    Args:
        rows: Rows of earlier calls.
        jobs: Name and seed of each row that is to be asked.
        again: Let it be done.

    Raises:
        LareError: If a row was asked them, unless `again`.
    """
    known = {job: looks for job in jobs if (looks := earlier_looks(rows, *job))}
    if known and not again:
        told = ", ".join(f"{name} seed {seed}: {looks[-1]['time']}" for (name, seed), looks in known.items())
        raise LareError(
            f"the test questions were asked already ({told}); choose on the validation split (leave --test out), or "
            "give --again, which is recorded"
        )
