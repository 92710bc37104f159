"""``lare experiments run|status|table|learning|card|time|jobs FILE``: a declared grid, trained, asked and tabled."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lare.commands import command_parser
from lare.errors import LareError
from lare.experiments.grid import SPLITS
from lare.experiments.looks import check_look
from lare.experiments.order import Choice, chosen_rate, jobs
from lare.experiments.plan import Plan
from lare.experiments.store import Slot
from lare.experiments.work import Settings

__all__ = ["main"]

_EPILOG = """examples:
  lare experiments status lare/configs/experiments/example.yaml
  lare experiments run    lare/configs/experiments/example.yaml --at-once 2
  lare experiments run    lare/configs/experiments/example.yaml --test --arms lare
  lare experiments table  lare/configs/experiments/example.yaml --contrast lare random
  lare experiments learning lare/configs/experiments/example.yaml --arms lare random --below 0.1
  lare experiments card   lare/configs/experiments/example.yaml --arms lare --starts 0 --out my/checkpoint

A grid is a YAML file (docs/guides/experiments.md). What is done is left as it is, so a run that was stopped or killed
goes on when the same command is given again. Rows are written to reports/experiments/NAME/rows as each ends.
"""


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("lare experiments", __doc__, _EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="train and ask what is missing")
    status = commands.add_parser("status", help="what is done, running and missing, and how long the rest will take")
    for one in (run, status):
        _shared(one)
        one.add_argument("--test", action="store_true", help="test questions, asked once a row (default: validation)")
        one.add_argument("--at-once", type=int, help="processes side by side (default: one a GPU, else 1)")
        one.add_argument("--limit", type=int, help="questions of each task (default: all)")
    table = commands.add_parser("table", help="accuracy, terms, costs and contrasts of the rows")
    _shared(table)
    table.add_argument("--split", choices=SPLITS, default="validation", help="which questions (default: %(default)s)")
    table.add_argument("--markdown", action="store_true", help="as Markdown")
    table.add_argument(
        "--contrast", nargs=2, action="append", default=[], metavar=("A", "B"), help="arm A (or A/ASK) minus arm B"
    )
    learning = commands.add_parser("learning", help="learning curves of the finished runs, kept beside the rows")
    _shared(learning)
    learning.add_argument(
        "--below", type=float, nargs="+", default=[0.2, 0.1], help="losses of the text to be reached (default: 0.2 0.1)"
    )
    card = commands.add_parser("card", help="the model card of one finished run, from its logs and rows")
    _shared(card)
    card.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the weights; gets README.md")
    card.add_argument("--note", type=Path, help="Markdown for the card, such as what was tried and failed")
    clock = commands.add_parser("time", help="milliseconds an answer at batch 1 and 16; wants a quiet machine")
    _shared(clock)
    clock.add_argument("--questions", type=int, default=64, help="questions at batch 16 (default: %(default)s)")
    clock.add_argument("--rounds", type=int, default=7, help="rounds in which arms take turns (default: %(default)s)")
    scripts = commands.add_parser("jobs", help="array scripts for SLURM, one task a run")
    _shared(scripts)
    scripts.add_argument("--out", type=Path, required=True, help="folder of the scripts")
    scripts.add_argument("--sbatch", action="append", default=[], help="a line for each script, as --sbatch=--gpus=1")
    for one in (run, scripts):
        one.add_argument(
            "--launcher", default="", help="starts training in place of Python, as 'accelerate launch ...'"
        )
    run.add_argument("--seeds", type=int, nargs="+", default=[], help="seeds of arms (default: all)")
    run.add_argument("--rates", type=float, nargs="+", default=[], help="factors on the learning rates (default: all)")
    run.add_argument("--only-starts", action="store_true", help="train the starts and no arm")
    run.add_argument("--again", action="store_true", help="with --test: ask rows that were asked already; recorded")
    run.add_argument("--no-train", action="store_true", help="only ask what is trained")
    run.add_argument(
        "--keep-weights", action="store_true", help="keep every stage's weights and checkpoints of a finished arm"
    )
    run.add_argument("--drop-traces", action="store_true", help="delete an answer's traces once its row is written")
    return parser


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="the grid")
    parser.add_argument("--arms", nargs="+", default=[], help="names of arms, between blanks or commas (default: all)")
    parser.add_argument(
        "--starts", nargs="+", default=[], help="names of starts, between blanks or commas (default: all)"
    )
    parser.add_argument("--asks", nargs="+", default=[], help="names of ways of asking (default: all)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs (default: %(default)s)")
    parser.add_argument(
        "--reports", type=Path, default=Path("reports/experiments"), help="folder of rows (default: %(default)s)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lare experiments``; returns the exit code."""
    options = _parser().parse_args(arguments)
    limit = getattr(options, "limit", None)
    if limit is not None and limit < 1:
        raise LareError(f"--limit is {limit}; give at least 1")
    plan = Plan(options.file, options.runs, options.reports, limit)
    choice = Choice(_names(options.arms), _names(options.starts), _names(options.asks))
    if options.command == "run":
        further = {"seeds": tuple(options.seeds), "rates": tuple(options.rates), "only_starts": options.only_starts}
        choice = replace(choice, **further)
    choice.check(plan)
    commands = {"run": _run, "status": _status, "table": _table, "learning": _learning, "card": _card}
    commands |= {"time": _time, "jobs": _jobs}
    return commands[options.command](plan, choice, options)


