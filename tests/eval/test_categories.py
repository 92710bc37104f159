"""Categories of the five benchmarks, from the real columns and from the stand-ins'; units are right as a whole."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lare.embedded.world.benchmark import TASKS as MINI
from lare.embedded.world.benchmark import make_task
from lare_eval.categories import PAIRS, category_scores, category_table, places_of, score_of
from lare_eval.summary import wilson

from . import hub_cache

ROWS = {
    "pope": next(hub_cache.pope(1, "popular")),
    "mmbench_en_dev_static": next(hub_cache.mmbench(1, "dev")),
    "mmbench_ru_dev": next(hub_cache.mmbench(1, "dev", "l2-category")),
    "mmbench_cn_cc": next(hub_cache.mmbench_cc(1)),
    "mmstar": next(hub_cache.mmstar(1)),
    "mmvp": list(hub_cache.mmvp(4))[3],
    "scienceqa_img": next(hub_cache.scienceqa(1)),
}


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("pope", [("kind", "popular")]),
        ("mmbench_en_dev_static", [("L2-category", "attribute_reasoning"), ("category", "attribute_recognition")]),
        ("mmbench_ru_dev", [("L2-category", "attribute_reasoning"), ("category", "attribute_recognition")]),
        ("mmbench_cn_cc", [("category", "attribute_recognition")]),
        ("mmstar", [("core ability", "coarse perception")]),
        ("mmvp", [("pairs", PAIRS)]),
        ("scienceqa_img", [("subject", "natural science"), ("topic", "physics"), ("grade", "grade2")]),
    ],
)
def test_the_benchmarks_own_columns(task, expected):
    assert [place[:2] for place in places_of(task, 0, ROWS[task])] == expected


def test_units_are_the_benchmarks():
    assert [places_of("mmvp", n, row)[0].unit for n, row in enumerate(hub_cache.mmvp(4))] == ["pair 0"] * 2 + [
        "pair 1"
    ] * 2
    copies = [places_of("mmbench_en_dev", n, {"index": 7 + n * 1_000_000, "category": "ocr"})[0] for n in range(3)]
    assert {place.unit for place in copies} == {"7"}
    assert places_of("chartqa", 0, {"category": "bar"}) == []
    # The tasks of one kind alone have it in their name, should the column be missing.
    kinds = [places_of(f"pope_{end}", 0, {})[0].category for end in ("adv", "pop", "random")]
    assert kinds == ["adversarial", "popular", "random"] and places_of("pope", 0, {}) == []


@pytest.mark.parametrize("name", MINI)
def test_every_stand_in_is_divided(name):
    rows = make_task(name, n=12, images=False)
    found = [places_of(f"lare_mini_{name}", n, row) for n, row in enumerate(rows)]
    assert all(found), name
    for by in {place.by for places in found for place in places}:
        assert sum(place.by == by for places in found for place in places) == len(rows)
    if name == "pope":
        assert [places[0].category for places in found[:3]] == ["random", "popular", "adversarial"]


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 4), st.booleans()),
        min_size=1,
        max_size=40,
    )
)
def test_a_unit_is_right_when_all_of_it_is(rows):
    from lare_eval.categories import Place

    given_rows = [("mmvp", float(right), [Place("x", category, str(unit))]) for category, unit, right in rows]
    for one in category_scores(given_rows):
        units: dict[int, list[bool]] = {}
        for category, unit, right in rows:
            if category == one.category:
                units.setdefault(unit, []).append(right)
        whole = [all(of_unit) for of_unit in units.values()]
        assert (one.n, one.accuracy) == (len(whole), pytest.approx(sum(whole) / len(whole)))
        assert (one.low, one.high) == pytest.approx(wilson(sum(whole), len(whole)))


def test_scores_of_samples_that_say_nothing_are_left_out():
    assert score_of({"submission": {"prediction": "A"}}) is None
    assert score_of({"gpt_eval_score": {"prediction": "(b) green", "answer": "B"}}) == 1.0


def test_the_table_is_markdown_of_one_width():
    table = category_table(category_scores([("pope", 1.0, places_of("pope", 0, {"category": "random"}))]))
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 3 and len({len(row) for row in rows}) == 1 and "100.0%" in rows[2]
    assert category_table([]) == "" and json.dumps(places_of("pope_adv", 3, {})) == '[["kind", "adversarial", "3"]]'


def test_a_measure_that_is_no_share_is_no_percentage():
    from lare_eval.categories import Place

    rows = [("c", value, [Place("measure", "cider", str(n))]) for n, value in enumerate((1.25, 1.75))]
    scores = category_scores(rows, {("c", "0"): "one.jpg", ("c", "1"): "another.jpg"})
    (line,) = [one for one in category_table(scores).splitlines() if "cider" in one]
    assert "|1.500|" in line and "%" not in line
