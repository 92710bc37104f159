"""Time and memory on a device of any kind, which is never named."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

__all__ = ["peak_bytes", "seconds", "synchronise"]


def synchronise(device: torch.device) -> None:
    """Wait until a device has done all that it was asked for; one without queues has."""
    wait = getattr(torch.get_device_module(device), "synchronize", None)
    if wait is not None:
        wait()


def seconds(run: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median seconds of a call, the device's work included, after one that is not counted."""
    run()
    found = []
    for _ in range(rounds):
        synchronise(device)
        start = time.perf_counter()
        run()
        synchronise(device)
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def peak_bytes(device: torch.device, reset: bool = False) -> int | None:
    """Most bytes that tensors have taken on a device since the last reset; None where it does not count them."""
    module = torch.get_device_module(device)
    name = "reset_peak_memory_stats" if reset else "max_memory_allocated"
    return getattr(module, name)(device) if hasattr(module, name) else None
