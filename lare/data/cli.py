"""``lare data check FILE``, ``lare data questions FILE`` and ``lare data decontaminate FILE``."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lare.commands import command_parser
from lare.data.blind_cli import add_questions
from lare.data.source import FORMATS, IMAGE_CHECKS, ON_BAD, Report, Source
from lare.errors import LareError
from lare.files import write_whole
from lare.progress import progress

__all__ = ["main"]

_EPILOG = """examples:
  lare data check llava_v1_5_mix665k.json --images llava_images --check-images decode
  lare data check vision_r1_llava_cot_full.json --format vision_r1 --list bad_rows.jsonl
  lare data questions FOLDER/animals.jsonl --show 1
  lare data decontaminate vision_r1_llava_cot_full.json --exclude scienceqa_train.parquet \\
      --against mmbench_test.parquet --against pope_images --embedder openai/clip-vit-large-patch14 --out clean.jsonl
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lare data`` and return the exit code."""
    parser = command_parser("lare data", "Check training data before it is trained on.", _EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_check(commands.add_parser("check", help="read a file, count and list its bad rows", epilog=_EPILOG))
    add_questions(commands.add_parser("questions", help="what is asked, and what can be answered blind"))
    _add_decontaminate(
        commands.add_parser("decontaminate", help="leave out rows that a test set knows", epilog=_EPILOG)
    )
    options = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.run
    return command(options)


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", type=Path, metavar="FILE", help="JSON, JSON Lines or Parquet")
    parser.add_argument("--format", default="auto", choices=("auto", *FORMATS), help="default: told by its rows")
    parser.add_argument("--images", type=Path, help="folder or zip archive of the images; default: the file's folder")


def _add_check(parser: argparse.ArgumentParser) -> None:
    _add_file(parser)
    parser.add_argument(
        "--check-images", default="exist", choices=IMAGE_CHECKS, help="how far images are looked at (%(default)s)"
    )
    parser.add_argument("--on-bad", default="skip", choices=ON_BAD, help="go on, or stop at the first (%(default)s)")
    parser.add_argument("--list", type=Path, metavar="OUT", help="write every bad row's place and reason as JSON Lines")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    """Exit code 0 without a bad row, 1 with one."""
    source = Source(options.file, options.format, options.images, options.on_bad, options.check_images)
    report = Report()
    size = options.file.stat().st_size if options.file.is_file() else 0
    with progress(total=size, unit="B", unit_scale=True, desc="reading", leave=False) as bar:
        for _ in source.samples(report, bar.update):
            pass
    if options.list is not None:
        _write_list(options.list, report.problems)
    print(_as_json(report) if options.json else describe(report))
    return int(report.bad > 0)


def _add_decontaminate(parser: argparse.ArgumentParser) -> None:
    from lare.data.decontaminate import SMALL_THRESHOLD, THRESHOLD
    from lare.data.embedding import EFFICIENTNET

    _add_file(parser)
    parser.add_argument(
        "--exclude", type=Path, action="append", default=[], help="file whose questions and answers are excluded"
    )
    parser.add_argument(
        "--against", type=Path, action="append", default=[], help="test set: a folder of images, or a file with images"
    )
    parser.add_argument("--embedder", default=EFFICIENTNET, help="CLIP folder or hub id, or the default (%(default)s)")
    parser.add_argument(
        "--threshold", type=float, help=f"least cosine that removes ({THRESHOLD}; {SMALL_THRESHOLD} for {EFFICIENTNET})"
    )
    parser.add_argument("--out", type=Path, required=True, help="the clean file: .jsonl, or .parquet for Parquet")
    parser.add_argument(
        "--removed", type=Path, metavar="OUT", help="list of removed rows; default: beside the clean file"
    )
    parser.set_defaults(run=_decontaminate)


def _decontaminate(options: argparse.Namespace) -> int:
    from lare.data.decontaminate import (
        SMALL_THRESHOLD,
        THRESHOLD,
        copy_rows,
        decontaminate,
        images_of,
        qa_keys,
    )
    from lare.data.embedding import EFFICIENTNET, load_embedder

    if not options.exclude and not options.against:
        raise LareError("there is nothing to compare with; name a set with --exclude or --against")
    source = Source(options.file, options.format, options.images)
    excluded = {key: path.name for path in options.exclude for key in qa_keys(path)}
    tests = [images_of(path) for path in options.against]
    embedder = load_embedder(options.embedder) if tests else None
    usual = SMALL_THRESHOLD if options.embedder == EFFICIENTNET else THRESHOLD
    threshold = usual if options.threshold is None else options.threshold
    size = options.file.stat().st_size if options.file.is_file() else 0
    with progress(total=size, unit="B", unit_scale=True, desc="comparing", leave=False) as bar:
        result = decontaminate(source, excluded, tests, embedder, threshold, bar.update)
    copy_rows(options.file, set(result.rows), options.out)
    left_out = [*result.removed, *result.report.problems, *result.unreadable]
    _write_list(options.removed or options.out.with_suffix(".removed.jsonl"), left_out)
    counts = Counter(removed.reason for removed in result.removed)
    print(f"{result.report.rows:,} rows; {len(result.rows):,} stay in {str(options.out)!r}")
    print(
        f"left out: {counts['exact']:,} by their text, {counts['image']:,} by their image, "
        f"{result.report.bad + len(result.unreadable):,} bad rows"
    )
    return 0


def _write_list(path: Path, rows: Sequence[Any]) -> None:
    lines = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
    write_whole(path, lines, "name another place with --list", make=False)


def _as_json(report: Report) -> str:
    content = {
        name: getattr(report, name) for name in ("rows", "samples", "answers", "with_image", "with_rationale", "bad")
    }
    return json.dumps(content | {"kinds": dict(report.kinds.most_common())}, indent=2)


def describe(report: Report, examples: int = 5) -> str:
    """Lay a report out as text: counts, bad rows by kind, and the first few of them."""
    lines = [
        f"{report.rows:,} rows, {report.samples:,} samples: {report.with_image:,} with an image, "
        f"{report.with_rationale:,} with a rationale; {report.answers:,} answers",
        f"{report.bad:,} bad rows" + (":" if report.bad else ""),
    ]
    lines += [f"  {count:>8,}  {kind}" for kind, count in report.kinds.most_common()]
    lines += [f"  {problem.where}: {problem.message}" for problem in report.problems[:examples]]
    if report.bad > examples:
        lines.append(f"  ... and {report.bad - examples:,} more (--list OUT writes them all)")
    return "\n".join(lines)
