"""Methods that ask twice: what the first call writes becomes part of the second's prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lare.methods.base import Answer, Method, Sampling, option
from lare.methods.generating import GeneratingOptions
from lare.methods.layout import Row, Segment, Text
from lare.methods.llava import Llava
from lare.model.processing_lare import IMAGE_PLACEHOLDER
from lare.trace import Column

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.model import LareForConditionalGeneration, LareProcessor

__all__ = ["TwoCalls", "TwoCallsOptions", "thought_alone"]

MARK = "Answer:"
SPARE = 48
"""Tokens that the second call keeps free for its own words, and again (at most) for the answer."""


@dataclass(frozen=True)
class TwoCallsOptions(GeneratingOptions):
    """Options of both calls.

    Attributes:
        first_tokens: Most text tokens of the first call; the second has the task's.
    """

    first_tokens: int = option(256, "most text tokens of the first call", least=1)


class TwoCalls(Method):
    """Two plain calls: question to a text, and both to the answer. A subclass says what each call reads.

    The counts and seconds of both calls are added up. Without "Answer:" in it, the second text is the answer as a
    whole, so that a word of the first is never taken for one. A first text that is too long for the second prompt is
    cut.
    """

    options_type = TwoCallsOptions
    options: TwoCallsOptions
    columns = {"first_ids": Column("<i4", ("T",)), "malformed": Column("<i4", (1,))}
    calls = 2

    def check(self) -> None:
        """See `Method.check`."""
        self.second = self.asking(self.model, self.processor)
        self.first = self.second

    def asking(self, model: LareForConditionalGeneration, processor: LareProcessor) -> Llava:
        """What makes a call with a checkpoint."""
        return Llava(
            model, processor, GeneratingOptions(**{n: getattr(self.options, n) for n in GeneratingOptions.names()})
        )

    def first_prompt(self, question: str) -> str:
        """What the first call asks."""
        return question

    def second_prompt(self, question: str, first: str) -> str:
        """What the second call asks; `first` may be empty."""
        raise NotImplementedError

    def taken(self, text: str) -> tuple[str, bool]:
        """What the second prompt takes of the first text, and whether that text has the form that was asked for."""
        return text, bool(text)

    def answer(
        self, images: Sequence[Image], questions: Sequence[str], sampling: Sampling, trace: bool = False
    ) -> list[Answer]:
        """See `Method.answer`."""
        wide = replace(sampling, max_new_tokens=self.options.first_tokens, stop=())
        firsts = self.first.answer(images, [self.first_prompt(one) for one in questions], wide)
        found = [self.taken(one.text.replace(IMAGE_PLACEHOLDER, "").strip()) for one in firsts]
        prompts = [
            self.second_prompt(question, self._fitting(text, one.input_tokens, sampling.max_new_tokens))
            for question, (text, _), one in zip(questions, found, firsts, strict=True)
        ]
        seconds = self.second.answer(images, prompts, sampling, trace)
        return [
            self._joined(one, other, fine, trace) for one, other, (_, fine) in zip(firsts, seconds, found, strict=True)
        ]

    def _fitting(self, text: str, prompt: int, wanted: int) -> str:
        """As much of a first text as the second prompt has room for."""
        model, tokenizer = self.second.model, self.second.processor.tokenizer
        positions = getattr(model.config.text_config, "max_position_embeddings", None) or tokenizer.model_max_length
        held = self.second.longest_steps * model.config.latents_per_iteration
        room = min(int(positions) - held, tokenizer.model_max_length) - prompt - SPARE - min(wanted, SPARE)
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return text if len(ids) <= room else str(tokenizer.decode(ids[: max(0, room)]))

    def _joined(self, first: Answer, second: Answer, fine: bool, trace: bool) -> Answer:
        """Both calls as one answer."""
        said = second.text if MARK in second.text else f"{MARK} {second.text}"
        own: dict[str, Any] = {}
        if trace:
            ids = self.first.processor.tokenizer(first.text, add_special_tokens=False, verbose=False)["input_ids"]
            own = {"first_ids": np.array(ids, np.int32), "malformed": np.array([not fine], np.int32)}
        return replace(
            second,
            text=f"{first.text}\n{said}".strip(),
            input_tokens=first.input_tokens + second.input_tokens,
            output_tokens=first.output_tokens + second.output_tokens,
            decoder_passes=first.decoder_passes + second.decoder_passes,
            seconds={phase: first.seconds.get(phase, 0.0) + spent for phase, spent in second.seconds.items()},
            arrays={**second.arrays, **own},
        )


def thought_alone(row: Row) -> list[Segment]:
    """The target of a first call: what stands in the rationale's place, and the end token."""
    return [Text([*row.rationale, *row.answer[-1:]])]
