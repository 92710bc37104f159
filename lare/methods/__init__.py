"""Methods: how a question becomes a prompt and how a batch is answered; one small file each.

A method is a subclass of `Method` in a module of this folder that carries its name: ``llava.py`` holds the method
``llava``. Adding one is adding a file: the evaluation plug-in finds it (as ``--model lare_<name>``), and so does
`load_method`. Modules that begin with an underscore, and ``base``, are not methods.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from lare.errors import LareError

if TYPE_CHECKING:
    from lare.methods.base import Method

__all__ = ["get_method", "load_method", "method_names"]


def method_names() -> list[str]:
    """Names of all methods, found without importing them."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if name != "base" and not name.startswith("_"))


def get_method(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        LareError: If there is no such method.
    """
    from lare.methods.base import Method

    if name not in method_names():
        raise LareError(f"there is no method {name!r}; choose from {', '.join(method_names())}")
    module = importlib.import_module(f"lare.methods.{name}")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Method) and getattr(value, "name", None) == name:
            return value
    raise LareError(f"lare/methods/{name}.py holds no Method whose name is {name!r}; give its class that name")


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
        **options: The method's own options (see its class).

    Raises:
        LareError: If the method, the checkpoint, the device or an option is impossible.
    """
    from lare.methods._loading import load_model

    method = get_method(name)
    method.check_options(options)
    model, processor = load_model(pretrained, device, dtype)
    return method(model, processor, **options)
