"""Paired timing: two things are timed in turns, in both orders, so that a busy or warming machine slows both alike.

What is reported is the ratio of their median times, with a bootstrap interval over the pairs. The same ratio in CPU
time stands beside it: other processes disturb it less, so a gap between the two says that the machine was busy.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "Options",
    "Result",
    "Side",
    "Timing",
    "compare",
    "main",
    "option_parser",
    "rate",
    "read_options",
    "save",
    "table",
    "time_pairs",
]

OUT = Path("reports/benchmarks")


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        rounds: Pairs of runs per comparison.
        warmup: Runs of each side that are thrown away.
        threads: Threads of torch in this process.
        strict: Whether a missed target makes the exit code 1.
        out: Folder of the JSON files.
    """

    rounds: int = 15
    warmup: int = 2
    threads: int = 1
    strict: bool = False
    out: Path = OUT


@dataclass(frozen=True)
class Side:
    """One of the two things that are compared.

    Attributes:
        label: What it is.
        run: Does the work once; only the time of this call counts.
        work: Units of work in one run; times are divided by it (16 for a batch of 16).
    """

    label: str
    run: Callable[[], object]
    work: float = 1.0


@dataclass(frozen=True)
class Timing:
    """Seconds per unit of work of each run, in the order of the rounds."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]


@dataclass(frozen=True)
class Result:
    """One comparison, ready to print.

    Attributes:
        name: Which benchmark and case.
        left: Label of the numerator.
        right: Label of the denominator.
        left_seconds: Median wall-clock seconds per unit of work.
        right_seconds: The same of the right side.
        ratio: left_seconds / right_seconds, its inverse for a speed ratio, or units of work per CPU second.
        interval: 95 % bootstrap interval of `ratio` over the pairs.
        cpu_ratio: `ratio` in CPU time.
        target: The bound.
        at_most: Whether `ratio` must not exceed the target (else it must reach it).
        rounds: Pairs measured.
        details: Sizes and whatever else belongs to the case.
    """

    name: str
    left: str
    right: str
    left_seconds: float
    right_seconds: float
    ratio: float
    interval: tuple[float, float]
    cpu_ratio: float
    target: float
    at_most: bool
    rounds: int
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the ratio meets the target."""
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target


