"""What commands share: a parser whose help keeps the lines of its texts, and one message in place of a traceback."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Protocol

from lare.errors import LareError
from lare.progress import quiet_libraries

__all__ = ["Main", "command", "command_parser", "one_line", "request_command"]


class Main(Protocol):
    """A command: from its words (None takes the process's own) to its exit code."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run it."""


def command(prog: str = "lare") -> Callable[[Callable[[Sequence[str] | None], int | None]], Main]:
    """Make a command of a function that does its work.

    A `LareError` becomes one line on stderr and the exit code 2. In a process of the command's own, libraries are kept
    from writing into its output.

    Args:
        prog: Begins the message.
    """

    def made(work: Callable[[Sequence[str] | None], int | None]) -> Main:
        @wraps(work)
        def main(arguments: Sequence[str] | None = None) -> int:
            if arguments is None:
                quiet_libraries()
            try:
                return work(arguments) or 0
            except LareError as error:
                print(f"{prog}: {one_line(error)}", file=sys.stderr)
                return 2

        return main

    return made


def one_line(error: BaseException) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split())


def command_parser(prog: str, description: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser whose description and epilog are printed line by line, as they are written."""
    lines = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=prog, description=description, epilog=epilog, formatter_class=lines)


def request_command(work: Callable[[Any], object], about: str | None) -> Main:
    """A command whose one word is a JSON file that says what to do.

    Args:
        work: Does it.
        about: Printed for ``--help``, and where there is not one word.
    """

    @command()
    def main(arguments: Sequence[str] | None = None) -> int:
        words = list(sys.argv[1:] if arguments is None else arguments)
        if len(words) != 1 or words[0].startswith("-"):
            print(about)
            return 0 if words in (["--help"], ["-h"]) else 2
        work(json.loads(Path(words[0]).read_text("utf-8")))
        return 0

    return main
