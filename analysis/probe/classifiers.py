"""The two probes on pairs of vectors, a linear SVM and an MLP with one hidden layer, and how they are judged.

Shapes: P pairs, e dimensions of a vector, F of a pair's features.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

from analysis.probe.pairs import KINDS, Pairs
from lare.errors import LareError

__all__ = [
    "COSTS",
    "FEATURES",
    "Judged",
    "MAX_STEPS",
    "Mlp",
    "Svm",
    "fit_mlp",
    "fit_svm",
    "judge",
    "keep_best",
    "pair_features",
    "scaled",
    "validation_rows",
]

FEATURES = ("both", "product", "absdiff", "cosine", "concat", "latent", "partner")
"""both: [z * v, |z - v|]. latent and partner: one side alone, which must be at chance. concat: [z, v], on which a
linear rule can't tell a match."""

COSTS = tuple(float(cost) for cost in np.logspace(-3, 2, 6))
MAX_STEPS = 50_000
"""Most steps of the SVM's solver. On features that tell nothing, a large C may not settle for hours: such a fit is
judged as it stands, and counted."""

HIDDEN = 128
RATE = 1e-3
PATIENCE = 10
MAX_EPOCHS = 200
BATCH = 64
HELD_OUT = 0.15

Array = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Judged:
    """How a probe did on the test pairs; shares from 0 to 1.

    Attributes:
        accuracy: Right answers.
        balanced: Mean of both labels' accuracies.
        auc: Area under the ROC curve of its scores.
        kinds: Accuracy on positives and on each kind of negative; missing where there is none.
        n: Test pairs.
    """

    accuracy: float
    balanced: float
    auc: float
    kinds: tuple[float, ...]
    n: int


def pair_features(z: Array, v: Array, pairs: Pairs, kind: str = "both") -> Array:
    """Features of pairs, (P, F).

    Args:
        z: (N, e) latents.
        v: (N, e) partners.
        pairs: P pairs.
        kind: One of `FEATURES`.

    Raises:
        LareError: If the kind is unknown.
    """
    left, right = z[pairs.left], v[pairs.right]
    if kind == "concat":
        return np.concatenate((left, right), 1)
    if kind in ("latent", "partner"):
        return left if kind == "latent" else right
    if kind == "cosine":
        return np.asarray((left * right).sum(1, keepdims=True))
    parts = {"product": [left * right], "absdiff": [np.abs(left - right)]}
    parts["both"] = parts["product"] + parts["absdiff"]
    if kind not in parts:
        raise LareError(f"feature {kind!r} is unknown; choose from {', '.join(FEATURES)}")
    return np.concatenate(parts[kind], 1)


def scaled(train: Array, test: Array) -> tuple[Array, Array]:
    """Both with the training features' mean and spread taken out."""
    scaler = StandardScaler().fit(train)
    return scaler.transform(train).astype(np.float32), scaler.transform(test).astype(np.float32)


def judge(scores: Doubles, pairs: Pairs) -> Judged:
    """Judge scores, above 0 for a match."""
    guess = (scores > 0).astype(np.int64)
    right = guess == pairs.label
    each = [right[pairs.kind == kind] for kind in range(len(KINDS) + 1)]
    kinds = tuple(float(one.mean()) if one.size else float("nan") for one in each)
    return Judged(
        float(right.mean()),
        float(balanced_accuracy_score(pairs.label, guess)),
        float(roc_auc_score(pairs.label, scores)),
        kinds,
        len(pairs),
    )


@dataclass(frozen=True)
class Svm:
    """A fitted linear SVM.

    Attributes:
        weight: (F,).
        bias: Added to the product.
        settled: Whether the final fit's solver came to its end within `MAX_STEPS`.
        unsettled_folds: Fits of the search for C that did not.
    """

    weight: Doubles
    bias: float
    settled: bool
    unsettled_folds: int

    def scores(self, features: Array) -> Doubles:
        """Decision values, (P,)."""
        return np.asarray(features.astype(np.float64) @ self.weight + self.bias)


