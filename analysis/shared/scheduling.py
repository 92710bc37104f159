"""How long analyses take that run side by side: which starts first, how far they are, how much is left.

What each costs was measured once, so only the machine's speed is unknown. A short piece of work like theirs gives a
first guess of it, every analysis that ends, or takes longer than it should, corrects it.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Progress", "machine_speed"]

PRIOR = 5.0
"""Seconds of work that the first guess of the speed weighs as much as."""

PROBE_SECONDS = 0.13
"""What `machine_speed`'s work took of a processor where the costs of analyses were measured."""

RUNNING = 0.05
"""Share of a running analysis's cost that is always taken to be still to come."""


def machine_speed() -> float:
    """Speed of one process on this machine as it is loaded now, by a short piece of work; see `PROBE_SECONDS`."""
    matrix = np.random.default_rng(0).random((512, 512), dtype=np.float32)
    started = time.perf_counter()
    for _ in range(40):
        matrix = matrix @ matrix
        matrix /= matrix.max()
    total = 0
    for number in range(1_500_000):
        total += number & 7
    return PROBE_SECONDS / (time.perf_counter() - started)


@dataclass
class Progress:
    """Analyses on the way, each of known cost, on a machine of a speed that is learnt.

    Attributes:
        costs: Seconds of each at speed 1.
        workers: How many run side by side.
        guess: Speed before anything has ended.
        started: When each began, in seconds of any clock.
        took: Seconds of each that ended.
    """

    costs: Mapping[str, float]
    workers: int
    guess: float = 1.0
    started: dict[str, float] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)

    @property
    def order(self) -> list[str]:
        """The longest first, so that workers end together; also a short one that fails does so late but soon."""
        return sorted(self.costs, key=lambda name: -self.costs[name])

    @property
    def running(self) -> list[str]:
        """Names of those on the way."""
        return [name for name in self.started if name not in self.took]

    def start(self, name: str, now: float) -> None:
        """One begins."""
        self.started[name] = now

    def finish(self, name: str, now: float) -> None:
        """One ends."""
        self.took[name] = now - self.started[name]

    def speed(self, now: float) -> float:
        """Work done by seconds it took, the first guess among it; a running one that is late counts as it stands."""
        done = PRIOR + sum(self.costs[name] for name in self.took)
        seconds = PRIOR / self.guess + sum(self.took.values())
        for name in self.running:
            elapsed = now - self.started[name]
            if elapsed > self.costs[name] * seconds / done:
                done, seconds = done + self.costs[name], seconds + elapsed
        return done / seconds

    def remaining(self, now: float) -> float:
        """Seconds until all have ended, if those that wait start in `order` as workers become free."""
        speed = self.speed(now)
        free = [self._left(name, now, speed) for name in self.running]
        free += [0.0] * (self.workers - len(free))
        heapq.heapify(free)
        for name in self.order:
            if name not in self.started:
                heapq.heapreplace(free, free[0] + self.costs[name] / speed)
        return max(free)

    def share(self, now: float) -> float:
        """Share of the work that is done, 0 to 1."""
        speed, total = self.speed(now), sum(self.costs.values())
        left = sum(self.costs[name] for name in self.costs if name not in self.started)
        left += sum(self._left(name, now, speed) * speed for name in self.running)
        return 1 - left / total

    def _left(self, name: str, now: float, speed: float) -> float:
        whole = self.costs[name] / speed
        return max(whole - (now - self.started[name]), RUNNING * whole)
