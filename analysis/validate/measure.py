"""Numbers of a validation: asks the suite, then everything that is said of its answers.

From Python::

    from analysis.validate.measure import ValidateOptions, measure

    found = measure(ValidateOptions(limit=100))
    found.judgement.verdict, found.judgement.prediction("other").gap.estimate
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from analysis.shared.boxes import box_shares
from analysis.shared.options import option
from analysis.shared.questions import AskingOptions, Gathered, Question, gather_questions, stand_ins
from analysis.shared.stats import Result, cluster_mean
from analysis.validate.effects import Collapse, attended, collapse, kept_of_gain, mediation, picture_vectors
from analysis.validate.judge import Judgement, judge
from analysis.validate.suite import RATIONALE, Asking, Outcome, Outcomes, run_suite
from lare.cost.flops import answer_work
from lare.embedded.world.benchmark import make_task, stand_in
from lare.methods import get_method, load_method
from lare.methods.intervening import Intervening
from lare.methods.options import parse_options

if TYPE_CHECKING:
    from lare.methods.base import Method

__all__ = ["Measured", "Spent", "ValidateOptions", "measure", "measured", "spent_on"]

KEEP = "runs/validate"
"""Where answers are kept unless ``--keep`` says otherwise."""


@dataclass(frozen=True)
class ValidateOptions(AskingOptions):
    """Options of a validation.

    Attributes:
        model: Method that answers.
        option: Options of the method.
        split: Split of the mini tasks, "validation" or "test".
        limit: First questions of each task; None for all.
        batch_size: Questions of a call; settings that share a prefix are as many times more rows.
        rationale: Method of the same weights that writes its rationale; "none" for none.
        keep: Folder where answers are kept, so that a killed run goes on; "none" keeps nothing.
        label: Name of what is validated, in the report and its summary.
    """

    name = "validate"
    example = "python analysis/validate.py --model lare --tasks pope --limit 500"

    model: str = option("lare", "method that answers (lare info --methods lists them)", metavar="NAME")
    split: str = option("validation", "of the mini tasks, where no --tasks are named", choices=("validation", "test"))
    limit: int | None = option(None, "first questions of each task (default: all)", metavar="N")
    batch_size: int = option(16, "questions of a call; interventions multiply it", metavar="N")
    rationale: str = option("cot", "method of the same weights that writes its rationale; none for none",
                            metavar="NAME")  # fmt: skip
    keep: str = option(KEEP, "folder where answers are kept; none keeps nothing", metavar="DIR")
    label: str = option("", "name of what is validated (default: model and checkpoint)", metavar="TEXT")
    # The last field: in this class's body its name hides the function that makes fields.
    option: tuple[str, ...] = option((), "an option of the method; once for each", metavar="NAME=VALUE", repeat=True)


@dataclass(frozen=True)
class Spent:
    """What an answer takes, means over questions.

    Attributes:
        accuracy: Share of right answers.
        tokens: Text tokens.
        steps: Latent iterations.
        seconds: An answer's part of its batch, on this machine.
        multiply_adds: MACs of one answer asked alone, in millions; None where nothing counts them.
    """

    accuracy: Result
    tokens: float
    steps: float
    seconds: float
    multiply_adds: float | None


@dataclass(frozen=True)
class Measured:
    """A validation's numbers.

    Attributes:
        label: What was validated.
        gathered: The questions.
        outcomes: All answers.
        judgement: The verdict and its predictions.
        collapses: How much latents, and pictures, differ.
        mediation: See `analysis.validate.effects.mediation`.
        kept: Share of the gain that settings keep.
        spent: What answers take, by way of answering.
        hashes: Fingerprints of weights and settings.
        seed: Seed of draws.
        attended: What the latent steps attend to, see `analysis.validate.effects.attended`.
    """

    label: str
    gathered: Gathered
    outcomes: Outcomes
    judgement: Judgement
    collapses: Mapping[str, Collapse]
    mediation: Mapping[str, Result]
    kept: Mapping[str, Result]
    spent: Mapping[str, Spent]
    hashes: Mapping[str, str]
    seed: int = 0
    attended: Mapping[str, Result] = field(default_factory=dict)

    @property
    def stand_in(self) -> bool:
        """Whether the questions are of the drawn world."""
        return stand_ins(self.gathered.questions)


def measure(options: ValidateOptions) -> Measured:
    """Load, ask, and judge.

    Raises:
        LareError: If the questions or the checkpoint can't be had, or the method makes no latents.
    """
    given = parse_options(options.option)
    get_method(options.model).options_type.read(options.model, given)
    gathered = gather_questions(options, options.split, options.limit)
    gathered = replace(gathered, questions=_with_boxes(gathered.questions))
    method = load_method(options.model, options.checkpoint, **given)
    gathered.check(method.fingerprint())
    asking = Asking(
        batch=options.batch_size,
        seed=options.seeds[0],
        keep=None if options.keep == "none" else options.keep,
        rationale=_rationale(method, options.rationale),
    )
    outcomes = run_suite(method, gathered.questions, asking)
    label = options.label or f"{options.model}, {options.checkpoint or 'shipped checkpoint'}"
    return measured(label, method, gathered, outcomes, options.seeds[0])


def measured(label: str, method: Method, gathered: Gathered, outcomes: Outcomes, seed: int = 0) -> Measured:
    """Everything that is said of answers.

    Args:
        label: What was validated.
        method: What answered.
        gathered: The questions.
        outcomes: The answers.
        seed: Seed of bootstraps.
    """
    scenes = outcomes.scenes
    collapses = {
        "latents": collapse(outcomes.latents["own"], scenes, seed),
        "pictures": collapse(picture_vectors([one.image for one in gathered.questions]), scenes, seed),
    }
    ways = (("own", True), ("none", False), ("marks", True), (RATIONALE, True))
    spent = {
        name: spent_on(outcomes.by_name[name], outcomes, method, marks)
        for name, marks in ways
        if name in outcomes.by_name
    }
    return Measured(
        label,
        gathered,
        outcomes,
        judge(outcomes),
        collapses,
        mediation(outcomes, seed),
        kept_of_gain(outcomes, seed),
        spent,
        {"checkpoint": method.fingerprint()},
        seed,
        attended(outcomes),
    )


def spent_on(one: Outcome, outcomes: Outcomes, method: Method, marks: bool = True) -> Spent:
    """What answers under one setting take."""
    tokens, steps = float(one.tokens.mean()), float(one.steps.mean())
    macs = None
    if isinstance(method, Intervening):
        work = answer_work(method.model, round(float(one.prompt.mean())), round(tokens), round(steps), marks)
        macs = sum(work.values()) / 1e6
    return Spent(cluster_mean(one.right.astype(float), outcomes.scenes), tokens, steps, float(one.seconds.mean()), macs)


def _rationale(method: Method, name: str) -> Method | None:
    """The method that writes its rationale, on the same weights; None where the weights are of another kind."""
    if name == "none" or not isinstance(method, Intervening):
        return None
    kind = get_method(name)
    # Weights that learnt latents learnt the whole rationale after empty marks, where they learnt it at all.
    given = {"delimiters": True} if "delimiters" in kind.options_type.names() else {}
    return kind.build(method.model, method.processor, kind.options_type.read(name, given))


def _with_boxes(questions: Sequence[Question]) -> list[Question]:
    """The mini tasks' questions with the boxes of their rows; others as they are."""
    last: dict[str, int] = {}
    for one in questions:
        last[one.task] = max(last.get(one.task, 0), one.doc_id)
    known = {task: found for task in last if (found := stand_in(task)) is not None}
    rows = {
        task: make_task(one.name, one.split, last[task] + 1 + (last[task] + 1) % 2, images=False, version=one.version)
        for task, one in known.items()
    }
    return [
        replace(one, boxes=box_shares(rows[one.task][one.doc_id]["boxes"], one.image.size, f"{one.task} {one.doc_id}"))
        if one.task in rows
        else one
        for one in questions
    ]
