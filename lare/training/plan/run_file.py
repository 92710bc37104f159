"""Run files: YAML and ``key=value`` words to a `RunConfig`, with one sentence for every mistake.

A file looks like those in ``lare/configs``; a word such as ``losses.image=0`` changes one value of it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lare.errors import LareError
from lare.progress import note
from lare.registry import DATA_FORMATS
from lare.training.plan.config import DataConfig, RunConfig, StageConfig, plain
from lare.training.plan.mixture import LEGACY

__all__ = ["load_run_config", "read_yaml", "run_config_from", "typed"]

T = TypeVar("T")


def load_run_config(path: Path, changes: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply ``key=value`` words.

    Args:
        path: The file.
        changes: Words such as ``seed=1``, ``losses.image=0`` or ``stages.0.data.0.path=llava.json``.

    Raises:
        LareError: If the file can't be read, a key is unknown, or a value is impossible.
    """
    content = read_yaml(path, "run file")
    for change in changes:
        _apply(content, change)
    return run_config_from(content)


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Keys and values of a YAML file, with a copy for each use of a YAML alias.

    Args:
        path: The file.
        what: Kind of the file, for messages.

    Raises:
        LareError: If it can't be read or holds something else.
    """
    try:
        content = plain(_parsed(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise LareError(f"the {what} {str(path)!r} can't be read ({error.strerror}); check the path") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise LareError(f"{str(path)!r} is no YAML ({' '.join(str(error).split())[:160]}); mend the file") from None
    if not isinstance(content, dict):
        raise LareError(f"{str(path)!r} holds no keys and values; see the files in lare/configs")
    return content


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> Any:
    """What YAML says: callers copy it. A grid reads its run file once for every arm."""
    return yaml.safe_load(text)


def _apply(content: Any, change: str) -> None:
    """Set one value of nested dictionaries and lists."""
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise LareError(f"{change!r} is no key=value; write for example seed=1")
    try:
        value = copy.deepcopy(_parsed(text))
    except (yaml.YAMLError, ValueError):
        raise LareError(f"the value of {change!r} is no YAML; put it in quotes") from None
    *path, last = key.split(".")
    here = content
    for step in path:
        if isinstance(here, dict) and here.get(step) is None:
            here[step] = {}
        here = here[step] if isinstance(here, dict) else _item(here, step, key)
    if isinstance(here, dict):
        here[last] = value
    else:
        _item(here, last, key)
        here[int(last)] = value


def _item(here: Any, step: str, key: str) -> Any:
    if not isinstance(here, list) or not step.isdecimal() or int(step) >= len(here):
        raise LareError(f"{key!r} leads nowhere: there is no {step!r}; check the number or the name")
    return here[int(step)]


def run_config_from(content: Mapping[str, Any]) -> RunConfig:
    """Build a run's configuration from plain values.

    Raises:
        LareError: If a key is unknown or missing, or a value is of the wrong type or impossible.
    """
    return typed(RunConfig, content, "")


def typed(kind: type[T], content: Any, where: str) -> T:
    """Build a dataclass from plain values by its fields' types, those of nested dataclasses too.

    Args:
        kind: The dataclass.
        content: Keys and values.
        where: Name for messages, as ``arms.lare.``; empty for the whole file.

    Raises:
        LareError: If a key is unknown or missing, or a value is of the wrong type or impossible.
    """
    if not isinstance(content, Mapping):
        raise LareError(f"{where.rstrip('.') or 'the run'} is {content!r}; give keys and values")
    if kind is DataConfig:
        kind, content = _data_kind(content, where)
    hints = typing.get_type_hints(kind)
    known = {one.name: one for one in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = [str(key) for key in content if key not in known]
    if unknown:
        raise LareError(f"unknown key {where + unknown[0]!r}; known here: {', '.join(known)}")
    if kind is StageConfig:
        _tell_deprecated(content, where)
    needed = (dataclasses.MISSING, dataclasses.MISSING)
    missing = [n for n, one in known.items() if (one.default, one.default_factory) == needed and n not in content]
    if missing:
        raise LareError(f"{where + missing[0]!r} is missing; add it")
    return kind(**{name: _value(hints[name], value, where + name) for name, value in content.items()})


_told: set[str] = set()


def _tell_deprecated(content: Mapping[Any, Any], where: str) -> None:
    old = [name for name in LEGACY if content.get(name)]
    if old:
        meant = ", ".join(f"{name}: {content[name]} is {LEGACY[name] | {'share': content[name]}}" for name in old)
        text = f"{where.rstrip('.')}: {', '.join(old)} are deprecated; name the stage's methods instead ({meant})"
        if text not in _told:  # a grid reads many runs of earlier versions, over and over
            _told.add(text)
            note(text)


def _data_kind(content: Mapping[Any, Any], where: str) -> tuple[Any, Mapping[Any, Any]]:
    """The settings' class of a source's format, and what the file says for it.

    Run files of earlier versions spell the settings of every format out at their defaults; those say nothing.

    Raises:
        LareError: If a setting of another format has a value.
    """
    name = str(content.get("format"))
    kind = DATA_FORMATS.get(name).settings if name in DATA_FORMATS else DataConfig
    known = {one.name for one in dataclasses.fields(kind)}
    if set(content) <= known:
        return kind, content
    kept = dict(content)
    for other in DATA_FORMATS.names():
        for one in dataclasses.fields(DATA_FORMATS.get(other).settings):
            if one.name in kept and one.name not in known:
                default = one.default_factory() if callable(one.default_factory) else one.default
                if kept.pop(one.name) != default:
                    raise LareError(f"{where + one.name} is only for the data format {other!r}; leave it out")
    return kind, kept


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _value(next(one for one in arguments if one is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return typed(typing.cast(type, hint), value, where + ".")
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise LareError(f"{where} is {value!r}; give a list")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise LareError(f"{where} has {len(value)} values; give {len(arguments)}")
        return tuple(_value(arguments[0], one, f"{where}.{i}") for i, one in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise LareError(f"{where} is {value!r}; give keys and values")
        return {str(key): _value(arguments[1], one, f"{where}.{key}") for key, one in value.items()}
    return value if hint is Any else _scalar(hint, value, where)


def _scalar(hint: type, value: Any, where: str) -> Any:
    if hint in (int, float) and isinstance(value, str):  # YAML 1.1 takes 1e-4 for a word
        with contextlib.suppress(ValueError):
            value = float(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise LareError(f"{where} is {value!r}; give {_NAMES.get(hint, hint.__name__)}")
    return value


_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
