"""LaRe: latent refocusing for multimodal reasoning.

A vision-language model that, before it answers, thinks in a few latent tokens; at each it looks again at the part of
the image that its own attention points to (arXiv 2511.02360). ``import lare`` registers the model with transformers'
Auto classes; the names below are imported when they are first used, so that the import itself costs nothing.

Example:
    >>> import lare
    >>> model = lare.LareForConditionalGeneration.from_pretrained(lare.default_checkpoint())  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lare._register import register_with_transformers
from lare.errors import LareError
from lare.moved import install

if TYPE_CHECKING:
    from lare.checkpoints import default_checkpoint
    from lare.images import load_image
    from lare.model import LareConfig, LareForConditionalGeneration, LareGeneration, LareOutput, LareProcessor

__all__ = [
    "LareConfig",
    "LareError",
    "LareForConditionalGeneration",
    "LareGeneration",
    "LareOutput",
    "LareProcessor",
    "__version__",
    "default_checkpoint",
    "load_image",
]
__version__ = "0.1.0"

_HOME = {
    "LareConfig": "lare.model",
    "LareForConditionalGeneration": "lare.model",
    "LareGeneration": "lare.model",
    "LareOutput": "lare.model",
    "LareProcessor": "lare.model",
    "default_checkpoint": "lare.checkpoints",
    "load_image": "lare.images",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lare' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


register_with_transformers()
install()
