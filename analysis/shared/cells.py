"""Parts of tables, figures and samples that the reports make alike: ends of intervals, columns, curves, questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from analysis.shared.questions import Question
from analysis.shared.report.document import Column, Sample, Series, View
from analysis.shared.showing import picture
from analysis.shared.stats import Result, wilson

__all__ = ["OVER_SCENES", "cells", "ends", "interval", "only", "question_sample", "series", "share", "with_interval"]

OVER_SCENES = "cluster-robust over scenes"
"""How most intervals are made."""


def ends(low: float, high: float, scale: float = 1.0) -> list[float | None]:
    """An interval as a cell holds it; an end that does not exist is None."""
    return [scale * float(end) if np.isfinite(end) else None for end in (low, high)]


def interval(result: Result, scale: float = 1.0) -> list[float | None]:
    """A result's interval as a cell holds it."""
    return ends(result.low, result.high, scale)


def cells(key: str, result: Result, scale: float = 1.0) -> dict[str, Any]:
    """The cells of `with_interval`'s two columns."""
    return {key: scale * result.estimate, f"{key}_interval": interval(result, scale)}


def share(right: float, n: int) -> list[float | None]:
    """Wilson interval of a share, in percent, as a cell holds it."""
    return ends(*wilson(right, n), 100)


def with_interval(
    key: str, label: str, digits: int, help: str = "", of: str = OVER_SCENES, head: str = "95 %"  # noqa: A002
) -> tuple[Column, Column]:  # fmt: skip
    """A column of numbers and that of its intervals, ``KEY_interval``.

    Args:
        key: Key of the numbers in a row.
        label: Head of the numbers' column.
        digits: Digits after the point.
        help: Help of the numbers' column.
        of: Help of the intervals' column.
        head: Head of the intervals' column.
    """
    return Column(key, label, "number", digits, help), Column(f"{key}_interval", head, "interval", digits, of)


def only(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Rows with no more than a table's columns, where several tables are made of the same rows."""
    keys = {column.key for column in columns}
    return tuple({key: value for key, value in row.items() if key in keys} for row in rows)


class Estimated(Protocol):
    """An estimate with its interval."""

    @property
    def estimate(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def series(name: str, places: Sequence[str | float], results: Sequence[Estimated], scale: float = 1.0) -> Series:
    """A curve of estimates with their intervals."""
    both = [ends(one.low, one.high, scale) for one in results]
    return Series(
        name, tuple(places), tuple(scale * one.estimate for one in results),
        tuple(low for low, _ in both), tuple(high for _, high in both),
    )  # fmt: skip


def question_sample(
    row: int, one: Question, views: Sequence[View], chosen: str, facts: Sequence[str] = ("hops", "sort", "scene")
) -> Sample:
    """A question that was asked, for the viewer.

    Args:
        row: Its place, which names it.
        one: The question.
        views: How it was answered.
        chosen: Why it is shown.
        facts: What of it stands beside.
    """
    return Sample(
        f"s{row:04d}", one.task, one.text, one.target, tuple(views), picture(one.image),
        {name: getattr(one, name) for name in facts}, chosen,
    )  # fmt: skip
