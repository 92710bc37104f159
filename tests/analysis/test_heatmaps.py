"""Heat maps: every number against one worked out by hand or by scipy, planted signals found, controls told apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from scipy.spatial.distance import jensenshannon

from analysis.heatmaps import page as heatmaps
from analysis.heatmaps.measure import HeatmapsOptions, boxes_of, read_maps, same_items
from analysis.heatmaps.numbers import (
    cover,
    lay_out,
    mean_map,
    mean_of_others,
    nss,
    on_things,
    ratio_of_sums,
    shape_of_maps,
)
from analysis.heatmaps.samples import by_step, choose
from analysis.heatmaps.sanity import compare_maps, unrelated
from lare.errors import LareError
from tests.analysis.made import answer, write, write_scores

GRID, SIDE, STEPS = 8, 4, 4
INFO = {"config": {"grid": GRID, "image_size": 128}}


def maps_strategy():
    shape = (2, 3, SIDE * SIDE)
    return st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).gamma(0.3, size=shape) + 1e-9)


@settings(max_examples=25, deadline=None)
@given(maps_strategy(), st.integers(0, 2**32 - 1))
def test_entropy_and_divergence_equal_scipy(attention, seed) -> None:
    corners = np.random.default_rng(seed).integers(0, GRID - SIDE + 1, (2, 3, 2))
    maps, inside = lay_out(attention, corners, GRID)
    assert maps.sum((-2, -1)) == pytest.approx(1)
    assert (maps[~inside] == 0).all() and (inside.sum((-2, -1)) == SIDE * SIDE).all()
    found = shape_of_maps(maps)
    flat = maps.reshape(2, 3, -1)
    assert found["entropy"] == pytest.approx(scipy_stats.entropy(flat, base=2, axis=-1))
    expected = jensenshannon(flat[:, 1:], flat[:, :-1], base=2, axis=-1) ** 2
    assert found["divergence"][:, 1:] == pytest.approx(expected, abs=1e-6)
    assert np.isnan(found["travel"][:, 0]).all()


def test_a_map_lies_where_its_window_does() -> None:
    attention = np.arange(1.0, 17.0).reshape(1, 1, 16)
    maps, inside = lay_out(attention, np.array([[[2, 3]]]), GRID)
    assert maps[0, 0, 2:6, 3:7] == pytest.approx(np.arange(1, 17).reshape(4, 4) / 136)
    assert inside[0, 0].sum() == 16 and inside[0, 0, 2, 3] and not inside[0, 0, 1, 3]


def test_travel_is_in_cells() -> None:
    maps = np.zeros((1, 2, GRID, GRID))
    maps[0, 0, 1, 1] = maps[0, 1, 4, 5] = 1
    found = shape_of_maps(maps)
    assert found["travel"][0, 1] == pytest.approx(5)
    assert found["divergence"][0, 1] == pytest.approx(1) and found["effective"][0, 0] == pytest.approx(1)


def test_bad_windows_are_refused() -> None:
    with pytest.raises(LareError, match="no square"):
        lay_out(np.ones((1, 1, 15)), np.zeros((1, 1, 2)), GRID)
    with pytest.raises(LareError, match="stands out"):
        lay_out(np.ones((1, 1, 16)), np.full((1, 1, 2), 5), GRID)


def test_cover_takes_the_union() -> None:
    one = cover([(0, 0, 0.25, 0.125)], GRID)
    assert one[0, :3].tolist() == [1, 1, 0] and one.sum() == pytest.approx(2)
    both = cover([(0, 0, 0.25, 0.125), (0.125, 0, 0.3125, 0.125)], GRID)
    assert both[0, :4].tolist() == [1, 1, 0.5, 0]
    assert cover([], GRID).sum() == 0


def test_mass_pointing_and_nss_of_a_known_map() -> None:
    maps, inside = lay_out(np.where(np.arange(16) == 5, 0.7, 0.02)[None, None], np.zeros((1, 1, 2), int), GRID)
    # One cell each: the strongest, its neighbour, and one outside the window.
    on, beside, off = (cover([(i / 8, i / 8, (i + 1) / 8, (i + 1) / 8)], GRID)[None] for i in (1, 2, 6))
    assert on_things(maps, on).mass == pytest.approx(0.7)
    assert [on_things(maps, one).pointing.item() for one in (on, beside, off)] == [1, 0, 0]
    assert [on_things(maps, one).near.item() for one in (on, beside, off)] == [1, 1, 0]
    window = maps[0, 0, :4, :4].ravel()
    assert nss(maps, inside, on).item() == pytest.approx((0.7 - window.mean()) / window.std())
    assert np.isnan(nss(maps, inside, off)).all(), "no part of it is in the window"
    even, inside = lay_out(np.ones((1, 1, 16)), np.zeros((1, 1, 2), int), GRID)
    assert np.isnan(nss(even, inside, on)).all(), "a flat map has no spread"


def test_bootstrap_over_clusters_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 60, 300)
    values = rng.normal(clusters / 30, 1)[:, None]
    estimate, low, high = ratio_of_sums(values, None, clusters.tolist(), seed=1, draws=4000)
    sums, counts = np.bincount(clusters, values[:, 0], 60), np.bincount(clusters, minlength=60)
    known = scipy_stats.bootstrap(
        (sums, counts), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, vectorized=True, n_resamples=4000,
        method="percentile", rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    assert estimate[0] == pytest.approx(values.mean())
    assert (low[0], high[0]) == pytest.approx(tuple(known), abs=0.02)
    alone = ratio_of_sums(values, None, list(range(300)), seed=1)
    assert high[0] - low[0] > 1.5 * (alone[2][0] - alone[1][0]), "clusters must widen the interval"


def test_ratios_leave_missing_values_out_on_both_sides() -> None:
    top, bottom = np.array([[1.0], [np.nan], [3.0]]), np.array([[2.0], [100.0], [2.0]])
    assert ratio_of_sums(top, bottom, ["a", "b", "c"])[0] == pytest.approx([1.0])
    assert np.isnan(ratio_of_sums(top, bottom, ["a", "a", "a"])[1]).all()


def test_sentences_go_to_the_step_that_looks_at_their_place() -> None:
    maps = np.zeros((3, GRID, GRID))
    maps[0, 0, 6] = maps[1, 3, 1] = maps[2, 7, 7] = 1  # d1, a2, d4
    words = by_step("cup a2 right. tree d1. vehicle. fish c3. Answer: yes", maps)
    assert words == [
        "tree d1. (100 % on the place) vehicle. fish c3.",
        "cup a2 right. (100 % on the place)",
        "Answer: yes",
    ]
    assert by_step("", maps) == ["", "", ""]


# --- Whole runs ----------------------------------------------------------------------------------------------------


def planted(setting: str, n: int = 80, strength: float = 0.6, seed: int = 0):
    """Answers whose attention puts `strength` on the thing's cell at step 1 and nothing special later."""
    rng = np.random.default_rng(seed)
    noise = np.random.default_rng([seed, sum(map(ord, setting))])
    records = []
    for doc in range(n):
        cell = rng.integers(0, GRID, 2)
        corners = noise.integers(0, GRID - SIDE + 1, (STEPS, 2))
        if setting == "K4":
            corners[0] = np.clip(cell - rng.integers(0, SIDE, 2), 0, GRID - SIDE)
        attention = noise.dirichlet(np.ones(SIDE * SIDE), STEPS)
        at = cell - corners[0]
        if ((at >= 0) & (at < SIDE)).all() and setting in ("K4", "random"):
            attention[0] *= 1 - strength
            attention[0, at[0] * SIDE + at[1]] += strength
        left, top = 16 * int(cell[1]), 16 * int(cell[0])
        boxes = [] if doc % 10 == 9 else [[left, top, left + 16, top + 16]]
        meta = {
            "scene": f"s{doc // 2}",
            "hops": 1 + doc % 2,
            "boxes": json.dumps(boxes),
            "sort": "where",
            "answer": "A",
        }
        arrays = dict(
            windows=corners, cross_attention=attention, saliency=noise.dirichlet(np.ones(4), STEPS).reshape(-1, 2, 2)
        )
        records.append(answer(doc, task="lare_mini_mmstar", meta=meta, **arrays))
    return records


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("demo")
    for setting in ("K4", "random", "blind"):
        write(run / "traces" / setting, planted(setting), INFO)
    write(run / "traces" / "K0", [answer(doc, steps=0) for doc in range(80)], INFO)
    write_scores(run, "K4", {"lare_mini_mmstar": {str(doc): float(doc % 3 != 0) for doc in range(80)}})
    write_scores(run, "K0", {"lare_mini_mmstar": {str(doc): float(doc % 2 == 0) for doc in range(80)}})
    return run


