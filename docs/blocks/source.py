"""What every block is made of: the committed files under reports/, and a Markdown table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["BLOCKS", "ROOT", "Block", "Reports", "block", "interval", "table"]

ROOT = Path(__file__).resolve().parents[2]


@cache
def _content(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Reports:
    """The folder that blocks are filled from."""

    folder: Path

    def read(self, name: str) -> Any:
        """One of its JSON files."""
        return _content(self.folder / name)

    def rows(self, report: str, table: str) -> list[dict[str, Any]]:
        """Rows of one table of a report."""
        tables = {one["id"]: one["rows"] for one in self.read(f"{report}.json")["tables"]}
        rows: list[dict[str, Any]] = tables[table]
        return rows


Block = Callable[[Reports], str]
BLOCKS: dict[str, Block] = {}
"""What writes each block, by the block's name."""


def block(function: Block) -> Block:
    """Enter a function under its own name, with dashes for underscores."""
    BLOCKS[function.__name__.strip("_").replace("_", "-")] = function
    return function


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; all columns after the first `left` are set to the right."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *rows])


def interval(low: float, high: float, digits: int = 1) -> str:
    """`[low, high]`."""
    return f"[{low:.{digits}f}, {high:.{digits}f}]"
