"""Fields of rows, checked: what the formats of single sources have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lare.data.sample import BadRow

__all__ = ["image_field", "list_field", "text_field"]


def _field(row: Any, name: str) -> Any:
    if not isinstance(row, Mapping):
        raise BadRow("not_object", f"the row is a {type(row).__name__}, not an object")
    return row.get(name)


def text_field(row: Any, name: str) -> str:
    """A field's text, stripped; a number counts as one.

    Raises:
        BadRow: If the row is no object, or the field is missing, empty or of another type.
    """
    value = _field(row, name)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)  # some answers are numbers
    if not isinstance(value, str) or not value.strip():
        raise BadRow("missing_field", f"the row has no text {name!r}")
    return value.strip()


def image_field(row: Any) -> str:
    """The name of a row's image.

    Raises:
        BadRow: If there is none.
    """
    value = _field(row, "image")
    if not isinstance(value, str) or not value.strip():
        raise BadRow("bad_image", "'image' is no name of a file")
    return value


def list_field(row: Any, name: str) -> list[Any]:
    """A field that is a list of at least one.

    Raises:
        BadRow: If it is missing, empty or no list.
    """
    value = _field(row, name)
    if not isinstance(value, list) or not value:
        raise BadRow("missing_field", f"the row has no list {name!r}")
    return value
