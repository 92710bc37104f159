"""The timing library: order, ratios, intervals, tables, JSON and exit codes."""

import json
import time

import pytest

from benchmarks import common
from benchmarks.common import Options, Side, compare, main, rate, save, table, time_pairs


@pytest.fixture
def clock(monkeypatch):
    """A clock that only work moves, so that results are exact."""
    now = {"wall": 0.0, "cpu": 0.0}
    monkeypatch.setattr(common.time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(common.time, "process_time", lambda: now["cpu"])

    def work(wall, cpu=None):
        def run():
            now["wall"] += wall
            now["cpu"] += wall if cpu is None else cpu

        return run

    return work


def test_runs_are_interleaved_and_swap_their_order():
    order = []
    options = Options(rounds=4, warmup=1)
    time_pairs(Side("a", lambda: order.append("a")), Side("b", lambda: order.append("b")), options)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab" + "ba"


def test_garbage_collector_is_on_again():
    import gc

    time_pairs(Side("a", lambda: None), Side("b", lambda: None), Options(rounds=1))
    assert gc.isenabled()


def test_ratio_of_times(clock):
    result = compare("x", Side("a", clock(3.0, 1.0)), Side("b", clock(2.0, 1.0)), Options(rounds=5), at_most=1.5)
    assert (result.ratio, result.cpu_ratio, result.interval) == (1.5, 1.0, (1.5, 1.5))
    assert (result.left_seconds, result.right_seconds, result.passed) == (3.0, 2.0, True)


def test_ratio_of_speeds_per_unit_of_work(clock):
    many, one = Side("b16", clock(4.0), 16), Side("b1", clock(1.0))
    assert compare("x", many, one, Options(rounds=3), at_least=4.0, speed=True).ratio == 4.0
    assert not compare("x", many, one, Options(rounds=3), at_least=4.1, speed=True).passed


def test_median_is_robust_and_interval_holds_it(monkeypatch):
    durations = iter([1, 1, 1, 1, 9, 1, 1, 2, 1, 2])
    now = [0.0]
    monkeypatch.setattr(common.time, "perf_counter", lambda: now[0])

    def run():
        now[0] += next(durations)

    result = compare("x", Side("a", run), Side("b", run), Options(rounds=5, warmup=0), at_most=2)
    assert result.ratio == 1.0 and result.interval[0] <= 1.0 <= result.interval[1]


def test_rate(clock):
    result = rate("x", Side("scenes", clock(0.5), 100), Options(rounds=3), at_least=250, unit="scenes")
    assert result.ratio == 200 and not result.passed


def test_exactly_one_bound(clock):
    with pytest.raises(ValueError, match="one of"):
        compare("x", Side("a", clock(1)), Side("b", clock(1)), Options(rounds=1))


def results(clock, passes):
    return [
        compare("x", Side("a", clock(1.0)), Side("b", clock(1.0)), Options(rounds=2), at_most=2.0 if passes else 0.5),
        rate("y", Side("c", clock(1.0)), Options(rounds=2), at_least=0.5, unit="things"),
    ]


def test_table_and_json(clock, tmp_path):
    shown = table(results(clock, passes=False))
    assert "FAIL" in shown and "pass" in shown and "<= 0.5" in shown and "nan" not in shown
    path = save("x", results(clock, passes=True), Options(out=tmp_path))
    content = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["results"][0]["passed"] is True and content["results"][1]["right_seconds"] is None
    assert content["environment"]["threads"] == 1 and content["environment"]["torch"]
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(("passes", "strict", "code"), [(True, True, 0), (False, False, 0), (False, True, 1)])
def test_exit_code(clock, tmp_path, capsys, passes, strict, code):
    arguments = ["--rounds", "2", "--out", str(tmp_path)] + ["--strict"] * strict
    assert main("x", "words", lambda options: results(clock, passes), arguments) == code
    assert str(tmp_path / "x.json") in capsys.readouterr().out


def test_impossible_options(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main("x", "words", lambda options: [], ["--rounds", "0"])
    assert stopped.value.code == 2


def test_real_clock_runs():
    result = compare("x", Side("a", lambda: time.sleep(0.05)), Side("b", lambda: None), Options(rounds=3), at_least=1)
    assert result.ratio > 1 and result.left_seconds >= 0.05
