"""One seed of the probe: split, pairs, projections, both probes, all controls, for every model.

All models get the same images, questions and pairs, so that seeds pair them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.preprocessing import StandardScaler

from analysis.probing.classifiers import (
    Judged,
    Mlp,
    Svm,
    fit_mlp,
    fit_svm,
    judge,
    pair_features,
    scaled,
    validation_rows,
)
from analysis.probing.heads import Heads
from analysis.probing.instances import Instances
from analysis.probing.mdl import OnlineCode, online_code, retrieval
from analysis.probing.pairs import Pairs, Split, draw_split
from analysis.probing.permuting import pairing_p
from analysis.probing.projection import project

__all__ = [
    "CLASSIFIERS",
    "CONDITIONS",
    "MODALITIES",
    "ROLES",
    "Condition",
    "Measured",
    "Model",
    "Settings",
    "conditions_of",
    "grouped",
    "run_seed",
]

MODALITIES = ("vision", "text")
CLASSIFIERS = ("SVM", "MLP")
ROLES = ("with", "without", "untrained")
"""What a model is here: with the Extractor, without it, or with random weights."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """Choices of the protocol.

    Attributes:
        pairs: Training and test pairs together.
        split: Of `analysis.probing.pairs.SPLITS`.
        feature: Of `analysis.probing.classifiers.FEATURES`.
        projection: Of `analysis.probing.projection.PROJECTIONS`.
        heads: Of `analysis.probing.projection.HEADS`.
        dim: Projected dimensions.
        steps: Whether to probe every iteration.
        only: Keys of the conditions to run; empty for all.
    """

    pairs: int = 1000
    split: str = "images"
    feature: str = "both"
    projection: str = "infonce"
    heads: str = "auto"
    dim: int = 256
    steps: bool = True
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Model:
    """A model to probe.

    Attributes:
        backbone: Name of its backbone; models with and without Extractor of one name are compared.
        role: One of `ROLES`.
        instances: Its vectors.
        note: What a reader must know of it.
        heads: The alignment heads that were trained with it; None where they are not at hand.
    """

    backbone: str
    role: str
    instances: Instances
    note: str = ""
    heads: Heads | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Backbone and role."""
        return self.backbone, self.role


@dataclass(frozen=True)
class Condition:
    """One way to probe.

    Attributes:
        key: Its name.
        label: In tables.
        roles: Of the models that are probed so.
        projection: Instead of the settings' one; empty for that.
        feature: Instead of the settings' one.
        shuffled: Every instance gets another one's partner, for good.
        mean_image: Latents are replaced by their mean over the image's questions.
        coded: Also measured by MDL.
    """

    key: str
    label: str
    roles: tuple[str, ...]
    projection: str = ""
    feature: str = ""
    shuffled: bool = False
    mean_image: bool = False
    coded: bool = False


CONDITIONS = (
    Condition("main", "matching", ROLES, coded=True),
    Condition("shuffled", "shuffled partners", ("with", "without"), shuffled=True, coded=True),
    Condition("cosine", "cosine only", ROLES, projection="none", feature="cosine"),
    Condition("none", "no projection", ("with", "without"), projection="none"),
    Condition("model", "the model's own heads", ("with", "without"), projection="model"),
    Condition("latent", "latent alone", ("with",), feature="latent"),
    Condition("partner", "partner alone", ("with",), feature="partner"),
    Condition("mean_image", "image's mean latent", ("with",), mean_image=True),
)


@dataclass(frozen=True)
class Measured:
    """A probe's result.

    Attributes:
        backbone: Of the model.
        role: Of the model.
        condition: Key of the condition, or "step 1", "step 2", ...
        modality: "vision" or "text".
        classifier: "SVM" or "MLP".
        seed: Of the split and all else.
        judged: On the test pairs.
        recall: Retrieval R@1 and R@5 among the test instances; empty where not measured.
        candidates: Partners that retrieval chooses among.
        code: Online code of the training labels; None where not measured.
        ceiling: Best accuracy possible, since some negatives have the very partner of the match.
        p: Of the pairing, by permutation; None where not measured.
        settled: Whether the SVM's final fit came to its end.
        unsettled_folds: Fits of its search for C that did not.
    """

    backbone: str
    role: str
    condition: str
    modality: str
    classifier: str
    seed: int
    judged: Judged
    recall: tuple[float, ...] = ()
    candidates: int = 0
    code: OnlineCode | None = None
    ceiling: float = 1.0
    p: float | None = None
    settled: bool = True
    unsettled_folds: int = 0


def conditions_of(model: Model) -> list[Condition]:
    """What a model is probed with; without a projection needs sides of equal width, its own heads need heads."""
    own = model.instances
    able = {"none": own.latent.shape[1] == own.vision.shape[1] == own.text.shape[1], "model": model.heads is not None}
    return [one for one in CONDITIONS if model.role in one.roles and able.get(one.projection, True)]


def run_seed(
    models: Sequence[Model], seed: int, settings: Settings, say: Callable[[str], None] = lambda _: None
) -> tuple[list[Measured], Split]:
    """All probes of one seed.

    Args:
        models: Models over the same questions in the same order.
        seed: Of everything random.
        settings: The protocol.
        say: Takes a line about progress.
    """
    first = models[0].instances
    split = draw_split(first.image, first.question, first.rationale, seed, settings.pairs, settings.split)
    found = []
    for model in models:
        for modality in MODALITIES:
            for condition in conditions_of(model):
                if settings.only and condition.key not in settings.only:
                    continue
                found += _probe(model, modality, condition, split, seed, settings)
            if settings.steps and model.role != "untrained":
                found += _steps(model, modality, split, seed, settings)
        say(f"seed {seed}: {model.backbone}, {model.role} probed")
    return found, split


