"""Replayed stop rules are the model's own; thresholds keep their promise; tables find a planted rule that adapts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from analysis.adaptive.measure import AdaptiveOptions, replay
from analysis.adaptive.page import compute, verdict
from analysis.adaptive.stopping import (
    RULES,
    Prefixes,
    at_stop,
    choose_for_budget,
    choose_safe,
    distances,
    earliest_right,
    run_once,
    stable_answer,
    stop_steps,
    thresholds,
)
from analysis.adaptive.tables import judge
from analysis.shared.asking import Asker
from analysis.shared.questions import load_questions
from lare.errors import LareError
from lare.model.stop_head import KINDS

T = 8


@pytest.fixture(scope="module")
def asker() -> Asker:
    return Asker(load_questions(limit=8), batch=16, quiet=True)


@pytest.fixture(scope="module")
def made(asker: Asker) -> Prefixes:
    return run_once(asker, T)


def planted(n: int = 800, seed: int = 0) -> Prefixes:
    """Each question needs 1 to 6 steps, is wrong before and right after; its latents come to rest just then."""
    rng = np.random.default_rng(seed)
    need = rng.integers(1, 7, n)
    steps = np.arange(T + 1)
    right = steps[None] >= need[:, None]
    moving = np.where(np.arange(1, T + 1)[None] <= need[:, None], 1.0, 0.01)
    latents = np.cumsum(rng.standard_normal((n, T, 1, 6)) * moving[..., None, None], 1).astype(np.float32) + 5
    replies = np.where(right, "A", "B")
    return Prefixes(
        right=right, tokens=np.tile(20 - steps, (n, 1)), replies=replies, texts=replies, latents=latents,
        kl=np.where(steps[None] == need[:, None], 2.0, 0.01) * np.where(steps == 0, np.nan, 1.0),
        task=np.array(["t"] * n), doc_id=np.arange(n), scene=np.array([f"s{i // 2}" for i in range(n)]), hops=need,
    )  # fmt: skip


@pytest.mark.parametrize(("rule", "quantile"), [("cosine", 0.2), ("cosine", 0.6), ("l1", 0.4), ("l2", 0.1)])
def test_replay_is_the_live_run(asker: Asker, made: Prefixes, rule: str, quantile: float) -> None:
    """The model's own rule, deciding as it goes, stops at the same steps and writes the same texts."""
    values = distances(made, rule, relative=False)
    seen = np.sort(values[np.isfinite(values)])
    at = int(quantile * len(seen))
    threshold = float(seen[at : at + 2].mean())  # between two distances, so that rounding decides nothing
    live = asker.ask("live", stop=f"{rule}:{1 - threshold if rule == 'cosine' else threshold:.9f}", iterations=T)
    stops = stop_steps(values, threshold)
    assert len(set(stops.tolist())) > 1
    assert stops.tolist() == live.steps.tolist()
    assert at_stop(made.texts, stops).tolist() == live.texts


def test_prefixes_are_fixed_runs(asker: Asker, made: Prefixes) -> None:
    kept = asker.ask("all", iterations=T, keep_latents=True)
    assert kept.latents is not None
    np.testing.assert_allclose(made.latents, kept.latents.numpy(), atol=2e-4)
    assert made.texts[:, 3].tolist() == asker.ask("three", iterations=3).texts
    assert np.isnan(made.kl[:, 0]).all()
    assert (made.kl[:, 1:] >= -1e-6).all()
    assert made.kl[:, 1].max() > 0.01


