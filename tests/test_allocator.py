"""Freed memory is kept: large blocks that come and go cost no page faults."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import ctypes, resource, sys
from lare.allocator import keep_freed_memory

asked = sys.argv[1] == "keep" and keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def come_and_go():
    for _ in range(5):
        block = libc.malloc(64 << 20)
        libc.memset(block, 1, 64 << 20)
        libc.free(block)

come_and_go()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
come_and_go()
print(int(asked), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(way: str, **environment: str) -> tuple[int, int]:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith("MALLOC_") and name != "LD_PRELOAD"
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, way], env=clean | environment, capture_output=True, text=True, check=True
    )
    asked, faults = done.stdout.split()
    return int(asked), int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_large_blocks_cost_no_faults_once_kept() -> None:
    asked, kept = _faults("keep")
    if not asked:
        pytest.skip("no glibc here")
    _, plain = _faults("plain")
    assert kept < plain / 20


def test_a_chosen_allocator_is_left_alone() -> None:
    asked, _ = _faults("keep", MALLOC_TRIM_THRESHOLD_="131072")
    assert asked == 0
