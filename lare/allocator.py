"""Keep freed memory in the process: large activations then cost no page faults.

glibc maps every block of more than 32 MB (at most) anew and gives it back when it is freed; each page is then zeroed by
the kernel at its first touch. A prompt of 16 rows makes such blocks in every layer, and at 36 million parameters the
faults took a fifth of the prompt's time in float32. `lare`, the lmms-eval plugin and the benchmarks ask for the other
way; a program that imports `lare` decides for itself.
"""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
_LARGEST = 2**31 - 1
_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Ask glibc's allocator to keep freed blocks for reuse.

    Peak memory stays as it is; memory is given back at the end of the process.

    Returns:
        Whether it was asked: not on other systems or C libraries, nor where the environment has chosen an allocator
        or its thresholds already.
    """
    if not sys.platform.startswith("linux") or any(os.environ.get(name) for name in _SETTINGS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # Both, always: to set one alone switches off glibc's own adjustment of the other.
    return all([mallopt(_MMAP_THRESHOLD, _LARGEST), mallopt(_TRIM_THRESHOLD, _LARGEST)])
