"""Progress and notes on stderr, so that stdout holds a command's result and nothing else.

On a terminal progress is a bar. Where stderr is a file or a pipe it is a whole line every half minute: no carriage
returns in a log, and nothing at all of what is done sooner. Warnings of libraries that speak to programmers are left
out of a command's output; others are one line each, never across a bar.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterable
from typing import Any, TypeVar, overload

from tqdm import tqdm

__all__ = ["note", "pace", "progress", "quiet_libraries"]

T = TypeVar("T")

SPARSE = 30.0
"""Seconds between lines where stderr is no terminal."""

_FOR_PROGRAMMERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning, ResourceWarning)
_QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


class _Lines(tqdm):  # type: ignore[type-arg]
    """A bar as lines that stay, the last one when it ends."""

    _shown = False

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        self._shown = True
        print(str(self) if msg is None else msg, file=self.fp, flush=True)

    def clear(self, *args: Any, **kwargs: Any) -> None:
        """Lines are not wiped for a note ..."""

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> None:
        """... nor drawn again after it, which is when no lock is asked for."""
        if not nolock:
            self.display()

    def close(self) -> None:
        if self.disable:
            return
        if self._shown and self.n != self.last_print_n:
            self.display()
        self.disable = True
        self._decr_instances(self)  # type: ignore[attr-defined]


@overload
def progress(steps: Iterable[T], **options: Any) -> tqdm[T]: ...
@overload
def progress(steps: None = None, **options: Any) -> tqdm[Any]: ...
def progress(steps: Iterable[Any] | None = None, **options: Any) -> tqdm[Any]:
    """A bar on stderr, over `steps` or moved by hand; see `tqdm.tqdm` for the options."""
    if sys.stderr.isatty():
        return tqdm(steps, file=sys.stderr, **options)
    sparse = {"mininterval": SPARSE, "maxinterval": SPARSE, "delay": SPARSE, "ncols": 100}
    return _Lines(steps, file=sys.stderr, **options | sparse)


def note(text: str) -> None:
    """One line on stderr, above the bars."""
    tqdm.write(text, file=sys.stderr)


def pace(samples: float, seconds: float) -> str:
    """Speed as ``12 samples/s``, below one a second as ``3.4 s a sample``."""
    if samples <= 0 or seconds <= 0:
        return "0 samples"
    if samples < seconds:
        return f"{seconds / samples:.3g} s a sample"
    return f"{samples / seconds:.3g} samples/s" if samples < 1000 * seconds else f"{samples / seconds:.0f} samples/s"


def quiet_libraries() -> None:
    """Keep libraries from writing into a command's output; for commands, not for programs that import LaRe.

    What the user asked for (``python -W``, PYTHONWARNINGS, TRANSFORMERS_VERBOSITY, ...) stays as it is.
    """
    if not sys.warnoptions:
        for kind in _FOR_PROGRAMMERS:
            warnings.simplefilter("ignore", kind)
        warnings.showwarning = _show
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if "transformers" in sys.modules:  # it has read its environment
        from transformers.utils import logging as of_transformers

        if os.environ["TRANSFORMERS_VERBOSITY"] == "error":
            of_transformers.set_verbosity_error()
        if os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1":
            of_transformers.disable_progress_bar()
    logging.lastResort = _Notes(logging.WARNING)


def _show(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    text = " ".join(str(message).split())
    note(f"warning: {text}")


class _Notes(logging.Handler):
    """Lines of loggers that nobody has given a handler."""

    def emit(self, record: logging.LogRecord) -> None:
        note(f"{record.levelname.lower()}: {' '.join(record.getMessage().split())}")
