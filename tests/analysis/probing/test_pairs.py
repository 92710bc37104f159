import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.probe.pairs import Pairs, draw_split
from lare.errors import LareError
from tests.analysis.probing.synthetic import planted


def _names(images, per_image, texts, seed=0):
    made = planted(0.0, images, per_image, 2, texts, seed)
    return made.image, made.question, made.rationale


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), per_image=st.integers(2, 4), total=st.integers(40, 200))
def test_every_pair_is_what_its_kind_says_and_no_image_is_on_both_sides(seed, per_image, total):
    image, question, rationale = _names(120, per_image, 20, seed)
    split = draw_split(image, question, rationale, seed, total)
    sides = [set(image[side]) for side in (split.train_instances, split.test_instances)]
    assert not sides[0] & sides[1] and split.shared_images == 0
    for pairs, side in zip((split.train, split.test), sides, strict=True):
        assert set(image[pairs.left]) | set(image[pairs.right]) <= side
        same_image, same_question = (
            image[pairs.left] == image[pairs.right],
            question[pairs.left] == question[pairs.right],
        )
        kind = pairs.kind
        assert (pairs.left == pairs.right)[kind == 0].all()
        assert (same_image & ~same_question)[kind == 1].all()
        assert (~same_image & same_question)[kind == 2].all()
        assert not (same_image | same_question)[kind == 3].any()
        assert (rationale[pairs.left] != rationale[pairs.right])[kind > 0].all()
        counts = np.bincount(kind, minlength=4)
        assert counts[0] == counts[1:].sum() and counts[1:].max() - counts[1:].min() <= 1


def test_a_thousand_pairs_are_cut_700_to_300_and_positives_use_the_negatives_latents():
    split = draw_split(*_names(600, 3, 40), seed=0)
    assert (len(split.train), len(split.test)) == (700, 300) and not split.short
    assert np.bincount(split.test.kind).tolist() == [150, 50, 50, 50]
    for pairs in (split.train, split.test):
        assert sorted(pairs.left[pairs.kind == 0]) == sorted(pairs.left[pairs.kind > 0])


def test_seeds_decide_the_split():
    names = _names(100, 3, 20)
    first, again, other = (draw_split(*names, seed=seed, total=100) for seed in (1, 1, 2))
    assert np.array_equal(first.train.right, again.train.right)
    assert not np.array_equal(first.train.right, other.train.right)


def test_equal_rationales_are_no_negatives():
    image, question, rationale = _names(120, 2, 10)
    rationale[question == "question 3"] = "always the same"
    split = draw_split(image, question, rationale, 0, 100)
    for pairs in (split.train, split.test):
        negatives = pairs.kind > 0
        assert (rationale[pairs.left] != rationale[pairs.right])[negatives].all()


@pytest.mark.parametrize(("per_image", "texts", "kind"), [(1, 10, "same image"), (2, 0, "same question")])
def test_a_kind_that_cannot_be_had_is_refused_with_its_count(per_image, texts, kind):
    if texts:
        names = _names(60, per_image, texts)
    else:
        image, _, rationale = _names(60, per_image, 10)
        names = image, np.array([f"only once {number}" for number in range(len(image))]), rationale
    with pytest.raises(LareError, match=f"{kind}.*training instances none"):
        draw_split(*names, seed=0, total=60)


def test_too_few_partners_give_fewer_pairs_of_every_kind_and_say_so():
    image, question, rationale = _names(100, 2, 10)
    single = np.array([f"only once {number}" for number in range(len(image))])
    names = np.where(np.arange(len(image)) % 20 < 3, question, single)
    split = draw_split(image, names, rationale, 0, 300)
    assert any("were wanted" in line and "third" in line for line in split.short)
    counts = np.bincount(split.train.kind, minlength=4)
    assert counts[1] == counts[2] == counts[3] and counts[0] == 3 * counts[1]


def test_split_pairs_puts_images_on_both_sides():
    split = draw_split(*_names(100, 3, 20), seed=0, total=300, by="pairs")
    assert split.shared_images > 50
    assert len(split.train) + len(split.test) == 300


def test_impossible_options_are_refused():
    with pytest.raises(LareError, match="--split is 'rows'"):
        draw_split(*_names(40, 2, 5), seed=0, by="rows")
    with pytest.raises(LareError, match="at least 20 pairs"):
        draw_split(*_names(40, 2, 5), seed=0, total=4)


def test_labels_are_matches():
    pairs = Pairs(np.array([0, 1]), np.array([0, 2]), np.array([0, 3]))
    assert pairs.label.tolist() == [1, 0] and len(pairs.take(np.array([1]))) == 1


def _texts_on_both_sides(question, split):
    train, test = (set(question[np.concatenate((part.left, part.right))]) for part in (split.train, split.test))
    return train & test


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(12, 30))
def test_components_keep_texts_and_images_apart(seed, count):
    """Worlds of ten pictures that share questions among themselves alone."""
    image, question, rationale = _names(10 * count, 2, 6, seed)
    world = np.repeat(np.arange(count), 20)
    question = np.array([f"{text} of world {number}" for text, number in zip(question, world, strict=True)])
    split = draw_split(image, question, rationale, seed, 60, "components")
    assert not _texts_on_both_sides(question, split) and split.shared_images == 0 == split.shared_questions
    sides = split.train_instances, split.test_instances
    assert not set(question[sides[0]]) & set(question[sides[1]]) and not set(image[sides[0]]) & set(image[sides[1]])
    assert split.left_out == 0 and 0.2 <= len(sides[1]) / len(image) <= 0.4
    kinds = np.bincount(split.test.kind, minlength=4)
    assert kinds[1:].min() > 0


def test_texts_that_recur_everywhere_cannot_be_kept_apart_by_components_but_by_leaving_instances_out():
    names = _names(300, 3, 12)
    with pytest.raises(LareError, match="in 1 components, the largest with 100 % of the 900 .*--split crossed"):
        draw_split(*names, seed=0, by="components")
    image, question, _ = names
    split = draw_split(*names, seed=0, total=200, by="crossed")
    assert not _texts_on_both_sides(question, split) and split.shared_images == 0 == split.shared_questions
    sides = split.train_instances, split.test_instances
    assert split.left_out == len(image) - sum(map(len, sides)) > 0
    for one, other in ((image, image), (question, question)):
        assert not set(one[sides[0]]) & set(other[sides[1]])
    assert draw_split(*names, seed=0, total=200).shared_questions > 0.9
