"""``lare data questions FILE``: what a source asks, by family and split, and what of it can be answered blind."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lare.data.blind import BlindScore, blind_scores, blind_table
from lare.data.sample import Sample
from lare.data.source import FORMATS, Report, Source
from lare.data.splits import SPLITS, split_of
from lare.errors import LareError

__all__ = ["add_questions"]

_EPILOG = """examples:
  lare data questions FOLDER/animals.jsonl
  lare data questions FOLDER/captions.jsonl --split validation --show 2
"""


def add_questions(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of the command."""
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EPILOG
    parser.add_argument("file", type=Path, metavar="FILE", help="JSON, JSON Lines or Parquet")
    parser.add_argument("--format", default="auto", choices=("auto", *FORMATS), help="default: told by its rows")
    parser.add_argument("--split", default="test", choices=SPLITS[1:], help="questions that are asked (%(default)s)")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print N questions of each family")
    parser.add_argument("--json", action="store_true", help="print the blind scores as JSON")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    """Exit code 0."""
    report, parts = Report(), defaultdict[str, list[Sample]](list)
    for sample in Source(options.file, options.format).samples(report):
        parts[split_of(sample.id if sample.image is None else sample.image)].append(sample)
    if not parts["train"] or not parts[options.split]:
        raise LareError(f"{str(options.file)!r} has no samples in its train and {options.split} splits; give more rows")
    scores = blind_scores(parts["train"], parts[options.split])
    if options.json:
        print(json.dumps([one._asdict() for one in scores], indent=1))
        return 0
    print(_counts(parts, report))
    print(f"\nWithout the image, on the {options.split} split (learnt on train, exact match):\n{blind_table(scores)}")
    for line in _shown(parts[options.split], scores, options.show):
        print(line)
    return 0


def _counts(parts: dict[str, list[Sample]], report: Report) -> str:
    images = {name: len({sample.image for sample in parts[name]}) for name in SPLITS}
    told = ", ".join(f"{name} {len(parts[name]):,} of {images[name]:,} images" for name in SPLITS)
    bad = "".join(f"\n  {count:>8,}  {kind}" for kind, count in report.kinds.most_common())
    hops = Counter(sample.hops for part in parts.values() for sample in part)
    looks = ", ".join(f"{hop}: {hops[hop]:,}" for hop in sorted(hops))
    return (
        f"{report.samples:,} samples: {told}\nby looks that depend on one another: {looks}\nbad rows: {report.bad}{bad}"
    )


def _shown(samples: Sequence[Sample], scores: Sequence[BlindScore], count: int) -> list[str]:
    lines = []
    for family in [one.family for one in scores]:
        for sample in [one for one in samples if one.family == family][:count]:
            kept = {name: value for name, value in asdict(sample).items() if value and name not in ("where", "family")}
            lines.append(f"\n{family or '(none)'}\n{textwrap.indent(json.dumps(kept, indent=1), '  ')}")
    return lines