def _vectors(instances: Instances, modality: str) -> Array:
    return instances.vision if modality == "vision" else instances.text


def _alike(instances: Instances, modality: str) -> npt.NDArray[np.int64]:
    """Numbers of the partners, equal where they are the same."""
    if modality == "vision":
        return instances.looked
    return np.unique(instances.rationale, return_inverse=True)[1].astype(np.int64)


def _ceiling(instances: Instances, modality: str, test: Pairs) -> float:
    """Best accuracy on the test pairs: a negative that carries the match's very partner can't be told from it."""
    alike = _alike(instances, modality)
    same = (alike[test.left] == alike[test.right]) & (test.kind > 0)
    return float(1 - same.mean())


def _shuffle(split: Split, total: int, seed: int) -> npt.NDArray[np.int64]:
    """(N,) whose partner each instance gets: of its own side, so that shuffling alone makes no leak."""
    rng = np.random.default_rng((seed, 9))
    taken = np.arange(total)
    sides = [split.train_instances, split.test_instances]
    if split.shared_images:
        sides = [np.union1d(*sides)]
    for side in sides:
        order = rng.permutation(side)
        taken[order] = np.roll(order, 1)  # one cycle: nobody keeps their own
    return taken


def _mean_of_image(instances: Instances) -> Array:
    code = np.unique(instances.image, return_inverse=True)[1]
    sums = np.zeros((code.max() + 1, instances.latent.shape[1]))
    np.add.at(sums, code, instances.latent)
    return np.asarray((sums / np.bincount(code)[:, None])[code], dtype=np.float32)


def _projected(
    model: Model, modality: str, latent: Array, partner: Array, split: Split, seed: int, settings: Settings, kind: str
) -> tuple[Array, Array]:
    instances, heads = model.instances, model.heads
    return project(
        latent,
        partner,
        split.train_instances,
        instances.image,
        seed,
        kind,
        settings.heads,
        settings.dim,
        None if heads is None else (heads["latent"], heads[modality]),
    )


def _probe(
    model: Model, modality: str, condition: Condition, split: Split, seed: int, settings: Settings
) -> list[Measured]:
    instances = model.instances
    partner, alike = _vectors(instances, modality), _alike(instances, modality)
    latent = _mean_of_image(instances) if condition.mean_image else instances.latent
    if condition.shuffled:
        taken = _shuffle(split, len(instances), seed)
        partner, alike = partner[taken], alike[taken]
    kind = condition.projection or settings.projection
    z, v = _projected(model, modality, latent, partner, split, seed, settings, kind)
    feature = condition.feature or settings.feature
    rows = pair_features(z, v, split.train, feature)
    groups, labels = instances.image[split.train.left], split.train.label
    fit, held = validation_rows(groups, seed)
    test = split.test_instances
    scaler = StandardScaler().fit(rows)
    train = scaler.transform(rows).astype(np.float32)
    svm, mlp = fit_svm(train, labels, groups), fit_mlp(train, labels, fit, held, seed)
    found = []
    for name, probe in (("SVM", svm), ("MLP", mlp)):

        def scores(pairs: Pairs, probe: Svm | Mlp = probe) -> npt.NDArray[np.float64]:
            return probe.scores(scaler.transform(pair_features(z, v, pairs, feature)).astype(np.float32))

        found.append(
            Measured(
                model.backbone,
                model.role,
                condition.key,
                modality,
                name,
                seed,
                judge(scores(split.test), split.test),
                retrieval(z[test], v[test], alike[test]) if feature not in ("latent", "partner") else (),
                len(set(alike[test].tolist())),
                online_code(rows, labels, fit, held, seed) if condition.coded and name == "SVM" else None,
                _ceiling(instances, modality, split.test) if condition.key == "main" else 1.0,
                pairing_p(scores, split.test, seed) if condition.key == "main" else None,
                name == "MLP" or svm.settled,
                0 if name == "MLP" else svm.unsettled_folds,
            )
        )
    return found


def _steps(model: Model, modality: str, split: Split, seed: int, settings: Settings) -> list[Measured]:
    """The MLP on the latents of each iteration alone."""
    instances, found = model.instances, []
    groups = instances.image[split.train.left]
    for step in range(instances.steps.shape[1]):
        latent, partner = instances.steps[:, step], _vectors(instances, modality)
        z, v = _projected(model, modality, latent, partner, split, seed, settings, settings.projection)
        rows = [pair_features(z, v, pairs, settings.feature) for pairs in (split.train, split.test)]
        train, other = scaled(*rows)
        mlp = fit_mlp(train, split.train.label, *validation_rows(groups, seed), seed)
        judged = judge(mlp.scores(other), split.test)
        found.append(Measured(model.backbone, model.role, f"step {step + 1}", modality, "MLP", seed, judged))
    return found


def grouped(found: Sequence[Measured]) -> Mapping[tuple[str, str, str, str, str], list[Measured]]:
    """Results by (backbone, role, condition, modality, classifier), each in the order of seeds."""
    groups: dict[tuple[str, str, str, str, str], list[Measured]] = {}
    for one in sorted(found, key=lambda m: m.seed):
        groups.setdefault((one.backbone, one.role, one.condition, one.modality, one.classifier), []).append(one)
    return groups
