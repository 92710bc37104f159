"""The probing analysis (Table 6, Appendix B): are latents matched with what was looked at, and with the rationale?

Pairs of a latent and a partner (the rationale's states, or the visual tokens that the model looked at) either belong to
one (image, question) or not; a linear SVM and a small MLP have to tell. Every control goes through the same protocol
and stands in the same table.

    python analysis/probe.py                    the shipped checkpoint: 3 seeds of 200 images, under a minute
    python analysis/probe.py --full             5 seeds of 600 images, as the committed report is
    python analysis/probe.py --model small=runs/a/final --model small=runs/b/final:without
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt

from analysis.probe.answer import answer
from analysis.probe.classifiers import FEATURES, MAX_STEPS
from analysis.probe.experiment import Measured, Model, Settings, run_seed
from analysis.probe.figures import figures
from analysis.probe.instances import ANCHORS, RATIONALES
from analysis.probe.models import gather, named
from analysis.probe.pairs import SPLITS, Split
from analysis.probe.projection import HEADS, PROJECTIONS
from analysis.probe.similarity import similarities
from analysis.probe.tables import tables
from analysis.probe.words import verdict, warnings_of
from analysis.shared.cli import Computed, reproduce, run, standard_parser
from analysis.shared.report.answers import answered
from analysis.shared.report.document import Document
from lare.errors import LareError

__all__ = ["compute", "main", "parser"]


@dataclass(frozen=True)
class Sizes:
    """How much is probed where the command line does not say."""

    images: int
    pairs: int
    seeds: tuple[int, ...]

    @property
    def words(self) -> str:
        """For the help."""
        return f"{self.images} images, {self.pairs} pairs, {len(self.seeds)} seeds"


QUICK = Sizes(200, 400, (0, 1, 2))
FULL = Sizes(600, 1000, (0, 1, 2, 3, 4))


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = standard_parser(
        "probe",
        "Probes latents for what was looked at and for the rationale (Table 6), with all controls.",
        "python analysis/probe.py --model small=runs/a/final --model small=runs/b/final:without",
    )
    made.add_argument(
        "--model",
        action="append",
        metavar="NAME=CHECKPOINT[:without]",
        help="a checkpoint to probe; with :without, the one of the same NAME that was trained without the Extractor "
        "(else the Extractor is switched off, and the report says so); repeat for more. Default: the shipped one",
    )
    quick, full = QUICK, FULL
    made.add_argument("--full", action="store_true", help=f"default sizes of a thorough run: {full.words}")
    made.add_argument("--images", type=int, metavar="N", help=f"images to make; default {quick.images}")
    made.add_argument("--questions", type=int, default=3, metavar="M", help="questions about each; default 3")
    made.add_argument("--pairs", type=int, metavar="N", help=f"pairs of a seed; default {quick.pairs}")
    made.add_argument(
        "--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="N",
        help="processes side by side; default %(default)s",
    )  # fmt: skip
    made.set_defaults(seeds=None)
    made.add_argument("--feature", choices=FEATURES, default="both", help="of a pair; both: product and difference")
    made.add_argument("--projection", choices=PROJECTIONS, default="infonce", help="to --dim dimensions")
    made.add_argument("--heads", choices=HEADS, default="auto", help="one projection for both sides where widths agree")
    made.add_argument("--dim", type=int, default=256, metavar="E", help="projected dimensions; default 256")
    made.add_argument("--anchor", choices=ANCHORS, default="windows", help="visual tokens that the visual anchor pools")
    made.add_argument("--rationale", choices=RATIONALES, default="states", help="what the rationale's vector pools")
    made.add_argument(
        "--split",
        choices=SPLITS,
        default="images",
        help="components: no question text on both sides, where the data allow it; crossed: the same by leaving "
        "instances out; pairs: leaks, kept to show it",
    )
    return made


_READINGS = (
    "Instances come from the embedded world's test split: several open questions about each image, whose texts recur "
    "over images. z pools the latents of all iterations, t the decoder's hidden states over the ground-truth "
    "rationale read alone, v the projected visual tokens inside the windows of the run, each by the mean-max pooling "
    "of the alignment loss (eq. 6).",
    "Images are split 70/30 first and pairs drawn inside each side, so no image is on both; a third of the negatives "
    "of each kind. Negatives with the match's own rationale text are never drawn. The positives are the instances "
    "whose latents the negatives have, so that a latent alone tells nothing.",
    "Projection to 256 dimensions by symmetric InfoNCE (temperature 0.07, Adam 1e-3, batches of 256, at most 200 "
    "epochs, patience 10 on 15 % of the training images), on training instances only; both sides are centred and "
    "scaled on these first, which the layer could do itself. Fitted on all pairs it would give 100 % on shuffled "
    "partners.",
    "A pair's features are [z * v, |z - v|] of the unit vectors, standardised on the training pairs. On a "
    "concatenation [z, v] a linear rule is at chance whatever the latents hold, since a match is a relation of the "
    "two (--feature concat shows it).",
    "SVM: linear kernel, C from 1e-3 to 100 by 5 folds over training images, at most "
    f"{MAX_STEPS:,} steps of its solver a fit, since a large C may not settle for hours on features that tell nothing; "
    "fits that the limit cut short are judged as they stand and counted among the warnings. MLP: 128 hidden units, "
    "Adam 1e-3, batches of 64, at most 200 epochs, patience 10 on 15 % of the training images. The paper gives "
    "neither; these are our choices.",
    "The p of the pairing is of a permutation test with all else held fast: the fitted projection and probe judge the "
    "test pairs again with partners exchanged among one another, over all images and questions; labels are not "
    "permuted, since an instance stands in several pairs. A small one says that latents tell something of their "
    "partner, the image included, not that they tell it of the question. Seeds share instances, so their p-values are "
    "put together as twice their mean, which is valid however they depend (Vovk and Wang 2020).",
    "Question texts recur on both sides, as the second kind of negative wants them to, and the table of the data says "
    "how many. --split components keeps them apart by the connected components of the graph of images and texts, and "
    "is refused where these are too large; --split crossed splits texts as well as images and leaves out the instances "
    "that cross.",
    "The model's own heads (rows of that name, or --projection model for all) are the linear layers of its alignment "
    "loss as trained, with nothing fitted here. The visual head was trained on the pool of all visual tokens, so its "
    "anchor here is another than in training unless --anchor all is given. Checkpoints without heads.safetensors have "
    "no such rows.",
    "CKA and mutual nearest neighbours need no projection. Linear CKA (Kornblith et al. 2019) with a jackknife over "
    "20 groups of images; mutual neighbours (Huh et al. 2024) by cosine of centred vectors among instances of other "
    "images, with a cluster-robust interval over images. Both once, over all instances, and with partners permuted.",
    "A learned projection makes latents of another space match nearly as well as aligned ones, so the table measures "
    "what can be read out linearly; the rows without projection tell how aligned the spaces are as they stand.",
    "Without Extractor: the same pooling over the same iterations of a model that feeds its last hidden state back. "
    "Such a model has no windows; its visual anchor pools the windows that its attention would have chosen.",
    "Untrained: random weights of the same configuration with the trained, frozen encoder. Mean latent of the image: "
    "each latent is replaced by the mean over the image's questions, which leaves only what belongs to the image.",
)
_ALL_TOKENS = (
    "The visual anchor pools all visual tokens, whatever was asked: negatives of the first kind then carry the match's "
    "own anchor, and no probe can pass 83.3 %."
)


def compute(options: argparse.Namespace) -> Computed:
    """Gather instances of every model, run all seeds, and say what came out.

    Args:
        options: Of `parser`; sizes that are None take the defaults.

    Raises:
        LareError: If a model, traces or an option are impossible, or negatives can't be had.
    """
    sizes = FULL if options.full else QUICK
    options.images = sizes.images if options.images is None else options.images
    options.pairs = sizes.pairs if options.pairs is None else options.pairs
    options.seeds = list(sizes.seeds) if options.seeds is None else options.seeds
    if options.jobs < 1:
        raise LareError(f"--jobs is {options.jobs}; give at least 1")
    chosen = gather(
        named(options.model),
        options.traces,
        options.images,
        options.questions,
        options.anchor,
        options.rationale,
        _say,
        need_heads=options.projection == "model",
    )
    settings = Settings(options.pairs, options.split, options.feature, options.projection, options.heads, options.dim)
    found: list[Measured] = []
    splits = []
    for seed, (results, split) in zip(
        options.seeds, _seeds(chosen.models, options.seeds, settings, options.jobs), strict=True
    ):
        found += results
        splits.append(split)
        _say(f"seed {seed} probed")
    document = Document(
        name="probe",
        title="Probing latents for vision and text (Table 6)",
        verdict=verdict(chosen.models, found, splits),
        reproduce=reproduce(options, chosen.hashes),
        warnings=warnings_of(chosen.models, found, splits, chosen.left_out),
        tables=tables(chosen.models, found, splits, similarities(chosen.models)),
        figures=figures(chosen.models, found),
        methods=(*_READINGS, *((_ALL_TOKENS,) if options.anchor == "all" else ())),
    )
    return answered(document, answer), _arrays(found)


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


def _arrays(found: Sequence[Measured]) -> dict[str, npt.NDArray[Any]]:
    """Every probe's result as columns; row i of each belongs to one probe."""
    names = ("backbone", "role", "condition", "modality", "classifier", "seed")
    made: dict[str, npt.NDArray[Any]] = {name: np.array([getattr(one, name) for one in found]) for name in names}
    for name in ("accuracy", "balanced", "auc", "n"):
        made[name] = np.array([getattr(one.judged, name) for one in found])
    made["kinds"] = np.array([one.judged.kinds for one in found])
    made["bits"] = np.array([np.nan if one.code is None else one.code.bits for one in found])
    made["p"] = np.array([np.nan if one.p is None else one.p for one in found])
    made["settled"] = np.array([one.settled for one in found])
    made["ceiling"] = np.array([one.ceiling for one in found])
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run(parser(), compute, arguments, answer)
