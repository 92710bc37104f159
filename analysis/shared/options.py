"""An analysis's options: a frozen dataclass whose fields are the command line's flags as well.

From Python they are arguments with types; on the command line they are flags of the same names, so that neither can
lag behind the other.
"""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Options", "commas", "option", "parser_of"]


def commas(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def option(
    default: Any,
    help: str,  # noqa: A002 - as argparse calls it
    *,
    metavar: str | None = None,
    choices: Sequence[str] | None = None,
    repeat: bool = False,
    split: bool = False,
    count: int | None = None,
) -> Any:
    """One field.

    Args:
        default: Its value where nobody gives one.
        help: What it does, in a phrase; the default is added.
        metavar: Name of the value in ``--help``.
        choices: The texts allowed.
        repeat: The flag is given once for each value of a tuple.
        split: The values of a tuple are one word, separated by commas.
        count: How many values a tuple has; None for one or more.
    """
    about = {"help": help, "metavar": metavar, "choices": choices, "repeat": repeat, "split": split, "count": count}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Options:
    """Options that every analysis has; an analysis adds its own in a subclass.

    Attributes:
        traces: Trace directories; none takes the newest finished demo run's.
        seeds: Random seeds.
        now: Stands as the time in the report; None for the clock's.
        command: The command line, for the report; empty when called from Python.
    """

    name: ClassVar[str] = ""
    """Name of the analysis and of its files."""

    example: ClassVar[str] = ""
    """An example command line, shown by ``--help``."""

    traces: tuple[str, ...] = option((), "trace directories; the newest finished demo run where left out",
                                     metavar="DIR")  # fmt: skip
    seeds: tuple[int, ...] = option((0, 1, 2, 3, 4), "random seeds", metavar="N")
    now: str | None = option(None, "stands as the time in the report, so that two runs are equal", metavar="TEXT")
    command: str = field(default="")

    @classmethod
    def read(cls, words: Sequence[str]) -> Self:
        """Options from the words of a command line."""
        return cls.of(parser_of(cls, "").parse_args(list(words)))

    @classmethod
    def of(cls, parsed: argparse.Namespace) -> Self:
        """Options from what `parser_of` parsed."""
        values: dict[str, Any] = {}
        for one in fields(cls):
            value = getattr(parsed, one.name, None)
            if value is not None:
                values[one.name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)


def parser_of(kind: type[Options], description: str) -> argparse.ArgumentParser:
    """The parser whose flags are the fields of a dataclass.

    Args:
        kind: The dataclass.
        description: What the analysis does, in a sentence or two.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m analysis.{kind.name}", description=description, epilog=f"example: {kind.example}"
    )
    hints = typing.get_type_hints(kind)
    for one in fields(kind):
        if one.metadata:
            parser.add_argument(f"--{one.name.replace('_', '-')}", **_argument(hints[one.name], one))
    return parser


def _argument(hint: Any, one: Any) -> dict[str, Any]:
    """What argparse is told of a field."""
    about = one.metadata
    made: dict[str, Any] = {"default": one.default, "help": _help(one)}
    if hint is bool:
        return made | {"action": argparse.BooleanOptionalAction if one.default else "store_true"}
    inner, several = _value_type(hint)
    made |= {"type": inner, "metavar": about["metavar"], "choices": about["choices"]}
    if about["split"]:
        made |= {"type": commas}
    elif about["repeat"]:
        made |= {"action": "append", "default": None}
    elif several:
        made |= {"nargs": about["count"] or "+"}
    return {key: value for key, value in made.items() if value is not None or key == "default"}


def _value_type(hint: Any) -> tuple[Any, bool]:
    """Type of one value, and whether there are several."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    return hint, False


def _help(one: Any) -> str:
    """The help, with the default where it says something."""
    text = str(one.metadata["help"]).replace("%", "%%")
    if isinstance(one.default, bool) or one.default in (None, "", ()):
        return text
    shown = " ".join(map(str, one.default)) if isinstance(one.default, tuple) else one.default
    return f"{text} (default: {shown})"
