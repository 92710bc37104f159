"""``lare halting fit|show``: learned stop rules of a finished model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from lare.commands import command_parser
from lare.errors import LareError

__all__ = ["main", "told"]

_EPILOG = """examples:
  lare halting fit runs/world2
  lare halting fit runs/mine/IV/final --data world version=2 --limit 8000
  lare halting fit my/checkpoint --data questions.json images=pictures --steps 6
  lare halting show runs/world2/IV/final --json
  lare ask scene.png "Is there a dog?" --checkpoint runs/world2/IV/final --stop learned

The model stays as it is; the heads are written beside it, as stop_heads.safetensors. Heads are fitted on training
questions. Thresholds are chosen on validation questions: the most eager that is shown, with 95 % confidence, to lose at
most the margin against the best fixed number of steps.
"""


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("lare halting", __doc__, _EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    fit = commands.add_parser("fit", help="fit stop heads and choose their thresholds")
    fit.add_argument("place", metavar="RUN_OR_CHECKPOINT", help="a finished run, or a checkpoint's folder")
    fit.add_argument(
        "--data", nargs="+", default=[], metavar="FILE_OR_FORMAT",
        help="a data file or format, then its settings as NAME=VALUE (default: the data of the run's last stage)",
    )  # fmt: skip
    fit.add_argument("--limit", type=int, default=8000, metavar="N", help="training questions (default: %(default)s)")
    fit.add_argument(
        "--validation", type=int, default=4000, metavar="N", help="validation questions (default: %(default)s)"
    )
    fit.add_argument("--steps", type=int, metavar="T", help="most steps (default: the checkpoint's max_iterations)")
    fit.add_argument(
        "--margin", type=float, default=0.01, help="share of accuracy that may be lost (default: %(default)s)"
    )
    fit.add_argument("--batch-size", type=int, default=16, metavar="N", help="questions at once (default: %(default)s)")
    fit.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="longest text (default: %(default)s)")
    fit.add_argument("--device", help="cpu, cuda, ...; default: a GPU if there is one")
    for name, (kind, default, text) in _of_fit().items():
        fit.add_argument(f"--{name}", type=kind, default=default, help=f"{text} (default: %(default)s)")
    show = commands.add_parser("show", help="what a checkpoint's stop heads reached on validation questions")
    show.add_argument("place", metavar="CHECKPOINT", help="a checkpoint's folder")
    show.add_argument("--json", action="store_true", help="print all that is known of the heads as JSON")
    return parser


def _of_fit() -> dict[str, tuple[type, Any, str]]:
    """The options of fitting that the command has: type, default, meaning."""
    from lare.halting.fit import FitOptions

    texts = {
        "width": "units of a head's hidden layer",
        "epochs": "most passes over the questions",
        "price": "what a step costs the head ponder, as a share of accuracy",
        "prior": "chance of stopping at a step in its geometric prior",
        "seed": "of first weights and order",
    }
    known = {one.name: one.default for one in fields(FitOptions)}
    return {name: (type(known[name]), known[name], text) for name, text in texts.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lare halting``; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "show":
        return _show(options.place, options.json)
    for name in ("limit", "validation", "batch_size", "max_new_tokens"):
        if getattr(options, name) < 1:
            raise LareError(f"--{name.replace('_', '-')} is {getattr(options, name)}; give at least 1")
    if not 0 < options.margin < 1:
        raise LareError(f"--margin is {options.margin}; give a share between 0 and 1")
    from lare.halting.fit import FitOptions
    from lare.halting.fitting import fit_checkpoint
    from lare.halting.source import find_target

    target = find_target(options.place, options.data)
    how = FitOptions(**{name: getattr(options, name) for name in _of_fit()})
    names = ("limit", "validation", "steps", "margin", "batch_size", "max_new_tokens", "device")
    heads = fit_checkpoint(target, how, **{name: getattr(options, name) for name in names})
    path = heads.save(target.checkpoint)
    print(told(heads.facts, heads.chosen))
    print(f"written to {path}; answer with stop=learned")
    return 0


def _show(place: str, as_json: bool) -> int:
    from lare.loading import load_checkpoint

    heads = load_checkpoint(place, "cpu")[0].stop_heads
    if heads is None:
        raise LareError(f"{place!r} has no learned stop rule; fit one with lare halting fit {place}")
    about = {"chosen": heads.chosen, "digest": heads.digest, **heads.facts}
    print(json.dumps(about, indent=1) if as_json else told(heads.facts, heads.chosen))
    return 0


def told(facts: Mapping[str, Any], chosen: str) -> str:
    """What stop heads reach on validation questions, as text; `facts` as `StopHeads` keeps them."""
    fixed, best = facts["accuracy"], int(facts["best_fixed"])
    lines = [
        f"{facts['questions']:,} training and {facts['validation']:,} validation questions",
        f"best fixed number of steps: {best}, {100 * fixed[best - 1]:.1f} % right",
        "fixed steps, right: " + ", ".join(f"{k} {100 * share:.1f} %" for k, share in enumerate(fixed, 1)),
        f"{'head':<12}{'C':>8}{'steps':>8}{'passes':>8}{'right':>9}{'lost':>9}{'at most':>9}{'ECE':>8}",
    ]
    for kind, one in facts["heads"].items():
        error = one["calibration_error"]
        lines.append(
            f"{kind + (' *' if kind == chosen else ''):<12}{_threshold(one['threshold']):>8}{one['steps']:>8.2f}"
            f"{one['passes']:>8.2f}{100 * one['accuracy']:>7.1f} %{100 * one['loss']:>9.2f}{100 * one['bound']:>9.2f}"
            f"{'' if error is None else f'{error:.3f}':>8}"
        )
    lines.append("* stop=learned takes it. lost: points against the best fixed number, and its one-sided 95 % bound")
    if all(one["threshold"] >= 1 for one in facts["heads"].values()):
        lines.append("No threshold could be shown to be safe, so the rules never stop; give more questions or margin")
    return "\n".join(lines)


def _threshold(value: float) -> str:
    return "never" if value >= 1 else f"{value:.3f}"
