"""Sizes of effects: how far latents move, how much they differ, and what of an exchange goes through them.

Intervals are 95 % percentile bootstraps over scenes, all statistics of one table from the same draws.

Shapes: N questions, C clusters, K steps, m latents a step, d width, R draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from analysis.shared.stats import LEVEL, Result, cluster_mean, codes_of
from lare.interventions.asked import generator_of
from lare.trace import SHARES

if TYPE_CHECKING:
    from analysis.validate.suite import Outcomes

__all__ = ["Collapse", "Moved", "attended", "bootstrap", "collapse", "kept_of_gain", "mediation", "moved_by",
           "picture_vectors"]  # fmt: skip

DRAWS = 2000
"""Bootstrap draws."""

PAIRS = 2000
"""Pairs of questions whose latents are compared, at most."""

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moved:
    """How far an exchange moves latents.

    Attributes:
        change: Length of the change over the latents' own length, mean over questions.
        cosine: Cosine between both, mean over questions and steps.
        replies: Share of replies that the same exchange changes.
    """

    change: Result
    cosine: Result
    replies: Result | None


@dataclass(frozen=True)
class Collapse:
    """How much vectors differ.

    Attributes:
        between: Mean cosine between those of different scenes.
        steps: Mean cosine between steps of one question; None for one step.
        rank: Effective rank of what differs between questions (exponential of the entropy of the variances).
        most: The largest rank there could be.
        share: Variance between questions over mean squared length.
    """

    between: float
    steps: float | None
    rank: float
    most: int
    share: float


def bootstrap(
    columns: Mapping[str, _Array], statistic: Callable[[Mapping[str, _Array]], _Array], scenes: Sequence[str], seed: int
) -> Result:
    """A function of means, with its interval over resampled scenes.

    Args:
        columns: (N,) values by name.
        statistic: Function of the means by name, each a number or (R,).
        scenes: Cluster of each question.
        seed: Seed of the draws.
    """
    codes = codes_of(scenes, len(scenes))
    clusters = int(codes.max()) + 1
    weights = _weights(clusters, seed)
    counts = weights @ np.bincount(codes, minlength=clusters)
    means = {
        name: weights @ np.bincount(codes, values.astype(float), clusters) / counts for name, values in columns.items()
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.asarray(statistic(means), float)
        found = float(statistic({name: np.asarray(values.mean()) for name, values in columns.items()}))
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if drawn.size else (np.nan, np.nan)
    return Result("bootstrap over scenes", found, float(low), float(high), len(scenes), clusters)


@lru_cache(maxsize=2)
def _weights(clusters: int, seed: int) -> _Array:
    """(R, C) how often each draw takes each cluster."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), DRAWS).astype(float)


def moved_by(outcomes: Outcomes, name: str) -> Moved:
    """How far the exchange `name` ("image" or "question") moves latents and replies."""
    own, other = outcomes.latents["own"].flatten(2), outcomes.latents[name].flatten(2)
    steps = min(own.shape[1], other.shape[1])
    own, other = own[:, :steps], other[:, :steps]
    length = own.flatten(1).norm(dim=1).clamp_min(1e-12)
    change = ((own - other).flatten(1).norm(dim=1) / length).double().numpy()
    cosine = torch.nn.functional.cosine_similarity(own, other, dim=-1).mean(1).double().numpy()
    replies = None
    if name in outcomes.by_name:
        pairs = zip(outcomes.by_name["own"].replies, outcomes.by_name[name].replies, strict=True)
        replies = cluster_mean(np.array([float(a != b) for a, b in pairs]), outcomes.scenes)
    return Moved(cluster_mean(change, outcomes.scenes), cluster_mean(cosine, outcomes.scenes), replies)


