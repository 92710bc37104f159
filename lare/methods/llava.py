"""LLaVA: the same backbone answers directly, without delimiters and latent steps (the baseline of paper, Table 5)."""

from __future__ import annotations

from typing import Any

from lare.methods.generating import Generating
from lare.methods.training import Training

__all__ = ["Llava"]


class Llava(Generating):
    """Image and question, then text."""

    name = "llava"
    training = Training

    def arguments_of_generate(self) -> dict[str, Any]:
        """See `Generating.arguments_of_generate`."""
        return {"iterations": 0, "delimiters": False}
