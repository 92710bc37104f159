"""Runs every benchmark, or the named ones.

python -m benchmarks
python -m benchmarks attention_capture trace_cost --rounds 7 --strict
"""

from __future__ import annotations

import importlib
import sys

from benchmarks.common import Result, option_parser, read_options, save, table

NAMES = (
    "attention_capture",
    "latent_overhead",
    "batch_throughput",
    "against_llava",
    "against_vlm",
    "halting",
    "training_step",
    "flop_rate",
    "trace_cost",
    "world_speed",
)


def main() -> int:
    """Measure, print one table, and return the exit code."""
    parser = option_parser(__doc__ or "")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which (default: all): {', '.join(NAMES)}")
    parsed = parser.parse_args()
    unknown = sorted(set(parsed.names) - set(NAMES))
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; choose from {', '.join(NAMES)}")
    options = read_options(parser, parsed)
    everything: list[Result] = []
    for name in parsed.names or NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        results = importlib.import_module(f"benchmarks.{name}").measure(options)
        save(name, results, options)
        everything += results
    print(table(everything))
    print(f"JSON written to {options.out}/")
    return int(options.strict and not all(result.passed for result in everything))


if __name__ == "__main__":
    sys.exit(main())
