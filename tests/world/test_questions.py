"""Questions: answers hold in the scene graph, rationales reach them, and nothing can be answered blind."""

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lare.embedded.world.concepts import CATEGORY_OF, COLOUR_NAMES, DIRECTIONS, FUNCTIONS, KINDS, STEPS
from lare.embedded.world.items import STYLES, ItemSampler
from lare.embedded.world.prompts import LETTERS
from lare.embedded.world.questions import FAMILIES
from lare.embedded.world.scene import Scene, sample_scene
from lare.embedded.world.wording import Question, neighbour


def questions(family: str, n: int = 40) -> list[tuple[Scene, Question]]:
    found = []
    for seed in range(2000):
        scene = sample_scene("train", seed)
        question = FAMILIES[family](scene, Random(seed))
        if question is not None:
            found.append((scene, question))
        if len(found) == n:
            return found
    raise AssertionError(f"{family} is too rare: {len(found)}")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_asks_well_formed_questions(family: str) -> None:
    for scene, question in questions(family):
        assert question.stem.endswith("?")
        assert question.rationale and all(s.endswith(".") for s in question.rationale)
        assert all(scene.kind[c] >= 0 for c in question.cells)
        assert question.answer not in question.blocked
        if question.options:
            assert question.answer in question.options


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_gaze_chains_follow_the_arrows(hops: int) -> None:
    for scene, question in questions(f"gaze{hops}"):
        assert question.hops == hops + 1 == len(question.cells)
        for before, after in pairwise(question.cells):
            assert neighbour(before, scene.direction[before]) == after
        assert KINDS[scene.kind[question.cells[-1]]] == question.answer
        assert question.stem.count("point") == hops


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_displacement_chains_end_where_the_words_say(hops: int) -> None:
    words = {"above": 0, "right of": 1, "below": 2, "left of": 3}
    for scene, question in questions(f"beside{hops}"):
        text, cell = question.stem.removeprefix("What is ").removesuffix("?"), question.cells[0]
        parts = []
        while True:
            for word, direction in words.items():
                if text.startswith(word + " the "):
                    parts.append(direction)
                    text = text.removeprefix(word + " the ").removeprefix("thing ")
                    break
            else:
                break
        for direction in reversed(parts):
            row, column = cell // 4 + STEPS[direction][0], cell % 4 + STEPS[direction][1]
            cell = row * 4 + column
        assert len(parts) == hops
        assert cell == question.cells[-1]
        assert KINDS[scene.kind[cell]] == question.answer


def test_attributes_counts_and_functions_hold_in_the_scene() -> None:
    for scene, question in questions("colour"):
        assert COLOUR_NAMES[scene.colour[question.cells[-1]]] == question.answer
    for scene, question in questions("direction"):
        assert DIRECTIONS[scene.direction[question.cells[-1]]] == question.answer
    for _, question in questions("count"):
        assert int(question.answer) == len(question.cells)
    for scene, question in questions("function"):
        category = CATEGORY_OF[scene.kind[question.cells[-1]]]
        assert list(FUNCTIONS.values())[category] == question.answer
    for scene, question in questions("exist"):
        name = question.stem.split()[3]
        assert (KINDS.index(name) in scene.kind) == (question.answer == "yes")


@given(st.integers(0, 10**6), st.sampled_from(STYLES))
@settings(max_examples=40, deadline=None)
def test_items_offer_the_answer_once_among_distinct_options(seed: int, style: str) -> None:
    scene = sample_scene("train", seed)
    for item in ItemSampler(dict.fromkeys(FAMILIES, 1.0), {style: 1.0}, seed).sample(scene, 8):
        if item.choices:
            assert len(set(item.choices)) == len(item.choices) >= 2
            assert item.choices[item.index] == item.question.answer
            assert item.letter == LETTERS[item.index]
            assert all(choice in item.prompt for choice in item.choices)
        else:
            assert item.letter == ""
        assert item.final == item.question.answer


def test_sampler_is_deterministic_and_even_over_counts_and_letters() -> None:
    weights = {"count": 1.0}
    one, two = (ItemSampler(weights, {"mmbench": 1.0}, 3) for _ in range(2))
    scenes = [sample_scene("train", i) for i in range(150)]
    first = [i for s in scenes for i in one.sample(s, 2)]
    assert [i.prompt for i in first] == [i.prompt for s in scenes for i in two.sample(s, 2)]
    answers = Counter(i.question.answer for i in first if i.style == "mmbench")
    assert max(answers.values()) - min(answers.values()) <= 6
    letters = Counter(
        i.index for s in scenes for i in ItemSampler({"gaze1": 1.0}, {"mmbench": 1.0}, s.seed).sample(s, 2)
    )
    assert max(letters.values()) < 1.6 * min(letters.values())
