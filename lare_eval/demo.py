"""``make demo``: the embedded checkpoint on the five mini tasks, with latent steps, with a direct answer, and blind.

Passes over the same questions with the same weights:

- ``K=4``: the checkpoint's latent steps, then text;
- ``K=0``: no latent steps and no delimiters, the direct answer that a share of its training batches had;
- ``text``: empty delimiters and the whole rationale as text, which another share of its training batches had: the
  control for whether latent steps or the text after them do the work;
- ``random``: the latent steps, each looking at a random window: whether it matters where the model looks;
- ``fine``: no latent steps, the rationale as text, and every fine token in the decoder's context: what a look can
  bring at most, and what it would cost (where the decoder reads a coarser grid than the Extractor);
- ``blind``: the latent steps again, with a grey picture in place of the image: what the words alone give away.

Beside them stands ``majority``: the likeliest option by the question's words, counted over other training questions
(`lare.embedded.world.blind`), which is a stronger blind baseline than a model that never saw a grey picture.

With ``--against CHECKPOINT`` another checkpoint thinks about the same questions too (``against``).

Settings are asked in several processes at once, one thread each (``--jobs``); pictures are encoded once in each. An
answer is the same in any number of them, and its seconds are those that it takes by itself, encoder and all.

Every pass writes its traces; the summary is made from lmms-eval's scores and from the traces. A result here is a result
on the embedded world, never on a benchmark whose format a task has.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lare.commands import command, command_parser
from lare.files import save_text
from lare_eval.settings import BLIND, DIRECT, MAJORITY, TEXT, majority_pass, names, single_tasks
from lare_eval.summary import Cell, Margin, Pass, saved_text, short_table, summarise, table
from lare_eval.workers import Estimate, Plan, Workers, cores, progress_bar

if TYPE_CHECKING:
    from lare.methods.base import Method

__all__ = ["main", "run"]

OUT = Path("results/demo")
SHORT = 4
"""Settings in the closing table; ``--full`` prints all."""

_LEGEND = (
    "K=0: the same weights answer at once, without latent steps. text: no latent steps, the whole rationale as text.\n"
    "random: latent steps at random windows. fine: as text, with every fine token in the decoder's context.\n"
    "blind: latent steps, but a grey picture. majority: the likeliest option by the question's words alone.\n"
    "Intervals: 95 %, Wilson for shares, bootstrap over scenes for differences on the same questions.\n"
    "The tasks are stand-ins made from the embedded world; no number here is a result on a benchmark."
)


def _write(
    out: Path, checkpoint: str, cells: Sequence[Cell], margins: Sequence[Margin], text: str, seconds: float
) -> None:
    content = {
        "checkpoint": checkpoint,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds, 1),
        "cells": [asdict(cell) for cell in cells],
        "margins": [asdict(gap) for gap in margins],
    }
    save_text(out / "summary.txt", text)
    save_text(out / "summary.json", json.dumps(content, indent=2))  # last: a run that has it is whole


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser("python -m lare_eval.demo", __doc__)
    parser.add_argument("--checkpoint", help="LaRe checkpoint; default: the embedded one")
    parser.add_argument("--against", metavar="CHECKPOINT", help="compare with this checkpoint on the same questions")
    parser.add_argument("--tasks", default="lare_mini", help="tasks, separated by commas (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="questions of each task; default: all")
    parser.add_argument("--batch-size", type=int, default=32, help="questions answered at once (default: %(default)s)")
    parser.add_argument(
        "--jobs", type=int, help="processes (default: one a core, but one with --limit, which isn't worth their start)"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the results (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="print every setting with intervals and differences")
    options = parser.parse_args(arguments)
    for name in ("limit", "jobs"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} needs at least 1")
    return options


def _jobs(options: argparse.Namespace) -> int:
    """Processes; on a GPU all passes share one."""
    import torch

    if options.jobs is not None:
        return int(options.jobs)
    return 1 if options.limit is not None or torch.cuda.is_available() else cores()


def first_answer(thinking: Method) -> str:
    """One question of the stand-ins with what the model looks at and writes; the rest takes longer."""
    from lare.embedded.world.benchmark import make_task
    from lare.embedded.world.prompts import task_prompt
    from lare.methods.base import Sampling

    row = make_task("mmstar", n=1)[0]
    (answer,) = thinking.answer([row["image"]], [task_prompt("mmstar", row)], Sampling(max_new_tokens=64), trace=True)
    windows = answer.arrays["windows"].astype(int).tolist()
    looks = ", ".join(f"({top}, {left})" for top, left in windows) or "nowhere"
    return (
        f"first answer: {row['question']}\n  looks at windows whose top left cells (row, column) are {looks}\n"
        f"  writes {answer.text!r}; right is {row['answer']}"
    )


def _teller(total: int) -> tuple[Any, Callable[[int], None]]:
    """A progress bar and what counts on it; the time that is left is printed once, for those without a bar too."""
    bar, estimate = progress_bar(total), Estimate(total)

    def tick(count: int) -> None:
        bar.update(count)
        left = estimate.add(count)
        if left is not None:
            print(f"demo: about {left:.0f} s more ({total:,} answers)", file=sys.stderr, flush=True)

    return bar, tick


def _questions(options: argparse.Namespace) -> int:
    """Questions of the stand-ins; other tasks are not counted before they are loaded."""
    from lare.embedded.world.benchmark import SIZES_BY_TASK, stand_in

    asked = [stand_in(task) for task in single_tasks(options.tasks.split(","))]
    return sum(min(SIZES_BY_TASK[known[0]], options.limit or 10**9) for known in asked if known is not None)


def run(options: argparse.Namespace) -> int:
    """Make the passes, print the summary and where it lies; returns the exit code."""
    from lare.loading import resolve_checkpoint

    started = time.perf_counter()
    for checkpoint in (options.checkpoint, options.against or options.checkpoint):
        resolve_checkpoint(checkpoint)  # a wrong name is said before any process starts
    out = options.out / time.strftime("%Y%m%d_%H%M%S")
    plan = Plan(
        options.checkpoint, options.against, tuple(options.tasks.split(",")), out, options.batch_size, options.limit
    )
    with Workers(plan, _jobs(options)) as workers:
        from lare.methods import load_method

        thinking = load_method("lare", options.checkpoint)
        print(f"{first_answer(thinking)}\n({time.perf_counter() - started:.1f} s after the start)\n", flush=True)
        out.mkdir(parents=True)
        settings = names(thinking.model.config, options.against)
        bar, tick = _teller(_questions(options) * len(settings))
        with bar:
            made = workers.run([*settings, MAJORITY], thinking, tick)
    passes: list[Pass] = [made[setting] for setting in settings]
    guessed = majority_pass(made[MAJORITY], passes[0])
    passes += [guessed] if guessed is not None else []
    cells, margins = summarise(passes)
    saved = saved_text(passes[0], made[TEXT])
    text = f"{table(cells, margins)}\n\n{saved}\n\n{_LEGEND}"
    _write(out, thinking.fingerprint(), cells, margins, text, time.perf_counter() - started)
    print(f"\n{text if options.full else _short(cells, saved, out)}")
    print(f"{time.perf_counter() - started:.0f} s; results: {out / 'summary.json'}")
    return 0


def _short(cells: Sequence[Cell], saved: str, out: Path) -> str:
    """The closing lines: four settings by task, whether text is saved, and where the rest is."""
    settings = list(dict.fromkeys(cell.setting for cell in cells))
    wanted = [settings[0], *(one for one in (DIRECT, TEXT, MAJORITY, BLIND) if one in settings[1:])][:SHORT]
    return (
        f"{short_table(cells, wanted)}\n{saved}\n"
        "Stand-ins made from the embedded world, no benchmark. All settings with intervals: "
        f"{out / 'summary.txt'}, or --full"
    )


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo from the command line; returns the exit code."""
    return run(_options(arguments))


if __name__ == "__main__":
    sys.exit(main())
