"""Numbers of adaptive stopping: one run with an answer after every step, and every rule judged on it.

From Python::

    from analysis.adaptive.measure import AdaptiveOptions, measure

    found = measure(AdaptiveOptions(limit=50, validation=50))
    {one.rule: one.accuracy.estimate for one in found.judged}
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from analysis.adaptive.by_task import moves_by_steps
from analysis.adaptive.stopping import (
    RULES,
    Prefixes,
    choose_for_budget,
    choose_safe,
    distances,
    earliest_right,
    run_once,
    stable_answer,
    stop_steps,
    thresholds,
)
from analysis.adaptive.tables import Judged, judge
from analysis.shared.asking import Asker
from analysis.shared.options import option
from analysis.shared.questions import AskingOptions, Gathered, gather_questions, halves
from analysis.shared.tasks import Apart
from lare.errors import LareError

__all__ = ["AdaptiveOptions", "Measured", "judge_all", "measure", "replay"]

CACHE = Path("results/adaptive")


@dataclass(frozen=True)
class AdaptiveOptions(AskingOptions):
    """Options of adaptive stopping.

    Attributes:
        limit: First test questions of each task.
        validation: First validation questions of each task, on which thresholds are chosen. Tasks of lmms-eval have one
            split: of their first `limit` + `validation` questions, thresholds are chosen on some pictures and judged
            on the others.
        all: All questions of both.
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
    """

    gathered: Gathered
    checkpoint: str
    usual: int
    test: Prefixes
    apart: Apart
    kept: Prefixes
    judged: list[Judged]
    whole: list[Judged]


def measure(options: AdaptiveOptions) -> Measured:
    """Run once, replay every rule.

    Raises:
        LareError: If the questions can't be had, the checkpoint can't be loaded, or an option is impossible.
    """
    settled, gathered = _questions(options)
    validation, _ = _run(options, "validation", settled, options.validation)
    test, asker = _run(options, "test", gathered, options.limit)
    usual = int(asker.model.config.iterations)
    if not 0 < usual <= options.steps:
        raise LareError(f"--steps is {options.steps}, the checkpoint thinks {usual}; give at least that many")
    return Measured(gathered, asker.fingerprint, usual, test, *replay(test, validation, options, usual))


def _questions(options: AdaptiveOptions) -> tuple[Gathered, Gathered]:
    """Questions to choose thresholds on, and questions to judge on."""
    if not options.traces and not options.tasks:
        return (
            gather_questions(options, "validation", None if options.all else options.validation),
            gather_questions(options, "test", None if options.all else options.limit),
        )
    every = gather_questions(options, limit=None if options.all else options.limit + options.validation)
    first, second = halves(every.questions, options.validation, options.limit)
    return replace(every, questions=first), replace(every, questions=second)


def _run(options: AdaptiveOptions, split: str, gathered: Gathered, limit: int) -> tuple[Prefixes, Asker]:
    asker = Asker(gathered.questions, options.checkpoint, options.batch_size)
    gathered.check(asker.fingerprint)
    words = (gathered.label, split, "all" if options.all else str(limit), str(options.steps))
    cache = Path(options.cache) / asker.fingerprint / f"{'-'.join(filter(None, words))}.npz"
    return run_once(asker, options.steps, None if options.no_cache else cache), asker


def judge_all(test: Prefixes, validation: Prefixes, options: AdaptiveOptions, usual: int) -> list[Judged]:
    """Every rule at its budget and at its safe threshold, and the two bounds.

    Args:
        test: Judged on.
        validation: Thresholds are chosen on.
        options: `budget`, `margin`, `patience`, `absolute`.
        usual: K, steps of the checkpoint without a rule.
    """
    found = []
    budget = float(usual if options.budget is None else options.budget)
    for rule in RULES:
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
    found.append(judge(test, "bound_stable", "bound: the answer stays", stable_answer(test), usual))
    found.append(judge(test, "bound_right", "bound: first right answer", earliest_right(test), usual))
    return found


def replay(
    test: Prefixes, validation: Prefixes, options: AdaptiveOptions, usual: int
) -> tuple[Apart, Prefixes, list[Judged], list[Judged]]:
    """Set aside what moves against the rest on validation questions, choose thresholds on the rest of them, and judge.

    Args:
        test: Judged on.
        validation: Tasks are set aside and thresholds chosen on these.
        options: Of `judge_all`.
        usual: K, steps of the checkpoint without a rule.

    Returns:
        Tasks apart, test questions of the tasks that remain, rules judged on those, the same thresholds on all.
    """
    apart = moves_by_steps(validation)
    settled, kept = validation.take(apart.of(validation.task)), test.take(apart.of(test.task))
    judged = judge_all(kept, settled, options, usual)
    return apart, kept, judged, judge_all(test, settled, options, usual) if apart.aside else judged