@pytest.fixture(scope="module")
def computed(run_folder):
    words = ["--traces", str(run_folder / "traces" / "K4"), "--no-sanity", "--samples", "12", "--now", "noon"]
    return heatmaps.compute(HeatmapsOptions.read(words))


def test_the_planted_signal_is_found_at_its_step_alone(computed) -> None:
    document, arrays = computed
    rows = document.tables[0].rows
    assert [row["n"] for row in rows] == [72] * 5
    assert rows[0]["mass"] == pytest.approx(60 + 40 / 16, abs=4)
    assert rows[0]["even_interval"][0] > 40 and rows[0]["mean_interval"][0] > 40 and rows[0]["random_interval"][0] > 20
    for row in rows[1:4]:
        assert row["lift_interval"][0] < 1 < row["lift_interval"][1]
        assert row["mean_interval"][0] < 0 < row["mean_interval"][1]
    assert rows[4]["mass"] == pytest.approx(np.mean([row["mass"] for row in rows[:4]]))
    assert arrays["mass_own"].shape == (72, STEPS)
    assert f"{rows[4]['mass']:.1f} %" in document.details[0] and "n = 72 questions" in document.details[0]


def test_agreement_with_the_boxes_finds_the_planted_step(computed) -> None:
    document, arrays = computed
    rows = next(table for table in document.tables if table.id == "boxes").rows
    own = [row for row in rows if row["source"] == "Extractor"]
    assert [row["step"] for row in own] == ["step 1", "step 2", "step 3", "step 4", "all steps"]
    assert own[0]["auc"] > 0.95 and own[0]["iou"] > 90
    assert all(0.4 < row["auc"] < 0.6 for row in own[1:4])
    gaps = {row["source"]: row for row in rows if row["step"] == "step 1" and row["source"] != "Extractor"}
    assert set(gaps) == {"even over the window", "data set's mean map", "random windows"}
    for source, row in gaps.items():
        assert row["auc_gap_interval"][0] > 0 and row["iou_gap_interval"][0] > 0, source
        assert 0.4 < row["auc"] < 0.6 or source == "even over the window", source
        assert row["auc_gap"] == pytest.approx(own[0]["auc"] - row["auc"])
    assert gaps["even over the window"]["auc_gap"] < gaps["random windows"]["auc_gap"]
    assert arrays["auc_own"].shape == arrays["iou_mean"].shape == (72, STEPS)
    numbers = document.samples[0].views[0].steps[1].numbers
    assert {"boxes: AUC-Judd", "boxes: best IoU (%)", "step before, rank correlation"} <= set(numbers)


