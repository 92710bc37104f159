"""``make demo``: the embedded checkpoint on the five mini tasks, thinking, answering at once, and blind.

Passes over the same questions with the same weights:

- ``K=4``: the checkpoint's latent steps, then text;
- ``K=0``: no latent steps and no delimiters, the way of answering at once that a share of its training batches had;
- ``text``: empty delimiters and the whole rationale as text, which another share of its training batches had: the
  control for whether latent steps or the text behind them do the work;
- ``random``: the latent steps, each looking at a random window: whether it matters where the model looks;
- ``fine``: no latent steps, the rationale as text, and every fine token in the decoder's context: what a look can
  bring at most, and what it would cost (where the decoder reads a coarser grid than the Extractor);
- ``blind``: the latent steps again, with a grey picture in place of the image: what the words alone give away.

Beside them stands ``majority``: the likeliest option by the question's words, counted over other training questions
(`lare.world.blind`), which is a stronger blind baseline than a model that never saw a grey picture.

With ``--against CHECKPOINT`` another checkpoint thinks about the same questions too (``against``).

Every pass writes its traces; the summary is made from lmms-eval's scores and from the traces. A result here is a result
on the embedded world, never on a benchmark whose format a task has.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lare.errors import LareError
from lare.files import save_text
from lare_eval.passes import evaluate_pass, random_windows
from lare_eval.summary import Cell, Margin, Pass, summarise, table

if TYPE_CHECKING:
    from lare.methods.base import Method

__all__ = ["main", "run"]

OUT = Path("results/demo")
DIRECT, TEXT, RANDOM, FINE, BLIND, MAJORITY = "K=0", "text", "random", "fine", "blind", "majority"
AGAINST = "against"
_LEGEND = (
    "K=0: the same weights answer at once, without latent steps. text: no latent steps, the whole rationale as text.\n"
    "random: latent steps at random windows. fine: as text, with every fine token in the decoder's context.\n"
    "blind: latent steps, but a grey picture. majority: the likeliest option by the question's words alone.\n"
    "Intervals: 95 %, Wilson for shares, bootstrap over scenes for differences on the same questions.\n"
    "The tasks are stand-ins made from the embedded world; no number here is a result on a benchmark."
)


def _blind(method: Method) -> Method:
    """The same model and options, shown a grey picture whatever the image is."""
    from PIL import Image

    from lare.methods.base import Answer, Sampling
    from lare.methods.lare import Lare

    class Blind(Lare):
        """LaRe that is not shown the image."""

        def answer(
            self, images: Sequence[Image.Image], questions: Sequence[str], sampling: Sampling, trace: bool = False
        ) -> list[Answer]:
            grey = [Image.new("RGB", image.size, (128, 128, 128)) for image in images]
            return super().answer(grey, questions, sampling, trace)

    return Blind(method.model, method.processor, iterations=method.iterations)


def _fine(method: Method) -> Method:
    """The same model without latent steps, with all fine tokens in its context; leaves the model as it was."""
    from lare.methods.lare import Lare

    class Fine(Lare):
        """LaRe that reads the whole fine grid."""

        def answer(self, *given: Any, **options: Any) -> list[Any]:
            config, processor = self.model.config, self.processor
            before = (config.lm_grid, processor.lm_grid)
            config.lm_grid = processor.lm_grid = config.grid
            try:
                return super().answer(*given, **options)
            finally:
                config.lm_grid, processor.lm_grid = before

    return Fine(method.model, method.processor, iterations=0)


def _majority(like: Pass) -> Pass | None:
    """The blind table's answers to the mini tasks' questions of another pass; None without any."""
    from lare.world.benchmark import make_task
    from lare.world.blind import blind_answers, blind_view

    scores = {}
    for task, given in like.scores.items():
        name = task.removeprefix("lare_mini_")
        if name == task:
            continue
        rows = make_task(name, images=False)
        answers = blind_answers(name, rows)
        scores[task] = {number: float(answers[number] == blind_view(name, rows[number]).index) for number in given}
    costs = {task: np.zeros((len(given), 3)) for task, given in scores.items()}
    return Pass(MAJORITY, scores, costs, like.scenes) if scores else None


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
    parser = argparse.ArgumentParser(prog="python -m lare_eval.demo", description=__doc__)
    parser.add_argument("--checkpoint", help="LaRe checkpoint; default: the embedded one")
    parser.add_argument("--against", metavar="CHECKPOINT", help="compare with this checkpoint on the same questions")
    parser.add_argument("--tasks", default="lare_mini", help="tasks, separated by commas (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="questions of each task; default: all")
    parser.add_argument("--batch-size", type=int, default=32, help="questions answered at once (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the results (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.limit is not None and options.limit < 1:
        parser.error("--limit needs at least 1")
    return options


def run(options: argparse.Namespace) -> int:
    """Make the passes, print the summary and where it lies; returns the exit code."""
    from lare.methods import get_method, load_method

    started = time.perf_counter()
    options.out = options.out / time.strftime("%Y%m%d_%H%M%S")
    options.out.mkdir(parents=True)
    thinking = load_method("lare", options.checkpoint)
    direct = get_method("llava")(thinking.model, thinking.processor)
    written = get_method("lare")(thinking.model, thinking.processor, iterations=0)
    settings = {
        f"K={thinking.model.config.iterations}": thinking,
        DIRECT: direct,
        TEXT: written,
        RANDOM: random_windows(thinking),
    }
    if thinking.model.config.shared_projector:
        settings[FINE] = _fine(thinking)
    settings[BLIND] = _blind(thinking)
    if options.against:
        settings[AGAINST] = load_method("lare", options.against)
    passes = []
    for setting, method in settings.items():
        print(f"demo: {setting} ...", file=sys.stderr, flush=True)
        passes.append(
            evaluate_pass(setting, method, options.tasks.split(","), options.out, options.batch_size, options.limit)
        )
    guessed = _majority(passes[0])
    if guessed is not None and guessed.scores.keys() == passes[0].scores.keys():
        passes.append(guessed)
    cells, margins = summarise(passes)
    text = table(cells, margins)
    _write(options.out, thinking.fingerprint(), cells, margins, text, time.perf_counter() - started)
    print(f"\n{text}\n\n{_LEGEND}")
    print(f"{time.perf_counter() - started:.0f} s; results: {options.out / 'summary.json'}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo from the command line; returns the exit code."""
    options = _options(arguments)
    try:
        return run(options)
    except LareError as error:
        print(f"lare: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
