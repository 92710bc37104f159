"""One seed of the probe: split, pairs, projections, both probes, all controls, for every model.

All models get the same images, questions and pairs, so that seeds pair them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from sklearn.preprocessing import StandardScaler

from analysis.probe.classifiers import (
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
from analysis.probe.heads import Heads
from analysis.probe.instances import Instances
from analysis.probe.mdl import OnlineCode, online_code, retrieval
from analysis.probe.pairs import Pairs, Split, draw_split
from analysis.probe.permuting import pairing_p
from analysis.probe.projection import project

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
        split: One of `analysis.probe.pairs.SPLITS`.
        feature: One of `analysis.probe.classifiers.FEATURES`.
        projection: One of `analysis.probe.projection.PROJECTIONS`.
        heads: One of `analysis.probe.projection.HEADS`.
        dim: Projected dimensions.
        steps: Whether to probe every iteration.
        only: Keys of the conditions to run; empty for all.
        modalities: Partners to probe for.
        lenient: See `analysis.probe.pairs.draw_split`.
    """

    pairs: int = 1000
    split: str = "images"
    feature: str = "both"
    projection: str = "infonce"
    heads: str = "auto"
    dim: int = 256
    steps: bool = True
    only: tuple[str, ...] = ()
    modalities: tuple[str, ...] = MODALITIES
    lenient: bool = False


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
        label: Its name in tables.
        roles: Roles of the models that are probed so.
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
        backbone: Name of the model's backbone.
        role: Role of the model: with the Extractor, without it, or untrained.
        condition: Key of the condition, or "step 1", "step 2", ...
        modality: "vision" or "text".
        classifier: "SVM" or "MLP".
        seed: Seed of the split and all else.
        judged: On the test pairs.
        recall: Retrieval R@1 and R@5 among the test instances; empty where not measured.
        candidates: Partners that retrieval chooses among.
        code: Online code of the training labels; None where not measured.
        ceiling: Best accuracy possible, since some negatives have the very partner of the match.
        p: p-value of the pairing, by permutation; None where not measured.
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


def run_seed(models: Sequence[Model], seed: int, settings: Settings) -> tuple[list[Measured], Split]:
    """All probes of one seed.

    Args:
        models: Models over the same questions in the same order.
        seed: Seed of everything random.
        settings: The protocol.
    """
    first = models[0].instances
    names = (first.image, first.question, first.rationale)
    split = draw_split(*names, seed, settings.pairs, settings.split, settings.lenient)
    found = []
    for model in models:
        for modality in settings.modalities:
            prober = _Prober(model, modality, split, seed, settings)
            for condition in conditions_of(model):
                if not settings.only or condition.key in settings.only:
                    found += prober.probe(condition)
            if settings.steps and model.role != "untrained":
                found += prober.steps()
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


@dataclass
class _Prober:
    """The probes of one model, one partner and one seed; a projection that two conditions share is fitted once."""

    model: Model
    modality: str
    split: Split
    seed: int
    settings: Settings
    fitted: dict[tuple[str, bool, bool], tuple[Array, Array]] = field(default_factory=dict)

    def probe(self, condition: Condition) -> list[Measured]:
        """Both classifiers."""
        split, seed = self.split, self.seed
        z, v = self._projections(condition)
        feature = condition.feature or self.settings.feature
        rows, labels = pair_features(z, v, split.train, feature), split.train.label
        groups = self.model.instances.image[split.train.left]
        fit, held = validation_rows(groups, seed)
        scaler = StandardScaler().fit(rows)
        train = scaler.transform(rows).astype(np.float32)
        svm, mlp = fit_svm(train, labels, groups), fit_mlp(train, labels, fit, held, seed)
        code = online_code(rows, labels, fit, held, seed) if condition.coded else None

        def scores(probe: Svm | Mlp, pairs: Pairs) -> npt.NDArray[np.float64]:
            return probe.scores(scaler.transform(pair_features(z, v, pairs, feature)).astype(np.float32))

        judged = self._measured(condition.key, "SVM", judge(scores(svm, split.test), split.test))
        by_svm = replace(judged, code=code, settled=svm.settled, unsettled_folds=svm.unsettled_folds)
        if feature not in ("latent", "partner"):
            by_svm = self._retrieved(by_svm, condition, z, v)
        if condition.key == "main":
            by_svm = replace(by_svm, ceiling=_ceiling(self.model.instances, self.modality, split.test))
            by_svm = replace(by_svm, p=pairing_p(lambda pairs: scores(svm, pairs), split.test, seed))
        by_mlp = replace(by_svm, classifier="MLP", judged=judge(scores(mlp, split.test), split.test), code=None)
        if condition.key == "main":
            by_mlp = replace(by_mlp, p=pairing_p(lambda pairs: scores(mlp, pairs), split.test, seed))
        return [by_svm, replace(by_mlp, settled=True, unsettled_folds=0)]

    def steps(self) -> list[Measured]:
        """The MLP on the latents of each iteration alone."""
        instances, split, found = self.model.instances, self.split, []
        labels, groups = split.train.label, instances.image[split.train.left]
        for step in range(instances.steps.shape[1]):
            partner = _vectors(instances, self.modality)
            z, v = self._project(instances.steps[:, step], partner, self.settings.projection)
            rows = [pair_features(z, v, pairs, self.settings.feature) for pairs in (split.train, split.test)]
            train, other = scaled(*rows)
            mlp = fit_mlp(train, labels, *validation_rows(groups, self.seed), self.seed)
            found.append(self._measured(f"step {step + 1}", "MLP", judge(mlp.scores(other), split.test)))
        return found

    def _measured(self, condition: str, classifier: str, judged: Judged) -> Measured:
        return Measured(self.model.backbone, self.model.role, condition, self.modality, classifier, self.seed, judged)

    def _retrieved(self, one: Measured, condition: Condition, z: Array, v: Array) -> Measured:
        test, alike = self.split.test_instances, _alike(self.model.instances, self.modality)
        if condition.shuffled:
            alike = alike[_shuffle(self.split, len(alike), self.seed)]
        recall = retrieval(z[test], v[test], alike[test])
        return replace(one, recall=recall, candidates=len(set(alike[test].tolist())))

    def _projections(self, condition: Condition) -> tuple[Array, Array]:
        instances, kind = self.model.instances, condition.projection or self.settings.projection
        key = kind, condition.shuffled, condition.mean_image
        if key not in self.fitted:
            partner = _vectors(instances, self.modality)
            if condition.shuffled:
                partner = partner[_shuffle(self.split, len(instances), self.seed)]
            latent = _mean_of_image(instances) if condition.mean_image else instances.latent
            self.fitted[key] = self._project(latent, partner, kind)
        return self.fitted[key]

    def _project(self, latent: Array, partner: Array, kind: str) -> tuple[Array, Array]:
        heads, settings = self.model.heads, self.settings
        return project(
            latent,
            partner,
            self.split.train_instances,
            self.model.instances.image,
            self.seed,
            kind,
            settings.heads,
            settings.dim,
            None if heads is None else (heads["latent"], heads[self.modality]),
        )


def grouped(found: Sequence[Measured]) -> Mapping[tuple[str, str, str, str, str], list[Measured]]:
    """Results by (backbone, role, condition, modality, classifier), each in the order of seeds."""
    groups: dict[tuple[str, str, str, str, str], list[Measured]] = {}
    for one in sorted(found, key=lambda m: m.seed):
        groups.setdefault((one.backbone, one.role, one.condition, one.modality, one.classifier), []).append(one)
    return groups
