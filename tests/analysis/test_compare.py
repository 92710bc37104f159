"""Two evaluations paired by question: lmms-eval's logs as they are, and planted differences."""

from __future__ import annotations

import base64
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps

from analysis.compare import page as compare
from analysis.compare import tables as compare_tables
from analysis.compare.measure import CompareOptions, merge, moves_between
from analysis.shared import pictures, runs, traces
from analysis.shared.stats import mcnemar, wilson
from lare.cli import main as lare
from lare.errors import LareError
from tests.analysis.made import answer, demo, write

MMSTAR = {"average": {"question_id": 0, "l2_category": "x", "score": 1.0}}
OPTIONS = "What is at a3?\nOptions: A: broom, B: panda, C: mushroom, D: boot"


def line(doc, score=1.0, answer="A", question=OPTIONS, **more):
    """A line as lmms-eval 0.7 writes it: the same doc_hash everywhere, no question of the data set."""
    return {
        "doc_id": doc,
        "target": "A",
        "filtered_resps": answer,
        "token_counts": [{"input_tokens": 20, "output_tokens": 7, "reasoning_tokens": 4}],
        "doc_hash": "74234e98",
        "score": score,
        "input": question,
        **more,
    }


def log(folder, task, lines, stamp="20261124_210757"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stamp}_samples_{task}.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def options(judged, other, *more):
    return CompareOptions.read(["--runs", str(judged), str(other), "--now", "never", *more])


def without_score(doc, **metrics):
    return {key: value for key, value in line(doc, **metrics).items() if key != "score"}


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"pope_accuracy": {"question_id": "1", "score": 0.0, "prediction": "no", "ground_truth": "yes"}}, 0),
        (MMSTAR, 1),
        ({"mmvp_accuracy": {"index": 1, "pair_index": 0, "is_correct": True}}, 1),
        ({"exact_match": 0.0}, 0),
        ({"gpt_eval_score": {"index": 1, "answer": "D", "prediction": "(d) boot"}}, 1),
        ({"gpt_eval_score": {"index": 1, "answer": "D", "prediction": "Don't know"}}, 0),
    ],
)
def test_right_and_wrong_of_every_benchmark(tmp_path, metrics, expected):
    path = log(tmp_path, "task", [without_score(0, **metrics)])
    assert runs.read_run(path).rows["score"].tolist() == [expected]


def test_lines_in_rank_order_are_paired_by_question(tmp_path):
    log(tmp_path / "b", "pope", [line(doc, float(doc % 2)) for doc in (2, 0, 3, 1)])
    log(tmp_path / "a", "pope", [line(doc, 0.0) for doc in (0, 1, 2, 3)])
    judged, other = runs.read_run(tmp_path / "b"), runs.read_run(tmp_path / "a")
    both = merge(judged, other, ("a", "b"))
    assert both["score_b"].tolist() == [0, 1, 0, 1] and both["tokens_b"].tolist() == [7] * 4
    log(tmp_path / "c", "pope", [line(doc) for doc in (0, 1, 2)])
    with pytest.raises(LareError, match="only b has 1: pope 3"):
        merge(judged, runs.read_run(tmp_path / "c"), ("c", "b"))
    log(tmp_path / "d", "mmvp", [line(0)])
    with pytest.raises(LareError, match="b has no mmvp .it has pope"):
        merge(judged, runs.read_run(tmp_path / "d"), ("d", "b"))


