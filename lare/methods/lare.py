"""LaRe: K latent steps that look at the image again, then the rest of the rationale and the answer (section 3)."""

from __future__ import annotations

from lare.methods.base import Method

__all__ = ["Lare"]


class Lare(Method):
    """The paper's method, and with other options its controls.

    ``iterations=0`` keeps both delimiters and thinks nothing between them; a stop rule lets each question take as many
    steps as it needs.
    """

    name = "lare"
