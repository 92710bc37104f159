"""What is kept of one answer, and with which types."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lare.errors import LareError

__all__ = ["ADDED", "ARRAYS", "FORMAT", "SCALARS", "SHARES", "VERSION", "AnswerRecord", "Column", "check_columns"]

FORMAT = "lare-trace"
VERSION = 1

SHARES = ("bos", "text", "visual", "latent")
"""The groups of positions that a row of attention is split into: the last axis of `attention_shares`."""


class Column(NamedTuple):
    """How an array column is stored.

    Attributes:
        dtype: numpy type string of a number or boolean, such as "<f4".
        shape: The axes: a number is a fixed size, a text names a size that may differ from answer to answer.
    """

    dtype: str
    shape: tuple[str | int, ...]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def empty(self) -> npt.NDArray[Any]:
        """An array without entries, for an answer that has nothing for this column."""
        return np.zeros((0,) * self.ndim, dtype=self.dtype)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether an array of that shape may stand in the column."""
        return len(shape) == self.ndim and all(
            isinstance(want, str) or want == have for want, have in zip(self.shape, shape, strict=True)
        )


# Half precision where numbers are shares of attention (relative error 5e-4); latents are kept exactly as computed in
# single precision, since they can be fed back into a model.
ARRAYS: Mapping[str, Column] = {
    "prompt_ids": Column("<i4", ("S",)),
    "latents": Column("<f4", ("K", "m", "d")),
    "windows": Column("<i2", ("K", "corner")),
    "saliency": Column("<f2", ("K", "g", "g")),
    "cross_attention": Column("<f2", ("K", "n")),
    "attention_shares": Column("<f4", ("row", "L", "H", "kind")),
}
"""Array columns of every trace: name to stored type. A method may declare more (`lare.methods.base.Method.columns`)."""


def check_columns(columns: Mapping[str, Column]) -> None:
    """Refuse declarations of a method's own columns that a trace can't keep.

    Raises:
        LareError: If a name is taken or no file name, or a type is not one of numbers or booleans.
    """
    for name, column in columns.items():
        taken = name in ARRAYS or name in AnswerRecord.__dataclass_fields__
        if taken or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise LareError(
                f"a method's trace column can't be named {name!r}; take a new name of small letters, digits and "
                "underscores"
            )
        if not is_plain(column.dtype) or column.ndim < 1:
            raise LareError(f"the trace column {name!r} is {tuple(column)}; give a numpy type of numbers and its axes")


def is_plain(dtype: Any) -> bool:
    """Whether a numpy type is one of numbers or booleans, which files can keep as they are."""
    try:
        return np.dtype(dtype).kind in "biuf"
    except TypeError:
        return False


def _array(name: str) -> Any:
    return field(default_factory=ARRAYS[name].empty)


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
        key: Identity of the answer (see the answer store); of records with equal keys the last one counts. Empty means
            that the record has no other version.
        own: Arrays of the columns that the method itself declares, by name; a column left out is empty.
        extra_visual_tokens: Visual tokens read beside those of the prompt, such as those of crops.
        decoder_passes: Calls of the decoder: one for the prompt, for each latent step, for each text token, and for
            each block of visual tokens that is spliced in.

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
    own: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    extra_visual_tokens: int = 0
    decoder_passes: int = 0

    def __post_init__(self) -> None:
        for name, column in ARRAYS.items():
            shape = np.shape(getattr(self, name))
            if not column.fits(shape):
                raise LareError(f"trace column {name!r} needs {column.ndim} axes, got shape {shape}; see AnswerRecord")

    def array(self, name: str) -> Any:
        """The array of a column, `own` ones included; None if a method's own column was left out."""
        return getattr(self, name) if name in ARRAYS else self.own.get(name)


SCALARS: tuple[str, ...] = tuple(f.name for f in fields(AnswerRecord) if f.name not in ARRAYS and f.name != "own")
"""Columns of text, numbers and small dictionaries."""

ADDED: Mapping[str, Callable[[Mapping[str, Any]], int]] = {
    "extra_visual_tokens": lambda row: 0,
    "decoder_passes": lambda row: 1 + int(row["latent_steps"]) + int(row["output_tokens"]),
}
"""Scalars that traces of earlier versions lack, with the values that they stand for there."""
