"""Planted effects are found at their size, nothing is found where none is, and damaged rows are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.ablation.measure import AblationOptions
from analysis.ablation.page import compute
from analysis.ablation.rows import compare, level, merge, over_seeds, read_rows
from analysis.shared.report.document import Document
from lare.errors import LareError

SHARES = {"fine": 0.8, "same": 0.8, "worse": 0.65, "better": 0.9}


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bootstrap of fewer draws than a report's, which are most of its time."""
    monkeypatch.setattr("analysis.ablation.rows.DRAWS", 1000)


def make(
    shares: dict[str, float], seeds: int = 4, n: int = 200, spread: float = 0.0, draw: int = 0
) -> list[dict[str, Any]]:
    """Rows whose questions share their scene's difficulty; `spread` moves a seed's accuracy."""
    rng = np.random.default_rng(draw)
    rows = []
    hard = {task: rng.standard_normal(n // 2).repeat(2) for task in ("t1", "t2")}
    for name, share in shares.items():
        for seed in range(seeds):
            place = share + spread * rng.standard_normal()
            noisy = {task: one + rng.standard_normal(n) for task, one in hard.items()}
            right = {task: values > np.quantile(values, 1 - min(max(place, 0), 1)) for task, values in noisy.items()}
            scores = {
                task: dict(zip(map(str, range(n)), map(float, each), strict=True)) for task, each in right.items()
            }
            scenes = {task: {str(i): f"s{i // 2}" for i in range(n)} for task in hard}
            costs = {"tokens": 10.0 + seed, "multiply_adds_whole": 15e7, "multiply_adds": 5e7}
            rows.append(
                {"name": name, "title": f"Row {name}", "seed": seed, "claim": True, "scores": scores}
                | {"scenes": scenes, "costs": costs}
            )
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text(json.dumps({"rows": rows}), encoding="utf-8")
    return str(path)


def options(*words: str) -> AblationOptions:
    return AblationOptions.read(["--now", "then", "--rows", *words])


def named(document: Document) -> dict[str, dict[str, Any]]:
    """Name of a row to what both tables of rows say about it."""
    main, more = document.tables[:2]
    return {second["name"]: {**first, **second} for first, second in zip(main.rows, more.rows, strict=True)}


def test_planted_effects_are_found(tmp_path: Path) -> None:
    document, _ = compute(options(write(tmp_path / "rows.json", make(SHARES))))
    main = named(document)
    assert list(main) == list(SHARES)
    for name, share in SHARES.items():
        assert main[name]["accuracy"] == pytest.approx(100 * share, abs=0.6)
        assert main[name]["seeds"] == 4
    assert main["worse"]["gap"] == pytest.approx(-15, abs=0.6)
    assert main["worse"]["boot"][1] < 0 < main["better"]["boot"][0]
    assert main["better"]["holm"] < 0.05
    assert main["worse"]["holm"] >= main["worse"]["p"]
    low, high = main["same"]["boot"]
    assert low < 0 < high
    assert main["same"]["holm"] > 0.05
    assert main["fine"].get("gap") is None
    assert document.warnings == ()
    assert document.answer == "1 of 3 variants beats the reference design"
    costs = document.tables[2].rows[0]
    assert costs["tokens"] == pytest.approx(11.5)
    assert costs["multiply_adds_whole"] == pytest.approx(150) and costs["multiply_adds"] == pytest.approx(50)
    order = [column.key for column in document.tables[2].columns]
    assert order.index("multiply_adds_whole") + 1 == order.index("multiply_adds")  # the whole comes first
    assert document.from_json(document.to_json()).tables[0].rows[1]["gap"] is not None


def test_seeds_that_differ_widen_the_interval() -> None:
    calm, wild = (merge(read(make({"fine": 0.7, "b": 0.75}, 6, spread=s))) for s in (0.0, 0.08))
    widths = [d.high - d.low for d in (compare(rows["b"], rows["fine"]) for rows in (calm, wild)) if d]
    assert widths[1] > 1.5 * widths[0]


def read(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from analysis.ablation.rows import _checked

    return [_checked(row) for row in rows]


def test_scenes_are_drawn_whole() -> None:
    """Doubling every question inside its scene adds no information, so the interval must not shrink."""
    rows = make({"fine": 0.7, "b": 0.75}, seeds=1, n=100)
    for row in rows:
        for task, docs in row["scores"].items():
            row["scores"][task] = docs | {str(int(doc) + 100): score for doc, score in docs.items()}
            scenes = row["scenes"][task]
            row["scenes"][task] = scenes | {str(int(doc) + 100): scene for doc, scene in scenes.items()}
    twice = merge(read(rows))
    once = merge(read(make({"fine": 0.7, "b": 0.75}, seeds=1, n=100)))
    two, one = compare(twice["b"], twice["fine"]), compare(once["b"], once["fine"])
    assert two is not None and one is not None
    assert two.estimate == pytest.approx(one.estimate)
    assert two.high - two.low == pytest.approx(one.high - one.low, rel=0.03)


def test_no_effect_is_rarely_found() -> None:
    """Coverage of 0 over draws with eight seeds and seed noise; a bootstrap over few seeds is somewhat narrow."""
    covered = 0
    for draw in range(30):
        rows = merge(read(make({"fine": 0.7, "b": 0.7}, 8, n=60, spread=0.03, draw=draw)))
        found = compare(rows["b"], rows["fine"])
        assert found is not None
        covered += found.low <= 0 <= found.high
    assert covered >= 25


def test_t_interval_over_seeds() -> None:
    mean, low, high = over_seeds([0.70, 0.72, 0.74, 0.76])
    half = 3.182446 * np.std([0.70, 0.72, 0.74, 0.76], ddof=1) / 2
    assert (mean, low, high) == pytest.approx((0.73, 0.73 - half, 0.73 + half))
    assert np.isnan(over_seeds([0.5])[1])


def test_few_and_unpaired_seeds_are_told(tmp_path: Path) -> None:
    rows = make({"fine": 0.7, "one": 0.7}, 2)
    rows = [row for row in rows if row["name"] == "fine" or row["seed"] == 1]
    apart = make({"apart": 0.6}, 1)
    apart[0]["seed"] = 9
    document, _ = compute(options(write(tmp_path / "rows.json", rows + apart)))
    text = " ".join(document.warnings)
    assert "Fewer than 4 seeds: fine (2), one (1), apart (1)" in text
    assert "One paired seed only: one" in text
    assert "No seed in common with fine: apart" in text
    assert named(document)["apart"].get("gap") is None


def test_numbered_rows_are_a_curve(tmp_path: Path) -> None:
    rows = make({"fine": 0.8, "prefix_8": 0.7, "prefix_32": 0.8, "prefix_2": 0.6, "lm": 0.7})
    document, _ = compute(options(write(tmp_path / "rows.json", rows)))
    curve = next(figure for figure in document.figures if figure.id == "sweep-prefix")
    assert curve.series[0].x == (2.0, 8.0, 32.0)
    assert list(curve.series[0].y) == pytest.approx([60, 70, 80], abs=0.6)


def test_prefix_lengths_are_figure_6(tmp_path: Path) -> None:
    """Rows named for P and rows that say it in their settings give one curve, beside what the paper prints."""
    rows = make({"fine": 0.8, "prefix_0": 0.6, "prefix_2": 0.7, "long": 0.85}, 2)
    for row in rows:
        if row["name"] in ("fine", "long"):
            row["settings"] = {"text_prefix": 32 if row["name"] == "fine" else 128, "iterations": 4}
    document, _ = compute(options(write(tmp_path / "rows.json", rows)))
    table = next(one for one in document.tables if one.id == "curve-prefix")
    assert [line["number"] for line in table.rows] == [0, 2, 32, 128]
    assert [line["accuracy"] for line in table.rows] == pytest.approx([60, 70, 80, 85], abs=0.6)
    assert [line.get("paper") for line in table.rows] == [40.9, None, 42.7, None]
    assert table.rows[2]["paper_tokens"] == 269.2 and "Fig. 6" in table.caption
    assert table.rows[0].get("step") is None and table.rows[1]["step"] == pytest.approx(10, abs=0.6)
    assert table.rows[1]["step_boot"][0] > 0
    assert all(line["boot"][0] < line["accuracy"] < line["boot"][1] for line in table.rows)
    figure = next(one for one in document.figures if one.id == "sweep-prefix")
    assert figure.series[0].x == (0, 2, 32, 128) and figure.series[0].low[1] == table.rows[1]["boot"][0]
    assert figure.series[1].x == (0, 32) and figure.series[1].y == (40.9, 42.7)
    assert not any(one.id == "curve-steps" for one in document.tables), "all of one number of steps: no curve"


def test_settings_that_differ_in_two_numbers_are_no_curve(tmp_path: Path) -> None:
    rows = make({"fine": 0.8, "a": 0.7, "b": 0.6}, 1)
    for row, (prefix, steps) in zip(rows, ((32, 4), (8, 4), (2, 2)), strict=True):
        row["settings"] = {"text_prefix": prefix, "iterations": steps}
    document, _ = compute(options(write(tmp_path / "rows.json", rows)))
    assert not any(one.id.startswith("curve-") for one in document.tables)
    rows = make({"fine": 0.8, "steps_1": 0.7, "steps_4": 0.8}, 2)
    document, _ = compute(options(write(tmp_path / "steps.json", rows)))
    table = next(one for one in document.tables if one.id == "curve-steps")
    assert [line.get("paper") for line in table.rows] == [None, 42.7] and "Fig. 5" in table.note
    rows[0]["settings"] = {"iterations": 3}
    with pytest.raises(LareError, match="row 'fine' has seeds of different settings"):
        compute(options(write(tmp_path / "mixed.json", rows)))


def test_an_interval_of_one_seed_is_over_scenes() -> None:
    """Its width is that of scene means; with more seeds it holds their spread as well."""
    row = merge(read(make({"fine": 0.7}, 1, n=400)))["fine"]
    low, high = level(row)
    errors = [np.std(table[0].reshape(-1, 2).mean(1), ddof=1) / 200**0.5 for table in row.tables]
    wide = 2 * 1.96 * (errors[0] ** 2 + errors[1] ** 2) ** 0.5 / 2
    assert high - low == pytest.approx(wide, rel=0.08)
    calm, wild = (merge(read(make({"fine": 0.7}, 6, spread=spread)))["fine"] for spread in (0.0, 0.1))
    assert np.diff(level(wild))[0] > 1.2 * np.diff(level(calm))[0]


def test_files_are_joined_and_twins_refused(tmp_path: Path) -> None:
    rows = make({"fine": 0.8, "b": 0.7}, 2)
    first, second = write(tmp_path / "a.json", rows[:3]), write(tmp_path / "b.json", rows[3:])
    assert [row["seeds"] for row in compute(options(first, second))[0].tables[0].rows] == [2, 2]
    with pytest.raises(LareError, match="seed 0 is in"):
        read_rows([first, first])


def _lose_a_question(rows: list[dict[str, Any]]) -> None:
    del rows[1]["scores"]["t1"]["5"]


def _lose_a_task(rows: list[dict[str, Any]]) -> None:
    del rows[1]["scores"]["t2"]


def _lose_a_scene(rows: list[dict[str, Any]]) -> None:
    del rows[1]["scenes"]["t1"]["5"]


def _other_scene(rows: list[dict[str, Any]]) -> None:
    rows[1]["scenes"]["t1"]["5"] = "s99"


def _no_number(rows: list[dict[str, Any]]) -> None:
    rows[1]["scores"]["t1"]["5"] = float("nan")


def _lose_the_name(rows: list[dict[str, Any]]) -> None:
    del rows[1]["name"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_lose_a_question, "different questions of t1 \\(5\\)"),
        (_lose_a_task, "different tasks \\(t2\\)"),
        (_lose_a_scene, "no scene for t1 5"),
        (_other_scene, "different scenes in t1"),
        (_no_number, "no number"),
        (_lose_the_name, "holds no rows"),
    ],
)
def test_damage_is_named(tmp_path: Path, spoil: Any, says: str) -> None:
    rows = make({"fine": 0.8, "b": 0.7}, 1)
    spoil(rows)
    with pytest.raises(LareError, match=says):
        compute(options(write(tmp_path / "rows.json", rows)))


def test_missing_parts_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.json", make({"b": 0.7}, 1))
    with pytest.raises(LareError, match="no row 'fine'"):
        compute(options(path, "--reference", "fine"))
    with pytest.raises(LareError, match="lare experiments run"):
        compute(options(str(tmp_path / "none.json")))
    (tmp_path / "cut.json").write_text('{"rows": [', encoding="utf-8")
    with pytest.raises(LareError, match="holds no rows"):
        compute(options(str(tmp_path / "cut.json")))
    with pytest.raises(LareError, match="holds no row"):
        compute(options(write(tmp_path / "empty.json", [])))


def test_the_first_row_is_the_reference_unless_one_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.json", make({"second": 0.7, "first": 0.8}, 1))
    first, _ = compute(options(path))
    named_so, _ = compute(options(path, "--reference", "second"))
    other, _ = compute(options(path, "--reference", "first"))
    assert first.details == named_so.details != other.details


def five(odd: float, tmp_path: Path) -> Document:
    """Rows of 1 to 4 latent steps on five tasks; one of them loses `odd` at odd steps."""
    rng, rows = np.random.default_rng(1), []
    hard = {task: rng.permutation(100) / 100 for task in "abcde"}
    for steps in (4, 3, 2, 1):
        for seed in range(4):
            share = {task: 0.9 - 0.02 * (4 - steps) - (odd if task == "e" and steps % 2 else 0) for task in hard}
            scores = {task: {str(i): float(x < share[task]) for i, x in enumerate(hard[task])} for task in hard}
            scenes = {task: {str(i): f"s{i}" for i in range(100)} for task in hard}
            row = {"name": f"steps_{steps}", "title": f"Row {steps}", "seed": seed, "claim": True, "costs": {}}
            rows.append(row | {"scores": scores, "scenes": scenes})
    return compute(options(write(tmp_path / "rows.json", rows)))[0]


def test_a_task_that_collapses_at_odd_steps_is_set_aside(tmp_path: Path) -> None:
    told = five(0.4, tmp_path)
    assert told.details[0].startswith("On 4 tasks, without e: Row 4: 90.0 % right")
    assert "e turns back and forth" in told.details[0] and "Over all 5 tasks: Row 4: 90.0 % right" in told.details[0]
    assert any("set aside" in one for one in told.warnings)
    assert told.verdict.endswith("Set aside: e, against the rest.")
    apart, whole = ({one.id: one for one in told.tables}[name].rows for name in ("rows", "rows-all"))
    gaps = [[row["gap"] for row in rows if row.get("gap") is not None] for rows in (apart, whole)]
    assert gaps[0] == pytest.approx([-2, -4, -6], abs=1.01)  # shares are whole questions
    assert gaps[1] == pytest.approx([-10, -4, -14], abs=1.01)
    clean = five(0.0, tmp_path)
    assert "set aside" not in clean.details[0].lower() and "apart" in {one.id for one in clean.tables}


@pytest.mark.parametrize(
    ("starts", "seen", "says"),
    [
        ("", "undecided", "don't say from which starts"),
        ("aaaa", "undecided", "all rows share one start"),
        ("aabb", "undecided", "from 2 starts only"),
        ("aabbccdd", "undecided", "seeds that share a start"),
        ("abcd", "yes", "points lower."),
    ],
)
def test_a_claim_rests_on_independent_starts(tmp_path: Path, starts: str, seen: str, says: str) -> None:
    rows = make({"fine": 0.8, "latents": 0.65}, len(starts) or 4)
    for row in rows if starts else []:
        row["start"] = starts[row["seed"]]
    document, _ = compute(options(write(tmp_path / "rows.json", rows)))
    assert document.claim is not None and document.claim.seen == seen and says in document.claim.reason
    assert {one.get("starts") for one in document.tables[1].rows} == {len(set(starts)) or None}
