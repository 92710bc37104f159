"""Costs of an answer: planted tokens, the selection effect of own-right counting, and the paper's two numbers."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.shared import effects
from analysis.tokens import page as tokens
from analysis.tokens import paper_table1
from analysis.tokens import tables as tokens_tables
from analysis.tokens.measure import TokensOptions, read_settings
from lare.errors import LareError
from tests.analysis.made import answer, demo, write, write_scores

TASK = "lare_mini_mmstar"


def options(*traces):
    return TokensOptions(traces=tuple(map(str, traces)), now="never")


def chosen(document, counting, quantity, table="costs", **equal):
    rows = next(one for one in document.tables if one.id == table).rows
    (row,) = [
        row
        for row in rows
        if row["counting"] == counting
        and row["quantity"] == quantity
        and all(row[key] == value for key, value in equal.items())
    ]
    return row


def settings(tmp_path, n=240):
    """The same length for the same question in both; harder ones are longer, and only K4 gets the hard ones right."""
    rng = np.random.default_rng(0)
    length = rng.integers(5, 10, n) + np.where(np.arange(n) % 2, 20, 0)
    for setting, steps in (("K4", 4), ("K0", 0)):
        records = [answer(doc, TASK, steps=steps, tokens=int(length[doc])) for doc in range(n)]
        write(tmp_path / "traces" / setting, records)
        scores = {TASK: {str(doc): float(doc % 2 == 0 or setting == "K4") for doc in range(n)}}
        write_scores(tmp_path, setting, scores)
    return tmp_path / "traces", length


def test_own_right_counting_makes_the_better_model_look_longer(tmp_path):
    traces, length = settings(tmp_path)
    document, _ = tokens.compute(options(traces / "K4", traces / "K0"))
    own = chosen(document, "own right", "text tokens")
    assert own["n_judged"] == 240 and own["n_other"] == 120
    assert own["judged"] == pytest.approx(length.mean()) and own["reference"] == pytest.approx(length[::2].mean())
    assert own["interval"][0] > 5 and own["change"] > 50
    fair = chosen(document, "both right", "text tokens")
    assert fair["n_judged"] == fair["n_other"] == 120 and fair["gap"] == 0 and fair["change"] == 0
    assert chosen(document, "all", "text tokens")["gap"] == 0
    assert chosen(document, "both right", "latent steps", "tasks", task=tokens_tables.ALL)["gap"] == 4
    assert chosen(document, "both right", "text + latent")["gap"] == 4
    assert chosen(document, "all", "milliseconds")["judged"] == pytest.approx(30)
    assert "+0.00 text tokens on the 120 questions" in document.details[0]


def test_costs_of_a_demo_run_by_task(tmp_path):
    run = demo(tmp_path, n=60)
    document, arrays = tokens.compute(options(run / "traces" / "K4", run / "traces" / "K0"))
    for task in (TASK, "lare_mini_pope"):
        row = chosen(document, "all", "text tokens", "tasks", task=task)
        assert row["n_judged"] == 60 and row["interval"][0] < row["gap"] < row["interval"][1]
    assert arrays["K4_output_tokens"].shape == (120,)
    here = read_settings([run / "traces" / "K4", run / "traces" / "K0"])
    right = here["K4"][here["K4"]["score"] >= 1]
    row = chosen(document, "own right", "text tokens")
    assert row["judged"] == pytest.approx(right["output_tokens"].mean()) and row["n_judged"] == len(right)


def test_the_ratio_of_means_and_its_interval():
    rng = np.random.default_rng(1)
    a, b = rng.exponential(10, 600), rng.exponential(8, 400)
    groups_a, groups_b = np.arange(600) // 3, np.arange(400) // 2
    found = effects.ratio_of_means(b, a, groups_b, groups_a)
    assert found.estimate == pytest.approx(b.mean() / a.mean() - 1)
    assert found.low < -0.2 < found.high and found.high - found.low < 0.35
    assert found.clusters == 200


def test_the_contrast_equals_the_paired_difference_on_the_same_items():
    from analysis.shared.stats import cluster_difference

    rng = np.random.default_rng(2)
    a = rng.normal(0, 1, 200)
    b = a + rng.normal(0.3, 0.5, 200)
    groups = np.arange(200)
    contrast, paired = effects.cluster_contrast(b, a, groups, groups), cluster_difference(b, a, groups)
    assert contrast.estimate == pytest.approx(paired.estimate)
    assert contrast.high - contrast.low == pytest.approx(paired.high - paired.low, rel=0.01)


def test_the_mean_of_tasks_has_the_combined_error():
    from analysis.shared.stats import cluster_mean, standard_error

    rng = np.random.default_rng(3)
    parts = [cluster_mean(rng.normal(place, 1, size)) for place, size in ((0.0, 100), (1.0, 400))]
    mean = effects.combine(parts)
    assert mean.estimate == pytest.approx((parts[0].estimate + parts[1].estimate) / 2)
    error = np.hypot(standard_error(parts[0]), standard_error(parts[1])) / 2
    assert (mean.high - mean.low) / 2 == pytest.approx(1.959964 * error)
    assert effects.combine(parts[:1]) == parts[0]
    with pytest.raises(LareError, match="at least one task"):
        effects.combine([])


def test_the_papers_claim_by_every_reading():
    """Gaps of the paper's own table: +9.5 and +10.3 points, -11.2 % and -22.3 % tokens to the baselines' mean."""
    small, large = (
        paper_table1.gains(paper_table1.reported(name), "LaRe", "Standard CoT")
        for name in ("Qwen2.5-0.5B", "Qwen2.5-1.5B")
    )
    assert (small[0].accuracy, large[0].accuracy) == pytest.approx((9.5, 10.3), abs=0.05)
    assert (small[0].tokens, large[0].tokens) == pytest.approx((-11.2, -22.3), abs=0.06)
    assert (small[2].tokens + large[2].tokens) / 2 == pytest.approx(-16.2, abs=0.05)
    assert paper_table1.reported("Qwen2.5-1.5B")["LaRe"] == pytest.approx((49.3, 274.5), abs=0.05)
    for backbone in paper_table1.TABLE1.values():
        assert all(len(values) == len(paper_table1.BENCHMARKS) for values in backbone.values())
    alone = paper_table1.gains({"K4": (50.0, 10.0)}, "K4", "text")
    assert alone == [None] * len(paper_table1.DEFINITIONS)
    pair = paper_table1.gains({"K4": (60.0, 8.0), "text": (40.0, 10.0)}, "K4", "text")
    assert pair[0] == paper_table1.Gain(20.0, pytest.approx(-20)) and pair[1].accuracy == pytest.approx(50)


def test_what_is_missing_is_said(tmp_path):
    run = demo(tmp_path, n=20)
    with pytest.raises(LareError, match="two settings or more"):
        tokens.compute(options(run / "traces" / "K4"))
    with pytest.raises(LareError, match="called 'K4'"):
        tokens.compute(options(run / "traces" / "K4", run / "traces" / "K4"))
    lone = write(tmp_path / "lone", [answer(1)])
    with pytest.raises(LareError, match="no scores beside .*lone"):
        tokens.compute(options(run / "traces" / "K4", lone))
    (run / "scores" / "K0.json").write_text("{")
    with pytest.raises(LareError, match="K0.json' can't be read"):
        tokens.compute(options(run / "traces" / "K4", run / "traces" / "K0"))


def test_a_counting_without_answers_is_left_out(tmp_path):
    for setting, steps, score in (("K4", 4, 1.0), ("K0", 0, 0.0)):
        write(tmp_path / "traces" / setting, [answer(doc, TASK, steps=steps) for doc in range(10)])
        write_scores(tmp_path, setting, {TASK: {str(doc): score for doc in range(10)}})
    frames = read_settings([tmp_path / "traces" / "K4", tmp_path / "traces" / "K0"])
    from analysis.shared.traces import pair

    rows = tokens_tables.costs({"K0": pair(frames["K0"], frames["K4"])}, "K4")
    assert {row.counting for row in rows} == {"all"}
    document, _ = tokens.compute(options(tmp_path / "traces" / "K4", tmp_path / "traces" / "K0"))
    assert "no question that both got right" in document.verdict


def test_a_task_that_grows_where_the_others_shrink_is_set_aside(tmp_path):
    rng = np.random.default_rng(0)
    for grows in (0, 6):
        folder = tmp_path / str(grows)
        for setting, more in (("K4", -2), ("K0", 0)):
            records = [
                answer(
                    doc,
                    f"t{task}",
                    steps=4,
                    tokens=int(20 + rng.integers(0, 3) + (grows if task == 4 and more else more)),
                )
                for task in range(5)
                for doc in range(40)
            ]
            write(folder / "traces" / setting, records)
            write_scores(folder, setting, {f"t{task}": dict.fromkeys(map(str, range(40)), 1.0) for task in range(5)})
        document, _ = tokens.compute(options(folder / "traces" / "K4", folder / "traces" / "K0"))
        if grows:
            assert "without t4, -" in document.details[0] and "over all tasks" in document.details[0]
            assert "t4 goes the other way" in document.warnings[0]
            assert document.verdict.endswith("Set aside: t4, against the rest.")
            apart, whole = (chosen(document, "both right", "text tokens", name) for name in ("costs", "costs-all"))
            assert apart["n_judged"] == 160 and whole["n_judged"] == 200 and apart["gap"] < whole["gap"] < 0
        else:
            assert "set aside" not in document.verdict
        assert any(one.id == "apart-0" for one in document.tables)
