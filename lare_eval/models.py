"""One lmms-eval model class a method, made when it is asked for: ``lare_eval.models.llava`` is the method ``llava``."""

from __future__ import annotations

from functools import cache

from lare.methods import method_names
from lare_eval.adapter import LareAdapter

__all__ = ["adapter_class"]


@cache
def adapter_class(method: str) -> type[LareAdapter]:
    """The adapter class of a method."""
    return type(f"LareAdapter_{method}", (LareAdapter,), {"method_name": method, "__doc__": f"The method {method!r}."})


def __getattr__(name: str) -> type[LareAdapter]:
    if name.startswith("_") or name not in method_names():
        raise AttributeError(f"lare_eval.models has no method {name!r}")
    return adapter_class(name)
