"""Runs what is left of a grid, several processes side by side; whatever ends it, what is done stays done.

A run's folder is locked by the process that works in it, and by the processes that it starts: if the runner is killed
and its training goes on, another runner leaves that run alone until it has ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from lare.errors import LareError
from lare.experiments.order import Choice, Job, jobs
from lare.experiments.plan import Plan
from lare.experiments.work import Command, Settings, steps
from lare.progress import note

if sys.platform != "win32":
    import fcntl

__all__ = ["locked", "run_grid"]

THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""On small models several processes beat several threads."""
PAUSE = 0.2
"""Seconds between looks at what runs."""


class _Stopped(Exception):
    """SIGTERM."""


@dataclass
class _Active:
    """A run that is being worked on."""

    job: Job
    slot: int
    lock: int
    steps: Iterator[Command]
    process: subprocess.Popen[bytes] | None = None
    what: str = ""
    log: Path | None = None
    began: float = 0.0


class _Runner:
    def __init__(self, plan: Plan, choice: Choice, settings: Settings, at_once: int, gpus: int) -> None:
        self.plan, self.choice, self.settings = plan, choice, settings
        self.at_once, self.gpus = at_once, gpus
        self.active: list[_Active] = []
        self.failures: dict[str, str] = {}
        self.elsewhere: dict[str, None] = {}
        self.finished: set[tuple[str, tuple[str, ...]]] = set()

    def run(self) -> None:
        while self._fill(jobs(self.plan, self.choice, self.settings)) or self.active:
            while self.active and not sum([self._moved(one) for one in list(self.active)]):
                time.sleep(PAUSE)

    def _fill(self, left: list[Job]) -> bool:
        """Begin runs while there is room; whether one ended at once, so that others may be ready now."""
        ended = False
        for job in left:
            if len(self.active) >= self.at_once:
                return ended
            if not job.ready or not self._free(job):
                continue
            lock = _lock(job.run.place.with_name(f"{job.run.place.name}.lock"))
            if lock is None:
                self.elsewhere[job.run.name] = None
                continue
            slot = min(set(range(self.at_once)) - {one.slot for one in self.active})
            one = _Active(job, slot, lock, steps(self.plan, job.run, job.asks, self.settings))
            self.active.append(one)
            ended |= self._next(one)
        return ended

    def _free(self, job: Job) -> bool:
        """Whether a run is neither being worked on nor was already."""
        name = job.run.name
        busy = name in {one.job.run.name for one in self.active}
        return not (busy or name in self.failures or name in self.elsewhere or (name, job.asks) in self.finished)

    def _moved(self, one: _Active) -> bool:
        """Whether a run's process has ended; the next one is started, or the run is put away."""
        if one.process is not None:
            code = one.process.poll()
            if code is None:
                return False
            if code != 0:
                self._end(one, f"{one.what} ended with {code}; see {one.log}")
                return True
            note(f"{_now()} {one.what}: {(time.monotonic() - one.began) / 60:.1f} minutes")
        return self._next(one)

    def _next(self, one: _Active) -> bool:
        """Start a run's next process; True when it has none left."""
        try:
            command = next(one.steps, None)
            if command is None:
                self._end(one, None)
                return True
            self._start(one, command)
        except LareError as error:
            self._end(one, str(error))
            return True
        return False

    def _start(self, one: _Active, command: Command) -> None:
        one.what, one.log, one.began = command.what, command.log, time.monotonic()
        command.log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | THREADS
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = _device(one.slot % self.gpus)
        keep = () if sys.platform == "win32" else (one.lock,)
        with command.log.open("ab") as file:
            # A group of its own: Ctrl-C reaches it through us, so that training can save a checkpoint.
            one.process = subprocess.Popen(
                command.words, env=environment, stdout=file, stderr=file, pass_fds=keep, start_new_session=True
            )
        note(f"{_now()} {command.what} ...")

    def _end(self, one: _Active, failure: str | None) -> None:
        self.active.remove(one)
        os.close(one.lock)
        self.finished.add((one.job.run.name, one.job.asks))
        if failure is not None:
            self.failures[one.job.run.name] = failure
            note(f"{_now()} {failure}")

    def stop(self) -> None:
        """Ask what runs to end; training saves a checkpoint first."""
        for one in self.active:
            if one.process is not None and one.process.poll() is None:
                one.process.terminate()
        for one in self.active:
            if one.process is not None:
                try:
                    one.process.wait(60)
                except subprocess.TimeoutExpired:
                    one.process.kill()
                    one.process.wait()
            os.close(one.lock)


def run_grid(plan: Plan, choice: Choice, settings: Settings, at_once: int = 1, gpus: int = 0) -> int:
    """Do what is left.

    Args:
        plan: The grid.
        choice: The part of it that is wanted.
        settings: How.
        at_once: Processes side by side.
        gpus: GPUs to share out among them; 0 leaves the environment as it is.

    Returns:
        0, or 143 after SIGTERM.

    Raises:
        LareError: If runs failed; the others are done first.
    """
    choice.check(plan)
    runner = _Runner(plan, choice, settings, at_once, gpus)
    try:
        with _listening():
            runner.run()
    except (_Stopped, KeyboardInterrupt) as stopped:
        runner.stop()
        note("stopped; the same command goes on from here")
        return 143 if isinstance(stopped, _Stopped) else 130
    if runner.elsewhere:
        note(f"worked on by another process: {', '.join(runner.elsewhere)}")
    if runner.failures:
        raise LareError("; ".join(runner.failures.values()))
    waiting = [job.run.name for job in jobs(plan, choice, settings) if not job.ready]
    if waiting and not (runner.finished or runner.elsewhere or choice.rates):
        raise LareError(f"not begun: {', '.join(waiting)}; run the start, and the tuning, that they wait for")
    return 0


@contextmanager
def _listening() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stopped

    old = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def _lock(path: Path) -> int | None:
    """Take a lock that lives as long as any process that holds the file open; None if another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if sys.platform != "win32":
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return None
    return handle


def locked(path: Path) -> bool:
    """Whether some process works on the run with this lock file."""
    if not path.is_file():
        return False
    handle = _lock(path)
    if handle is None:
        return True
    os.close(handle)
    return False


def _device(number: int) -> str:
    """A GPU of those that this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return given.split(",")[number] if given else str(number)


def _now() -> str:
    return time.strftime("%H:%M:%S")
