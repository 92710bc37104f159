"""``python -m analysis``: every analysis over the newest demo run, and the page that links their reports.

Each analysis is a process of its own, two at a time, so one that fails takes no other with it. The longest start first.
The terminal shows one answer each. ``make demo`` ends with this command. Some analyses ask fewer questions, so that it
takes minutes; ``--full`` asks all.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import psutil
from tqdm import tqdm

from analysis.shared.cli import REPORTS
from analysis.shared.report.document import Document
from analysis.shared.report.index import write_index
from analysis.shared.scheduling import Progress, processor_speed
from lare.commands import command, command_parser
from lare.progress import note

__all__ = ["ANALYSES", "Analysis", "main"]


@dataclass(frozen=True)
class Analysis:
    """An analysis's options and costs.

    Attributes:
        quick: Options that keep it short.
        seconds: What it then takes of one processor.
        full: Options of a thorough run.
        full_seconds: What that takes.
    """

    quick: tuple[str, ...] = ()
    seconds: float = 10.0
    full: tuple[str, ...] = ()
    full_seconds: float = 10.0


ANALYSES: Mapping[str, Analysis] = {
    "probe": Analysis((), 97, ("--full",), 360),
    "adaptive": Analysis(("--limit", "80", "--validation", "80"), 39, (), 90),
    "controls": Analysis(("--limit", "100"), 32, (), 140),
    "reconstruct": Analysis(("--rows", "48"), 30, (), 65),
    "heatmaps": Analysis(("--sanity-questions", "30"), 23, (), 40),
    "attention": Analysis(("--live", "40"), 21, (), 50),
    "ablation": Analysis((), 11, (), 11),
    "compare": Analysis((), 7, (), 7),
    "tokens": Analysis((), 6, (), 6),
}
"""Analyses by name. Seconds only say how they compare and what to expect; the machine's own speed is learnt."""


def _start(name: str, out: Path, words: Sequence[str]) -> subprocess.Popen[str]:
    """Start one, with one thread: on small models two processes beat two threads."""
    quiet = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", f"analysis.{name}", "--out", str(out / f"{name}.html"), *words]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", env=os.environ | quiet
    )


def _problem(started: subprocess.Popen[str]) -> str | None:
    """Wait for one; returns what went wrong."""
    _, told = started.communicate()
    if started.returncode == 0:
        return None
    last = [line for line in told.strip().splitlines() if line.strip()][-1:] or ["no message"]
    return last[0].removeprefix("lare: ")


def _processor_seconds(started: subprocess.Popen[str]) -> float:
    try:
        times = psutil.Process(started.pid).cpu_times()
    except psutil.Error:  # it has just ended
        return 0.0
    return float(times.user + times.system)


def _run(names: Sequence[str], options: argparse.Namespace) -> tuple[dict[str, str | None], Progress]:
    """Run all, the longest first; returns what went wrong with each, and how long each took."""
    full = options.full
    costs = {name: ANALYSES[name].full_seconds if full else ANALYSES[name].seconds for name in names}
    progress = Progress(costs, min(options.at_once, len(names)), processor_speed())
    problems: dict[str, str | None] = {}
    processes: dict[str, subprocess.Popen[str]] = {}

    def one(name: str) -> str | None:
        words = list(ANALYSES[name].full if full else ANALYSES[name].quick)
        if name == "probe" and len(names) > 1:
            words += ["--jobs", "1"]  # the other processor has the other analyses
        progress.start(name, time.perf_counter())
        processes[name] = _start(name, options.out, words)
        return _problem(processes[name])

    live = sys.stderr.isatty()
    told = "analyses: {percentage:3.0f}%|{bar}| {desc}"
    with ThreadPoolExecutor(progress.workers) as pool, tqdm(total=1.0, bar_format=told, disable=not live) as bar:
        jobs = {pool.submit(one, name): name for name in progress.order}
        waiting = set(jobs)
        while waiting:
            ended, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
            now = time.perf_counter()
            for job in ended:
                problems[jobs[job]] = job.result()
                progress.finish(jobs[job], now)
            for name in progress.running:
                if name in processes:
                    progress.used[name] = max(progress.used.get(name, 0.0), _processor_seconds(processes[name]))
            line = f"{len(problems)} of {len(names)} reports"
            if waiting:
                line += f", about {_left(progress.remaining(now))} left: {', '.join(progress.running)}"
            if ended and waiting and not live:
                note(line)
            bar.n = progress.share() if waiting else 1.0
            bar.set_description_str(line)
    return problems, progress


def _left(seconds: float) -> str:
    """Seconds in words, as coarse as the estimate is."""
    return f"{5 * max(1, round(seconds / 5))} s" if seconds < 100 else f"{round(seconds / 60)} min"


def _answer(out: Path, name: str) -> str:
    path = out / f"{name}.json"
    document = Document.from_json(path.read_text(encoding="utf-8"), str(path))
    return f"{document.answer}." if document.answer else document.verdict


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    example = "example: python -m analysis --only heatmaps attention --out /tmp/reports"
    parser = command_parser("python -m analysis", __doc__, example)
    parser.add_argument("--only", nargs="+", choices=list(ANALYSES), help="analyses to run (default: all)")
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder of the reports (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="on all questions, as the committed reports are")
    parser.add_argument("--at-once", type=int, default=2, help="processes side by side (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.at_once < 1:
        parser.error("--at-once needs at least 1")
    return options


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run all, print their answers and the index's path; returns 1 if one failed."""
    options = _options(arguments)
    names = options.only or list(ANALYSES)
    started, failed = time.perf_counter(), 0
    problems, progress = _run(names, options)
    for name in names:
        failed += problems[name] is not None
        print(f"{name} ({progress.took[name]:.0f} s): {problems[name] or _answer(options.out, name)}")
    index = write_index(options.out)
    print(f"\n{time.perf_counter() - started:.0f} s; reports: {index}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
