"""MM-CoT: one checkpoint writes the rationale, another of the same architecture answers from it (arXiv 2302.00923).

V, Q -> R by the first and V, Q, R -> A by the second, which is trained on the data's rationales and reads the first's
when it answers. An empty or cut rationale is passed on as it is; a reply without an answer counts as wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lare.loading import load_checkpoint
from lare.methods.base import option
from lare.methods.calls import TwoCalls, TwoCallsOptions, thought_alone
from lare.methods.layout import Layout, Row, Segment
from lare.methods.training import Training, TrainingOptions

if TYPE_CHECKING:
    from lare.data.sample import Sample

__all__ = ["Mmcot", "MmcotOptions"]


def _with_rationale(question: str, rationale: str) -> str:
    return f"{question}\nRationale: {rationale}" if rationale else question


@dataclass(frozen=True)
class MmcotOptions(TwoCallsOptions):
    """Options of answering.

    Attributes:
        rationale_from: Folder of the checkpoint that writes the rationale, from the working directory or from the
            folder of the one that answers; None lets one checkpoint do both.
    """

    rationale_from: str | None = option(None, "folder of the checkpoint that writes the rationale")


@dataclass(frozen=True)
class MmcotTrainingOptions(TrainingOptions):
    """Options in a mixture.

    Attributes:
        part: What is trained: "rationale" (question to rationale) or "answer" (question and rationale to answer). Two
            stages with half of the samples each are worth one stage of another method.
    """

    part: str = option("answer", "rationale, or answer from question and rationale", choices=("rationale", "answer"))


class MmcotTraining(Training):
    """One of the two halves."""

    options_type = MmcotTrainingOptions
    options: MmcotTrainingOptions

    def examples(self, sample: Sample) -> Sequence[Sample]:
        """See `Training.examples`."""
        if self.options.part == "rationale":
            return [sample]
        question = _with_rationale(sample.question, sample.rationale)
        return [replace(sample, question=question, rationale="", boxes=())]

    def segments(self, row: Row, layout: Layout) -> Sequence[Segment] | None:
        """See `Training.segments`."""
        return thought_alone(row) if self.options.part == "rationale" else None


class Mmcot(TwoCalls):
    """Rationale by one checkpoint, answer by another."""

    name = "mmcot"
    options_type = MmcotOptions
    options: MmcotOptions
    training = MmcotTraining

    def check(self) -> None:
        """See `Method.check`."""
        super().check()
        place = self.options.rationale_from
        if place is None:
            return
        beside = Path(self.model.name_or_path or ".") / place
        found = str(beside) if beside.is_dir() and not Path(place).is_dir() else place
        dtype = str(self.model.dtype).removeprefix("torch.")
        self.first = self.asking(*load_checkpoint(found, str(self.model.device), dtype)[:2])

    def second_prompt(self, question: str, first: str) -> str:
        """See `TwoCalls.second_prompt`."""
        return _with_rationale(question, first)

    def fingerprint(self) -> str:
        """Name of the weights of both checkpoints."""
        own = super().fingerprint()
        if self.first is self.second:
            return own
        return hashlib.sha256(f"{own} {self.first.fingerprint()}".encode()).hexdigest()[:16]