def time_pairs(left: Side, right: Side, options: Options) -> tuple[Timing, Timing]:
    """Time both sides in turns, the order swapped every round, with the garbage collector off."""
    for side in (left, right) * options.warmup:
        side.run()
    wall: dict[int, list[float]] = {0: [], 1: []}
    cpu: dict[int, list[float]] = {0: [], 1: []}
    sides = (left, right)
    for number in range(options.rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            gc.collect()
            gc.disable()
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            sides[which].run()
            wall_end, cpu_end = time.perf_counter(), time.process_time()
            gc.enable()
            wall[which].append((wall_end - wall_start) / sides[which].work)
            cpu[which].append((cpu_end - cpu_start) / sides[which].work)
    return Timing(tuple(wall[0]), tuple(cpu[0])), Timing(tuple(wall[1]), tuple(cpu[1]))


def compare(
    name: str,
    left: Side,
    right: Side,
    options: Options,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    speed: bool = False,
    details: dict[str, Any] | None = None,
) -> Result:
    """Time two sides and judge the ratio of their medians.

    Args:
        name: Which benchmark and case.
        left: Numerator (what is judged).
        right: Denominator (its peer).
        options: How to measure.
        at_most: Upper bound of the ratio; give this or `at_least`.
        at_least: Lower bound of the ratio.
        speed: Report right / left seconds, which is how many times faster the left side is.
        details: Kept with the result.
    """
    if (at_most is None) == (at_least is None):
        raise ValueError("give one of at_most and at_least")
    print(f"{name}: {options.rounds} pairs of {left.label} and {right.label} ...", file=sys.stderr, flush=True)
    left_timing, right_timing = time_pairs(left, right, options)
    top, bottom = (right_timing, left_timing) if speed else (left_timing, right_timing)
    return Result(
        name=name,
        left=left.label,
        right=right.label,
        left_seconds=statistics.median(left_timing.wall),
        right_seconds=statistics.median(right_timing.wall),
        ratio=_ratio(top.wall, bottom.wall),
        interval=_interval(top.wall, bottom.wall),
        cpu_ratio=_ratio(top.cpu, bottom.cpu),
        target=at_least if at_most is None else at_most,  # type: ignore[arg-type]
        at_most=at_most is not None,
        rounds=options.rounds,
        details=details or {},
    )


def rate(
    name: str, side: Side, options: Options, *, at_least: float, unit: str, details: dict[str, Any] | None = None
) -> Result:
    """Time one thing that has no peer and judge its units of work per second of CPU time, which is per core.

    Args:
        name: Which benchmark and case.
        side: What is timed; its `work` counts the units in one run.
        options: How to measure.
        at_least: Units per second to reach.
        unit: What a unit is, in the plural.
        details: Kept with the result.
    """
    for _ in range(options.warmup):
        side.run()
    wall, cpu = [], []
    for _ in range(options.rounds):
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        side.run()
        wall.append((time.perf_counter() - wall_start) / side.work)
        cpu.append((time.process_time() - cpu_start) / side.work)
    low, high = _interval([1.0] * len(cpu), cpu)
    return Result(
        name=name,
        left=side.label,
        right=f"{unit} a CPU second",
        left_seconds=statistics.median(wall),
        right_seconds=float("nan"),
        ratio=1 / statistics.median(cpu),
        interval=(low, high),
        cpu_ratio=1 / statistics.median(cpu),
        target=at_least,
        at_most=False,
        rounds=options.rounds,
        details=details or {},
    )


def _ratio(top: Sequence[float], bottom: Sequence[float]) -> float:
    divisor = statistics.median(bottom)
    return statistics.median(top) / divisor if divisor > 0 else float("nan")


def _interval(top: Sequence[float], bottom: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the ratio of medians; pairs are drawn together."""
    draws = np.random.default_rng(0).integers(0, len(top), (2000, len(top)))
    ratios = np.median(np.asarray(top)[draws], axis=1) / np.median(np.asarray(bottom)[draws], axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def table(results: Sequence[Result]) -> str:
    """Lay results out as text, one line a comparison."""
    head = ("benchmark", "left", "right", "left ms", "right ms", "ratio", "95 % interval", "CPU", "target", "")
    rows = [head]
    for result in results:
        bound = f"{'<=' if result.at_most else '>='} {result.target:g}"
        rows.append(
            (
                result.name,
                result.left,
                result.right,
                f"{result.left_seconds * 1e3:.2f}",
                "" if math.isnan(result.right_seconds) else f"{result.right_seconds * 1e3:.2f}",
                f"{result.ratio:.4g}",
                f"{result.interval[0]:.4g}-{result.interval[1]:.4g}",
                f"{result.cpu_ratio:.4g}",
                bound,
                "pass" if result.passed else "FAIL",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def save(name: str, results: Sequence[Result], options: Options) -> Path:
    """Write results and the circumstances of the run to ``<out>/<name>.json``; returns the path."""
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{name}.json"
    content = {
        "benchmark": name,
        "environment": _environment(options),
        "results": [_plain(result) for result in results],
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def _plain(result: Result) -> dict[str, Any]:
    """The result for JSON, which knows no NaN."""
    values = asdict(result) | {"passed": result.passed}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}


def _environment(options: Options) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "transformers", "numpy")},
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "rounds": options.rounds,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def option_parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=Options.rounds, help="pairs of runs (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=Options.warmup, help="runs thrown away (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=Options.threads, help="torch threads (default: %(default)s)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the JSON files (default: %(default)s)")
    return parser


def read_options(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> Options:
    """Check what the parser read, and set torch's threads."""
    options = Options(**{name.name: getattr(parsed, name.name) for name in fields(Options)})
    if options.rounds < 1 or options.threads < 1 or options.warmup < 0:
        parser.error("--rounds and --threads need at least 1, --warmup at least 0")
    import torch

    from lare.allocator import keep_freed_memory

    torch.set_num_threads(options.threads)
    keep_freed_memory()  # for every side of a comparison alike: it is one process
    return options


def main(
    name: str, description: str, measure: Callable[[Options], list[Result]], arguments: Sequence[str] | None = None
) -> int:
    """Run one benchmark from the command line and return its exit code."""
    parser = option_parser(description)
    options = read_options(parser, parser.parse_args(arguments))
    results = measure(options)
    print(table(results))
    print(f"written to {save(name, results, options)}")
    return int(options.strict and not all(result.passed for result in results))