def test_clusters_from_the_log_and_from_traces(tmp_path):
    pairs = [line(doc, mmvp_accuracy={"pair_index": doc // 2, "is_correct": True}) for doc in range(4)]
    log(tmp_path / "run", "mmvp", pairs)
    log(tmp_path / "run", "pope", [line(doc) for doc in range(4)])
    rows = runs.read_run(tmp_path / "run").rows
    assert rows.groupby("task")["cluster"].nunique().to_dict() == {"mmvp": 2, "pope": 4}
    assert rows.groupby("task")["clustered"].all().to_dict() == {"mmvp": True, "pope": False}
    seen = write(tmp_path / "traces", [answer(doc, "pope") for doc in range(4)])
    known = runs.read_run(tmp_path / "run", traces=[seen]).rows
    assert known[known["task"] == "pope"]["cluster"].nunique() == 2 and known["clustered"].all()


@pytest.mark.parametrize(
    ("question", "reply", "expected"),
    [
        (OPTIONS, "C", False),
        (OPTIONS, "E", True),
        (OPTIONS, "", True),
        (OPTIONS, "(b) panda", False),
        (OPTIONS, "because", True),
        ("Which?\n(a) tile (b) bucket", "(b)", False),
        ("Is it? Answer yes or no.", "Yes.", False),
        ("Is it? Answer yes or no.", "perhaps", True),
        ("Name it.", "cat", False),
        ("Name it.", " ", True),
    ],
)
def test_what_a_scorer_could_not_read(question, reply, expected):
    assert runs.unreadable(question, reply) is expected


def planted(tmp_path, n=300, gained=60, lost=20):
    """n questions, `gained` only the judged one right, `lost` only the other."""
    ours = [float(doc < 100 + gained) for doc in range(n)]
    theirs = [float(doc < 100 or n - lost <= doc) for doc in range(n)]
    log(tmp_path / "ours", "pope", [line(doc, score) for doc, score in enumerate(ours)])
    log(tmp_path / "theirs", "pope", [line(doc, score, answer="?") for doc, score in enumerate(theirs)])
    return np.array(ours), np.array(theirs)


def test_the_tables_hold_the_libraries_numbers(tmp_path):
    ours, theirs = planted(tmp_path)
    document, arrays = compare.compute(options(tmp_path / "ours", tmp_path / "theirs"))
    row = next(one for one in document.tables if one.main).rows[0]
    assert row["gap"] == pytest.approx(100 * 40 / 300)
    assert row["interval_b"] == pytest.approx(tuple(100 * end for end in wilson(160, 300)))
    row = next(one for one in document.tables if one.id == "tests").rows[0]
    assert row["mcnemar"] == pytest.approx(sps.binomtest(20, 80).pvalue) == mcnemar(ours, theirs).p
    assert row["mid"] < row["mcnemar"] and row["holm"] == pytest.approx(row["p"])
    assert row["unread_a"] == 100 and row["unread_b"] == 0
    cells = next(one for one in document.tables if one.id == "cells").rows[0]
    assert [cells[key] for key in ("both", "only_b", "only_a", "neither", "n")] == [100, 60, 20, 120, 300]
    assert (arrays["score_b"] == ours).all() and (arrays["score_a"] == theirs).all()
    text = " ".join(document.warnings)
    assert "300 answers of theirs (100.0%) could not be read" in text and "share a picture (pope)" in text
    five = next(one for one in document.tables if one.id == "five")
    assert {row["point"][0] for row in five.rows} == set("12345")
    assert document.stand_in is False


def test_categories_of_every_benchmark(tmp_path):
    """From logs as lmms-eval writes them; POPE's kinds, which it leaves out, from the other run or from traces."""
    star = {"math": MMSTAR["average"], "average": MMSTAR["average"]}
    bench = {"answer": "A", "category": "ocr", "L2-category": "perception"}
    for name, right in (("ours", 1.0), ("theirs", 0.0)):
        kinds = [("random", "popular", "adversarial")[doc % 3] for doc in range(6)]
        places = [{"categories": [["kind", kind, str(doc)]]} if right else {} for doc, kind in enumerate(kinds)]
        log(tmp_path / name, "pope", [line(doc, float(doc % 2) * right, **places[doc]) for doc in range(6)])
        log(tmp_path / name, "mmstar", [without_score(doc, **star) for doc in range(2)])
        pairs = [{"pair_index": doc // 2, "is_correct": bool(right) or doc != 3} for doc in range(4)]
        log(tmp_path / name, "mmvp", [without_score(doc, mmvp_accuracy=pair) for doc, pair in enumerate(pairs)])
        copies = [
            {
                "gpt_eval_score": bench
                | {"index": doc % 2 + doc // 2 * 10**6, "prediction": "A" if doc or right else "B"}
            }
            for doc in range(4)
        ]
        log(tmp_path / name, "mmbench_en_dev", [without_score(doc, **one) for doc, one in enumerate(copies)])
    document, _ = compare.compute(options(tmp_path / "ours", tmp_path / "theirs"))
    table = next(one for one in document.tables if one.id == "categories")
    rows = {(row["benchmark"], row["task"]): row for row in table.rows}
    assert {task for task, _ in rows} == {"pope", "mmstar", "mmvp", "mmbench_en_dev"}
    assert [rows["pope", kind]["n"] for kind in ("random", "popular", "adversarial")] == [2, 2, 2]
    assert rows["pope", "popular"]["share_b"] == 50 and rows["pope", "random"]["share_a"] == 0
    assert rows["mmstar", "math"]["share_b"] == 100
    pair = rows["mmvp", "both of a pair"]
    assert (pair["n"], pair["share_a"], pair["share_b"], pair["gap"]) == (2, 50, 100, 50)
    assert pair["interval_a"] == pytest.approx(tuple(100 * end for end in wilson(1, 2)))
    assert (rows["mmbench_en_dev", "ocr"]["n"], rows["mmbench_en_dev", "ocr"]["share_a"]) == (2, 50)  # circular


def test_samples_are_discordant_first_and_capped(tmp_path):
    planted(tmp_path)
    document, _ = compare.compute(options(tmp_path / "ours", tmp_path / "theirs", "--samples", "40"))
    assert len(document.samples) == 40
    chosen = [one.chosen for one in document.samples]
    assert chosen.count("discordant") == 30 and "(80 exist)" in document.sampling
    first = document.samples[0]
    assert first.views[0].right != first.views[1].right


def test_two_settings_of_a_demo_run(tmp_path):
    run = demo(tmp_path, n=80)
    document, _ = compare.compute(options(run / "scores" / "K4.json", run / "scores" / "K0.json"))
    rows = next(one for one in document.tables if one.main).rows
    assert [row["task"] for row in rows] == [
        "lare_mini_mmstar", "lare_mini_pope", compare_tables.ALL, compare_tables.MACRO,
    ]  # fmt: skip
    assert rows[0]["clusters"] == 40 and rows[3]["gap"] == pytest.approx((rows[0]["gap"] + rows[1]["gap"]) / 2)
    assert rows[3]["interval"][0] < 25 < rows[3]["interval"][1]
    assert document.stand_in and "Nothing says" not in " ".join(document.warnings)


def test_the_command_takes_two_runs(tmp_path, capsys):
    run = demo(tmp_path, n=20)
    pair = [str(run / "scores" / name) for name in ("K4.json", "K0.json")]
    assert lare(["compare", *pair, "--now", "never", "--out", str(tmp_path / "compare.html")]) == 0
    assert (tmp_path / "compare.html").is_file()
    assert lare(["compare", pair[0]]) == 2
    assert "takes two runs, got 1" in capsys.readouterr().err


def test_questions_by_steps_and_their_pictures(tmp_path):
    run = demo(tmp_path, n=60)
    document, _ = compare.compute(options(run / "scores" / "K4.json", run / "scores" / "K0.json", "--samples", "10"))
    rows = next(one for one in document.tables if one.id == "hops").rows
    assert [row["task"] for row in rows] == [0, 1, 2] and sum(row["n"] for row in rows) == 120
    assert all(one.picture is None for one in document.samples), "the planted scenes are none of the tasks' scenes"
    from lare.embedded.world.benchmark import make_task

    scene = make_task("mmstar", images=False)[3]["scene"]
    wanted = [("lare_mini_mmstar", 3, scene), ("lare_mini_mmstar", 4, "another"), ("pope", 1, "x")]
    assert set(pictures.mini_pictures(wanted)) == {("lare_mini_mmstar", 3)}


def test_a_view_shows_where_each_step_looked(tmp_path):
    looks = np.array([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])
    record = answer(0, windows=np.array([[0, 1], [2, 2]]), cross_attention=looks)
    info = {"config": {"image_token_id": 5, "grid": 4}}
    reader = traces.open_traces([write(tmp_path / "K4", [record, answer(1)], info)])
    steps, grid = pictures.Looks(reader).steps(0)
    assert grid == 4 and [step.window for step in steps] == [(0, 1, 2, 2), (2, 2, 2, 2)]
    first, inside = (
        np.frombuffer(base64.b64decode(text), np.uint8).reshape(4, 4) for text in (steps[0].map, steps[0].inside)
    )
    assert first[0, 1] == 64 and first[1, 2] == 255 and first.sum() == 64 + 128 + 191 + 255
    assert inside.sum() == 4 and inside[1, 1] == 1 and steps[0].scale == pytest.approx(0.4, abs=1e-3)
    assert steps[1].numbers["entropy (bits)"] == 2
    assert pictures.Looks(reader).steps(1) == ((), 0) and pictures.Looks(None).steps(0) == ((), 0)


def test_unusable_logs_are_named(tmp_path):
    with pytest.raises(LareError, match="holds no .*samples.*--log_samples"):
        runs.read_run(tmp_path)
    log(tmp_path / "two", "pope", [line(0)])
    log(tmp_path / "two", "pope", [line(0)], stamp="20261125_000000")
    with pytest.raises(LareError, match="two logs of pope"):
        runs.read_run(tmp_path / "two")
    path = log(tmp_path / "cut", "pope", [line(0), line(1)])
    path.write_text(path.read_text()[:-30])
    with pytest.raises(LareError, match="samples_pope.jsonl' line 2 is damaged"):
        runs.read_run(path)
    path = log(tmp_path / "odd", "new", [without_score(3)])
    with pytest.raises(LareError, match="question 3 has no score that is known .*keys: doc_hash"):
        runs.read_run(path)
    with pytest.raises(LareError, match="has 1 questions twice .first: pope 5"):
        runs.read_run(log(tmp_path / "twice", "pope", [line(5), line(5)]))
    empty = log(tmp_path / "empty", "pope", [])
    with pytest.raises(LareError, match="is empty"):
        runs.read_run(empty)


def test_a_task_that_loses_where_the_others_gain_is_set_aside():
    rng = np.random.default_rng(0)
    for loses in (True, False):
        parts = []
        for task in "abcde":
            share = 0.5 if loses and task == "e" else 0.9
            place = rng.permutation(200) / 200
            scores = {"score_a": (place < 0.7).astype(float), "score_b": (place < share).astype(float)}
            parts.append(pd.DataFrame({"task": task, "cluster": [f"{task}{i}" for i in range(200)], **scores}))
        items = pd.concat(parts, ignore_index=True)
        apart = moves_between(items, ("other", "judged"))
        told = compare._verdict(items, ("other", "judged"), apart)
        assert apart.aside == (("e",) if loses else ())
        assert "+20.0 points" in told and ("With it, as the mean of all 5 tasks: +12.0 points" in told) is loses
        assert ("as the mean of 4 tasks, without e" in told) is loses and ("below 0 on e" in told) is loses
