"""What every analysis's command has in common: options, files, messages.

Computing and showing are apart. A command computes a `Document` and arrays, writes them as JSON, CSV and npz, and
renders the HTML from the JSON; ``--from`` renders it again from there, byte for byte the same, without a model.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.report.document import Document, Reproduce, Table
from lare.errors import LareError

__all__ = ["Computed", "reproduce", "run", "standard_parser", "table_text"]

Computed = tuple[Document, Mapping[str, npt.NDArray[Any]]]
"""What an analysis computes: its document, and the arrays behind it for those who want to go on."""

_LIBRARIES = ("lare", "numpy", "scipy", "statsmodels", "scikit-learn", "torch", "transformers")
_SEEDS = (0, 1, 2, 3, 4)


def standard_parser(name: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser with the options that all analyses share.

    Args:
        name: Of the analysis; its files are called so.
        description: What is measured and by which test.
        example: A command line to copy.
    """
    parser = argparse.ArgumentParser(
        prog=f"python analysis/{name}.py",
        description=description,
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--traces", nargs="+", type=Path, metavar="DIR", help="trace folders (default: the newest demo's)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(f"reports/{name}.html"), help="HTML file (default: %(default)s)"
    )
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="JSON", help="only render this file's document again"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=list(_SEEDS), metavar="N", help="seeds (default: 0 to 4)"
    )
    parser.add_argument("--now", metavar="TEXT", help="time to print instead of the clock's, for equal files")
    parser.set_defaults(analysis=name)
    return parser


def reproduce(options: argparse.Namespace, hashes: Mapping[str, str] | None = None) -> Reproduce:
    """How the report can be had again: command, commit, seeds, versions, time.

    Args:
        options: The parsed options.
        hashes: Fingerprints of models and data, by name.
    """
    words = getattr(options, "words", ())
    now = options.now if options.now is not None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return Reproduce(
        command=shlex.join(["python", f"analysis/{options.analysis}.py", *map(str, words)]),
        commit=_commit(),
        seeds=tuple(options.seeds),
        versions={"python": platform.python_version(), **_versions()},
        hashes=dict(hashes or {}),
        time=now,
    )


def _versions() -> dict[str, str]:
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    words = ["git", "-C", str(root), "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def run(
    parser: argparse.ArgumentParser,
    compute: Callable[[argparse.Namespace], Computed],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse, compute or read, write all files, print warnings, verdict and main table; returns the exit code.

    Args:
        parser: From `standard_parser`, with the analysis's own options added.
        compute: The analysis.
        arguments: Words of the command line; None takes the process's.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(words)
    options.words = words
    try:
        if options.source is not None:
            document, arrays = Document.from_json(_read(options.source), str(options.source)), {}
        else:
            document, arrays = compute(options)
        _write_all(document, arrays, options.out, data=options.source is None)
    except LareError as error:
        print(f"lare: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(_summary(document))
    print(f"report: {options.out}")
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LareError(f"{str(path)!r} can't be read ({error}); give the .json beside a report") from None


def _write_all(document: Document, arrays: Mapping[str, npt.NDArray[Any]], out: Path, data: bool) -> None:
    """The data files first, so that a report never stands there without its numbers."""
    from analysis.report.index import write_index
    from analysis.report.render import render

    text = document.to_json()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if data:
            _save(out.with_suffix(".json"), (text + "\n").encode())
            for number, table in enumerate(document.tables):
                name = f"{out.stem}.csv" if number == 0 else f"{out.stem}-{table.id}.csv"
                _save(out.with_name(name), _csv(table).encode())
            if arrays:
                buffer = io.BytesIO()
                np.savez_compressed(buffer, **dict(arrays))
                _save(out.with_suffix(".npz"), buffer.getvalue())
        # From the text, not the object: what is shown is what the JSON says.
        _save(out, render(Document.from_json(text, "the document")).encode())
        write_index(out.parent)
    except OSError as error:
        raise LareError(
            f"{str(out)!r} can't be written ({error.strerror}); free the disk or choose another --out"
        ) from None


def _save(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _csv(table: Table) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([column.key for column in table.columns])
    for row in table.rows:
        writer.writerow([_cell(row.get(column.key)) for column in table.columns])
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value, default=float)
    # A spreadsheet takes a text that begins so for a formula.
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value


def _summary(document: Document) -> str:
    lines = [f"warning: {warning}" for warning in document.warnings]
    lines += ["", document.verdict, ""]
    main = [table for table in document.tables if table.main] or list(document.tables[:1])
    for table in main[:1]:
        lines += [table.caption, table_text(table)]
    return "\n".join(lines)


def table_text(table: Table) -> str:
    """A table for the terminal."""
    from analysis.report.render import shown

    rows = [[column.label for column in table.columns]]
    rows += [[shown(row.get(column.key), column) for column in table.columns] for row in table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    left = [column.kind == "text" for column in table.columns]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if side else cell.rjust(width)
            for cell, width, side in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in rows
    )
