"""Numbers of the probe: every seed of every model.

From Python::

    from analysis.probe.measure import ProbeOptions, measure

    found = measure(ProbeOptions(images=60, pairs=120, seeds=(0,), jobs=1))
    [one.judged.accuracy for one in found.results if one.condition == "main"]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import joblib

from analysis.probe.classifiers import FEATURES
from analysis.probe.experiment import MODALITIES, Measured, Model, Settings, run_seed
from analysis.probe.instances import ANCHORS, RATIONALES, TASK, Asked, from_questions
from analysis.probe.models import Chosen, gather, named
from analysis.probe.pairs import SPLITS, Split
from analysis.probe.projection import HEADS, PROJECTIONS
from analysis.shared.options import option
from analysis.shared.questions import AskingOptions, gather_questions
from analysis.shared.traces import open_traces
from lare.embedded.world.benchmark import stand_in
from lare.errors import LareError

__all__ = ["FULL", "QUICK", "ProbeOptions", "Probed", "measure"]

NO_RATIONALES = "the tasks give no rationales, so latents are probed for what was looked at alone"


@dataclass(frozen=True)
class Sizes:
    """How much is probed where the command line does not say.

    Attributes:
        images: Images of the embedded world.
        pairs: Pairs of a seed.
        seeds: The seeds.
    """

    images: int
    pairs: int
    seeds: tuple[int, ...]

    @property
    def words(self) -> str:
        """The sizes in words, for ``--help``."""
        return f"{self.images} images, {self.pairs} pairs, {len(self.seeds)} seeds"


QUICK = Sizes(200, 400, (0, 1, 2))
FULL = Sizes(600, 1000, (0, 1, 2, 3, 4))


@dataclass(frozen=True)
class ProbeOptions(AskingOptions):
    """Options of the probe; `pairs`, `images` and `seeds` left out take the sizes of `QUICK` or, with `full`, `FULL`.

    Attributes:
        traces: Traces of the first model; its questions are put to all models.
        checkpoint: One model; `model` names several.
        model: NAME=CHECKPOINT or NAME=CHECKPOINT:without; none takes the shipped one.
        full: Sizes of a thorough run.
        images: Images of the embedded world to make.
        questions: Questions about each.
        limit: First questions of each task of `tasks`; None for all.
        pairs: Pairs of a seed.
        jobs: Processes side by side.
        feature: Features of a pair, one of `analysis.probe.classifiers.FEATURES`.
        projection: How vectors are projected to `dim` dimensions.
        heads: Whether both sides share a projection.
        dim: Projected dimensions.
        anchor: Visual tokens that the visual anchor pools.
        rationale: What the rationale's vector pools.
        split: What is kept apart.
    """

    name = "probe"
    example = "python analysis/probe.py --model small=runs/a/final --model small=runs/b/final:without"

    traces: tuple[str, ...] = option((), "traces of the first model, whose questions are put to all models",
                                     metavar="DIR")  # fmt: skip
    seeds: tuple[int, ...] = option((), f"random seeds (default: {len(QUICK.seeds)})", metavar="N")
    model: tuple[str, ...] = option(
        (), "a checkpoint to probe; with :without, the one of the same NAME that was trained without the Extractor "
        "(else the Extractor is switched off, and the report says so); repeat for more. Default: the shipped one",
        metavar="NAME=CHECKPOINT[:without]", repeat=True,
    )  # fmt: skip
    full: bool = option(False, f"default sizes of a thorough run: {FULL.words}")
    images: int | None = option(None, f"images to make (default: {QUICK.images})", metavar="N")
    questions: int = option(3, "questions about each", metavar="M")
    limit: int | None = option(None, "first questions of each task of --tasks (default: all)", metavar="N")
    pairs: int | None = option(None, f"pairs of a seed (default: {QUICK.pairs})", metavar="N")
    jobs: int = option(min(2, os.cpu_count() or 1), "processes side by side", metavar="N")
    feature: str = option("both", "of a pair; both: product and difference", choices=FEATURES)
    projection: str = option("infonce", "to --dim dimensions", choices=PROJECTIONS)
    heads: str = option("auto", "one projection for both sides where widths agree", choices=HEADS)
    dim: int = option(256, "projected dimensions", metavar="E")
    anchor: str = option("windows", "visual tokens that the visual anchor pools", choices=ANCHORS)
    rationale: str = option("states", "what the rationale's vector pools", choices=RATIONALES)
    split: str = option(
        "images", "components: no question text on both sides, where the data allow it; crossed: the same by leaving "
        "instances out; pairs: leaks, kept to show it", choices=SPLITS,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = FULL if self.full else QUICK
        for name in ("images", "pairs"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(sizes, name))
        object.__setattr__(self, "seeds", self.seeds or sizes.seeds)
        if self.jobs < 1:
            raise LareError(f"--jobs is {self.jobs}; give at least 1")
        if self.checkpoint and self.model:
            raise LareError("--checkpoint names the one model, --model several; give one of the two")


@dataclass(frozen=True)
class Probed:
    """All probes.

    Attributes:
        chosen: Models and their instances.
        results: Results of every model, condition, partner, classifier and seed.
        splits: One a seed.
        settings: The protocol.
        warnings: What a reader must know of the questions.
    """

    chosen: Chosen
    results: list[Measured]
    splits: list[Split]
    settings: Settings
    warnings: tuple[str, ...] = ()


def measure(options: ProbeOptions) -> Probed:
    """Gather instances of every model and run all seeds.

    Raises:
        LareError: If a model, traces or an option are impossible, or negatives can't be had.
    """
    images, pairs = options.images or QUICK.images, options.pairs or QUICK.pairs
    others, warnings = _others(options)
    traces = None if others or not options.traces else list(options.traces)
    models = options.model or ((f"model={options.checkpoint}",) if options.checkpoint else ())
    chosen = gather(
        named(models), traces, images, options.questions, options.anchor, options.rationale, _say,
        need_heads=options.projection == "model", others=others,
    )  # fmt: skip
    reasoned = not others or any(one.rationale for one in others)
    settings = Settings(
        pairs, options.split, options.feature, options.projection, options.heads, options.dim,
        modalities=MODALITIES if reasoned else MODALITIES[:1], lenient=bool(others),
    )  # fmt: skip
    found: list[Measured] = []
    splits = []
    for seed, (results, split) in zip(
        options.seeds, _seeds(chosen.models, options.seeds, settings, options.jobs), strict=True
    ):
        found += results
        splits.append(split)
        _say(f"seed {seed} probed")
    return Probed(chosen, found, splits, settings, warnings if reasoned else (*warnings, NO_RATIONALES))


def _others(options: ProbeOptions) -> tuple[list[Asked], tuple[str, ...]]:
    """Questions of lmms-eval's tasks, and what to know of them; none where the embedded world's are probed."""
    if not options.tasks and (not options.traces or _drawn(options.traces)):
        return [], ()
    gathered = gather_questions(options, limit=options.limit)
    asked, left_out = from_questions(gathered.questions)
    told = (f"{left_out} questions give no rationale, or ask twice; left out",) if left_out else ()
    return asked, (*gathered.warnings, *told)


def _drawn(traces: Sequence[str]) -> bool:
    """Whether the answers are about scenes of the embedded world, whose traces hold all that is needed."""
    return all(task == TASK or stand_in(task) for task in set(open_traces(traces).column("task")))


def _seeds(
    models: Sequence[Model], seeds: Sequence[int], settings: Settings, jobs: int
) -> Iterator[tuple[list[Measured], Split]]:
    """Every seed's results in their order, some models of some seeds at a time; they share nothing but the questions.

    All models have the same questions, so each draws the same split of a seed, and the number of processes changes no
    number.
    """
    if jobs == 1:
        yield from (run_seed(models, seed, settings) for seed in seeds)
        return
    # A process each, of one thread, since the fits are small.
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        pool = joblib.Parallel(n_jobs=min(jobs, len(seeds) * len(models)), return_as="generator")
        parts = pool(joblib.delayed(run_seed)([model], seed, settings) for seed in seeds for model in models)
    for _ in seeds:
        mine = list(islice(parts, len(models)))
        yield [one for found, _ in mine for one in found], mine[0][1]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
