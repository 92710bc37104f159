"""How long analyses take that run side by side: which starts first, how far they are, how much is left.

The processor seconds of each were measured once, on one machine. A short piece of work like theirs tells how fast this
machine's processor is. The processor time that each has had so far tells how much of one it gets beside whatever else
runs. From both follows the time that is left; every analysis that ends corrects it.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Progress", "processor_speed"]

PRIOR = 3.0
"""Seconds of work that the first guess of the speed weighs as much as."""

REFERENCE = 0.0145
"""Seconds of a processor that `processor_speed`'s work took where the costs of analyses were measured."""

RUNNING = 0.05
"""Share of a running analysis's cost that is always taken to be still to come."""


def processor_speed() -> float:
    """Speed of a processor of this machine by a short piece of work of one thread; 1 where costs were measured."""
    values = np.random.default_rng(0).random(400_000)
    seconds = []
    for _ in range(3):  # the best of three, since the first also warms up
        started = time.thread_time()
        np.exp(np.sort(values)).sum()
        total = 0
        for number in range(400_000):
            total += number & 7
        seconds.append(time.thread_time() - started)
    return REFERENCE / max(min(seconds), 1e-4)


@dataclass
class Progress:
    """Analyses on the way, each of known cost, on a machine of a speed that is learnt.

    Attributes:
        costs: Seconds of a processor that each takes, at speed 1.
        workers: How many run side by side.
        guess: Speed of a processor.
        started: When each began, in seconds of any clock.
        took: Seconds of each that ended.
        used: Seconds of a processor that each has had.
    """

    costs: Mapping[str, float]
    workers: int
    guess: float = 1.0
    started: dict[str, float] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)

    @property
    def order(self) -> list[str]:
        """The longest first, so that workers end together."""
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

    def done(self, name: str) -> float:
        """Share of one analysis's cost that is done, 0 to 1."""
        if name in self.took:
            return self.costs[name]
        return min(self.used.get(name, 0.0) * self.processor, (1 - RUNNING) * self.costs[name])

    @property
    def processor(self) -> float:
        """Speed of a processor, by the guess and by those that ended."""
        work = PRIOR + sum(self.costs[name] for name in self.took)
        return work / (PRIOR / self.guess + sum(self.used.get(name, self.took[name]) for name in self.took))

    def speed(self, now: float) -> float:
        """Work done by seconds it took, the first guess among it."""
        work = PRIOR + sum(map(self.done, self.started))
        seconds = sum(self.took.get(name, now - begun) for name, begun in self.started.items())
        return work / (PRIOR / self.guess + seconds)

    def remaining(self, now: float) -> float:
        """Seconds until all have ended, if those that wait start in `order` as workers become free."""
        speed = self.speed(now)
        free = [(self.costs[name] - self.done(name)) / speed for name in self.running]
        free += [0.0] * (self.workers - len(free))
        heapq.heapify(free)
        for name in self.order:
            if name not in self.started:
                heapq.heapreplace(free, free[0] + self.costs[name] / speed)
        return max(free)

    def share(self) -> float:
        """Share of the work that is done, 0 to 1."""
        return sum(map(self.done, self.started)) / sum(self.costs.values())
