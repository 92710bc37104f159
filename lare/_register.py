"""Registers LaRe with transformers' Auto classes without making ``import lare`` slow.

``import lare`` must be enough for ``AutoConfig.from_pretrained(LARE_CHECKPOINT)``, yet importing transformers and
torch takes seconds, which ``lare --help`` or a script that only reads traces should not pay. So the model is
imported when transformers is: now if it is loaded already, else right after the moment it is.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["register_with_transformers"]

_WATCHED = "transformers"


def register_with_transformers() -> None:
    """Import ``lare.model`` (which registers itself) now, or as soon as transformers is imported."""
    if _WATCHED in sys.modules:
        _import_model()
    elif not any(isinstance(finder, _TransformersWatcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TransformersWatcher())


def _import_model() -> None:
    try:
        importlib.import_module("lare.model")
    except ImportError as error:
        # Somebody's `import transformers` must not fail because of LaRe; using LaRe itself raises this error again.
        warnings.warn(f"LaRe is not registered with transformers' Auto classes: {error}", ImportWarning, stacklevel=2)


class _TransformersWatcher(MetaPathFinder):
    """Answers for one module name by asking the ordinary finders, and wraps the loader that they give."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _WATCHED:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _ThenImportModel(spec.loader, self)
                return spec
        return None


class _ThenImportModel(Loader):
    """Runs the loader it wraps, steps aside for good, then imports ``lare.model``."""

    def __init__(self, loader: Loader, watcher: _TransformersWatcher) -> None:
        self._loader = loader
        self._watcher = watcher

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        if self._watcher in sys.meta_path:
            sys.meta_path.remove(self._watcher)
        _import_model()
