"""Which methods there are, found without importing them: files of this folder, and installed entry points.

This module imports nothing heavy: lmms-eval asks for the names while it is itself half imported.
"""

from __future__ import annotations

import pkgutil
import re
from importlib.metadata import EntryPoint, entry_points

import lare.methods

__all__ = ["GROUP", "built_in", "installed", "method_names"]

GROUP = "lare.methods"
"""The entry-point group in which a package names its methods."""

_SHARED = {
    "base",
    "boxes",
    "calls",
    "foreign",
    "foreign_call",
    "foreign_options",
    "generating",
    "intervening",
    "latent",
    "layout",
    "listing",
    "options",
    "splicing",
    "training",
}
"""Modules of this folder that hold no method."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def method_names() -> list[str]:
    """Names of all methods, of LaRe and of installed packages."""
    return sorted({*built_in(), *installed()})


def built_in() -> list[str]:
    """Names of LaRe's own methods: the modules of `lare.methods`, whatever an older installation has noted."""
    found = (module.name for module in pkgutil.iter_modules(lare.methods.__path__))
    return sorted(name for name in found if name not in _SHARED and not name.startswith("_"))


def installed() -> dict[str, list[EntryPoint]]:
    """Entry points of other packages by method name; several for a name that several packages claim.

    A package can't replace one of LaRe's own methods: of equal names those in this folder count. Names that are no
    module names (small letters, digits and underscores) can't be lmms-eval models and are left out.
    """
    own, found = set(built_in()), {}  # type: ignore[var-annotated]
    for entry in entry_points(group=GROUP):
        if entry.name not in own and _NAME.fullmatch(entry.name):
            found.setdefault(entry.name, []).append(entry)
    return found
