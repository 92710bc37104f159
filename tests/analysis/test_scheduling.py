"""How much is left: right within a factor of two, whatever the machine's speed, in a simulated run."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.__main__ import ANALYSES
from analysis.shared.scheduling import Progress, machine_speed

COSTS = {name: one.seconds for name, one in ANALYSES.items()}


def simulate(costs: dict[str, float], workers: int, true: float, guess: float) -> list[tuple[float, float, float]]:
    """(elapsed share of the time, estimate, truth) at every twentieth of a run on a machine of the true speed."""
    plan = Progress(costs, workers, guess)
    free, events = [(0.0, number) for number in range(workers)], []
    for name in plan.order:
        at, number = heapq.heappop(free)
        end = at + costs[name] / true
        heapq.heappush(free, (end, number))
        events += [(at, 1, name), (end, 0, name)]
    total = max(at for at, _, _ in events)
    events.sort()
    found = []
    for step in range(20):
        now = total * step / 20
        while events and events[0][0] <= now:
            at, begins, name = events.pop(0)
            (plan.start if begins else plan.finish)(name, at)
        found.append((step / 20, plan.remaining(now), total - now))
    return found


@pytest.mark.parametrize("true", [0.2, 0.5, 1.0, 3.0])
def test_with_a_fair_first_guess_it_is_right_from_the_start(true: float) -> None:
    for error in (0.7, 1.0, 1.4):
        for at, told, left in simulate(COSTS, 2, true, true * error):
            if at <= 0.8:
                assert left / 2 <= told <= 2 * left, (at, told, left)


@pytest.mark.parametrize("true", [0.25, 4.0])
def test_a_wrong_first_guess_is_corrected(true: float) -> None:
    for at, told, left in simulate(COSTS, 2, true, 1.0):
        if 0.5 <= at <= 0.8:
            assert left / 2 <= told <= 2 * left, (at, told, left)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(1, 100), min_size=1, max_size=9), st.integers(1, 3))
def test_shares_and_what_is_left_move_one_way(seconds: list[float], workers: int) -> None:
    costs = {str(number): one for number, one in enumerate(seconds)}
    told = [left for _, left, _ in simulate(costs, workers, 1.0, 1.0)]
    assert told[0] == pytest.approx(simulate(costs, workers, 1.0, 1.0)[0][2])
    assert all(after <= before + 1e-6 for before, after in zip(told, told[1:], strict=False))
    plan = Progress(costs, workers)
    assert plan.share(0.0) == 0
    for name in plan.order:
        plan.start(name, 0.0)
        plan.finish(name, costs[name])
    assert plan.share(0.0) == 1 and plan.remaining(0.0) == 0


def test_the_longest_start_first_and_two_processors_are_both_busy() -> None:
    plan = Progress(COSTS, 2)
    assert plan.order[0] == max(COSTS, key=COSTS.__getitem__)
    assert plan.remaining(0.0) <= 1.1 * max(sum(COSTS.values()) / 2, max(COSTS.values()))


def test_a_machine_has_a_speed() -> None:
    assert 0.001 < machine_speed() < 1000
