"""One full answer of fixed length, shared by the benchmarks that generate."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from benchmarks.models import Batch
from lare.model import LareForConditionalGeneration

__all__ = ["answer"]


def answer(model: LareForConditionalGeneration, prompts: Batch, new_tokens: int, **options: Any) -> Tensor:
    """Generate exactly `new_tokens` tokens a row, greedily and with no token ending the text.

    Returns:
        The generated ids, (B, new_tokens).
    """
    generation = model.generate(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask,
        pixel_values=prompts.pixel_values,
        max_new_tokens=new_tokens,
        eos_token_ids=[],
        **options,
    )
    sequences: Tensor = generation.sequences
    if sequences.shape != (prompts.input_ids.shape[0], new_tokens):
        raise RuntimeError(f"expected {new_tokens} tokens a row, got {tuple(sequences.shape)}: times can't be compared")
    return sequences