def test_samples_carry_the_map_that_was_computed(computed, run_folder) -> None:
    import base64

    document, _ = computed
    assert len(document.samples) == 12
    maps = read_maps(run_folder / "traces" / "K4")
    sample = document.samples[0]
    row = list(maps.table["doc_id"]).index(sample.facts["number"])
    step = sample.views[0].steps[1]
    values = np.frombuffer(base64.b64decode(step.map), np.uint8).reshape(GRID, GRID) / 255 * step.scale
    assert values == pytest.approx(maps.extractor[row, 1], abs=step.scale / 500)
    assert step.window == (*maps.corners[row, 1].tolist(), SIDE, SIDE)
    assert np.array_equal(
        np.frombuffer(base64.b64decode(step.inside), np.uint8).reshape(GRID, GRID), maps.inside[row, 1]
    )
    assert sample.picture is not None and [view.name for view in sample.views] == ["K = 4", "where to look", "K = 0"]


def test_discordant_answers_come_first_and_the_draw_is_seeded(run_folder) -> None:
    maps = read_maps(run_folder / "traces" / "K4").table
    other = read_direct(run_folder)
    rows, why = choose(maps, other, 12, 0)
    differs = np.array([a != b for a, b in zip(maps["right"], other["right"], strict=True)])
    assert why == ["discordant"] * 8 + ["random"] * 4 and differs[rows[:8]].all()
    assert len(set(rows.tolist())) == 12 and rows.tolist() == choose(maps, other, 12, 0)[0].tolist()
    assert rows.tolist() != choose(maps, other, 12, 1)[0].tolist()


