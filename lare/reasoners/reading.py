"""Presets by name, and how their YAML is read; whatever is wrong with it is one sentence that names the place."""

from __future__ import annotations

import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from lare.errors import LareError
from lare.reasoners.preset import Preset

__all__ = ["FOLDER", "load_preset", "preset_names", "read_preset"]

FOLDER = Path(__file__).parents[1] / "configs" / "reasoners"
"""The presets that are shipped."""

T = TypeVar("T")
_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def preset_names(kind: str | None = None) -> list[str]:
    """Names of the presets that are shipped, all or those of a kind."""
    names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    return names if kind is None else [name for name in names if load_preset(name).kind == kind]


def load_preset(name: str) -> Preset:
    """A preset by name, or a YAML file of the same form.

    Raises:
        LareError: If there is none, or the file breaks a rule.
    """
    if name.endswith((".yaml", ".yml")):
        return read_preset(Path(name))
    if name not in preset_names():
        raise LareError(f"there is no preset {name!r}; choose from {', '.join(preset_names())}, or give a .yaml file")
    return _shipped(name)


@cache
def _shipped(name: str) -> Preset:
    return read_preset(FOLDER / f"{name}.yaml")


def read_preset(path: Path) -> Preset:
    """The preset that a file holds.

    Raises:
        LareError: If it can't be read, has an unknown or missing field, or breaks a rule of `lare.reasoners.preset`.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LareError(f"the preset {str(path)!r} can't be read ({' '.join(str(error).split())[:200]})") from None
    return _build(Preset, content, str(path))


def _build(kind: type[T], content: Any, where: str) -> T:
    if not isinstance(content, dict):
        raise LareError(f"{where}: found {content!r}; give the fields of a {kind.__name__.lower()} by name")
    hints, known = typing.get_type_hints(kind), {one.name: one for one in fields(cast(Any, kind))}
    for name in content:
        if name not in known:
            raise LareError(f"{where}: there is no field {name!r}; known are {', '.join(known)}")
    for name, one in known.items():
        if name not in content and one.default is MISSING and one.default_factory is MISSING:
            raise LareError(f"{where}: the field {name!r} is missing")
    values = {name: _value(hints[name], value, f"{where}: {name}") for name, value in content.items()}
    try:
        return kind(**values)
    except LareError as error:
        raise LareError(f"{where}: {error}") from None


def _value(hint: Any, value: Any, where: str) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if value is None:
            return None
        (hint,) = (one for one in typing.get_args(hint) if one is not type(None))
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise LareError(f"{where}: found {value!r}; give a list")
        item = typing.get_args(hint)[0]
        return tuple(_value(item, one, f"{where}.{place}") for place, one in enumerate(value))
    if is_dataclass(hint):
        return _build(cast(type, hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise LareError(f"{where}: found {value!r}; give {_WORDS[hint]}")
    return value
