"""CCoT: the model writes a scene graph of the image as JSON, then answers with it in the prompt (arXiv 2311.17076).

The authors train nothing, since their backbones know scene graphs. A small one does not, so a mixture can hold both
calls: image and question to graph, and graph and question to answer, half of the samples each. A graph that is no JSON
is passed on as text, as the authors do, and counted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lare.methods.base import option
from lare.methods.calls import TwoCalls, TwoCallsOptions, thought_alone
from lare.methods.layout import Layout, Row, Segment
from lare.methods.training import Training, TrainingOptions

if TYPE_CHECKING:
    from lare.data.sample import Sample

__all__ = ["Ccot", "CcotOptions"]

INSTRUCTION = "Write the scene graph of the image as JSON."


def _with_graph(question: str, graph: str) -> str:
    return f"Scene graph: {graph}\n{question}" if graph else question


def _graph(text: str) -> str | None:
    """The first JSON object or list in a text, written without spaces; None if there is none."""
    starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
    if not starts:
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(text, min(starts))
        return json.dumps(found, separators=(",", ":"), ensure_ascii=False)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True)
class CcotOptions(TwoCallsOptions):
    """Options of answering.

    Attributes:
        instruction: What asks for the graph; it stands after the question.
    """

    instruction: str = option(INSTRUCTION, "what asks for the scene graph, after the question")


@dataclass(frozen=True)
class CcotTrainingOptions(TrainingOptions):
    """Options in a mixture.

    Attributes:
        instruction: As in `CcotOptions`.
    """

    instruction: str = option(INSTRUCTION, "what asks for the scene graph, after the question")


class CcotTraining(Training):
    """Half of the samples write a graph, half answer with one; a sample without a graph is a plain question."""

    options_type = CcotTrainingOptions
    options: CcotTrainingOptions

    def examples(self, sample: Sample) -> Sequence[Sample]:
        """See `Training.examples`."""
        graph = _graph(sample.scene_graph)
        plain = replace(sample, rationale="", boxes=())
        if graph is None:
            return [plain]
        writes = replace(plain, question=f"{sample.question}\n{self.options.instruction}", rationale=graph)
        return [writes, replace(plain, question=_with_graph(sample.question, graph))]

    def segments(self, row: Row, layout: Layout) -> Sequence[Segment] | None:
        """See `Training.segments`; the graph stands where a rationale would."""
        return thought_alone(row) if row.rationale else None


class Ccot(TwoCalls):
    """Scene graph, then answer."""

    name = "ccot"
    options_type = CcotOptions
    options: CcotOptions
    training = CcotTraining

    def first_prompt(self, question: str) -> str:
        """See `TwoCalls.first_prompt`."""
        return f"{question}\n{self.options.instruction}"

    def second_prompt(self, question: str, first: str) -> str:
        """See `TwoCalls.second_prompt`."""
        return _with_graph(question, first)

    def taken(self, text: str) -> tuple[str, bool]:
        """See `TwoCalls.taken`."""
        graph = _graph(text)
        return (text, False) if graph is None else (graph, True)
