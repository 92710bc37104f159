"""The page that links every report in a folder: ``python -m analysis.shared.report.index [FOLDER]``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from analysis.shared.report.document import Document
from analysis.shared.report.render import asset, environment
from analysis.shared.report.thumbnail import thumbnail
from lare.commands import command
from lare.errors import LareError
from lare.files import write_whole

__all__ = ["main", "write_index"]

_NAME = "python -m analysis.shared.report.index"


def write_index(folder: Path) -> Path:
    """Write ``index.html`` over the reports in a folder: each HTML with its JSON beside it.

    Args:
        folder: Where the reports are.

    Returns:
        The page.

    Raises:
        LareError: If the folder is missing or can't be written.
    """
    if not folder.is_dir():
        raise LareError(f"{str(folder)!r} is no folder; run an analysis first, or name the folder of its reports")
    reports, damaged = [], []
    for path in sorted(folder.glob("*.json")):
        page = path.with_suffix(".html")
        if not _is_report(path):
            continue
        try:
            if not page.exists():
                raise LareError(f"{path.name} has no {page.name} beside it; render it with --from {path.name}")
            reports.append(_entry(Document.from_json(path.read_text(encoding="utf-8"), path.name), page))
        except (LareError, UnicodeDecodeError, OSError) as error:
            damaged.append(str(error))
    template = environment().get_template("index.html.j2")
    text = template.render(
        title="Reports",
        styles=asset("report.css"),
        reports=reports,
        damaged=damaged,
        stand_in=any(one["stand_in"] for one in reports),
    )
    target = folder / "index.html"
    write_whole(target, text + "\n", "give another --out")
    return target


def _is_report(path: Path) -> bool:
    """Whether a JSON file means to be a report; a damaged one does if it has a page beside it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return path.with_suffix(".html").exists()
    return isinstance(content, dict) and content.get("format") == "lare-report"


def _entry(document: Document, page: Path) -> dict[str, Any]:
    return {
        "link": quote(page.name),
        "title": document.title,
        "question": document.question,
        "answer": document.answer,
        "claim": document.claim,
        "thumbnail": thumbnail(document),
        "verdict": document.verdict,
        "warnings": len(document.warnings),
        "stand_in": document.stand_in,
        "time": document.reproduce.time,
        "size": f"{page.stat().st_size / 1e6:.2f} MB",
    }


@command(_NAME)
def main(arguments: Sequence[str] | None = None) -> None:
    """Write the index of a folder of reports and print where it is."""
    parser = argparse.ArgumentParser(
        prog=_NAME,
        description="Write index.html, which links every report in a folder.",
        epilog="example: python -m analysis.shared.report.index reports",
    )
    parser.add_argument("folder", nargs="?", default="reports", type=Path, help="of reports; default reports")
    print(write_index(parser.parse_args(arguments).folder))


if __name__ == "__main__":
    sys.exit(main())
