"""How much is left: right within a factor of two, whatever the machine's speed, in a simulated run."""

from __future__ import annotations

import heapq
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.__main__ import ANALYSES
from analysis.shared.scheduling import RUNNING, Progress, processor_speed

COSTS = {name: one.seconds for name, one in ANALYSES.items()}


def simulate(
    costs: dict[str, float], workers: int, share: float = 1.0, processor: float = 1.0, guess: float = 1.0
) -> list[tuple[float, float, float]]:
    """(elapsed share of the time, estimate, truth) at every twentieth of a run.

    Args:
        costs: Of the analyses.
        workers: Side by side.
        share: Of a processor that each gets.
        processor: Its true speed.
        guess: What is taken for that.
    """
    plan, speed = Progress(costs, workers, guess), share * processor
    free, events = [(0.0, number) for number in range(workers)], []
    for name in plan.order:
        at, number = heapq.heappop(free)
        end = at + costs[name] / speed
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
        for name in plan.running:
            plan.used[name] = (now - plan.started[name]) * share
        plan.used |= {name: costs[name] / processor for name in plan.took}
        found.append((step / 20, plan.remaining(now), total - now))
    return found


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("processor", [0.5, 1.0, 3.0])
def test_right_within_a_factor_of_two_almost_from_the_start(share: float, processor: float) -> None:
    """However much of a processor each gets, and with a guess of its speed that is off by 40 %."""
    for error in (0.7, 1.0, 1.4):
        for at, told, left in simulate(COSTS, 2, share, processor, processor * error):
            if at >= 0.1 or share == 1.0:
                assert left / 2 <= told <= 2 * left, (error, at, told, left)


@pytest.mark.parametrize("processor", [0.25, 4.0])
def test_a_wrong_guess_is_corrected_by_those_that_end(processor: float) -> None:
    for at, told, left in simulate(COSTS, 2, 1.0, processor, 1.0):
        if 0.6 <= at <= 0.8:
            assert left / 2 <= told <= 2 * left, (at, told, left)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(1, 100), min_size=1, max_size=9), st.integers(1, 3))
def test_shares_and_what_is_left_move_one_way(seconds: list[float], workers: int) -> None:
    costs = {str(number): one for number, one in enumerate(seconds)}
    run = simulate(costs, workers)
    assert run[0][1] == pytest.approx(run[0][2])
    # One that is about to end counts as RUNNING short of it, which slows the estimated speed by no more than that.
    assert all(after[1] <= before[1] / (1 - RUNNING) + 1e-6 for before, after in pairwise(run))
    plan = Progress(costs, workers)
    assert plan.share() == 0
    for name in plan.order:
        plan.start(name, 0.0)
        plan.finish(name, costs[name])
    assert plan.share() == pytest.approx(1) and plan.remaining(0.0) == 0


def test_the_longest_start_first_and_two_processors_are_both_busy() -> None:
    plan = Progress(COSTS, 2)
    assert plan.order[0] == max(COSTS, key=COSTS.__getitem__)
    assert plan.remaining(0.0) <= 1.1 * max(sum(COSTS.values()) / 2, max(COSTS.values()))


def test_a_processor_has_a_speed() -> None:
    assert 0.001 < processor_speed() < 1000
