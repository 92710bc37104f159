"""`lare_eval.demo` and `lare_eval.summary`: statistics against known values, and a whole demo on a tiny checkpoint."""

import json

import numpy as np
import pytest

from lare.errors import LareError
from lare.trace import TraceReader
from lare_eval import demo
from lare_eval.summary import Cell, Pass, margin, summarise, table, wilson
from tests.methods.tiny_checkpoint import write_checkpoint

from .conftest import rows_a_task


def scores(bits):
    return dict(enumerate(float(bit) for bit in bits))


def make_pass(setting, pope, star, tokens=4.0, steps=0.0):
    given = {"lare_mini_pope": scores(pope), "lare_mini_mmstar": scores(star)}
    costs = {task: np.tile([tokens, steps, 0.5], (len(rows), 1)) for task, rows in given.items()}
    return Pass(setting, given, costs, {task: {n: f"{task}/{n}" for n in rows} for task, rows in given.items()})


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson(right, n, low, high):
    """Known values; 81 of 263 is Newcombe's (1998) example."""
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_without_questions():
    assert wilson(0, 0) == (0.0, 1.0)


def test_margin_counts_and_covers():
    left = [1] * 60 + [0] * 40
    right = [1] * 45 + [0] * 30 + [1] * 5 + [0] * 20
    gap = margin("pope", "K=4", "K=0", left, right)
    assert (gap.gained, gap.lost, gap.n) == (15, 5, 100)
    assert gap.difference == pytest.approx(0.10)
    # Normal theory: 1.96 * sqrt((20 / 100 - 0.1 ** 2) / 100) = 0.085
    assert (gap.low, gap.high) == pytest.approx((0.015, 0.185), abs=0.012)


def test_questions_of_one_scene_are_drawn_together():
    """Copies of a question add nothing: the interval is that of the scenes."""
    left, right = [1, 0, 1, 1, 0, 1, 0, 1] * 5, [0, 0, 1, 0, 1, 1, 0, 0] * 5
    scenes = [str(number) for number in range(40)]
    single = margin("mmvp", "a", "b", left, right, scenes)
    doubled = margin("mmvp", "a", "b", left * 2, right * 2, scenes * 2)
    naive = margin("mmvp", "a", "b", left * 2, right * 2)
    assert (doubled.low, doubled.high) == pytest.approx((single.low, single.high))
    assert naive.high - naive.low < 0.8 * (single.high - single.low)


def test_margin_of_equal_passes_is_zero():
    gap = margin("pope", "a", "b", [1, 0, 1], [1, 0, 1])
    assert (gap.difference, gap.low, gap.high, gap.gained, gap.lost) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize(("left", "right"), [([], []), ([1, 0], [1])])
def test_margin_refuses_what_is_not_paired(left, right):
    with pytest.raises(LareError, match="paired"):
        margin("pope", "a", "b", left, right)


def test_summary_has_every_pass_task_and_total():
    passes = [make_pass("K=4", "1110", "11", steps=4), make_pass("K=0", "1000", "10"), make_pass("blind", "0000", "00")]
    cells, margins = summarise(passes)
    assert [(c.task, c.setting, c.n, c.accuracy) for c in cells if c.task == "all"] == [
        ("all", "K=4", 6, pytest.approx(5 / 6)),
        ("all", "K=0", 6, pytest.approx(2 / 6)),
        ("all", "blind", 6, 0.0),
    ]
    assert {(m.task, m.right): m.difference for m in margins} == {
        ("lare_mini_pope", "K=0"): pytest.approx(0.5),
        ("lare_mini_mmstar", "K=0"): pytest.approx(0.5),
        ("all", "K=0"): pytest.approx(0.5),
        ("lare_mini_pope", "blind"): pytest.approx(0.75),
        ("lare_mini_mmstar", "blind"): pytest.approx(1.0),
        ("all", "blind"): pytest.approx(5 / 6),
    }
    assert cells[0].seconds == 2.0 and cells[0].latent_steps == 4.0
    text = table(cells, margins)
    assert "K=4 minus blind" in text and "83.3%" in text


