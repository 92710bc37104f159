"""What is kept of one answer, and with which types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lare.errors import LareError

__all__ = ["ARRAYS", "FORMAT", "SCALARS", "SHARES", "VERSION", "AnswerRecord", "ArrayType"]

FORMAT = "lare-trace"
VERSION = 1

SHARES = ("bos", "text", "visual", "latent")
"""The groups of positions that a row of attention is split into: the last axis of `attention_shares`."""


class ArrayType(NamedTuple):
    """How an array column is stored: numpy type string and number of axes."""

    dtype: str
    ndim: int


# Half precision where numbers are shares of attention (relative error 5e-4); latents are kept exactly as computed in
# single precision, since they can be fed back into a model.
ARRAYS: Mapping[str, ArrayType] = {
    "prompt_ids": ArrayType("<i4", 1),
    "latents": ArrayType("<f4", 3),
    "windows": ArrayType("<i2", 2),
    "saliency": ArrayType("<f2", 3),
    "cross_attention": ArrayType("<f2", 2),
    "attention_shares": ArrayType("<f4", 4),
}
"""Array columns: name to stored type."""


def _empty(name: str) -> npt.NDArray[Any]:
    dtype, ndim = ARRAYS[name]
    return np.zeros((0,) * ndim, dtype=dtype)


def _array(name: str) -> Any:
    return field(default_factory=lambda: _empty(name))


@dataclass(frozen=True)
class AnswerRecord:
    """One answer and how it was reached. Steps are the latent iterations (paper, section 3.2), K of them.

    Attributes:
        method: Which method answered, such as "lare".
        checkpoint: Fingerprint of the weights that answered.
        task: Name of the task the question belongs to.
        doc_id: Number of the question in its task.
        question: The text the model was asked, without the chat template.
        text: Everything the model wrote, end token excluded.
        answer: The final answer that was handed to the task's scorer.
        input_tokens: Tokens of the prompt, visual tokens included, padding excluded.
        output_tokens: Text tokens written, up to and without the end token.
        latent_steps: Latent tokens fed back before the text.
        stop_reason: Why the latent steps ended: "fixed", "converged", "max_iterations", or "error: ..." where the
            question could not be answered.
        prompt_ids: Token ids of the prompt, (S,), padding excluded.
        latents: The latent tokens of each step, (K, m, d).
        windows: Top row and left column of the window of each step, in cells of the fine grid, (K, 2).
        saliency: Attention over the visual tokens before each step, mean over heads and layers, (K, g, g).
        cross_attention: Extractor's attention over the tokens in the window at each step, (K, n).
        attention_shares: How the attention around the first generated token is split into `SHARES`, per layer and
            head, (2, L, H, 4): first the row that predicts the token, then the token's own row.
        seconds: Wall-clock seconds of each phase ("vision", "prefill", "think", "decode"); in a batch, each answer
            carries its equal part of the batch's time.
        meta: Small facts of the question (category, hops, right answer, ...): text and numbers.
        key: What makes the answer this one and no other (see the answer store); of equal keys the last one counts.
            Empty means that the record stands for itself.

    Raises:
        LareError: If an array has the wrong number of axes.
    """

    method: str
    checkpoint: str
    task: str
    doc_id: int
    question: str
    text: str
    answer: str
    input_tokens: int
    output_tokens: int
    latent_steps: int
    stop_reason: str
    prompt_ids: npt.NDArray[Any] = _array("prompt_ids")
    latents: npt.NDArray[Any] = _array("latents")
    windows: npt.NDArray[Any] = _array("windows")
    saliency: npt.NDArray[Any] = _array("saliency")
    cross_attention: npt.NDArray[Any] = _array("cross_attention")
    attention_shares: npt.NDArray[Any] = _array("attention_shares")
    seconds: Mapping[str, float] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""

    def __post_init__(self) -> None:
        for name, (_, ndim) in ARRAYS.items():
            value = np.asarray(getattr(self, name))
            if value.ndim != ndim:
                raise LareError(f"trace column {name!r} needs {ndim} axes, got shape {value.shape}; see AnswerRecord")


SCALARS: tuple[str, ...] = tuple(f.name for f in fields(AnswerRecord) if f.name not in ARRAYS)
"""Columns of text, numbers and small dictionaries."""
