"""The probing analysis (Table 6, Appendix B): are latents matched with what was looked at, and with the rationale?

Pairs of a latent and a partner (the rationale's states, or the visual tokens that the model looked at) either belong to
one (image, question) or not; a linear SVM and a small MLP have to tell. Every control goes through the same protocol
and stands in the same table.

    python analysis/probe.py                    the shipped checkpoint: 3 seeds of 200 images, under a minute
    python analysis/probe.py --full             5 seeds of 600 images, as the committed report is
    python analysis/probe.py --model small=runs/a/final --model small=runs/b/final:without
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.probe.answer import answer
from analysis.probe.classifiers import MAX_STEPS
from analysis.probe.experiment import Measured
from analysis.probe.figures import figures
from analysis.probe.measure import ProbeOptions, measure
from analysis.probe.similarity import similarities
from analysis.probe.tables import tables
from analysis.probe.words import verdict, warnings_of
from analysis.shared.cli import Computed, reproduce, run
from analysis.shared.report.answers import answered
from analysis.shared.report.document import Document

__all__ = ["compute", "main"]


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


def compute(options: ProbeOptions) -> Computed:
    """Gather instances of every model, run all seeds, and say what came out.

    Raises:
        LareError: If a model, traces or an option are impossible, or negatives can't be had.
    """
    probed = measure(options)
    chosen, found, splits = probed.chosen, probed.results, probed.splits
    document = Document(
        name="probe",
        title="Probing latents for vision and text (Table 6)",
        verdict=verdict(chosen.models, found, splits),
        reproduce=reproduce(options, chosen.hashes),
        warnings=(*probed.warnings, *warnings_of(chosen.models, found, splits, chosen.left_out)),
        tables=tables(chosen.models, found, splits, similarities(chosen.models, modalities=probed.settings.modalities)),
        figures=figures(chosen.models, found),
        methods=(*_READINGS, *((_ALL_TOKENS,) if options.anchor == "all" else ())),
        stand_in=not options.tasks,
    )
    return answered(document, answer), _arrays(found)


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
    """Run from the command line; returns the exit code."""
    return run(ProbeOptions, compute, __doc__, arguments, answer)
