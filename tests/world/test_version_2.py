"""Version 2 of the world: chains without shortcut or repeat, near misses, members with boxes, words, difficulty."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from hashlib import sha256
from itertools import product
from random import Random

import numpy as np
import pytest

from lare.embedded.tokenizer import build_tokenizer
from lare.embedded.world.benchmark import TASKS, make_task, stand_in
from lare.embedded.world.concepts import CATEGORY_NAMES, COLOUR_NAMES, KINDS, POPULAR, SIZES, TILE_KIND
from lare.embedded.world.items import STYLES, Item, ItemSampler, make_item
from lare.embedded.world.render import render
from lare.embedded.world.scene import SIDE
from lare.embedded.world.scene import sample_scene as sample_scene_1
from lare.embedded.world.v2.chains import routes
from lare.embedded.world.v2.difficulty import LEVELS, difficulty, points
from lare.embedded.world.v2.existence import MAX_STEPS, exist, near_misses
from lare.embedded.world.v2.families import FAMILIES
from lare.embedded.world.v2.groups import MAX_COUNT, SORTS, count
from lare.embedded.world.v2.oracle import oracle
from lare.embedded.world.v2.pairs import minimal_pair
from lare.embedded.world.v2.scene import MAX_HOPS, Scene2, sample_scene, walks
from lare.embedded.world.versions import scene_named, world
from lare.embedded.world.wording import Question, place
from lare.errors import LareError

FIRST = 3_000
PINNED = {
    "items": "8c7ccaf0af9a7c14",
    "mmbench": "d1f1ebfc3c86c864",
    "mmstar": "574f184f24eb7d9d",
    "mmvp": "622d9743b27e4707",
    "scienceqa": "18715f35254d05a2",
    "pope": "9dbbe3e494cef967",
}
_BESIDE_WORD = re.compile(r"above|right of|below|left of")


@cache
def scenes(n: int = 250) -> list[Scene2]:
    return [sample_scene("train", FIRST + seed) for seed in range(n)]


@cache
def asked(family: str) -> list[tuple[Scene2, Question]]:
    rng = Random(family)
    return [(scene, one) for scene in scenes() if (one := FAMILIES[family](scene, rng)) is not None]


def test_questions_stay_as_they_are() -> None:
    """Pinned like version 1: what was trained or measured on it can be made again."""
    of_2 = world(2)
    weights = dict.fromkeys([*of_2.families, *of_2.training_families], 1.0)
    sampler = ItemSampler(weights, dict.fromkeys(STYLES, 1.0), (5, 7), 2)
    items = [item for seed in range(60) for item in sampler.sample(of_2.sample_scene("train", seed), 16)]
    made = [
        (one.prompt, one.final, one.index, one.choices, *_told(one.question), one.question.hops, one.difficulty)
        for one in items
    ]
    assert sha256(repr(made).encode()).hexdigest()[:16] == PINNED["items"]
    for task in TASKS:
        splits = ("test", "validation")
        rows = [sorted(row.items()) for of in splits for row in make_task(task, of, 60, images=False, version=2)]
        assert sha256(repr(rows).encode()).hexdigest()[:16] == PINNED[task]


def _told(question: Question) -> tuple[tuple[str, ...], tuple[int, ...]]:
    return question.rationale, question.cells


def test_scenes_have_names_splits_and_pictures_of_their_own() -> None:
    scene = sample_scene("validation", 12)
    assert scene == sample_scene("validation", 12) == scene_named(scene.name)
    assert scene.name == "validation@2/12" and scene_named("test/7") == sample_scene_1("test", 7)
    assert all(scene_named(name) is None for name in ("test", "test@9/1", "dev/1", "test@2/x", "vqa/train2014/3"))
    kinds = [{sample_scene(split, i).kind for i in range(200)} for split in ("train", "validation", "test")]
    assert not kinds[0] & kinds[1] and not kinds[0] & kinds[2] and not kinds[1] & kinds[2]
    assert {sample_scene("test", i).vendor for i in range(20)}.isdisjoint({one.vendor for one in scenes()})
    assert all(8 <= len(one.things) <= 12 for one in scenes())
    same = replace(scene, seed=13)
    assert not np.array_equal(render(scene), render(same))  # the background follows from the name


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_a_reader_of_words_and_scene(family: str) -> None:
    found = asked(family)
    assert len(found) > 20
    assert all(oracle(scene, one.stem) == one.answer for scene, one in found)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_step_names_its_cell(family: str) -> None:
    for scene, one in asked(family):
        steps = one.rationale[:-1] if family == "function" else one.rationale
        assert len(steps) == len(one.cells) and 1 <= len(one.cells) <= MAX_HOPS + 1
        assert all(place(cell) in step.rstrip(".").split() for step, cell in zip(steps, one.cells, strict=True))
        assert all(scene.kind[cell] >= 0 for cell in one.cells)
        assert len(set(one.cells)) == len(one.cells)
        assert difficulty(one) in LEVELS


@pytest.mark.parametrize("hops", range(1, MAX_HOPS + 1))
def test_chains_have_their_hops(hops: int) -> None:
    for sort in ("beside", "gaze"):
        for scene, one in asked(f"{sort}{hops}"):
            assert one.hops == len(one.cells) == hops + 1
            assert one.answer == KINDS[scene.kind[one.cells[-1]]] != KINDS[scene.kind[one.cells[0]]]
            if sort == "gaze":
                assert all(scene.ahead[a] == b for a, b in zip(one.cells, one.cells[1:], strict=False))
                assert one.stem.count("point") == hops
            else:
                assert len(_BESIDE_WORD.findall(one.stem)) == hops


@pytest.mark.parametrize("hops", range(1, MAX_HOPS + 1))
def test_displacements_give_no_shortcut(hops: int) -> None:
    """No end at the start or beside it, and the words leave at least four places for the end, whatever the start."""
    cells, masks = routes(hops)
    assert len(cells) > 40 and len(cells) == len(masks)
    moves: dict[tuple[int, ...], set[int]] = {}
    for route in cells.tolist():
        rows, columns = np.divmod(route, SIDE)
        assert len(set(route)) == hops + 1
        assert abs(rows[-1] - rows[0]) + abs(columns[-1] - columns[0]) >= min(hops, 2)
        moves.setdefault(tuple((SIDE * np.diff(rows) + np.diff(columns)).tolist()), set()).add(route[-1])
    assert min(len(ends) for ends in moves.values()) >= 4


def test_long_chains_stand_in_most_scenes() -> None:
    longest = Counter(max(len(led) for led in scene.gazes) - 1 for scene in scenes())
    share = {hops: sum(n for most, n in longest.items() if most >= hops) / len(scenes()) for hops in range(1, 7)}
    assert share[3] > 0.85 and share[6] > 0.4, share
    assert [len(walks(steps)) for steps in (1, 2)] == [48, 104]


def test_a_scene_of_tiles_alone_still_gives_questions() -> None:
    """A training scene of that sort once kept a sampler drawing without end."""
    scene = sample_scene("train", 0)
    tiles = replace(scene, kind=[TILE_KIND if kind >= 0 else kind for kind in scene.kind])
    found = {ask is None for rng in (Random(seed) for seed in range(60)) for ask in [FAMILIES["what_at"](tiles, rng)]}
    assert found == {True, False}
    assert len(ItemSampler({"what_at": 1.0}, {"open": 1.0}, 0, 2).sample(tiles, 5)) == 5


def test_existence_is_asked_among_near_misses() -> None:
    rng = Random(1)
    answers: Counter[tuple[str, str]] = Counter()
    for scene in scenes():
        for negative in ("random", "popular", "adversarial"):
            one = exist(scene, rng, negative)
            if one is None:
                continue
            words = one.stem.split()
            kind = words[5]
            look = next(look for look in _looks() if look[1] == words[3:6])[0]
            answers[negative, one.answer] += 1
            assert near_misses(scene, look) == one.near >= 2 and len(one.cells) <= MAX_STEPS
            assert scene.kind.count(look[0]) >= 1 and all(scene.kind[cell] == look[0] for cell in one.cells)
            assert negative != "popular" or look[0] in POPULAR
            if negative == "adversarial" and one.answer == "no":
                assert (look[0], look[1], 1 - look[2]) in scene.looks
            assert one.answer == "yes" or look not in scene.looks
            assert kind in KINDS
    for negative in ("random", "popular", "adversarial"):
        yes, no = answers[negative, "yes"], answers[negative, "no"]
        assert yes + no > 60 and abs(yes - no) < 3 * (yes + no) ** 0.5


@cache
def _looks() -> list[tuple[tuple[int, int, int], list[str]]]:
    every = product(range(len(KINDS)), range(len(COLOUR_NAMES)), range(len(SIZES)))
    return [((k, c, s), [SIZES[s], COLOUR_NAMES[c], KINDS[k]]) for k, c, s in every]


def test_counts_are_even() -> None:
    """In each sort of group, so that the words of a question don't tell which count is likely."""
    rng, found = Random(2), Counter[tuple[int, str]]()
    for number in range(2_500):
        one = count(sample_scene("train", 50_000 + number), rng)
        if one is not None:
            words = one.stem.split()
            group = "size colour" if len(words) == 7 else "category" if words[2] in CATEGORY_NAMES else "colour"
            found[SORTS.index(group), one.answer] += 1
    for sort in {sort for sort, _ in found}:
        numbers = [found[sort, str(n)] for n in range(1, MAX_COUNT + 1)]
        assert max(abs(n - sum(numbers) / 4) for n in numbers) < 4 * (sum(numbers) / 4) ** 0.5, (sort, numbers)


