"""``lare trace export``: traces for programs other than LaRe."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lare.errors import LareError

__all__ = ["main"]

_EPILOG = """examples:
  lare trace export traces/run --out run.parquet
  lare trace export traces/a traces/b --out both.parquet --columns task,doc_id,answer,windows
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lare trace", description="Read traces that an evaluation wrote.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    export = commands.add_parser(
        "export",
        help="write traces as one Parquet file",
        description="Write traces as one Parquet file: one row an answer, arrays as lists (see lare.trace.parquet).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument("directories", nargs="+", metavar="DIR", help="trace directory of an evaluation (trace=DIR)")
    export.add_argument("--out", type=Path, required=True, metavar="FILE.parquet", help="the file to write")
    export.add_argument("--columns", default="", metavar="A,B", help="only these columns; default: all")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lare trace`` and return the exit code."""
    from lare.trace import TraceReader
    from lare.trace.parquet import export

    options = _parser().parse_args(arguments)
    if not options.out.absolute().parent.is_dir():
        raise LareError(f"the folder of --out {str(options.out)!r} doesn't exist; make it first")
    columns = [name for name in options.columns.split(",") if name]
    written = export(TraceReader(*options.directories), options.out, columns)
    print(f"{written:,} answers, {options.out.stat().st_size / 1e6:.1f} MB: {options.out}")
    return 0
