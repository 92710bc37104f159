"""``python -m analysis``: every analysis over the newest demo run, and the page that links their reports.

Each analysis is its own process, two at a time, so that one that fails takes no other with it; an answer each stands on
the terminal. ``make demo`` ends with it, and so that it takes minutes, some ask fewer questions; ``--full`` asks all.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from analysis.shared.cli import REPORTS
from analysis.shared.report.document import Document
from analysis.shared.report.index import write_index
from lare.errors import LareError
from lare.progress import progress

__all__ = ["ANALYSES", "main"]

ANALYSES: Mapping[str, tuple[str, ...]] = {
    "probe": ("--images", "300", "--pairs", "500"),
    "adaptive": ("--limit", "150"),
    "controls": ("--limit", "200"),
    "reconstruct": ("--rows", "64"),
    "heatmaps": ("--sanity-questions", "40"),
    "ablation": (),
    "attention": ("--live", "60"),
    "compare": (),
    "tokens": (),
}
"""Analyses by name, the longest first, so that two processes end together; and what keeps each short without --full."""


def _analyse(name: str, out: Path, full: bool) -> tuple[str, float, str | None]:
    """Run one; returns its name, seconds, and what went wrong."""
    target = out / f"{name}.html"
    words = [sys.executable, "-m", f"analysis.{name}", "--out", str(target), *(() if full else ANALYSES[name])]
    started = time.perf_counter()
    # One thread each: on small models two processes beat two threads.
    quiet = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | quiet, check=False)
    if done.returncode == 0:
        return name, time.perf_counter() - started, None
    last = [line for line in done.stderr.strip().splitlines() if line.strip()][-1:] or ["no message"]
    return name, time.perf_counter() - started, last[0].removeprefix("lare: ")


def _answer(out: Path, name: str) -> str:
    path = out / f"{name}.json"
    document = Document.from_json(path.read_text(encoding="utf-8"), str(path))
    return f"{document.answer}." if document.answer else document.verdict


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description=__doc__,
        epilog="example: python -m analysis --only heatmaps attention --out /tmp/reports",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=list(ANALYSES), help="analyses to run (default: all)")
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder of the reports (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="on all questions, as the committed reports are")
    parser.add_argument("--at-once", type=int, default=2, help="processes side by side (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.at_once < 1:
        parser.error("--at-once needs at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all, print their answers and the index's path; returns 1 if one failed."""
    options = _options(arguments)
    names = options.only or list(ANALYSES)
    started, failed = time.perf_counter(), 0
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(options.at_once) as pool:
            jobs = pool.map(lambda name: _analyse(name, options.out, options.full), names)
            found = list(progress(jobs, total=len(names), desc="analyses", unit="report"))
        for name, seconds, problem in found:
            failed += problem is not None
            print(f"{name} ({seconds:.0f} s): {problem or _answer(options.out, name)}")
        index = write_index(options.out)
    except (LareError, OSError) as error:
        print(f"lare: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"\n{time.perf_counter() - started:.0f} s; reports: {index}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
