"""Learned stop rules in the analysis: replay is the live run, a rule that pays is told from one that does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from analysis.adaptive import page
from analysis.adaptive.curves import shuffled_figure, shuffled_table
from analysis.adaptive.measure import OWN, AdaptiveOptions, Measured, judge_all, measure, replay
from analysis.adaptive.pays import Start, best_fixed, hops_table, pays_table, rank_correlation
from analysis.adaptive.stopping import (
    LEARNED,
    RULES,
    Prefixes,
    at_stop,
    distances,
    rule_label,
    rules_of,
    run_once,
    shuffled_right,
    stop_steps,
    thresholds,
)
from analysis.adaptive.tables import judge
from analysis.shared.asking import Asker
from analysis.shared.questions import Gathered, load_questions
from analysis.shared.report.render import render
from lare.errors import LareError
from lare.model.stop_head import KINDS, StopHead, StopHeads, inputs_of
from tests.analysis.test_adaptive import T, planted


@pytest.fixture(scope="module")
def asker() -> Iterator[Asker]:
    """The shipped checkpoint with heads of random weights."""
    found = Asker(load_questions(limit=2), batch=16, quiet=True)
    torch.manual_seed(0)
    size = found.model.config.text_config.hidden_size
    heads = {kind: StopHead(kind, inputs_of(kind, size), T, 0 if kind == "confidence" else 8, 0.5) for kind in KINDS}
    found.model.stop_heads = StopHeads(heads, "ponder", 3)
    yield found
    found.model.stop_heads = None


@pytest.fixture(scope="module")
def made(asker: Asker) -> Prefixes:
    return run_once(asker, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_replay_is_the_live_run(asker: Asker, made: Prefixes, kind: str) -> None:
    assert rules_of(made) == [*RULES, *LEARNED]
    values = distances(made, kind)
    assert np.isnan(values[:, 0]).all() and np.isfinite(values[:, 1:]).all()
    seen = np.sort(values[:, 1:], axis=None)
    gaps = np.diff(seen)
    at = int(np.argmax(gaps[len(gaps) // 4 :])) + len(gaps) // 4
    threshold = float(seen[at] + gaps[at] / 2)  # between two distances, so that rounding decides nothing
    live = asker.ask("live", stop=f"learned:{kind}:{1 - threshold:.9f}", iterations=4)
    stops = stop_steps(values, threshold)
    assert stops.tolist() == live.steps.tolist()
    assert at_stop(made.texts, stops).tolist() == live.texts


def test_a_checkpoints_own_threshold_and_limit_are_judged(made: Prefixes) -> None:
    found = judge_all(made, made, AdaptiveOptions(steps=4), 4, {"ponder": (0.4, 3)})
    own = [one for one in found if one.aim == OWN]
    assert [one.rule for one in own] == ["ponder"]
    wanted = np.minimum(stop_steps(distances(made, "ponder"), 0.4), 3)
    assert own[0].steps.tolist() == wanted.tolist()
    assert len(found) == 2 * len(RULES | LEARNED) + 1 + 2


def test_files_of_earlier_versions_are_read(made: Prefixes, asker: Asker, tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    run_once(asker, 4, path)
    with np.load(path) as whole:
        older = {name: whole[name] for name in whole.files if name not in ("learned", "difficulty")}
    np.savez(path, **older)
    again = run_once(asker, 4, path)
    assert rules_of(again) == list(RULES)
    assert (again.difficulty == "").all()
    assert np.array_equal(again.right, made.right)
    np.savez(path, **{name: value for name, value in older.items() if name != "right"})
    with pytest.raises(LareError, match="can't be read"):
        run_once(asker, 4, path)


# Does it pay? ----------------------------------------------------------------------------------------------------


def with_head(seed: int = 0, noise: float = 0.4) -> Prefixes:
    """Questions that need 1 to 6 steps, and a head that knows when they are done."""
    run = planted(seed=seed)
    rng = np.random.default_rng(seed + 100)
    told = 1 / (1 + np.exp(4 * (2.0 * run.right - 1) + noise * rng.standard_normal(run.right.shape)))
    learned = np.stack([told] * 3, -1)
    learned[:, 0] = np.nan
    levels = np.array(["easy", "easy", "medium", "medium", "hard", "hard"])
    return replace(run, learned=learned, difficulty=levels[run.hops - 1])


def start(seed: int, shuffle: bool = False) -> Start:
    test = with_head(0)  # the same questions
    rng = np.random.default_rng(seed)
    noisy = distances(test, "agreement") + 0.01 * rng.standard_normal(test.right.shape)
    stops = stop_steps(noisy, 0.5)
    judged = (
        judge(test, "agreement", "planted", rng.permutation(stops) if shuffle else stops, 4, 0.5),
        judge(test, "bound_right", "bound", stops, 4),
    )
    return Start(f"s{seed}", test, judged, best_fixed(with_head(1)))


def test_a_rule_that_pays_is_told_from_its_shuffled_stops() -> None:
    assert best_fixed(with_head(1)) == 6
    table = pays_table([start(seed) for seed in range(4)])
    assert len(table.rows) == 1, "bounds are no rules"
    row = table.rows[0]
    assert row["pays"] == "yes" and row["rule"] == rule_label("agreement")
    assert row["share"] == pytest.approx(100 * row["steps"] / 6)
    assert len(row["each"].split(", ")) == 4
    dealt = pays_table([start(seed, shuffle=True) for seed in range(4)]).rows[0]
    assert dealt["pays"] == "no" and dealt["shuffled"] < 5
    assert "one start shows nothing of others" in pays_table([start(0)]).note


def test_rules_that_a_start_lacks_are_left_out() -> None:
    other = start(1)
    other = replace(other, judged=(replace(other.judged[0], aim="something else"), other.judged[1]))
    assert pays_table([start(0), other]).rows == ()


def test_steps_rise_with_hops_and_difficulty() -> None:
    row = hops_table([start(seed) for seed in range(2)]).rows[0]
    assert [row[f"h{hop}"] for hop in range(1, 7)] == pytest.approx(range(1, 7), abs=0.3)
    assert row["deasy"] < row["dmedium"] < row["dhard"]
    assert row["hops"] > 0.9 and row["level"] > 0.8
    flat = hops_table([start(seed, shuffle=True) for seed in range(2)]).rows[0]
    low, high = flat["hops_interval"]
    assert low < 0 < high


def test_the_rank_correlation_is_scipys() -> None:
    rng = np.random.default_rng(0)
    hops = rng.integers(1, 5, 300).astype(float)
    steps = np.stack([hops + rng.integers(0, 4, 300), hops + rng.integers(0, 8, 300)])
    scene = np.arange(300).astype(str)
    wanted = np.mean([scipy_stats.spearmanr(row, hops).statistic for row in steps])
    found = rank_correlation(steps, hops, scene, draws=400)
    assert found is not None
    assert found.estimate == pytest.approx(wanted)
    assert found.low < wanted < found.high
    one = rank_correlation(steps[:1], hops, scene, draws=400)
    half = rank_correlation(steps[:1], hops, (np.arange(300) // 30).astype(str), draws=400)
    assert one is not None and half is not None
    assert one.high - one.low == pytest.approx(2 * 1.96 * (1 - one.estimate**2) / 300**0.5, rel=0.4), "by Fisher, about"
    assert half.clusters == 10
    assert rank_correlation(np.ones((1, 300)), hops, scene) is None


def test_curves_stand_beside_their_shuffled_stops() -> None:
    made = with_head()
    values = {rule: distances(made, rule) for rule in ("agreement", "l1")}
    table = shuffled_table(made, values)
    rows = [row for row in table.rows if row["rule"] == rule_label("agreement")]
    assert len(rows) > 3 and rows == sorted(rows, key=lambda row: row["steps"])
    assert max(row["gap"] for row in rows) > 15
    stops = stop_steps(values["agreement"], float(thresholds(values["agreement"], "agreement")[-1]))
    assert rows[0]["dealt"] == pytest.approx(100 * shuffled_right(made, stops).mean())
    figure = shuffled_figure(made, values)
    assert [series.name for series in figure.series] == ["agreement", "l1"]


def test_the_same_weights_are_no_further_start(tmp_path: Path) -> None:
    options = AdaptiveOptions(limit=1, validation=1, steps=4, starts=("embedded",), cache=str(tmp_path))
    with pytest.raises(LareError, match="'embedded' has the weights of a start before it"):
        measure(options)


def test_the_page_of_a_checkpoint_with_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """On planted runs: all tables and figures, learned rules among them, and the answer in words."""
    runs = [with_head(seed) for seed in (0, 1)]
    test, validation = (run.take(np.arange(len(run.right)) < 240) for run in runs)
    own = {"agreement": (0.5, 6)}
    replayed = replay(test, validation, AdaptiveOptions(), 4, own)
    first = Start("a", replayed[1], tuple(replayed[2]), best_fixed(validation))
    starts = (first, replace(first, name="b"))
    found = Measured(Gathered([]), "0123", 4, test, *replayed, starts)
    monkeypatch.setattr(page, "measure", lambda options: found)
    document, arrays = page.compute(AdaptiveOptions(samples=0, now="then"))
    tables = {one.id: one for one in document.tables}
    assert {"rules", "pays", "hops", "curves"} <= tables.keys()
    rules = tables["rules"].rows
    assert [row["aim"] for row in rules if row["rule"] == rule_label("agreement")][-1] == OWN
    assert {row["rule"] for row in tables["pays"].rows} == {rule_label(rule) for rule in (*RULES, *LEARNED)}
    assert "2 starts" in tables["pays"].caption
    assert [figure.id for figure in document.figures][:2] == ["curve", "shuffled"]
    assert (
        arrays["stops_agreement_own"].tolist() == np.minimum(stop_steps(distances(test, "agreement"), 0.5), 6).tolist()
    )
    assert document.answer and render(document).count("Does a rule pay?") >= 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"starts": ("a",), "traces": ("b",)}, "leave --starts out"),
        ({"world": 2, "tasks": ("lare_mini2",)}, "--world chooses"),
    ],
)
def test_impossible_options_are_named(options: dict[str, object], says: str) -> None:
    with pytest.raises(LareError, match=says):
        AdaptiveOptions(**options)  # type: ignore[arg-type]