def test_the_closing_table_is_ten_lines_of_four_settings(tmp_path):
    settings, tasks = ["K=4", "K=0", "text", "random", "fine", "blind", "majority"], [f"task {n}" for n in range(5)]
    cells = [
        Cell(setting, task, 10, share / 10, 0.0, 1.0, 9.0, 4.0, 1.0)
        for task in [*tasks, "all"]
        for share, setting in enumerate(settings)
    ]
    lines = demo._short(cells, "K=4 saves no text here.", tmp_path).splitlines()
    assert len(lines) + 1 == 10, "the last line is printed after it: seconds, and where the results are"
    assert lines[0].split()[2:] == ["K=4", "K=0", "text", "majority"]
    assert [line.split("%")[0].split()[-1] for line in lines[1:7]] == ["0.0"] * 6
    assert lines[6].split() == ["all", "0.0%", "10.0%", "20.0%", "60.0%"]
    assert str(tmp_path / "summary.txt") in lines[-1] and "--full" in lines[-1]


def test_questions_are_paired_by_number_and_not_by_order():
    first = make_pass("K=4", "10", "1")
    turned = {"lare_mini_pope": {1: 0.0, 0: 1.0}, "lare_mini_mmstar": {0: 1.0}}
    shuffled = Pass("K=0", turned, first.costs, first.scenes)
    assert all(gap.gained == gap.lost == 0 for gap in summarise([first, shuffled])[1])


def test_bad_limit(capsys):
    with pytest.raises(SystemExit) as stopped:
        demo.main(["--limit", "0"])
    assert stopped.value.code == 2


def test_mistake_is_one_line(capsys):
    assert demo.main(["--checkpoint", "./nowhere"]) == 2
    assert capsys.readouterr().err.startswith("lare: there is no checkpoint folder")


def test_summary_file(tmp_path):
    cells, margins = summarise([make_pass("K=4", "1", "1"), make_pass("K=0", "0", "1")])
    demo._write(tmp_path, "abc", cells, margins, "words", 1.0)
    content = json.loads((tmp_path / "summary.json").read_text())
    assert len(content["cells"]) == 6 and len(content["margins"]) == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["summary.json", "summary.txt"]


@pytest.fixture
def few_rows(monkeypatch):
    with rows_a_task(monkeypatch, 6):
        yield


def test_whole_demo_on_a_tiny_checkpoint(few_rows, tmp_path, capsys):
    """Random weights, so no score is expected; but every pass, its traces, its counts and the table are there."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    out = tmp_path / "out"
    tasks = "lare_mini_pope,lare_mini_mmvp"
    words = ["--checkpoint", str(checkpoint), "--tasks", tasks, "--limit", "4", "--out", str(out)]
    assert demo.main(words) == 0
    captured = capsys.readouterr()
    printed = captured.out
    assert "Postprocessing" not in captured.err and "/4 [" not in captured.err  # one bar, and that is the demo's
    (folder,) = out.iterdir()
    assert printed.splitlines()[-1].endswith(str(folder / "summary.json"))
    assert "right answers" in printed and "minus" not in printed
    assert "K=2 minus blind" in (folder / "summary.txt").read_text()
    content = json.loads((folder / "summary.json").read_text())
    steps = {(cell["task"], cell["setting"]): (cell["n"], cell["latent_steps"]) for cell in content["cells"]}
    assert steps["lare_mini_pope", "K=2"] == (4, 2.0)
    assert steps["lare_mini_pope", "K=0"] == (4, 0.0)
    assert steps["all", "blind"] == (8, 2.0)
    assert steps["all", "majority"] == (8, 0.0)
    assert {name.name for name in (folder / "traces").iterdir()} == {"K2", "K0", "text", "random", "blind"}
    thinking, blind = (TraceReader(folder / "traces" / name) for name in ("K2", "blind"))
    assert thinking.column("question") == blind.column("question")
    assert len(set(thinking.column("meta.scene"))) == 2 + 2  # both ask two questions about each scene
    # Blind means that the picture makes no difference: the same question gets the same answer.
    answers = {}
    for question, text in zip(blind.column("question"), blind.column("text"), strict=True):
        assert answers.setdefault(question, text) == text
