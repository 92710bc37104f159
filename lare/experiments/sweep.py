"""``python -m lare.experiments.sweep``: what do the loss weights and the learning rate do? On the validation split.

Every row of ``lare/configs/rows/sweep.yaml`` changes one factor of ``lare/configs/sweep.yaml``, begins with the same
weights and sees the same number of samples. It is judged by `lare.embedded.held_out`: questions about the validation
split's scenes, drawings and digits, never about the test split's. What is done already is kept, so a stopped sweep goes
on where it was:

    python -m lare.experiments.sweep                  train what is missing, ask, write reports/sweep
    python -m lare.experiments.sweep --no-train       only ask and write

Two spreads stand beside each difference from ``base``: over scenes (the same questions, drawn again) and over seeds
(pooled over all rows). A difference that either spread can explain decides nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lare.errors import LareError
from lare.experiments.rows import RowRun, read_rows, train_rows
from lare.experiments.sweep_tables import csv_table, markdown_table, summarise
from lare.files import save_text
from lare.progress import progress
from lare.training.plan.run_file import load_run_config

__all__ = ["SweepRow", "jobs_of", "load_sweep_rows", "main"]

BASE = Path("lare/configs/sweep.yaml")
ROWS = Path("lare/configs/rows/sweep.yaml")
RUNS, OUT = Path("runs/sweep"), Path("reports/sweep")


@dataclass(frozen=True)
class SweepRow:
    """A row of the sweep.

    Attributes:
        name: Its name in the file.
        title: In words.
        train: ``key=value`` words for ``lare train``.
        seeds: How many seeds it has.
    """

    name: str
    title: str
    train: tuple[str, ...] = ()
    seeds: int = 2

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise LareError(f"row {self.name!r}: seeds is {self.seeds}; give at least 1")


def load_sweep_rows(path: Path = ROWS) -> list[SweepRow]:
    """Read the rows; the first is what the others are compared with.

    Raises:
        LareError: If the file can't be read or a row has unknown keys.
    """
    return read_rows(path, SweepRow)


def jobs_of(rows: Sequence[SweepRow], base: Path, runs: Path) -> list[tuple[SweepRow, int, RowRun]]:
    """Rows with their seeds; all rows' first seed comes first, so that a stopped sweep can be read.

    Raises:
        LareError: If a row's words are impossible.
    """
    found = []
    for seed in range(max((row.seeds for row in rows), default=0)):
        for row in rows:
            if seed < row.seeds:
                words = (f"seed={seed}", *row.train)
                last = load_run_config(base, words).stages[-1].name
                found.append((row, seed, RowRun(base, runs / f"{row.name}-{seed}", words, last)))
    return found


def _ask(row: SweepRow, seed: int, run: RowRun, scenes: int) -> dict[str, Any]:
    """Judge a trained row; once for each state of its weights."""
    from lare.embedded.held_out import answers, draw_questions, held_out_losses, majority, share_right
    from lare.embedded.world_data import world_of
    from lare.training.prepare import Prepared
    from lare.training.saving.checkpoints import file_hash, load_final, read_meta

    weights = file_hash(run.checkpoint / "model.safetensors")
    cache = run.out / f"held_out-{weights}-{scenes}.json"
    if cache.is_file():
        return json.loads(cache.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    config = load_run_config(run.out / "run.yaml")
    prepared = Prepared(config)
    load_final(run.out / run.last, prepared.model)
    data = world_of(config.stages[-1])
    asked = draw_questions(data, scenes)
    right = share_right(answers(prepared.model, prepared.processor, asked), asked)
    meta = read_meta(run.checkpoint)
    content = {
        "name": row.name,
        "title": row.title,
        "seed": seed,
        "words": list(row.train),
        "samples": sum(int(stage.samples or 0) for stage in config.stages),
        "seconds": round(sum(_seconds(run.out / stage.name) for stage in config.stages), 1),
        "parent": read_meta(run.out / config.stages[0].name / "final")["parent"],
        "commit": meta["commit"],
        "weights": weights,
        "losses": held_out_losses(prepared.model, config, prepared.processor, asked),
        "right": "".join(str(int(value)) for value in right),
        "majority": "".join(str(int(value)) for value in share_right(majority(data, asked), asked)),
        "scenes": [one.scene for one in asked],
    }
    save_text(cache, json.dumps(content))
    return content


def _seconds(stage: Path) -> float:
    from lare.training.saving.checkpoints import read_meta

    return float(read_meta(stage / "final")["seconds"])


def run(options: argparse.Namespace) -> None:
    """Train, ask, write.

    Raises:
        LareError: If a row is unknown, can't be trained, or nothing is trained.
    """
    rows = load_sweep_rows(options.row_file)
    unknown = sorted(set(options.rows or ()) - {row.name for row in rows})
    if unknown:
        raise LareError(f"no row {unknown[0]!r}; choose from {', '.join(row.name for row in rows)}")
    chosen = [row for row in rows if not options.rows or row.name in options.rows]
    jobs = jobs_of(chosen, options.base, options.runs)
    if not options.no_train:
        train_rows([job for _, _, job in jobs], options.at_once)
    done = [job for job in jobs if job[2].trained]
    if not done:
        raise LareError(f"no trained rows under {options.runs}; leave --no-train out")
    judged = [_ask(*job, options.scenes) for job in progress(done, desc="asked", unit="run")]
    write(judged, options.out)


def write(judged: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write ``sweep.json``, ``sweep.csv`` and ``sweep.md``, and print the last.

    Raises:
        LareError: If runs were asked different questions or began with different weights.
    """
    for name, what in (("scenes", "were asked different questions"), ("parent", "began with different weights")):
        if len({json.dumps(one[name]) for one in judged}) > 1:
            raise LareError(f"the runs {what}; move the older ones away and train them again")
    shared = ("scenes", "majority")
    runs = [{key: value for key, value in one.items() if key not in shared} for one in judged]
    content = {"split": "validation", "runs": runs, **{key: judged[0][key] for key in shared}}
    summary = summarise(content)
    save_text(out / "sweep.json", json.dumps({"summary": summary, **content}, separators=(",", ":")))
    save_text(out / "sweep.csv", csv_table(summary))
    save_text(out / "sweep.md", markdown_table(summary))
    print(markdown_table(summary))
    print(f"written: {out}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lare.experiments.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", nargs="+", help="names of rows (default: all)")
    parser.add_argument("--no-train", action="store_true", help="leave out rows that are not trained")
    parser.add_argument("--at-once", type=int, default=1, help="runs trained side by side (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=500, help="validation scenes, 4 questions each (%(default)s)")
    parser.add_argument("--base", type=Path, default=BASE, help="run file (default: %(default)s)")
    parser.add_argument("--row-file", type=Path, default=ROWS, help="rows (default: %(default)s)")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the runs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the tables (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.scenes < 1 or options.at_once < 1:
        raise LareError("--scenes and --at-once need at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    started = time.monotonic()
    try:
        run(_options(arguments))
    except LareError as error:
        print(f"lare: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"{(time.monotonic() - started) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