def fit_svm(features: Array, labels: Ints, groups: npt.NDArray[np.str_]) -> Svm:
    """Fit a linear SVM (hinge loss) whose C is chosen by 5 folds over the training images.

    The linear kernel's matrix is made once and handed over; the machine is that of ``SVC(kernel="linear")``.

    Args:
        features: (P, F) scaled features.
        labels: (P,) 0 or 1.
        groups: (P,) images; no image is on both sides of a fold.
    """
    wide = features.astype(np.float64)
    folds = list(StratifiedGroupKFold(min(5, len(set(groups.tolist())))).split(wide, labels, groups))
    kernel = wide @ wide.T
    # scikit-learn's own search checks every call's arguments anew, which takes four times as long as these small fits.
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted below, by each fit's own word
        tried = [_fold_scores(kernel, labels, *fold) for fold in folds]
        shares = np.mean([share for share, _ in tried], axis=0)
        cost = COSTS[int(shares.argmax())]
        best = SVC(kernel="precomputed", max_iter=MAX_STEPS, C=cost).fit(kernel, labels)
    unsettled = sum(early for _, early in tried)
    weight = (best.dual_coef_ @ wide[best.support_])[0]
    return Svm(weight, float(best.intercept_[0]), best.fit_status_ == 0, unsettled)


def _fold_scores(kernel: Doubles, labels: Ints, fit: Ints, held: Ints) -> tuple[list[float], int]:
    """Share of held-out rows told right by each C, and how many of the fits had not settled."""
    inner, outer = kernel[np.ix_(fit, fit)], kernel[np.ix_(held, fit)]
    shares, early = [], 0
    for cost in COSTS:
        machine = SVC(kernel="precomputed", max_iter=MAX_STEPS, C=cost).fit(inner, labels[fit])
        values = outer[:, machine.support_] @ machine.dual_coef_[0] + machine.intercept_[0]
        shares.append(float(((values > 0) == (labels[held] == machine.classes_[1])).mean()))
        early += machine.fit_status_ != 0
    return shares, early


def validation_rows(groups: npt.NDArray[np.str_], seed: int) -> tuple[Ints, Ints]:
    """Rows to fit and rows to stop by: 15 % of the training images."""
    fit, held = next(GroupShuffleSplit(1, test_size=HELD_OUT, random_state=seed).split(groups, groups=groups))
    return fit.astype(np.int64), held.astype(np.int64)


class Mlp(nn.Module):
    """One hidden layer; `forward` gives log-odds of a match, (P,)."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, HIDDEN)
        self.out = nn.Linear(HIDDEN, 1)
        with torch.no_grad():
            for layer in (self.hidden, self.out):
                bound = layer.in_features**-0.5
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(P, F) -> (P,)."""
        made: torch.Tensor = self.out(torch.relu(self.hidden(features))).squeeze(-1)
        return made

    @torch.no_grad()
    def scores(self, features: Array) -> Doubles:
        """Log-odds of a match, (P,)."""
        return np.asarray(self(torch.from_numpy(features)).double().numpy())


def fit_mlp(features: Array, labels: Ints, fit: Ints, held: Ints, seed: int) -> Mlp:
    """Fit by Adam, stop when the held-out loss has not fallen for 10 epochs, keep the best.

    Args:
        features: (P, F) scaled features.
        labels: (P,) 0 or 1.
        fit: Rows to fit.
        held: Rows to stop by.
        seed: Seed of the start and of the order.
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(features), torch.from_numpy(labels.astype(np.float32))
    model = Mlp(x.shape[1], generator)
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    rows, stop = torch.from_numpy(fit), torch.from_numpy(held)

    def epoch() -> float:
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(BATCH):
            optimiser.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(x[batch]), y[batch]).backward()
            optimiser.step()
        with torch.no_grad():
            return float(nn.functional.binary_cross_entropy_with_logits(model(x[stop]), y[stop]))

    keep_best(list(model.parameters()), epoch, 1e-5)
    return model


def keep_best(parameters: Sequence[nn.Parameter], epoch: Callable[[], float], least: float) -> None:
    """Train until the held-out loss has not fallen for `PATIENCE` epochs, and leave the best parameters.

    Args:
        parameters: What is trained.
        epoch: Makes one epoch and returns the held-out loss after it.
        least: By how much a loss has to fall to count.
    """
    best, waited = float("inf"), 0
    kept = [one.detach().clone() for one in parameters]
    for _ in range(MAX_EPOCHS):
        value = epoch()
        if value < best - least:
            best, waited = value, 0
            kept = [one.detach().clone() for one in parameters]
        else:
            waited += 1
            if waited >= PATIENCE:
                break
    with torch.no_grad():
        for parameter, value_kept in zip(parameters, kept, strict=True):
            parameter.copy_(value_kept)