def test_a_finished_run_is_read_again(asker: Asker, made: Prefixes, tmp_path: Path) -> None:
    path = tmp_path / "x" / "run.npz"
    small = Asker(load_questions(limit=1), quiet=True, method=asker.method)
    first = run_once(small, 3, path)
    again = run_once(Asker(small.questions, quiet=True, method=asker.method), 3, path)
    assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in ("right", "texts", "latents"))
    with pytest.raises(LareError, match="other questions or steps"):
        run_once(asker, 3, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(LareError, match="can't be read"):
        run_once(small, 3, path)


Values = arrays.arrays(np.float64, (7, T + 1), elements=st.floats(-5, 5) | st.just(float("nan")))


@settings(deadline=None, max_examples=60)
@given(Values, st.floats(-5, 5), st.integers(1, 3), st.integers(1, 4))
def test_stops_are_the_first_steps_below(values: np.ndarray, threshold: float, patience: int, least: int) -> None:
    for row, stop in zip(values, stop_steps(values, threshold, patience, least), strict=True):
        fires = [
            t
            for t in range(least, T + 1)
            if t + 1 >= patience and all(v < threshold for v in row[t + 1 - patience : t + 1])
        ]
        assert stop == (fires[0] if fires else T)


@settings(deadline=None, max_examples=60)
@given(Values, st.floats(-5, 5), st.floats(0, 3))
def test_a_higher_threshold_never_stops_later(values: np.ndarray, threshold: float, more: float) -> None:
    assert (stop_steps(values, threshold + more) <= stop_steps(values, threshold)).all()


@pytest.mark.parametrize("rule", RULES)
def test_grids_go_from_never_to_at_once(made: Prefixes, rule: str) -> None:
    values = distances(made, rule)
    grid = thresholds(values, rule)
    means = [stop_steps(values, float(threshold)).mean() for threshold in grid]
    assert (np.diff(grid) > 0).all()
    assert (np.diff(means) <= 0).all()
    assert means[0] == T
    assert means[-1] == {"second": 3, "kl": 1, "patience": 1}.get(rule, 2)


def test_relative_distances_ignore_scale(made: Prefixes) -> None:
    scaled = replace(made, latents=made.latents * 7)
    for rule in ("cosine", "l1", "l2", "second"):
        np.testing.assert_allclose(distances(scaled, rule), distances(made, rule), atol=1e-5)
    np.testing.assert_allclose(distances(scaled, "l2", False), 7 * distances(made, "l2", False), rtol=1e-4)
    with pytest.raises(LareError, match="no stop rule"):
        distances(made, "angle")


def test_bounds() -> None:
    run = planted(6)
    replies = np.array([list("BBABAAAAA"), list("AAAAAAAAA"), list("BBBBBBBBA")] * 2)
    run = replace(run, replies=replies, right=replies == "A")
    assert stable_answer(run)[:3].tolist() == [4, 1, 8]
    assert earliest_right(run)[:3].tolist() == [2, 1, 8]
    assert (at_stop(run.replies, stable_answer(run)) == run.replies[:, -1]).all()


def test_a_rule_that_adapts_beats_its_shuffled_stops() -> None:
    run = planted()
    values = distances(run, "l2")
    stops = stop_steps(values, choose_for_budget(values, thresholds(values, "l2"), 4.5))
    adapts = judge(run, "l2", "", stops, usual=4)
    assert adapts.accuracy.estimate > 0.95
    assert adapts.against_shuffled.low > 0.1
    assert adapts.accuracy.estimate - adapts.line > 0.05
    dealt = judge(run, "l2", "", np.random.default_rng(1).permutation(stops), usual=4)
    assert dealt.against_shuffled.low < 0 < dealt.against_shuffled.high


def of_tasks(names: str, collapsing: str = "", n: int = 200, seed: int = 0) -> Prefixes:
    """Tasks whose answers settle after 1 to 6 steps; a collapsing one is wrong wherever the number of steps is odd."""
    run = planted(n * len(names), seed)
    task = np.array(list(names)).repeat(n)
    odd = np.isin(task, list(collapsing))[:, None] & (np.arange(T + 1) % 2 == 1)[None]
    right = run.right & ~odd
    replies = np.where(right, "A", "B")
    return replace(run, task=task, right=right, replies=replies, texts=replies)


def replayed(names: str, collapsing: str = "") -> tuple[str, tuple[str, ...]]:
    """The verdict on planted tasks, and which were set aside."""
    test, validation = (of_tasks(names, collapsing, seed=seed) for seed in (0, 1))
    apart, kept, judged, whole = replay(test, validation, AdaptiveOptions(), 4)
    return verdict(judged, kept, 4, apart, whole), apart.aside


def test_a_task_that_collapses_at_odd_steps_does_not_change_the_verdict() -> None:
    clean, none = replayed("abcd")
    assert none == () and "Set aside" not in clean
    sound, same = replayed("abcde")
    assert same == () and "Set aside" not in sound
    told, aside = replayed("abcde", "e")
    assert aside == ("e",)
    assert "over all 5 tasks, the same stops have" in told and "e turns back and forth" in told
    # The first four tasks' questions are others where there are five tasks, so both are drawn alike and cut.
    test, validation = (of_tasks("abcde", seed=seed) for seed in (0, 1))
    four = [one.take(one.task != "e") for one in (test, validation)]
    apart, kept, judged, whole = replay(four[0], four[1], AdaptiveOptions(), 4)
    of_four = verdict(judged, kept, 4, apart, whole)
    head = told.partition(" Set aside")[0].removeprefix("On 4 tasks, without e: ")
    assert head == of_four[0].lower() + of_four[1:]


def test_a_safe_threshold_is_safe() -> None:
    """Over many draws the harm on fresh questions exceeds the margin in no more than the risk's share."""
    margin, over, eager = 0.05, 0, 0
    fresh = planted(4000, 99)
    fresh = replace(fresh, kl=_noisy(fresh, 99))
    for seed in range(40):
        seen = planted(400, seed)
        seen = replace(seen, kl=_noisy(seen, seed))
        threshold = choose_safe(seen.kl, thresholds(seen.kl, "kl"), seen.right, seen.scene, margin)
        stops = stop_steps(fresh.kl, threshold)
        over += (fresh.right[:, -1] & ~at_stop(fresh.right, stops)).mean() > margin
        eager += stops.mean() < T - 0.5
    assert over <= 4
    assert eager > 20


def _noisy(run: Prefixes, seed: int) -> np.ndarray:
    """A distance that falls as the answer settles, with noise."""
    rng = np.random.default_rng(seed + 1000)
    values = (run.hops[:, None] - np.arange(T + 1)[None]) + 1.5 * rng.standard_normal(run.right.shape)
    values[:, 0] = np.nan
    return values


def test_nothing_is_called_safe_where_every_early_answer_is_wrong() -> None:
    run = planted()
    late = replace(run, right=np.arange(T + 1)[None].repeat(len(run.right), 0) == T)
    values = distances(late, "cosine")
    assert choose_safe(values, thresholds(values, "cosine")[1:], late.right, late.scene) == -np.inf


def options(tmp_path: Path, *words: str) -> AdaptiveOptions:
    shared = ["--limit", "4", "--validation", "3", "--samples", "3", "--now", "then", "--cache", str(tmp_path)]
    return AdaptiveOptions.read([*shared, *words])


def test_report_on_the_shipped_checkpoint(tmp_path: Path) -> None:
    document, found = compute(options(tmp_path))
    again, _ = compute(options(tmp_path))
    assert (document.tables, document.figures, document.samples) == (again.tables, again.figures, again.samples)
    assert len(list(tmp_path.glob("*/*.npz"))) == 2
    tables = {one.id: one for one in document.tables}
    main, more, paper, fixed = (tables[name] for name in ("rules", "rules-more", "paper", "fixed"))
    assert document.tables[0] is main and "rules-all" not in tables and found["set_aside"].size == 0
    by_task = tables["fixed-tasks"].rows
    assert [row["task"] for row in by_task][-2:] == ["mini scienceqa", "all tasks"]
    assert [by_task[-1][f"t{step}"] for step in range(T + 1)] == [row["accuracy"] for row in fixed.rows]
    rows = 2 * len(RULES) + 3 * len(KINDS) + 2  # learned rules at the checkpoint's own thresholds too
    assert len(tables["rules-tasks"].rows) == rows and len(main.rows) == 1 + rows
    assert [row["steps"] for row in paper.rows] == [4.0, 5.9, 2.8, 2.9]
    stays = next(row for row in more.rows if row["aim"] == "bound: the answer stays")
    assert stays["flipped"] == 0
    assert stays["accuracy"] == pytest.approx(100 * found["right"][:, -1].mean())
    first = next(row for row in main.rows if row["aim"] == "bound: first right answer")
    assert first["accuracy"] >= max(row["accuracy"] for row in fixed.rows if row["step"] > 0)
    assert [len(one.views[0].steps) for one in document.samples] == [T + 1] * 3
    with np.load(Path(__file__).parents[2] / "reports" / "adaptive.npz") as known:  # the same numbers as there
        keys = zip(known["task"].tolist(), known["doc_id"].tolist(), strict=True)
        committed = dict(zip(keys, known["right"].tolist(), strict=True))
        asked = zip(found["task"].tolist(), found["doc_id"].tolist(), strict=True)
        assert [committed[key] for key in asked] == found["right"].tolist()


@pytest.mark.parametrize(
    ("words", "says"),
    [(("--steps", "2"), "--steps"), (("--patience", "0"), "--patience"), (("--margin", "1"), "--margin")],
)
def test_impossible_options_are_named(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    with pytest.raises(LareError, match=says):
        compute(options(tmp_path, *words))
