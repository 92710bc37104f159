"""Runs a function of a test file in several processes, as a launcher would: rank, port of the first, and arguments."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

_ROOT = str(Path(__file__).parents[1])
_START = (
    f"import runpy, sys; sys.path.insert(0, {_ROOT!r}); "
    "runpy.run_path(sys.argv[1])[sys.argv[2]](int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])"
)


def run_processes(
    file: str, function: str, count: int, *arguments: str, timeout: float = 240, fresh: bool = False
) -> None:
    """Call ``function(rank, port, *arguments)`` of a file in `count` processes; fails with their output if one does.

    Linux forks the processes off this one, so that they need not import torch and the rest anew, which takes longer
    than most of what they do. With `fresh`, and elsewhere, they begin as new interpreters.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = _forked if sys.platform == "linux" and not fresh else _new
    start(file, function, count, port, arguments, timeout)


def _forked(file: str, function: str, count: int, port: int, arguments: tuple[str, ...], timeout: float) -> None:
    (call,) = {vars(module)[function] for module in [*sys.modules.values()] if getattr(module, "__file__", "") == file}
    with tempfile.TemporaryDirectory() as folder:
        printed = [Path(folder, str(rank)) for rank in range(count)]
        fork = multiprocessing.get_context("fork")
        running = [
            fork.Process(target=_run, args=(call, rank, port, arguments, printed[rank]), daemon=True)
            for rank in range(count)
        ]
        for process in running:
            process.start()
        try:
            for process in running:
                process.join(timeout)
        finally:
            codes = [process.exitcode for process in running]
            for process in running:
                process.kill()
        assert not any(code != 0 for code in codes), f"{codes}\n" + "\n".join(path.read_text() for path in printed)


def _run(call: Any, rank: int, port: int, arguments: tuple[str, ...], printed: Path) -> None:
    """In a forked process: forget how this one was launched, and print to a file of its own."""
    from accelerate.state import AcceleratorState, GradientState
    from tqdm import tqdm

    sys.stdout = sys.stderr = printed.open("w", buffering=1)
    for stream in (1, 2):
        os.dup2(sys.stdout.fileno(), stream)
    # tqdm's own lock is one for all forked processes: whoever is killed while holding it stops the others for good.
    tqdm.set_lock(threading.RLock())
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    call(rank, port, *arguments)


def _new(file: str, function: str, count: int, port: int, arguments: tuple[str, ...], timeout: float) -> None:
    """Not by ``torch.multiprocessing.spawn``: a test file is no module that a new process could import by its name."""
    words = [[sys.executable, "-c", _START, file, function, str(rank), str(port), *arguments] for rank in range(count)]
    running = [subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for one in words]
    try:
        printed = [process.communicate(timeout=timeout)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert not any(process.returncode for process in running), "\n".join(printed)