def test_difficulty_rises_with_hops_near_misses_and_detail() -> None:
    plain = Question("gaze1", "What does the apple point at?", "pear", "kind", 2, (), (0, 1))
    assert difficulty(plain) == "easy" and points(replace(plain, near=2)) == points(plain) + 1
    assert points(replace(plain, stem="What does the small apple point at?")) == points(plain) + 1
    assert points(replace(plain, family="chain_digit")) == points(plain) + 1
    assert difficulty(replace(plain, hops=7, cells=tuple(range(7)))) == "hard"
    assert points(replace(plain, hops=1, cells=tuple(range(6)))) == 3


@cache
def items(style: str) -> list[Item]:
    sampler = ItemSampler(dict.fromkeys(FAMILIES, 1.0), {style: 1.0}, 9, version=2)
    return [item for scene in scenes(60) for item in sampler.sample(scene, 12, style)]


@pytest.mark.parametrize("style", STYLES)
def test_items_fit_their_format(style: str) -> None:
    for item in items(style):
        assert item.difficulty in LEVELS and item.scene is not None
        if item.choices:
            assert item.choices[item.index] == item.question.answer and len(set(item.choices)) == len(item.choices)
            assert not set(item.question.blocked) & set(item.choices)


def test_every_word_is_one_that_the_shipped_tokenizer_has() -> None:
    """Names of things, colours and places are single tokens; one tokenizer serves both versions."""
    tokenizer = build_tokenizer()
    of_1 = ItemSampler(dict.fromkeys(world(1).families, 1.0), dict.fromkeys(STYLES, 1.0), 3)
    known = {
        word for seed in range(300) for item in of_1.sample(sample_scene_1("train", seed), 8) for word in _words(item)
    }
    words = {word for style in STYLES for item in items(style) for word in _words(item)} - known
    assert all(len(tokenizer.tokenize(f" {word}")) == 1 for word in words), words
    assert not words - set(KINDS) - set("0123456789")


