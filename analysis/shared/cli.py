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
from dataclasses import replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from analysis.shared.options import Options, parser_of
from analysis.shared.report.answers import Answer, answered
from analysis.shared.report.document import Document, Reproduce
from analysis.shared.report.index import write_index
from analysis.shared.report.render import render
from analysis.shared.report.values import csv_cells, plain_text
from lare.errors import LareError
from lare.files import write_whole
from lare.progress import quiet_libraries

__all__ = ["Computed", "REPORTS", "reproduce", "run"]

MEND = "give another --out"

OptionsT = TypeVar("OptionsT", bound=Options)

Computed = tuple[Document, Mapping[str, npt.NDArray[Any]]]
"""What an analysis computes: the report's content and the arrays that it was made from."""

REPORTS = Path("reports")
"""Where reports go unless ``--out`` says otherwise."""

LIBRARIES = ("numpy", "scipy", "statsmodels", "scikit-learn", "pandas", "matplotlib", "torch", "transformers", "lare")


def run(
    kind: type[OptionsT],
    compute: Callable[[OptionsT], Computed],
    description: str | None,
    arguments: Sequence[str] | None = None,
    answer: Callable[[Document], Answer] | None = None,
    beside: Callable[[Path], None] | None = None,
) -> int:
    """Run an analysis's command.

    Args:
        kind: Its options.
        compute: The analysis.
        description: Docstring of its module, whose second paragraph says what it does; the first where there is one.
        arguments: Command line; the process's own where left out.
        answer: Says the answer from a report's tables; for JSON that was written before reports had one.
        beside: Writes further files beside the report, whose path it is given.

    Returns:
        Exit status: 0, or 2 after a `LareError`, whose one message is printed.
    """
    if arguments is None:  # the process is this command's own
        quiet_libraries()
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(kind, description)
    parsed = parser.parse_args(given)
    try:
        out = _target(parsed, kind.name)
        if parsed.source:
            source = Path(parsed.source)
            document = Document.from_json(_read(source), repr(parsed.source))
            document = answered(document, answer) if answer else document
        else:
            options = replace(kind.of(parsed), command=shlex.join([*parser.prog.split(), *given]))
            document, arrays = compute(options)
            _write_data(document, arrays, out)
        write_whole(out, render(document), MEND)
        if beside is not None:
            beside(out)
        write_index(out.parent)
    except LareError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(_summary(document))
    print(out)
    return 0


def _parser(kind: type[Options], description: str | None) -> argparse.ArgumentParser:
    """The flags of the options, and those that say what becomes of the report."""
    parser = parser_of(kind, (description or "").split("\n\n")[:2][-1])
    parser.add_argument(
        "--out", metavar="PATH", help=f"the HTML file; default {REPORTS / kind.name}.html; JSON, CSV and npz beside it"
    )
    parser.add_argument("--from", dest="source", metavar="JSON", help="only render a report's JSON again")
    return parser


def reproduce(options: Options, hashes: Mapping[str, str] | None = None) -> Reproduce:
    """How to get this report again.

    Args:
        options: Options of the analysis.
        hashes: Fingerprints of models and data, by name.
    """
    now = options.now
    if now is None:
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        moment = datetime.fromtimestamp(int(epoch), timezone.utc) if epoch else datetime.now(timezone.utc)
        now = moment.strftime("%Y-%m-%d %H:%M UTC")
    return Reproduce(
        command=options.command or f"python -m analysis.{options.name}",
        commit=_commit(),
        seeds=options.seeds,
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


def _target(parsed: argparse.Namespace, name: str) -> Path:
    if parsed.out:
        out = Path(parsed.out)
        if out.suffix != ".html":
            raise LareError(f"--out is {parsed.out!r}; give a name that ends in .html, the other files go beside it")
        return out
    return Path(parsed.source).with_suffix(".html") if parsed.source else REPORTS / f"{name}.html"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LareError(f"{str(path)!r} can't be read ({error}); give the .json that an analysis wrote") from None


def _write_data(document: Document, arrays: Mapping[str, npt.NDArray[Any]], out: Path) -> None:
    """JSON, one CSV a table, npz."""
    write_whole(out.with_suffix(".json"), document.to_json() + "\n", MEND)
    for number, table in enumerate(document.tables):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(csv_cells(table))
        name = f"{out.stem}.csv" if number == 0 else f"{out.stem}.{table.id}.csv"
        write_whole(out.with_name(name), text.getvalue(), MEND)
    if arrays:
        packed = io.BytesIO()
        np.savez_compressed(packed, **{name: np.asarray(array) for name, array in arrays.items()})  # type: ignore[arg-type]
        write_whole(out.with_suffix(".npz"), packed.getvalue(), MEND)


def _summary(document: Document) -> str:
    parts = [f"warning: {one}" for one in document.warnings]
    parts += [document.title, f"{document.answer}." if document.answer else "", document.verdict]
    parts = [part for part in parts if part]
    parts += [plain_text(table) for table in document.tables[:1]]
    return "\n\n".join(parts) + "\n"
