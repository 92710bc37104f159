"""Documented module names of earlier versions, which still work for a while and say where their code is now.

``python -m lare.training.ship`` and ``import lare.training.ship`` both reach `lare.embedded.ship`.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from types import CodeType, ModuleType

__all__ = ["MOVED", "install"]

MOVED: Mapping[str, str] = {
    "lare.training.parts": "lare.embedded.parts",
    "lare.training.ship": "lare.embedded.ship",
    "lare.training.ship_unet": "lare.embedded.ship_unet",
    "lare.training.identify": "lare.embedded.identify",
    "lare.training.image_tokenizer": "lare.embedded.autoencoder",
    "lare.training.curves": "lare.experiments.curves",
    "lare.training.sweep": "lare.experiments.sweep",
    "lare.training.sizes": "lare.cost.sizes",
    "lare.world": "lare.embedded.world",
    "lare.world.assets": "lare.embedded.world.assets",
}
"""Old name -> new name."""


class _MovedLoader(Loader):
    """Hands on the new module under its old name; for ``python -m`` it gives the new module's code."""

    def __init__(self, new: str) -> None:
        self.new = new

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.new)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Only give the module, which ran when it was imported, its own spec back."""
        module.__spec__ = self.spec

    def get_code(self, name: str) -> CodeType | None:
        spec = importlib.util.find_spec(self.new)
        return None if spec is None or spec.loader is None else spec.loader.get_code(self.new)  # type: ignore[attr-defined]


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        new = MOVED.get(name)
        if new is None:
            return None
        warnings.warn(f"{name} is now {new}; the old name will go", FutureWarning, stacklevel=2)
        return importlib.machinery.ModuleSpec(name, _MovedLoader(new))


def install() -> None:
    """Let the old names be found; twice is once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
