"""What a command writes: its result on stdout, progress and notes on stderr, and nothing of libraries in between."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from lare.progress import pace

SCRIPT = """
import logging, time, warnings
from lare import progress as shown
from lare.progress import note, progress, quiet_libraries
quiet_libraries()
shown.SPARSE = {sparse}
for step in progress(range(6), desc="work", mininterval=0.01):
    time.sleep(0.05)
    if step == 2:
        warnings.warn("of no use to a user", FutureWarning)
        warnings.warn("the disk is nearly full")
        logging.getLogger("somebody").warning("looks odd")
        note("by the way")
print("result")
"""


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", script]
    return subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | environment)


def test_a_pipe_gets_whole_lines_and_few() -> None:
    done = run(SCRIPT.format(sparse=0.08))
    assert done.stdout == "result\n"
    assert "\r" not in done.stderr and "no use" not in done.stderr
    lines = done.stderr.splitlines()
    assert [line for line in lines if not line.startswith("work:")] == [
        "warning: the disk is nearly full",
        "warning: looks odd",
        "by the way",
    ]
    assert 1 <= sum(line.startswith("work:") for line in lines) <= 4


def test_what_is_done_soon_shows_no_progress_in_a_pipe() -> None:
    lines = run(SCRIPT.format(sparse=30.0)).stderr.splitlines()
    assert lines == ["warning: the disk is nearly full", "warning: looks odd", "by the way"]


def test_what_the_user_asked_to_see_is_shown() -> None:
    assert "of no use to a user" in run(SCRIPT.format(sparse=30.0), PYTHONWARNINGS="default").stderr


def test_a_terminal_shows_a_bar_and_notes_above_it() -> None:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    done = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(sparse=30.0)], stdout=subprocess.PIPE, stderr=follower, text=True
    )
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(leader)
    assert done.communicate()[0] == "result\n" and done.returncode == 0
    text = seen.decode()
    assert "100%" in text and "no use" not in text
    # Each note stands on a line that the bar was wiped from.
    for told in ("warning: the disk is nearly full", "by the way"):
        before = text[: text.index(told)]
        assert before[before.rindex("\r") :].strip() == ""


@pytest.mark.parametrize(
    ("samples", "seconds", "told"),
    [
        (0, 3, "0 samples"),
        (3, 0, "0 samples"),
        (16, 64, "4 s a sample"),
        (16, 120.5, "7.53 s a sample"),
        (16, 16, "1 samples/s"),
        (48, 20, "2.4 samples/s"),
        (5e4, 10, "5000 samples/s"),
    ],
)
def test_pace(samples: float, seconds: float, told: str) -> None:
    assert pace(samples, seconds) == told
