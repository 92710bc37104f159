"""A method's options: a frozen dataclass whose fields say type, default, meaning and what is allowed."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from lare.errors import LareError

__all__ = ["MethodOptions", "Options", "option", "parse_options"]

OptionsT = TypeVar("OptionsT", bound="Options")
_WANTED = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def option(
    default: Any,
    help: str,  # noqa: A002 - as argparse calls it
    *,
    least: float | None = None,
    choices: Sequence[str] = (),
    check: Callable[[Any], object] | None = None,
    always: bool = False,
) -> Any:
    """One field of a method's options.

    Args:
        default: Its value where nobody gives one.
        help: What it does, in one sentence.
        least: The smallest number allowed.
        choices: The texts allowed.
        check: Called with a value that is not None; raises `LareError` if it is impossible.
        always: Name the option in `Method.arguments` at its default too. Else it is left out there, so that a new
            option does not change the keys of answers that were kept before it existed.
    """
    about = {"help": help, "least": least, "choices": tuple(choices), "check": check, "always": always}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Options:
    """Options by name; subclasses declare each with `option`.

    Field types are int, float, bool or str, or one of them or None. A value is brought to its field's type where
    nothing is lost (2.0 for a whole number, a number for a text), since the command line guesses types.

    Raises:
        LareError: If a value is impossible; it names the option.
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for one in fields(self):
            value = _converted(one.name, hints[one.name], getattr(self, one.name), one.metadata)
            object.__setattr__(self, one.name, value)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all options."""
        return tuple(one.name for one in fields(cls))

    @classmethod
    def read(cls: type[OptionsT], method: str, values: Mapping[str, Any]) -> OptionsT:
        """Options from values by name; None stands for the default.

        Args:
            method: The method's name, for messages.
            values: Values by option name.

        Raises:
            LareError: If an option is unknown or impossible.
        """
        for name in values:
            if name not in cls.names():
                raise LareError(f"the method {method!r} has no option {name!r}; it takes {', '.join(cls.names())}")
        return cls(**{name: value for name, value in values.items() if value is not None})

    def given(self) -> dict[str, Any]:
        """The options by name, without those that are at their default and not marked `always`; JSON-able."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {
            one.name: values[one.name]
            for one in fields(self)
            if one.metadata.get("always") or values[one.name] != one.default
        }

    @classmethod
    def described(cls) -> dict[str, tuple[Any, str]]:
        """Each option's default and meaning, by name."""
        known = {one.name: (one.default, str(one.metadata.get("help", ""))) for one in fields(cls)}
        return {name: known[name] for name in cls.names()}


@dataclass(frozen=True)
class MethodOptions(Options):
    """Options that every method has when it answers; a method adds its own in a subclass, each made with `option`.

    Attributes:
        system_prompt: Text of a system turn before the question.
    """

    system_prompt: str = option("", "text of a system turn before the question, or (for lmms-eval) a file with one",
                                always=True)  # fmt: skip

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all options, those of this method first."""
        inherited = [one.name for one in fields(MethodOptions)]
        return (*(one.name for one in fields(cls) if one.name not in inherited), *inherited)


def _converted(name: str, hint: Any, value: Any, about: Mapping[str, Any]) -> Any:
    """A value in its field's type, after its checks."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = [one for one in (typing.get_args(hint) if union else (hint,)) if one is not type(None)]
    if value is None and union:
        return None
    if len(kinds) != 1 or kinds[0] not in _WANTED:
        raise LareError(
            f"the option {name!r} has the type {hint}; declare int, float, bool or str, or one of them or None"
        )
    kind = kinds[0]
    found = _as_kind(kind, value)
    least, choices, check = about.get("least"), about.get("choices") or (), about.get("check")
    if found is None or (least is not None and found < least):
        start = "" if least is None else f" from {least}"
        raise LareError(f"{name} is {value!r}; give {_WANTED[kind]}{start}")
    if choices and found not in choices:
        raise LareError(f"{name} is {value!r}; choose from {', '.join(choices)}")
    if check is not None:
        check(found)
    return found


def _as_kind(kind: Any, value: Any) -> Any:
    """The value as an int, float, bool or str; None where it is not one."""
    if kind is str:
        return str(value).strip() if isinstance(value, str | int | float) else None
    if kind is bool or isinstance(value, bool):
        return value if kind is bool and isinstance(value, bool) else None
    if not isinstance(value, int | float):
        return None
    if kind is int:
        return int(value) if float(value).is_integer() else None
    return float(value)


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Options from words such as ``iterations=2``; a value is a number or a truth value where it reads as one.

    Raises:
        LareError: If a word has no name and value.
    """
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise LareError(f"the option {word!r} can't be read; write name=value")
        found[name.strip()] = _guessed(value.strip())
    return found


def _guessed(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