def _words(item: Item) -> set[str]:
    text = f"{item.prompt} {' '.join(item.question.rationale)} {item.final}"
    return set(re.findall(r"[A-Za-z]+\d?|\d", text))


def test_the_scene_graph_of_an_item_is_compact_json() -> None:
    item = items("open")[0]
    assert item.scene is not None
    graph = json.loads(item.scene_graph())
    assert list(graph) == [place(cell) for cell in item.scene.things] and " " not in item.scene_graph().split(":")[0]
    cell = item.scene.things[0]
    assert graph[place(cell)].split()[0] == KINDS[item.scene.kind[cell]] and len(graph[place(cell)].split()) == 3
    with pytest.raises(LareError, match="does not know its scene"):
        replace(item, scene=None).scene_graph()
    old = sample_scene_1("train", 1)
    first = make_item(old, world(1).families["where"](old, Random(0)) or items("open")[0].question, "open", Random(0))
    assert first is not None and len(json.loads(first.scene_graph())) == len(old.things)


def test_pairs_share_the_question_and_differ_in_one_thing() -> None:
    rng, found, hops = Random(5), 0, set()
    for scene in scenes():
        pair = minimal_pair(scene, rng)
        if pair is None:
            continue
        changed, first, second = pair
        found += 1
        hops.add(first.hops)
        assert first.stem == second.stem and first.answer != second.answer
        assert oracle(scene, first.stem) == first.answer and oracle(changed, second.stem) == second.answer
        differ = np.flatnonzero((render(scene) != render(changed)).any(-1).reshape(4, 32, 4, 32).any((1, 3)))
        assert len(differ) == 1
    assert found > 60 and hops >= {1, 2, 3, 4}


@pytest.mark.parametrize("task", TASKS)
def test_rows_carry_hops_difficulty_and_boxes(task: str) -> None:
    rows = make_task(task, "validation", 60, images=False, version=2)
    assert len(rows) == 60 and rows == make_task(task, "validation", 60, images=False, version=2)
    for row in rows:
        assert row["difficulty"] in LEVELS and row["boxes"] and row["rationale"]
        assert row["scene"].startswith("validation@2/") and row["task"] == f"lare_mini2_{task}"
        assert scene_named(row["scene"]) is not None
    assert "difficulty" not in make_task(task, "validation", 2, images=False)[0]


def test_tasks_of_version_2_are_known_by_name() -> None:
    assert stand_in("lare_mini2_pope") == ("pope", "test", 2)
    assert stand_in("lare_mini2_val_mmvp") == ("mmvp", "validation", 2)
    assert stand_in("lare_mini_val_mmvp") == ("mmvp", "validation", 1)
    assert stand_in("lare_mini3_mmvp") is None and stand_in("mmvp") is None and stand_in("lare_mini2_val") is None
    with pytest.raises(LareError, match="no version 3; choose from 1, 2"):
        make_task("pope", version=3)
