"""LLaVA: the same backbone answers at once, without delimiters and latent steps (the baseline of paper, Table 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lare.methods.base import Answer, Method, Sampling

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Llava"]


class Llava(Method):
    """Image and question, then text."""

    name = "llava"
    latent = False
    options = ()

    def answer(
        self, images: Sequence[Image], questions: Sequence[str], sampling: Sampling, trace: bool = False
    ) -> list[Answer]:
        """See `Method.answer`."""
        return self._generate(images, self.prompts(questions), sampling, trace, iterations=0, delimiters=False)