def attended(outcomes: Outcomes) -> dict[str, Result]:
    """Shares of the latent steps' attention, means over a question's steps: `SHARES` to its mean over questions.

    Empty where the method's traces don't tell them.
    """
    if "own" not in outcomes.shares:
        return {}
    shares = outcomes.shares["own"].double()
    steps = (shares.sum(-1) > 0).sum(1)
    made = (steps > 0).numpy()
    means = (shares.sum(1) / steps.clamp_min(1)[:, None]).numpy()[made]
    scenes = [scene for scene, take in zip(outcomes.scenes, made, strict=True) if take]
    return {name: cluster_mean(means[:, place], scenes) for place, name in enumerate(SHARES)} if scenes else {}


def picture_vectors(images: Sequence[Image.Image]) -> Tensor:
    """Pictures as vectors (N, 1, 1, 3 * 16 * 16): what there is to differ, whatever the model sees of it."""
    small = [np.asarray(one.convert("RGB").resize((16, 16), Image.Resampling.BOX), np.float32) for one in images]
    return torch.from_numpy(np.stack(small)).flatten(1)[:, None, None] / 255


def collapse(latents: Tensor, scenes: Sequence[str], seed: int = 0) -> Collapse:
    """How much latents (N, K, m, d) differ between questions and between steps."""
    flat = latents.double().flatten(2)
    generator = generator_of(seed, "pairs")
    first, second = torch.randint(len(flat), (2, 4 * PAIRS), generator=generator)
    names = np.asarray(scenes)
    apart = torch.from_numpy(names[first.numpy()] != names[second.numpy()])
    first, second = first[apart][:PAIRS], second[apart][:PAIRS]
    between = torch.nn.functional.cosine_similarity(flat[first], flat[second], dim=-1).mean()
    steps = None
    if flat.shape[1] > 1:
        unit = torch.nn.functional.normalize(flat, dim=-1)
        similar = unit @ unit.transpose(1, 2)
        count = flat.shape[1]
        steps = float(((similar.sum((1, 2)) - count) / (count * (count - 1))).mean())
    whole = flat.flatten(1)
    centred = whole - whole.mean(0)
    variances = torch.linalg.svdvals(centred).square()
    total = variances.sum()
    shares = variances[variances > 0] / total if total > 0 else variances[:0]
    rank = float(torch.exp(-(shares * shares.log()).sum())) if len(shares) else 0.0
    share = float(total / whole.square().sum().clamp_min(1e-30))
    return Collapse(float(between), steps, rank, min(len(whole) - 1, whole.shape[1]), share)


def mediation(outcomes: Outcomes, seed: int) -> dict[str, Result]:
    """What exchanging the picture costs, and what of it goes through the latents.

    Returns:
        "total": accuracy lost when the picture is exchanged and latents follow; "indirect": lost when only the latents
        are those of the other picture; "direct": lost when only the picture is exchanged and latents are kept; "share":
        indirect over total. Empty where one was not asked.
    """
    settings = {"total": "image", "indirect": "image_latents", "direct": "image_kept"}
    if any(name not in outcomes.by_name for name in settings.values()):
        return {}
    own = outcomes.by_name["own"].right.astype(float)
    columns = {key: own - outcomes.by_name[name].right.astype(float) for key, name in settings.items()}

    def of(key: str) -> Result:
        return bootstrap(columns, lambda means: means[key], outcomes.scenes, seed)

    share = bootstrap(columns, lambda means: means["indirect"] / means["total"], outcomes.scenes, seed)
    return {**{key: of(key) for key in settings}, "share": share}


def kept_of_gain(outcomes: Outcomes, seed: int) -> dict[str, Result]:
    """Share of the gain over no latents and no marks that a setting keeps, by setting; empty without a plain answer."""
    if "none" not in outcomes.by_name:
        return {}
    right = {name: one.right.astype(float) for name, one in outcomes.by_name.items() if one.asked.all()}
    columns = {"own": right["own"], "none": right["none"]}
    found: dict[str, Result] = {}
    for name in ("marks", "format", "dummy", "zeros", "noise", "distribution", "other", "mean", "first", "permuted"):
        if name in right:
            found[name] = bootstrap(
                {**columns, "mine": right[name]},
                lambda means: (means["mine"] - means["none"]) / (means["own"] - means["none"]),
                outcomes.scenes,
                seed,
            )
    return found
