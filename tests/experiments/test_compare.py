"""Contrasts over starts and scenes: against scipy and a slow reference, on planted effects, and as a table."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from lare.cli import main as lare
from lare.errors import LareError
from lare.experiments.compare import Asked, Mask, contrast, contrast_by_hops, drawn_means, interval, mean_by_start
from lare.experiments.gather import gather
from lare.experiments.store import Questions
from tests.experiments.grids import World

N = 240


def questions(name: str = "q") -> Questions:
    number = np.arange(N)
    return Questions(
        name,
        task=np.where(number < 80, "a", "b"),
        doc=number,
        scene=np.array([f"s{one // 2}" for one in number]),
        family=np.where(number % 5 == 0, "exist", "gaze"),
        hops=1 + number % 3,
        difficulty=np.full(N, ""),
    )


def asked(name: str, gain: float, starts: int = 6, luck: float = 0.05, seed: int = 0) -> Asked:
    """An arm that is `gain` better; starts differ by `luck`, in the same way in all arms."""
    rng, own = np.random.default_rng(seed), np.random.default_rng(sum(map(ord, name)))
    level = 0.5 + luck * rng.standard_normal(starts)[:, None]
    hardness = rng.random(N)[None]
    values = (hardness + 0.02 * own.standard_normal((starts, N)) < level + gain).astype(float)
    return Asked(name, tuple(str(one) for one in range(starts)), values, questions())


def test_the_test_is_a_paired_t_test_over_starts() -> None:
    one, other = asked("one", 0.1), asked("other", 0.0)
    found = contrast(one, other)
    left, right = (mean_by_start(arm.values, arm.questions.task) for arm in (one, other))
    expected = stats.ttest_rel(left, right)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.t_low, found.t_high) == pytest.approx(tuple(expected.confidence_interval()))
    assert found.effect == pytest.approx((left - right).mean() / (left - right).std(ddof=1))
    assert found.estimate == pytest.approx((left - right).mean()) and len(found.by_start) == 6
    assert found.low < found.estimate < found.high and found.low > 0


def test_two_starts_that_happen_to_agree_are_no_test() -> None:
    one, none = (
        Asked(name, ("0", "1"), np.full((2, N), value), questions()) for name, value in (("a", 1.0), ("b", 0.0))
    )
    found = contrast(one, none)
    assert found.estimate == 1.0 and np.isnan([found.t_low, found.t_high, found.effect, found.p]).all()


def test_the_mean_is_over_tasks() -> None:
    values = np.zeros((1, N))
    values[0, :80] = 1  # all of task a, a third of all questions
    assert mean_by_start(values, questions().task).tolist() == [0.5]
    one = Asked("one", ("0",), values, questions())
    none = Asked("none", ("0",), np.zeros((1, N)), questions())
    assert contrast(one, none).estimate == 0.5 and contrast(one, none, pooled=True).estimate == pytest.approx(1 / 3)


def test_the_bootstrap_is_that_of_a_slow_reference() -> None:
    arm = asked("one", 0.0, starts=4)
    task, scene = arm.questions.task, arm.questions.scene
    rng, means = np.random.default_rng(5), []
    for _ in range(1500):
        starts = rng.integers(0, 4, 4)
        shares = []
        for one in ("a", "b"):
            names = np.unique(scene[task == one])
            drawn = rng.choice(names, len(names))
            chosen = np.concatenate([np.flatnonzero((scene == name) & (task == one)) for name in drawn])
            shares.append(arm.values[np.ix_(starts, chosen)].mean())
        means.append(np.mean(shares))
    expected = np.quantile(means, [0.025, 0.975])
    assert interval(arm.values, task, scene) == pytest.approx(tuple(expected), abs=0.012)


def test_starts_widen_an_interval() -> None:
    calm, wild = asked("one", 0.0, luck=0.0), asked("one", 0.0, luck=0.2)
    widths = [np.subtract(*interval(arm.values, arm.questions.task, arm.questions.scene)) for arm in (calm, wild)]
    assert widths[1] < 1.3 * widths[0] < 0


def test_what_one_start_gives_is_no_test() -> None:
    found = contrast(asked("one", 0.2, starts=1), asked("other", 0.0, starts=1))
    assert math.isnan(found.p) and math.isnan(found.t_low) and math.isnan(found.effect)
    assert found.low > 0  # over scenes, of these weights


def test_luck_of_a_start_that_both_arms_share_does_not_matter() -> None:
    one, other = asked("one", 0.05, luck=0.3), asked("other", 0.0, luck=0.3)
    assert contrast(one, other).p < 0.05
    alone = stats.ttest_ind(*(mean_by_start(arm.values, arm.questions.task) for arm in (one, other)))
    assert alone.pvalue > 0.3


def test_pairs_are_by_start_and_what_is_missing_is_left_out() -> None:
    one, other = asked("one", 0.1), asked("other", 0.0)
    some = Asked("other", ("5", "3", "9"), other.values[[5, 3, 0]], other.questions)
    found = contrast(one, some)
    assert found.starts == ("3", "5")
    assert found.by_start == pytest.approx(contrast(one, other).by_start[3::2])
    with pytest.raises(LareError, match="share no start"):
        contrast(one, Asked("x", ("9",), other.values[:1], other.questions))
    with pytest.raises(LareError, match="different questions"):
        contrast(one, Asked("x", one.starts, other.values, questions("p")))


def test_a_mask_leaves_families_tasks_and_few_hops_out() -> None:
    one, other = asked("one", 0.1), asked("other", 0.0)
    found = contrast(one, other, Mask(without_families=("exist",), without_tasks=("a",), least_hops=2))
    kept = (questions().family == "gaze") & (questions().task == "b") & (questions().hops >= 2)
    assert found.questions == kept.sum()
    assert found.estimate == pytest.approx((one.values - other.values)[:, kept].mean())
    by_hops = contrast_by_hops(one, other, Mask(without_families=("exist",)))
    assert list(by_hops) == [1, 2, 3] and sum(part.questions for part in by_hops.values()) == N - N // 5
    with pytest.raises(LareError, match="no question is of 'nonsense'"):
        contrast(one, other, Mask(without_families=("nonsense",)))
    with pytest.raises(LareError, match="no question is left"):
        contrast(one, other, Mask(least_hops=9))


def test_equal_arms_have_no_effect() -> None:
    one = asked("one", 0.0)
    found = contrast(one, one)
    assert (found.estimate, found.effect, found.p) == (0, 0, 1)


# Tables -------------------------------------------------------------------------------------------------------------


def test_a_table_s_numbers_are_the_rows(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert lare(world.words("table")) == 0
    assert "no validation rows yet" in capsys.readouterr().out
    assert lare(world.words("run")) == 0
    capsys.readouterr()
    assert lare(world.words("table", "--markdown", "--contrast", "lare", "random")) == 0
    out = capsys.readouterr().out
    assert "two-level bootstrap over starts and scenes" in out and "Primary" not in out  # it is of the test split
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    lare_line = next(line for line in lines if line[0] == "LaRe")
    rows = [row for name, row in world.rows.items() if name.startswith("lare") and "K4" in name]
    for column, task in enumerate(("lare_mini_val_mmbench", "lare_mini_val_pope"), 1):
        share, _, tokens = lare_line[column].partition(" / ")
        assert float(share) == pytest.approx(100 * np.mean([row["scores"][task] for row in rows]), abs=0.051)
        assert tokens == "11.0"
    assert lines[0][1:3] == ["mmbench", "pope"]
    terms = next(line for line in lines if line[:2] == ["random", "2 x 1"])
    assert terms[2:] == ["boxes", "8", "2", "8", "1", "x 1"]
    assert any(line[0] == "lare/K0" for line in lines) and any(line[0] == "LaRe (K0)" for line in lines)
    compared = next(line for line in lines if line[0].startswith("all that count"))
    entries = {one.name: one.asked for one in gather(world.plan, "validation")}
    found = contrast(entries["lare"], entries["random"])
    assert compared[2:4] == ["2", f"{100 * found.estimate:+.1f}"] and compared[5] == f"{found.p:.2g}"
    assert [line[0] for line in lines if "hop" in line[0]] == ["1 hop", "2 hops", "3 hops"]
    assert len({len(line) for line in lines[:4]}) == 1


def test_the_primary_contrast_is_printed_and_leaves_out_what_it_says(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    primary = {"arm": "lare", "minus": "random", "exclude_families": ["exist"], "split": "validation"}
    world.write(primary=primary)
    assert lare(world.words("run")) == 0
    capsys.readouterr()
    assert lare(world.words("table")) == 0
    out = capsys.readouterr().out
    assert "Primary contrast (declared beforehand)" in out and "Left out: exist" in out
    assert "all that count, mean over tasks  40 " in out
    entries = {one.name: one.asked for one in gather(world.plan, "validation")}
    found = contrast(entries["lare"], entries["random"], Mask(("exist",)))
    assert f"{100 * found.estimate:+.1f}" in out


def test_one_start_and_foreign_rows_are_said(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert lare(world.words("run", "--starts", "0")) == 0
    rows = world.folder / "reports/tiny/rows"
    path = rows / "random__0__0__K4.validation.json"
    other = json.loads(path.read_text()) | {"arm": "earlier"}
    (rows / "earlier__0__0__K4.validation.json").write_text(json.dumps(other))
    capsys.readouterr()
    assert lare(world.words("table", "--contrast", "lare", "random")) == 0
    out = capsys.readouterr().out
    assert "All rows share one start" in out and "there is no test" in out
    assert "1 rows in" in out and "left out" in out
    assert lare(world.words("table", "--contrast", "lare", "lare/K9")) == 2
    assert "is not asked 'K9'; choose from K4, K0" in capsys.readouterr().err


def test_a_damaged_row_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert lare(world.words("run", "--starts", "0", "--arms", "random")) == 0
    path = world.folder / "reports/tiny/rows/random__0__0__K4.validation.json"
    path.write_text(path.read_text()[:50])
    assert lare(world.words("status")) == 2
    assert "can't be read" in capsys.readouterr().err


def test_times_stand_among_the_costs(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lare.experiments import timing

    assert lare(world.words("time")) == 2
    assert "no wanted arm is trained here" in capsys.readouterr().err
    assert lare(world.words("run", "--starts", "0")) == 0
    requests = []

    def clock(request: dict) -> dict:
        requests.append(request)
        return {row["name"]: {"batch1": 10.25, "batch16": 2.5} for row in request["rows"]}

    monkeypatch.setattr(timing, "_clock", clock)
    assert lare(world.words("time", "--arms", "lare")) == 0
    assert [row["name"] for row in requests[0]["rows"]] == ["lare", "lare/K0"]
    assert requests[0]["rows"][0]["options"] == {"iterations": 4} and requests[0]["group"] == "lare_mini_val"
    assert lare(world.words("time", "--arms", "random")) == 0
    assert set(json.loads((world.folder / "reports/tiny/times.json").read_text())) == {"lare", "lare/K0", "random"}
    capsys.readouterr()
    assert lare(world.words("table")) == 0
    assert "ms at batch 1" in (out := capsys.readouterr().out) and "10.2" in out


def test_draws_kept_for_a_table_are_those_of_a_plain_loop():
    """Every task draws its own scenes, and an interval does not depend on which came before it."""
    made = np.random.default_rng(5)
    parts = [(made.random((3, n)), made.integers(0, scenes, n).astype(str)) for n, scenes in ((60, 20), (90, 35))]
    rng, plain = np.random.default_rng(4), np.zeros((1500, 3))
    for values, scene in parts:
        names, codes = np.unique(scene, return_inverse=True)
        for first, many in ((0, 1000), (1000, 500)):
            times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), many)[:, codes]
            plain[first : first + many] += times @ values.T / times.sum(1, keepdims=True) / 2
    shares = rng.multinomial(3, np.full(3, 1 / 3), 1500) / 3
    for _ in range(2):
        np.testing.assert_allclose(drawn_means(parts, 1500, 4), (plain * shares).sum(1), rtol=1e-12)
