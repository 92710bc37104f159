"""Methods: how a question becomes a prompt and how a batch is answered; one small file each.

A method is a subclass of `lare.methods.base.Method`. LaRe's own are modules of this folder that carry their name:
``llava.py`` holds the method ``llava``. Another package names its methods as entry points of the group
``lare.methods``. Either way the evaluation plug-in finds them (as ``--model lare_<name>``), and so does `load_method`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lare.errors import LareError

if TYPE_CHECKING:
    from lare.methods.base import Method

__all__ = ["get_method", "load_method", "method_names"]


def method_names() -> list[str]:
    """Names of all methods, found without importing them."""
    from lare.methods import listing

    return listing.method_names()


def get_method(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        LareError: If there is no such method, or its package is broken.
    """
    from lare.methods import listing

    if name in listing.built_in():
        module = importlib.import_module(f"lare.methods.{name}")
        return _checked(name, next((one for one in vars(module).values() if _is_method(one, name)), None), name)
    entries = listing.installed().get(name, [])
    if not entries:
        raise LareError(f"there is no method {name!r}; choose from {', '.join(method_names())}")
    places = sorted({entry.value for entry in entries})
    if len(places) > 1:
        raise LareError(f"several packages have a method {name!r} ({', '.join(places)}); uninstall all but one")
    try:
        found = entries[0].load()
    except Exception as error:  # noqa: BLE001 - somebody else's module may fail in any way
        raise LareError(f"the method {name!r} ({places[0]}) can't be imported: {error}") from error
    return _checked(name, found, places[0])


def _is_method(value: Any, name: str) -> bool:
    from lare.methods.base import Method

    return isinstance(value, type) and issubclass(value, Method) and getattr(value, "name", None) == name


def _checked(name: str, found: Any, place: str) -> type[Method]:
    if not _is_method(found, name):
        raise LareError(f"{place} holds no Method whose name is {name!r}; give its class that name")
    method: type[Method] = found
    return method


def load_method(
    name: str = "lare",
    pretrained: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    **options: Any,
) -> Method:
    """Load a checkpoint and wrap it in a method.

    Args:
        name: One of `method_names`.
        pretrained: Checkpoint folder or hub id; None for the checkpoint shipped with LaRe.
        device: Torch device; None takes a GPU if there is one.
        dtype: "float32", "bfloat16" or "float16"; None keeps the checkpoint's.
        **options: The method's own options (see its `options_type`).

    Raises:
        LareError: If the method, the checkpoint, the device or an option is impossible.
    """
    method = get_method(name)
    chosen = method.options_type.read(name, options)  # before seconds go into loading
    model, processor = method.load(pretrained, device, dtype)
    return method.build(model, processor, chosen)
