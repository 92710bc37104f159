"""What the analyses' commands share: options, the files that are written, and how a report can be made again.

Computing and rendering are apart. An analysis computes a `Document` and arrays; this module writes them as JSON, CSV
and npz, and renders the HTML from the JSON, now or later (``--from``), with the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.shared.report.answers import Answer, answered
from analysis.shared.report.document import Document, Reproduce
from analysis.shared.report.files import write_atomically
from analysis.shared.report.index import write_index
from analysis.shared.report.render import render
from analysis.shared.report.values import csv_cells, plain_text
from lare.errors import LareError
from lare.progress import quiet_libraries

__all__ = ["Computed", "REPORTS", "reproduce", "run", "standard_parser"]

Computed = tuple[Document, Mapping[str, npt.NDArray[Any]]]
"""What an analysis computes: the report's content and the arrays behind it."""

REPORTS = Path("reports")
"""Where reports go unless ``--out`` says otherwise."""

LIBRARIES = ("numpy", "scipy", "statsmodels", "scikit-learn", "pandas", "matplotlib", "torch", "transformers", "lare")


def standard_parser(name: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser with the options that every analysis has.

    Args:
        name: Of the analysis; its files are called so.
        description: What it does, in a sentence or two.
        example: A command line that works.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m analysis.{name}",
        description=description,
        epilog=f"example: {example}",
    )
    parser.add_argument(
        "--traces", nargs="+", metavar="DIR", help="trace directories; the newest finished demo run where left out"
    )
    parser.add_argument(
        "--out", metavar="PATH", help=f"the HTML file; default {REPORTS / name}.html; JSON, CSV and npz beside it"
    )
    parser.add_argument("--from", dest="source", metavar="JSON", help="only render a report's JSON again")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="N", help="random seeds")
    parser.add_argument("--now", metavar="TEXT", help="stands as the time in the report, so that two runs are equal")
    parser.set_defaults(name=name)
    return parser


def run(
    parser: argparse.ArgumentParser,
    compute: Callable[[argparse.Namespace], Computed],
    arguments: Sequence[str] | None = None,
    answer: Callable[[Document], Answer] | None = None,
) -> int:
    """Run an analysis's command.

    Args:
        parser: From `standard_parser`, with the analysis's own options added.
        compute: The analysis.
        arguments: Command line; the process's own where left out.
        answer: Says the answer from a report's tables; for JSON of before reports had one.

    Returns:
        Exit status: 0, or 2 after a `LareError`, whose one message is printed.
    """
    if arguments is None:  # the process is this command's own
        quiet_libraries()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    options.command = shlex.join([*parser.prog.split(), *given])
    try:
        out = _target(options)
        if options.source:
            source = Path(options.source)
            document = Document.from_json(_read(source), repr(options.source))
            document = answered(document, answer) if answer else document
        else:
            document, arrays = compute(options)
            _write_data(document, arrays, out)
        write_atomically(out, render(document))
        write_index(out.parent)
    except LareError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(_summary(document))
    print(out)
    return 0


def reproduce(options: argparse.Namespace, hashes: Mapping[str, str] | None = None) -> Reproduce:
    """How to get this report again.

    Args:
        options: Of the running command.
        hashes: Fingerprints of models and data, by name.
    """
    now = getattr(options, "now", None)
    if now is None:
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        moment = datetime.fromtimestamp(int(epoch), timezone.utc) if epoch else datetime.now(timezone.utc)
        now = moment.strftime("%Y-%m-%d %H:%M UTC")
    return Reproduce(
        command=getattr(options, "command", "") or f"python -m analysis.{getattr(options, 'name', '')}",
        commit=_commit(),
        seeds=tuple(getattr(options, "seeds", ()) or ()),
        versions={"python": sys.version.split()[0], **_versions()},
        hashes=dict(hashes or {}),
        time=now,
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    """Commit of the code, if the code runs from its own repository."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # An installed copy may lie in someone else's repository, whose commit says nothing about this code.
    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return ""
    head = git("rev-parse", "--short=12", "HEAD") or ""
    return f"{head}-dirty" if head and git("status", "--porcelain", "--untracked-files=no") else head


def _target(options: argparse.Namespace) -> Path:
    if options.out:
        out = Path(options.out)
        if out.suffix != ".html":
            raise LareError(f"--out is {options.out!r}; give a name that ends in .html, the other files go beside it")
        return out
    return Path(options.source).with_suffix(".html") if options.source else REPORTS / f"{options.name}.html"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LareError(f"{str(path)!r} can't be read ({error}); give the .json that an analysis wrote") from None


def _write_data(document: Document, arrays: Mapping[str, npt.NDArray[Any]], out: Path) -> None:
    """JSON, one CSV a table, npz."""
    write_atomically(out.with_suffix(".json"), document.to_json() + "\n")
    for number, table in enumerate(document.tables):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(csv_cells(table))
        name = f"{out.stem}.csv" if number == 0 else f"{out.stem}.{table.id}.csv"
        write_atomically(out.with_name(name), text.getvalue())
    if arrays:
        packed = io.BytesIO()
        np.savez_compressed(packed, **{name: np.asarray(array) for name, array in arrays.items()})  # type: ignore[arg-type]
        write_atomically(out.with_suffix(".npz"), packed.getvalue())


def _summary(document: Document) -> str:
    parts = [f"warning: {one}" for one in document.warnings]
    parts += [document.title, f"{document.answer}." if document.answer else "", document.verdict]
    parts = [part for part in parts if part]
    parts += [plain_text(table) for table in document.tables[:1]]
    return "\n\n".join(parts) + "\n"
