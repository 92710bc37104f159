"""Adaptive stopping (Table 4, Fig. 5): do the latents tell when to stop thinking?

The checkpoint thinks T steps once and answers after every one of them; every rule and threshold is then a look-up.
Thresholds are chosen on validation questions and judged on test questions, rules are compared at equal mean steps, and
each stands beside the same stops dealt out at random. A task whose curve over the steps goes against the others', on
validation questions, is set aside: rules are judged on what remains, and on all tasks beside it.

    python analysis/adaptive.py                 1,500 test and 500 validation questions of the mini tasks
    python analysis/adaptive.py --all           all 2,404 of each
    python analysis/adaptive.py --checkpoint my/7b --tasks mmbench_en_dev_static
    python analysis/adaptive.py --world 2 --checkpoint runs/a/IV/final --starts runs/b/IV/final,runs/c/IV/final
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.adaptive.answer import answer
from analysis.adaptive.by_task import curve_by_task, curve_figure, moves_by_steps, rules_by_task
from analysis.adaptive.curves import shuffled_figure, shuffled_table
from analysis.adaptive.measure import AdaptiveOptions, measure
from analysis.adaptive.pays import hops_table, pays_table
from analysis.adaptive.stopping import Prefixes, distances, rules_of
from analysis.adaptive.tables import Judged, figures, rules_table, samples, tables
from analysis.shared.cli import Computed, reproduce, run
from analysis.shared.questions import stand_ins
from analysis.shared.report.answers import answered
from analysis.shared.report.document import Document
from analysis.shared.stats import Result
from analysis.shared.tasks import METHOD, Apart, apart_table

__all__ = ["compute", "main", "verdict"]

_METHODS = (
    "Latents of later steps do not depend on whether a run stops, so replaying a rule over one run of T steps gives "
    "exactly what a live run with that rule gives (tests compare the two). A rule's distance is defined from the "
    "second step on (second difference: third; KL: first, against the answer without latents).",
    "L1, L2 and second difference are divided by the norm of the step before's latents (--absolute leaves that out, "
    "as the model's own stop=l1:C and l2:C do). Latents of this model all have one norm, on which L2 squared is "
    "2 - 2 cos: cosine and L2 are then the same rule, and any gap between them in a table is a gap of thresholds.",
    "Thresholds come from a grid of quantiles of the distances on validation questions: the one whose mean steps are "
    "nearest to the budget, or the most eager one that an exact binomial test over scenes shows to harm no more "
    "answers than allowed (right after T steps and wrong where stopped), tested from never on until the first failure.",
    "Shuffled: the same stops dealt out at random over the questions, in expectation. A rule that adapts is better "
    "than its own shuffled stops; one that does not merely stops early. Fixed line: accuracy of fixed steps, between "
    "two of them by interpolation, at the same mean steps.",
    "Bounds: the answer stays (the earliest step from which the answer is that after T steps: its accuracy is that of "
    "T steps by construction), and the first right answer, which counts lucky guesses on the way and is no goal.",
    "Patience needs an answer after every step, so its steps are not its cost; KL and the learned confidence need one "
    "more decoder step each.",
    "Learned rules are heads on the latent state, fitted on training questions after training (lare halting fit). "
    "Where the threshold is the checkpoint's own, it was chosen there, on other validation questions, and no run takes "
    "more steps than the best fixed number found there.",
    "A rule pays if it loses at most 1 point against the best fixed number of steps (lower end of the 95 % interval), "
    "takes at most 60 % of its steps, and beats its own shuffled stops by an interval that excludes 0. The best fixed "
    "number is chosen on validation questions.",
)


def verdict(judged: Sequence[Judged], test: Prefixes, usual: int, apart: Apart, whole: Sequence[Judged]) -> str:
    """The verdict over the tasks that remain; `whole` holds the same stops over all tasks, in the same order."""
    at_budget = [place for place, one in enumerate(judged) if one.aim.endswith("on average")]
    place = max(at_budget, key=lambda place: judged[place].accuracy.estimate)
    best, shuffled = judged[place], judged[place].against_shuffled
    fixed = 100 * test.right[:, usual].mean()
    told = (
        f"{'On ' + str(len(apart.kept)) + ' tasks, ' + apart.without + ': at' if apart.aside else 'At'} "
        f"{best.steps.mean():.2f} mean steps the best of {len(at_budget)} rules ({best.rule}) has "
        f"{100 * best.accuracy.estimate:.1f} % right, {_points(best.against_usual)} against {usual} fixed steps "
        f"({fixed:.1f} %) and {100 * shuffled.estimate:+.1f} [{100 * shuffled.low:.1f}, {100 * shuffled.high:.1f}] "
        f"against its own stops shuffled (n = {len(test.right)}, 95 % over {len(set(test.scene))} scenes). The best "
        "was picked on these questions, so its figure flatters it."
    )
    if not apart.aside:
        return told
    every = whole[place]
    return (
        f"{told} Set aside on validation questions: {apart.reasons}. With it, over all {len(apart.every)} tasks, the "
        f"same stops have {100 * every.accuracy.estimate:.1f} % right, {_points(every.against_usual)} against {usual} "
        f"fixed steps (n = {len(every.steps)})."
    )


def _points(gap: Result) -> str:
    return f"{100 * gap.estimate:+.1f} points [{100 * gap.low:.1f}, {100 * gap.high:.1f}]"


def _warnings(judged: Sequence[Judged], kept: Prefixes, usual: int, apart: Apart, test: Prefixes) -> tuple[str, ...]:
    found = list(apart.warnings)
    missed = sorted(set(moves_by_steps(test).aside) - set(apart.aside))
    if missed:
        found.append(
            f"On test questions {', '.join(missed)} moves against the rest as well; validation questions did not show "
            "it, so it is not set aside: see the curves by task"
        )
    curve = 100 * kept.right.mean(0)
    best = int(curve.argmax())
    if curve[best] - curve[-1] > 1:
        found.append(
            f"Accuracy falls from {curve[best]:.1f} % after {best} steps to {curve[-1]:.1f} % after {kept.most}: the "
            f"checkpoint thinks {usual} steps as it was trained, so 'at most so many harmed against all {kept.most} "
            "steps' is a low bar; look at the gap to the usual steps"
        )
    idle = [one.rule for one in judged if one.aim.endswith("harmed") and one.steps.min() == kept.most]
    if idle:
        found.append(f"No threshold of {', '.join(idle)} could be shown to be safe on so few validation questions")
    return tuple(found)


def compute(options: AdaptiveOptions) -> Computed:
    """Run once, replay every rule.

    Raises:
        LareError: If the questions can't be had, the checkpoint can't be loaded, or an option is impossible.
    """
    found = measure(options)
    test, apart, kept, judged, whole, usual = (
        found.test, found.apart, found.kept, found.judged, found.whole, found.usual,
    )  # fmt: skip
    rows = apart.of(test.task)
    values = {rule: distances(test, rule, not options.absolute) for rule in rules_of(test)}
    inside = {rule: one[rows] for rule, one in values.items()}
    shown = samples(found.gathered.questions, test, values, whole, options.samples, options.seeds[0])
    main, *more = tables(kept, inside, judged, usual, apart)
    by_task = [curve_by_task(test, apart), apart_table(apart, "fixed steps, validation questions")]
    if apart.aside:
        more[:0] = [rules_table(test, whole, usual)]
    more[:0] = [pays_table(found.starts), hops_table(found.starts), shuffled_table(kept, inside)]
    drawn = figures(kept, inside, judged)
    document = Document(
        name="adaptive",
        title="Adaptive stopping",
        verdict=verdict(judged, kept, usual, apart, whole),
        reproduce=reproduce(options, {"checkpoint": found.checkpoint}),
        warnings=(*found.gathered.warnings, *_warnings(judged, kept, usual, apart, test)),
        tables=(main, *by_task, *more, rules_by_task(test, whole, usual, apart)),
        figures=(drawn[0], shuffled_figure(kept, inside), curve_figure(test, apart), *drawn[1:]),
        samples=shown,
        sampling=f"{len(shown)} of {len(test.right)} questions, drawn by seed {options.seeds[0]}.",
        methods=(*_METHODS, METHOD),
        stand_in=stand_ins(found.gathered.questions),
    )
    return answered(document, answer), _arrays(test, values, whole) | {"set_aside": np.array(apart.aside, dtype=str)}


def _arrays(
    test: Prefixes, values: Mapping[str, npt.NDArray[np.float64]], judged: Sequence[Judged]
) -> dict[str, npt.NDArray[Any]]:
    arrays: dict[str, npt.NDArray[Any]] = {"right": test.right, "tokens": test.tokens, "doc_id": test.doc_id}
    arrays |= {"task": test.task, "hops": test.hops}
    arrays |= {f"distance_{rule}": found for rule, found in values.items()}
    names = {"on average": "budget", "harmed": "safe", "own": "own"}
    for one in judged:
        suffix = next((short for words, short in names.items() if one.aim.endswith(words)), "")
        arrays["stops_" + "_".join(filter(None, (one.rule, suffix)))] = one.steps
    return arrays


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    return run(AdaptiveOptions, compute, __doc__, arguments, answer)
