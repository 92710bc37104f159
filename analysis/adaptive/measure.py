"""Numbers of adaptive stopping: one run with an answer after every step, and every rule judged on it.

From Python::

    from analysis.adaptive.measure import AdaptiveOptions, measure

    found = measure(AdaptiveOptions(limit=50, validation=50))
    {one.rule: one.accuracy.estimate for one in found.judged}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from analysis.adaptive.by_task import moves_by_steps
from analysis.adaptive.pays import Start, best_fixed
from analysis.adaptive.stopping import (
    Prefixes,
    choose_for_budget,
    choose_safe,
    distances,
    earliest_right,
    rules_of,
    run_once,
    stable_answer,
    stop_steps,
    thresholds,
)
from analysis.adaptive.tables import Judged, judge
from analysis.shared.asking import Asker
from analysis.shared.options import option
from analysis.shared.questions import AskingOptions, Gathered, gather_questions, halves, load_questions
from analysis.shared.tasks import Apart
from lare.errors import LareError

__all__ = ["AdaptiveOptions", "Measured", "judge_all", "measure", "replay"]

CACHE = Path("results/adaptive")
OWN = "the checkpoint's own"
"""What the threshold was chosen for that lies with a learned head."""
Own = Mapping[str, tuple[float, int]]


@dataclass(frozen=True)
class AdaptiveOptions(AskingOptions):
    """Options of adaptive stopping.

    Attributes:
        limit: First test questions of each task.
        validation: First validation questions of each task, on which thresholds are chosen. Tasks of lmms-eval have one
            split: of their first `limit` + `validation` questions, thresholds are chosen on some pictures and judged
            on the others.
        all: All questions of both.
        world: Version of the embedded world whose mini tasks are asked.
        starts: Checkpoints of further independent starts, judged by thresholds of their own.
        steps: T.
        budget: Mean steps at which rules are compared; None for the checkpoint's K.
        margin: Share of answers that may be harmed.
        patience: Steps in a row below the threshold.
        absolute: Distances as the model's own stop rules take them.
        samples: Questions to show.
        cache: Folder of finished runs.
        no_cache: Neither read nor keep finished runs.
    """

    name = "adaptive"
    example = "python analysis/adaptive.py --all"

    limit: int = option(300, "first test questions of each task", metavar="N")
    validation: int = option(100, "first validation questions of each task", metavar="N")
    all: bool = option(False, "all questions of both")
    world: int = option(1, "version of the embedded world whose mini tasks are asked", metavar="V")
    starts: tuple[str, ...] = option((), "checkpoints of further independent starts of the same training",
                                     metavar="DIR[,DIR]", split=True)  # fmt: skip
    steps: int = option(8, "T, most steps", metavar="T")
    budget: float | None = option(None, "mean steps at which rules are compared (default: the checkpoint's K)")
    margin: float = option(0.01, "share of answers that may be harmed")
    patience: int = option(1, "steps in a row below the threshold")
    absolute: bool = option(False, "distances as the model's own stop rules take them")
    samples: int = option(24, "questions to show", metavar="N")
    cache: str = option(str(CACHE), "folder of finished runs", metavar="DIR")
    no_cache: bool = option(False, "neither read nor keep finished runs")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience < 1 or not 0 < self.margin < 1:
            raise LareError(f"--patience {self.patience}, --margin {self.margin}: give at least 1 and a share")
        if self.limit < 1 or self.validation < 1:
            raise LareError(f"--limit {self.limit}, --validation {self.validation}: give at least 1 of each")
        if self.starts and self.traces:
            raise LareError("--traces are of one checkpoint; leave --starts out, or name the questions with --tasks")
        if self.world != 1 and (self.traces or self.tasks):
            raise LareError("--world chooses among the mini tasks; leave --traces and --tasks out")


@dataclass(frozen=True)
class Measured:
    """The run and what every rule makes of it.

    Attributes:
        gathered: The test questions.
        checkpoint: Fingerprint of the weights.
        usual: K, steps of the checkpoint without a rule.
        test: The run on the test questions.
        apart: Tasks apart, by validation questions.
        kept: The run on the test questions of the tasks that remain.
        judged: Rules judged on those.
        whole: The same thresholds on all test questions.
        starts: The checkpoint and the further starts, each judged by its own thresholds.
    """

    gathered: Gathered
    checkpoint: str
    usual: int
    test: Prefixes
    apart: Apart
    kept: Prefixes
    judged: list[Judged]
    whole: list[Judged]
    starts: tuple[Start, ...]


def measure(options: AdaptiveOptions) -> Measured:
    """Run once, replay every rule.

    Raises:
        LareError: If the questions can't be had, the checkpoint can't be loaded, or an option is impossible.
    """
    settled, gathered = _questions(options)
    validation, test, asker, usual = _both(options, settled, gathered)
    own = _own(asker)
    apart, kept, judged, whole = replay(test, validation, options, usual, own)
    best = best_fixed(validation.take(apart.of(validation.task)))
    starts = [Start(_name(options.checkpoint), kept, tuple(judged), best, asker.fingerprint)]
    for place in options.starts:
        starts.append(_start(replace(options, checkpoint=place), settled, gathered, apart))
        if starts[-1].weights in [one.weights for one in starts[:-1]]:
            raise LareError(f"--starts: {place!r} has the weights of a start before it; name independent ones")
    return Measured(gathered, asker.fingerprint, usual, test, apart, kept, judged, whole, tuple(starts))


def _both(options: AdaptiveOptions, settled: Gathered, gathered: Gathered) -> tuple[Prefixes, Prefixes, Asker, int]:
    """A checkpoint's runs on validation and test questions, and its K."""
    validation, _ = _run(options, "validation", settled, options.validation)
    test, asker = _run(options, "test", gathered, options.limit)
    usual = int(asker.model.config.iterations)
    if not 0 < usual <= options.steps:
        raise LareError(f"--steps is {options.steps}, the checkpoint thinks {usual}; give at least that many")
    return validation, test, asker, usual


