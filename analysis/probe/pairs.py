"""Pairs of the probe: images are split first, pairs are drawn inside each side, a third of the negatives of each kind.

A pair is the latent of one instance with the partner (rationale or visual anchor) of another; it matches if both are
the same instance. The positives are those instances whose latents the negatives have, so that a latent alone tells
nothing; partners follow the same distribution by symmetry.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import GroupShuffleSplit

from lare.errors import LareError

__all__ = ["KINDS", "SPLITS", "Pairs", "Split", "draw_split"]

KINDS = ("same image, other question", "same question, other image", "random")
"""Negatives, numbered 1, 2, 3; 0 is a positive."""

SPLITS = ("images", "components", "crossed", "pairs")
"""What is split into training and test. components: images and question texts, no text on both sides, by the connected
components of the graph of images and questions. crossed: images and texts each; instances of an image of one side with
a text of the other are left out. pairs: leaks, kept to show it."""

TEST_SHARE = 0.3
TEST_RANGE = (0.2, 0.4)
"""Shares of the instances that connected components may leave for the test."""

Ints = npt.NDArray[np.int64]
Names = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Pairs:
    """P pairs.

    Attributes:
        left: (P,) instance of the latent.
        right: (P,) instance of the partner.
        kind: (P,) 0 for a match, else 1 + place in `KINDS`.
    """

    left: Ints
    right: Ints
    kind: Ints

    @property
    def label(self) -> Ints:
        """(P,) 1 for a match."""
        return np.asarray(self.kind == 0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.left)

    def take(self, chosen: Ints) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.left[chosen], self.right[chosen], self.kind[chosen])


@dataclass(frozen=True)
class Split:
    """Training and test pairs.

    Attributes:
        train: Pairs to fit on.
        test: Pairs to judge on.
        train_instances: (A,) instances that the projection may be fitted on.
        test_instances: (B,) instances of the test side.
        shared_images: Images that occur in pairs of both sides.
        shared_questions: Share of the test pairs' question texts that training pairs have too.
        short: What could not be had, in words.
        left_out: Instances on neither side.
    """

    train: Pairs
    test: Pairs
    train_instances: Ints
    test_instances: Ints
    shared_images: int
    shared_questions: float
    short: tuple[str, ...] = field(default=())
    left_out: int = 0


def draw_split(
    image: Names, question: Names, rationale: Names, seed: int, total: int = 1000, by: str = "images",
    lenient: bool = False,
) -> Split:  # fmt: skip
    """Split and pair.

    Args:
        image: (N,) names of images.
        question: (N,) questions.
        rationale: (N,) rationales; two instances of equal rationale are never a negative.
        seed: Seed of the split and of the draws.
        total: Pairs, half of them positive; 70 % for training.
        by: One of `SPLITS`.
        lenient: Do without a kind of negative that cannot be had at all, and say so, as long as random ones can.

    Raises:
        LareError: If a kind of negative cannot be had at all, or an option is impossible.
    """
    if by not in SPLITS or total < 20:
        raise LareError(
            f"--split is {by!r} and --pairs {total}; give one of {', '.join(SPLITS)}, and at least 20 pairs"
        )
    rng = np.random.default_rng((seed, 6))
    drawer = _Drawer(image, question, rationale, rng, lenient)
    half = total // 2
    if by != "pairs":
        sides = _sides(image, question, seed, by)
        counts = (round(half * (1 - TEST_SHARE)), half - round(half * (1 - TEST_SHARE)))
        train, test = (
            drawer.draw(side, n, name) for side, n, name in zip(sides, counts, ("training", "test"), strict=True)
        )
    else:
        train, test = _cut_pairs(drawer.draw(np.arange(len(image)), half, "data"), rng)
        sides = [np.unique(np.concatenate((part.left, part.right))) for part in (train, test)]
    asked = [set(question[np.concatenate((part.left, part.right))].tolist()) for part in (train, test)]
    return Split(
        train,
        test,
        sides[0].astype(np.int64),
        sides[1].astype(np.int64),
        shared_images=len(_images(image, train) & _images(image, test)),
        shared_questions=len(asked[0] & asked[1]) / len(asked[1]),
        short=tuple(drawer.short),
        left_out=len(image) - len(np.union1d(*sides)),
    )


def _sides(image: Names, question: Names, seed: int, by: str) -> list[Ints]:
    """Instances of the training and of the test side, in order."""
    if by == "images":
        cut = GroupShuffleSplit(1, test_size=TEST_SHARE, random_state=seed)
        return [np.sort(side).astype(np.int64) for side in next(cut.split(image, groups=image))]
    rng = np.random.default_rng((seed, 7))
    if by == "components":
        test = _component_test(image, question, rng)
        return [np.flatnonzero(~test), np.flatnonzero(test)]
    held = []
    for names in (image, question):
        found = rng.permutation(np.unique(names))
        held.append(np.isin(names, found[: round(len(found) * TEST_SHARE)]))
    return [np.flatnonzero(~held[0] & ~held[1]), np.flatnonzero(held[0] & held[1])]


def _component_test(image: Names, question: Names, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """(N,) whether an instance is for the test: whole components, in random order, until 30 % are reached."""
    pictures, questions = (np.unique(names, return_inverse=True)[1] for names in (image, question))
    size = int(pictures.max() + questions.max() + 2)
    edges = coo_array((np.ones(len(image)), (pictures, pictures.max() + 1 + questions)), shape=(size, size))
    component = connected_components(edges, directed=False)[1][pictures]
    names, counts = np.unique(component, return_counts=True)
    low, high = (share * len(image) for share in TEST_RANGE)
    chosen: list[int] = []
    taken = 0
    for place in rng.permutation(len(names)):
        if taken < TEST_SHARE * len(image) and taken + counts[place] <= high:
            chosen.append(int(names[place]))
            taken += int(counts[place])
    if taken < low:
        raise LareError(
            f"question texts can't be kept apart: images and questions hang together in {len(names)} components, the "
            f"largest with {100 * counts.max() / len(image):.0f} % of the {len(image)} instances, so none or too few "
            "are left for the test; give --split crossed, which leaves instances out, or questions that recur less"
        )
    return np.isin(component, chosen)


def _images(image: Names, pairs: Pairs) -> set[str]:
    return set(image[np.concatenate((pairs.left, pairs.right))].tolist())


def _cut_pairs(pairs: Pairs, rng: np.random.Generator) -> tuple[Pairs, Pairs]:
    """70 % of the pairs of each kind, and the rest."""
    first, second = [], []
    for kind in range(len(KINDS) + 1):
        order = rng.permutation(np.flatnonzero(pairs.kind == kind))
        cut = round(len(order) * (1 - TEST_SHARE))
        first.append(order[:cut])
        second.append(order[cut:])
    return pairs.take(np.concatenate(first)), pairs.take(np.concatenate(second))


class _Drawer:
    """Draws balanced pairs among some instances."""

    def __init__(
        self, image: Names, question: Names, rationale: Names, rng: np.random.Generator, lenient: bool = False
    ) -> None:
        self.lenient = lenient
        self.image, self.question, self.rationale = image, question, rationale
        self.rng = rng
        self.short: list[str] = []

    def draw(self, side: Ints, positives: int, name: str) -> Pairs:
        """As many positives as negatives, a third of each kind.

        Args:
            side: Instances to draw from.
            positives: Number of either.
            name: Name of the side, for messages.

        Raises:
            LareError: If a kind of negative cannot be had at all.
        """
        partners = (self._partners(side, self.image, self.question), self._partners(side, self.question, self.image))
        wanted = [positives // 3 + (kind < positives % 3) for kind in range(3)]
        have = [len(found) for found in partners]
        for kind, count in enumerate(have):
            if count == 0 and self.lenient:
                self.short.append(
                    f"{name}: no negative of the kind {KINDS[kind]!r} can be had of these questions, so there is none"
                )
                wanted[kind] = 0
            elif count == 0:
                raise LareError(
                    f"no negative of the kind {KINDS[kind]!r} can be had: of {len(side)} {name} instances none has "
                    "such a partner with another rationale; give images with at least 2 questions, and questions that "
                    "recur"
                )
        if any(count < want for count, want in zip(have, wanted, strict=False)):
            least = min(one for one in (*have, *wanted) if one or not self.lenient)
            self.short.append(
                f"{name}: {positives} negatives were wanted, but only {have[0]} instances have a partner of "
                f"the kind {KINDS[0]!r} and {have[1]} of {KINDS[1]!r}; {3 * least} of each label were drawn, still a "
                "third of each kind"
            )
            wanted = [least if want else 0 for want in wanted]
        return self._assemble(side, partners, wanted)

    def _partners(self, side: Ints, equal: Names, other: Names) -> dict[int, list[int]]:
        """For each instance those that are equal in one thing, and differ in the other and in their rationale."""
        groups = defaultdict(list)
        for one in side.tolist():
            groups[equal[one]].append(one)
        found = {}
        for members in groups.values():
            for one in members:
                fits = [j for j in members if other[j] != other[one] and self.rationale[j] != self.rationale[one]]
                if fits:
                    found[one] = fits
        return found

    def _assemble(self, side: Ints, partners: tuple[dict[int, list[int]], ...], wanted: list[int]) -> Pairs:
        used: set[int] = set()
        lefts: list[int] = []
        rights: list[int] = []
        kinds: list[int] = []
        for kind in (1, 0, 2):  # scarce ones first, so that each instance gives its latent to one negative if it can
            pool = list(partners[kind]) if kind < 2 else side.tolist()
            for one in self._choose(pool, wanted[kind], used):
                lefts.append(one)
                rights.append(int(self.rng.choice(partners[kind][one])) if kind < 2 else self._stranger(one, side))
                kinds.append(kind + 1)
        left = np.array(lefts + lefts, dtype=np.int64)
        right = np.array(rights + lefts, dtype=np.int64)
        return Pairs(left, right, np.array(kinds + [0] * len(lefts), dtype=np.int64))

    def _choose(self, pool: list[int], count: int, used: set[int]) -> list[int]:
        fresh = [one for one in pool if one not in used]
        spent = [one for one in pool if one in used]
        chosen = [*self.rng.permutation(fresh).tolist(), *self.rng.permutation(spent).tolist()][:count]
        used.update(chosen)
        return [int(one) for one in chosen]

    def _stranger(self, one: int, side: Ints) -> int:
        """An instance of another image with another question and another rationale."""
        for _ in range(1000):
            other = int(self.rng.choice(side))
            same = (names[other] == names[one] for names in (self.image, self.question, self.rationale))
            if not any(same):
                return other
        raise LareError(f"no random negative can be had among {len(side)} instances; give more images")
