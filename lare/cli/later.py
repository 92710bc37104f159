"""Imports that a command can do without, put off until something asks for them.

To answer one question, transformers and torchvision bring in ``torch._dynamo`` (with sympy and the distributed layers,
a second) for decorators that only mark functions for the compiler and for a check that detection models make, and
``scipy.optimize`` for a loss of theirs. Nothing of a command runs these. A stand-in takes their place: it notes the
marks, and when anything more is asked of it, it imports the real module, makes the marks there and answers from it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["put_off_imports"]

_MARKS = {"torch._dynamo": ("assume_constant_result", "allow_in_graph")}
"""Decorators that give their function back."""

_CALLED = {"torch._dynamo": {"utils": "is_compile_supported"}, "scipy": {"optimize": "linear_sum_assignment"}}
"""Functions that are imported by name, and called, if ever, much later."""


class _StandIn(ModuleType):
    """Stands for a module until more than its marks and its one function are asked for."""

    def __init__(self, name: str, family: dict[str, _StandIn]) -> None:
        super().__init__(name)
        self.__dict__["_family"] = family
        self.__dict__["_marked"] = []
        family[name] = self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # what looks at all modules asks for these
            raise AttributeError(name)
        return getattr(self._real(), name)

    def _real(self) -> ModuleType:
        """Import what this stands for, in the place of the whole family."""
        for name, one in self.__dict__["_family"].items():
            if sys.modules.get(name) is one:
                del sys.modules[name]
        module = importlib.import_module(self.__name__)
        marked, self.__dict__["_marked"] = self.__dict__["_marked"], []
        for mark, function in marked:
            getattr(module, mark)(function)
        return module


def _mark(module: _StandIn, name: str) -> Callable[[Any], Any]:
    def note(function: Any) -> Any:
        module.__dict__["_marked"].append((name, function))
        return function

    return note


def _call(module: _StandIn, name: str) -> Callable[..., Any]:
    def call(*given: Any, **named: Any) -> Any:
        return getattr(module._real(), name)(*given, **named)

    return call


def put_off_imports() -> None:
    """Let stand-ins take the places of these modules, where they are not imported yet.

    It is for commands, whose process is their own; a program that imports LaRe has its modules as they are.
    """
    for parent, children in _CALLED.items():
        family: dict[str, _StandIn] = {}
        names = [parent] if parent in _MARKS else []
        names += [f"{parent}.{child}" for child in children]
        if any(name in sys.modules for name in names):
            continue
        for name in names:
            sys.modules[name] = _StandIn(name, family)
        for mark in _MARKS.get(parent, ()):
            vars(family[parent])[mark] = _mark(family[parent], mark)
        for child, function in children.items():
            made = family[f"{parent}.{child}"]
            vars(made)[function] = _call(made, function)
            if parent in family:
                vars(family[parent])[child] = made
