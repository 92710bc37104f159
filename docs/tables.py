"""Fill the marked blocks of README.md and docs/ with numbers from the committed files under reports/.

A block stands between two comments, ``<!-- table NAME -->`` and ``<!-- end -->``; ``text`` in place of ``table`` marks
a sentence or a part of one. Everything between them is written by the function of that name (dashes for underscores) in
`blocks/`, so no such number is typed by hand:

    make tables                    fill all blocks
    python docs/tables.py --check  exit code 1 if a block is not what its file says
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # `blocks` lies beside this file
from blocks import demo, photos, rivals, runs, steps, validation  # noqa: E402, F401 (each enters its blocks)
from blocks.source import BLOCKS, ROOT, Reports  # noqa: E402

__all__ = ["BLOCKS", "REPORTS", "ROOT", "fill", "main", "pages"]

REPORTS = ROOT / "reports"
_BLOCK = re.compile(r"(<!-- (?:table|text) ([a-z0-9-]+) -->)(.*?)(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """README.md and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def fill(text: str, where: str = "") -> str:
    """The page with its blocks written anew.

    Raises:
        SystemExit: If a block has no function in `BLOCKS`.
    """

    def write(found: re.Match[str]) -> str:
        start, name, old, end = found.groups()
        if name not in BLOCKS:
            sys.exit(f"{where}: nothing writes the block {name!r}; choose from {', '.join(sorted(BLOCKS))}")
        new = BLOCKS[name](Reports(REPORTS))
        return f"{start}\n{new}\n{end}" if "\n" in old.strip(" ") else f"{start}{new}{end}"

    return _BLOCK.sub(write, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the blocks; with --check only tell whether that would change a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if a block is out of date")
    options = parser.parse_args(arguments)
    stale = 0
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = fill(before, str(page.relative_to(ROOT)))
        if after == before:
            continue
        stale += 1
        print(page.relative_to(ROOT))
        if not options.check:
            page.write_text(after, encoding="utf-8")
    return int(options.check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