def _start(options: AdaptiveOptions, settled: Gathered, gathered: Gathered, apart: Apart) -> Start:
    """A further start, on the tasks that the first one keeps."""
    validation, test, asker, usual = _both(options, settled, gathered)
    chosen, kept = (made.take(apart.of(made.task)) for made in (validation, test))
    judged = judge_all(kept, chosen, options, usual, _own(asker))
    return Start(_name(options.checkpoint), kept, tuple(judged), best_fixed(chosen), asker.fingerprint)


def _own(asker: Asker) -> Own:
    """Thresholds of a checkpoint's stop heads, as distances, and the most steps that they take."""
    heads = asker.model.stop_heads
    return {} if heads is None else {kind: (1 - one.threshold, heads.steps) for kind, one in heads.heads.items()}


def _name(checkpoint: str | None) -> str:
    """The last folders of a checkpoint's path."""
    return "shipped" if checkpoint is None else "/".join(Path(checkpoint).parts[-3:])


def _questions(options: AdaptiveOptions) -> tuple[Gathered, Gathered]:
    """Questions to choose thresholds on, and questions to judge on."""
    if not options.traces and not options.tasks:
        limits = {"validation": options.validation, "test": options.limit}
        label = "" if options.world == 1 else f"world{options.world}"
        made = [
            Gathered(load_questions(split, None if options.all else limit, version=options.world), label=label)
            for split, limit in limits.items()
        ]
        return made[0], made[1]
    every = gather_questions(options, limit=None if options.all else options.limit + options.validation)
    first, second = halves(every.questions, options.validation, options.limit)
    return replace(every, questions=first), replace(every, questions=second)


def _run(options: AdaptiveOptions, split: str, gathered: Gathered, limit: int) -> tuple[Prefixes, Asker]:
    asker = Asker(gathered.questions, options.checkpoint, options.batch_size)
    gathered.check(asker.fingerprint)
    heads = asker.model.stop_heads
    digest = "" if heads is None else heads.digest
    words = (gathered.label, split, "all" if options.all else str(limit), str(options.steps), digest)
    cache = Path(options.cache) / asker.fingerprint / f"{'-'.join(filter(None, words))}.npz"
    return run_once(asker, options.steps, None if options.no_cache else cache), asker


def judge_all(
    test: Prefixes, validation: Prefixes, options: AdaptiveOptions, usual: int, own: Own | None = None
) -> list[Judged]:
    """Every rule at its budget and at its safe threshold, learned ones at their own, and the two bounds.

    Args:
        test: Judged on.
        validation: Thresholds are chosen on.
        options: `budget`, `margin`, `patience`, `absolute`.
        usual: K, steps of the checkpoint without a rule.
        own: See `_own`.
    """
    found = []
    budget = float(usual if options.budget is None else options.budget)
    for rule in rules_of(test):
        patience = 1 if rule == "patience" else options.patience
        seen = distances(validation, rule, not options.absolute)
        values = distances(test, rule, not options.absolute)
        grid = thresholds(seen, rule)
        chosen = {
            f"{budget:g} steps on average": choose_for_budget(seen, grid, budget, patience),
            f"at most {100 * options.margin:g} % harmed": choose_safe(
                seen, grid, validation.right, validation.scene, options.margin, patience=patience
            ),
        }
        for aim, threshold in chosen.items():
            stops = stop_steps(values, threshold, patience)
            planned = float(stop_steps(seen, threshold, patience).mean())
            found.append(judge(test, rule, aim, stops, usual, threshold, planned))
        if own and rule in own:
            limit, most = own[rule]
            live, before = (np.minimum(stop_steps(one, limit), most) for one in (values, seen))
            found.append(judge(test, rule, OWN, live, usual, limit, float(before.mean())))
    found.append(judge(test, "bound_stable", "bound: the answer stays", stable_answer(test), usual))
    found.append(judge(test, "bound_right", "bound: first right answer", earliest_right(test), usual))
    return found


def replay(
    test: Prefixes, validation: Prefixes, options: AdaptiveOptions, usual: int, own: Own | None = None
) -> tuple[Apart, Prefixes, list[Judged], list[Judged]]:
    """Set aside what moves against the rest on validation questions, choose thresholds on the rest of them, and judge.

    Args:
        test: Judged on.
        validation: Tasks are set aside and thresholds chosen on these.
        options: Options of `judge_all`.
        usual: K, steps of the checkpoint without a rule.
        own: See `_own`.

    Returns:
        Tasks apart, test questions of the tasks that remain, rules judged on those, the same thresholds on all.
    """
    apart = moves_by_steps(validation)
    settled, kept = validation.take(apart.of(validation.task)), test.take(apart.of(test.task))
    judged = judge_all(kept, settled, options, usual, own)
    return apart, kept, judged, judge_all(test, settled, options, usual, own) if apart.aside else judged