def _names(words: Sequence[str]) -> tuple[str, ...]:
    """Names between blanks or, as lmms-eval has its tasks, commas."""
    return tuple(name for word in words for name in word.split(",") if name)


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(split="test" if options.test else "validation")


def _run(plan: Plan, choice: Choice, options: argparse.Namespace) -> int:
    from lare.experiments.runner import run_grid

    settings = replace(
        _settings(options),
        train=not options.no_train and not options.test,
        again=options.again,
        launcher=options.launcher,
        keep_weights=options.keep_weights,
        keep_traces=not options.drop_traces,
    )
    if options.again and not options.test:
        raise LareError("--again goes with --test")
    if options.test and not options.arms:
        raise LareError("--test wants --arms, those that were chosen on the validation split")
    if options.test and "test" not in plan.grid.tasks:
        raise LareError(f"{str(plan.file)!r} names no test tasks; add test under tasks")
    check_methods(plan, choice)
    if options.test and not options.again:
        _check_looks(plan, choice, settings)
    gpus = _gpus()
    at_once = options.at_once or max(1, gpus)
    if at_once < 1:
        raise LareError(f"--at-once is {at_once}; give at least 1")
    return run_grid(plan, choice, settings, at_once, gpus)


def _check_looks(plan: Plan, choice: Choice, settings: Settings) -> None:
    """Refuse, before anything is asked, test questions that were asked already.

    Raises:
        LareError: If a wanted row was asked them by other weights, or every wanted row was.
    """
    left = jobs(plan, choice, settings)
    for slot in (slot for job in left for slot in job.slots):
        check_look(plan, slot, False)
    if not left:
        rates = {arm: chosen_rate(plan, arm) or 1.0 for arm in choice.of(plan)}
        runs = [run for arm, rate in rates.items() for run in plan.arm_runs(arm, rate) if choice.takes(run)]
        for run in runs:
            for ask in choice.asked(plan, str(run.arm)):
                check_look(plan, Slot(run, ask, settings.split), False)


def check_methods(plan: Plan, choice: Choice) -> None:
    """Refuse unknown methods and impossible options before hours of training.

    Raises:
        LareError: If an ask names one.
    """
    from lare.loading import DTYPES
    from lare.methods import get_method

    for arm in choice.of(plan):
        for ask in choice.asked(plan, arm):
            options = dict(plan.grid.arms[arm].asks[ask])
            name, dtype = str(options.pop("method")), options.pop("dtype", DTYPES[0])
            get_method(name).options_type.read(name, options)
            if dtype not in DTYPES:
                raise LareError(f"arm {arm!r}, ask {ask!r}: dtype is {dtype!r}; choose from {', '.join(DTYPES)}")


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _status(plan: Plan, choice: Choice, options: argparse.Namespace) -> int:
    from lare.experiments.status import status

    print(status(plan, choice, _settings(options), options.at_once or 1))
    return 0


def _table(plan: Plan, choice: Choice, options: argparse.Namespace) -> int:
    from lare.experiments.table import table

    print(table(plan, options.split, [(a, b) for a, b in options.contrast], options.markdown))
    return 0


def _learning(plan: Plan, choice: Choice, options: argparse.Namespace) -> int:
    from lare.experiments.learning import reached, write_learning

    path, found = write_learning(plan, choice)
    levels = "".join(f"{f'below {level:g}':>14}" for level in options.below)
    print(f"{'run':32s}{'last loss':>10}{levels}   samples of the last stage until it stays below")
    for one in found:
        ends = [reached(one, level) for level in options.below]
        told = "".join(f"{'never' if end is None else f'{end:,}':>14}" for end in ends)
        print(f"{one['arm']} {one['start']} {one['seed']}".ljust(32) + f"{one['loss'][-1]:10.3f}{told}")
    print(f"written: {path}")
    return 0


def _card(plan: Plan, choice: Choice, options: argparse.Namespace) -> int:
    from lare.experiments.card import model_card
    from lare.files import save_text

    rates = {arm: chosen_rate(plan, arm) or 1.0 for arm in choice.of(plan)}
    runs = [run for arm, rate in rates.items() for run in plan.arm_runs(arm, rate) if choice.takes(run)]
    if len(runs) != 1:
        raise LareError(f"a card is of one run, and {len(runs)} are chosen; give one of --arms and one of --starts")
    note = options.note.read_text("utf8") if options.note is not None else ""
    save_text(options.out / "README.md", model_card(plan, runs[0], options.out.name, note))
    print(f"written: {options.out / 'README.md'}")
    return 0


def _time(plan: Plan, choice: Choice, options: argparse.Namespace) -> int:
    from lare.experiments.timing import time_arms

    if options.questions < 1 or options.rounds < 1:
        raise LareError("--questions and --rounds need at least 1")
    for name, found in time_arms(plan, choice, options.questions, options.rounds).items():
        print(f"{name:20s} {found['batch1']:8.2f} ms at batch 1  {found['batch16']:8.2f} ms at batch 16")
    print(f"written: {plan.out / 'times.json'}")
    return 0


def _jobs(plan: Plan, choice: Choice, options: argparse.Namespace) -> int:
    from lare.experiments.jobs import write_jobs

    check_methods(plan, choice)
    places = ["--runs", str(options.runs), "--reports", str(options.reports)]
    made = write_jobs(plan, choice, options.out, options.launcher, options.sbatch, places)
    print(f"written: {', '.join(map(str, made))}; next: bash {options.out / 'submit.sh'}")
    return 0
