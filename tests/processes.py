"""Runs a function of a test file in several processes, as a launcher would: rank, port of the first, and arguments."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

_ROOT = str(Path(__file__).parents[1])
_START = (
    f"import runpy, sys; sys.path.insert(0, {_ROOT!r}); "
    "runpy.run_path(sys.argv[1])[sys.argv[2]](int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])"
)


def run_processes(file: str, function: str, count: int, *arguments: str, timeout: float = 240) -> None:
    """Call ``function(rank, port, *arguments)`` of a file in `count` processes; fails with their output if one does.

    Not by ``torch.multiprocessing.spawn``: a test file is no module that a new process could import by its name.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [[sys.executable, "-c", _START, file, function, str(rank), port, *arguments] for rank in range(count)]
    running = [subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for one in words]
    try:
        printed = [process.communicate(timeout=timeout)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert not any(process.returncode for process in running), "\n".join(printed)