def read_direct(run: Path):
    from analysis.shared.traces import frame, open_traces, scores_beside

    path = run / "traces" / "K0"
    return frame(open_traces([path]), scores_beside([path]))


def test_sanity_checks_tell_the_same_from_the_unrelated(run_folder) -> None:
    maps = read_maps(run_folder / "traces" / "K4")
    same = compare_maps("same", "", maps, maps.extractor, maps.corners)
    assert np.abs(same.divergence).max() < 1e-9 and same.spearman == pytest.approx(1) and same.same_window.all()
    other = unrelated(maps, 0)
    assert other.divergence.mean() > 0.5 and abs(other.spearman.mean()) < 0.3 and other.same_window.mean() < 0.3
    expected = scipy_stats.spearmanr(maps.extractor[0, 0].ravel(), maps.extractor[1, 0].ravel()).statistic
    swapped = compare_maps("swap", "", maps, np.roll(maps.extractor, -1, 0), maps.corners)
    assert swapped.spearman[0, 0] == pytest.approx(expected)


def test_missing_controls_are_warned_of(tmp_path: Path) -> None:
    write(tmp_path / "traces" / "K4", planted("K4", 20), INFO)
    options = HeatmapsOptions(traces=(str(tmp_path / "traces" / "K4"),), sanity=False)
    document, _ = heatmaps.compute(options)
    warned = " ".join(document.warnings)
    assert all(word in warned for word in ("'random'", "'blind'", "K0", "scenes"))
    assert "random windows" not in document.details[0]


def test_other_weights_and_other_questions_are_refused(tmp_path: Path, run_folder) -> None:
    maps = read_maps(run_folder / "traces" / "K4")
    other = read_maps(write(tmp_path / "less", planted("random", 60), INFO))
    with pytest.raises(LareError, match="different questions"):
        same_items(maps, other, "less")
    records = [answer(doc, checkpoint="bbbb", **arrays(doc)) for doc in range(3)]
    with pytest.raises(LareError, match="other weights"):
        same_items(maps, read_maps(write(tmp_path / "weights", records, INFO)), "weights")


def arrays(doc: int):
    record = planted("K4", 3)[doc]
    return dict(windows=record.windows, cross_attention=record.cross_attention, saliency=record.saliency)


def test_traces_without_steps_or_grid_are_refused(tmp_path: Path, run_folder) -> None:
    with pytest.raises(LareError, match="latent steps"):
        read_maps(run_folder / "traces" / "K0")
    with pytest.raises(LareError, match="grid"):
        read_maps(write(tmp_path / "old", planted("K4", 2), {}))
    with pytest.raises(LareError, match="unreadable boxes"):
        boxes_of("[[1, 2]]", 128.0, "somewhere")
    assert boxes_of("[[0, 32, 64, 128]]", 128.0, "x") == [(0, 0.25, 0.5, 1)] and boxes_of(None, 128.0, "x") == []


def test_the_mean_map_is_a_map(run_folder) -> None:
    assert mean_map(read_maps(run_folder / "traces" / "K4").extractor).sum((-2, -1)) == pytest.approx(1)


def test_the_mean_of_the_others_leaves_an_answers_own_scene_out() -> None:
    maps = np.random.default_rng(0).dirichlet(np.ones(16), (5, 2)).reshape(5, 2, 4, 4)
    clusters = ["a", "b", "a", "c", "b"]
    found = mean_of_others(maps, clusters)
    for i, own in enumerate(clusters):
        expected = np.mean([one for one, cluster in zip(maps, clusters, strict=True) if cluster != own], 0)
        assert found[i] == pytest.approx(expected)
    assert mean_of_others(maps, ["a"] * 5)[3] == pytest.approx(maps.mean(0))
