"""What every method has in common: options, prompts, and one batched call that answers questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy.typing as npt
import torch

from lare.errors import LareError
from lare.methods._loading import fingerprint
from lare.model.halting import parse_stop

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.model import LareForConditionalGeneration, LareGeneration, LareProcessor

__all__ = ["Answer", "Method", "Sampling"]


@dataclass(frozen=True)
class Sampling:
    """How text is decoded.

    Attributes:
        max_new_tokens: Most text tokens; latent steps are not charged to it.
        temperature: 0 is greedy; above 0 the text is sampled.
        top_p: Sample from the most likely tokens that together have this probability.
        top_k: Sample from this many most likely tokens; 0 means all.
        seed: Seed of the draws.
        stop: Texts that end an answer; it is cut before the first of them.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise LareError(f"max_new_tokens is {self.max_new_tokens}; an answer needs at least 1")
        if self.temperature < 0:
            raise LareError(f"temperature is {self.temperature}; give 0 (greedy) or more")


@dataclass(frozen=True)
class Answer:
    """One answer of a batch.

    Attributes:
        text: Everything written, end token excluded.
        input_tokens: Tokens of the prompt, visual tokens included, padding excluded.
        output_tokens: Text tokens written, up to and without the end token.
        latent_steps: Latent iterations before the text.
        stop_reason: Why they ended: "fixed", "converged" or "max_iterations".
        cut: Whether `max_new_tokens` ended the text.
        seconds: Wall-clock seconds per phase, this answer's equal part of the batch's.
        arrays: Columns of the trace (see `lare.trace.ARRAYS`); empty unless asked for.
    """

    text: str
    input_tokens: int
    output_tokens: int
    latent_steps: int = 0
    stop_reason: str = "fixed"
    cut: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


class Method:
    """A way of answering a question about an image with a LaRe checkpoint.

    A subclass sets the class attributes and, if one call of the model is not how it works, overrides `answer`.

    Args:
        model: The model, in evaluation mode and on its device.
        processor: Its processor.
        iterations: Latent iterations K; None takes the checkpoint's.
        window: Side of the window in cells of the fine grid; None takes the checkpoint's.
        stop: Stop rule ("fixed", "cosine:C", "l1:C", "l2:C"); None takes the checkpoint's.
        system_prompt: Text of a system turn before the question, if any.

    Attributes:
        name: The method's name, that of its module.
        latent: Whether the prompt ends in <|latent_start|>, so that latent steps follow.
        options: Options beyond `system_prompt` that the method understands.

    Raises:
        LareError: If an option is impossible or means nothing to this method.
    """

    name: ClassVar[str]
    latent: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ("iterations", "window", "stop")

    def __init__(
        self,
        model: LareForConditionalGeneration,
        processor: LareProcessor,
        *,
        iterations: int | None = None,
        window: int | None = None,
        stop: str | None = None,
        system_prompt: str | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.iterations, self.window, self.stop = iterations, window, stop
        self.system_prompt = (system_prompt or "").strip()
        self.check_options({"iterations": iterations, "window": window, "stop": stop})
        if window is not None and window > model.config.grid:
            raise LareError(f"window is {window}, but the grid has {model.config.grid} cells a side; give at most that")

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Refuse what can be refused before a model is loaded.

        Raises:
            LareError: If an option is unknown to this method or impossible.
        """
        for option, value in options.items():
            if value is None or option == "system_prompt":
                continue
            if option not in cls.options:
                allowed = ", ".join((*cls.options, "system_prompt"))
                raise LareError(f"the method {cls.name!r} has no option {option!r}; it takes {allowed}")
            if option == "stop":
                parse_stop(str(value))
            least = {"iterations": 0, "window": 1}.get(option)
            if least is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise LareError(f"{option} is {value!r}; give a whole number from {least}")

    def arguments(self) -> dict[str, Any]:
        """What, beside the weights, decides an answer of this method; JSON-able."""
        return {
            "method": self.name,
            "system_prompt": self.system_prompt,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            **{option: getattr(self, option) for option in self.options},
        }

    def fingerprint(self) -> str:
        """Name of the weights, see `lare.methods._loading.fingerprint`."""
        return fingerprint(self.model, self.processor)

    def prompts(self, questions: Sequence[str]) -> list[str]:
        """Questions as the model reads them: chat template, image first, ready for latents or for the answer."""
        return list(self.processor.build_prompts(questions, latent=self.latent, system=self.system_prompt))

    def answer(
        self, images: Sequence[Image], questions: Sequence[str], sampling: Sampling, trace: bool = False
    ) -> list[Answer]:
        """Answer a batch of questions, one image each.

        Args:
            images: RGB pictures.
            questions: What is asked about each, without the chat template.
            sampling: How text is decoded.
            trace: Also return the arrays of the trace.

        Returns:
            Answers in the order of the questions; each is what it would be in a batch of its own.

        Raises:
            LareError: If an image or a question can't be taken; which one is not said, so ask again one by one.
        """
        return self._generate(images, self.prompts(questions), sampling, trace)

    def _generate(
        self, images: Sequence[Image], prompts: Sequence[str], sampling: Sampling, trace: bool, **options: Any
    ) -> list[Answer]:
        """One call of the model."""
        inputs = self.processor(images=list(images), text=list(prompts), return_tensors="pt").to(self.model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        budget = self._budget(inputs["input_ids"].shape[1], sampling.max_new_tokens)
        options = {"iterations": self.iterations, "stop": self.stop} | options
        if sampling.temperature > 0:
            generator = torch.Generator(self.model.device).manual_seed(sampling.seed)
            options |= {"do_sample": True, "temperature": sampling.temperature, "generator": generator}
            options |= {"top_p": sampling.top_p, "top_k": sampling.top_k}
        with torch.inference_mode(), self._with_window():
            generation = self.model.generate(**inputs, max_new_tokens=budget, output_trace=trace, **options)
        return self._answers(generation, inputs, sampling, budget, trace)

    def _budget(self, prompt: int, wanted: int) -> int:
        """Text tokens that fit behind a prompt; tasks may ask for 49,152."""
        config = self.model.config
        positions = getattr(config.text_config, "max_position_embeddings", None)
        if not positions:
            return wanted
        steps = max(config.max_iterations, config.iterations, self.iterations or 0)
        room = int(positions) - prompt - steps * config.latents_per_iteration - 2
        if room < 1:
            raise LareError(
                f"the question is too long: {prompt} tokens, the model has {positions} positions; shorten it"
            )
        return min(wanted, room)

    @contextmanager
    def _with_window(self) -> Iterator[None]:
        """Let the window be as wide as asked for during one call; the model may be someone else's."""
        config, before = self.model.config, self.model.config.window
        config.window = before if self.window is None else self.window
        try:
            yield
        finally:
            config.window = before

    def _answers(
        self,
        generation: LareGeneration,
        inputs: Mapping[str, torch.Tensor],
        sampling: Sampling,
        budget: int,
        trace: bool,
    ) -> list[Answer]:
        rows = generation.sequences.shape[0]
        prompt_lengths = inputs["attention_mask"].sum(1).tolist()
        seconds = {phase: float(spent) / rows for phase, spent in (generation.seconds or {}).items()}
        arrays = _trace_arrays(generation, inputs) if trace else [{}] * rows
        answers = []
        for row, (length, steps) in enumerate(zip(generation.lengths.tolist(), generation.steps.tolist(), strict=True)):
            ids = generation.sequences[row, :length].tolist()
            text, length = cut_text(ids, sampling.stop, self._decode)
            answers.append(
                Answer(
                    text=text,
                    input_tokens=int(prompt_lengths[row]),
                    output_tokens=length,
                    latent_steps=int(steps),
                    stop_reason=generation.stop_reason[row],
                    cut=length >= budget,
                    seconds=seconds,
                    arrays=arrays[row],
                )
            )
        return answers

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.processor.tokenizer.decode(list(ids), skip_special_tokens=True))


def cut_text(ids: Sequence[int], stop: Sequence[str], decode: Callable[[Sequence[int]], str]) -> tuple[str, int]:
    """Decode ids up to the first stop text; return the text and how many tokens were written until then."""
    text = decode(ids)
    ends = [position for position in (text.find(mark) for mark in stop if mark) if position >= 0]
    if not ends:
        return text.strip(), len(ids)
    marks = [mark for mark in stop if mark]
    used = next(n for n in range(1, len(ids) + 1) if any(mark in decode(ids[:n]) for mark in marks))
    return text[: min(ends)].strip(), used


def _trace_arrays(generation: LareGeneration, inputs: Mapping[str, torch.Tensor]) -> list[dict[str, npt.NDArray[Any]]]:
    """The trace's columns of each row, cut to the row's own steps and prompt."""
    names = ("latents", "windows", "saliency", "cross_attention")
    values = {name: getattr(generation, name) for name in names}
    stacked = {name: value.float().cpu().numpy() for name, value in values.items() if value is not None}
    shares = generation.attention_shares
    rows = []
    for row, steps in enumerate(generation.steps.tolist()):
        arrays = {name: value[row, :steps] for name, value in stacked.items()}
        if shares is not None:
            arrays["attention_shares"] = shares[row].float().cpu().numpy()
        mask = inputs["attention_mask"][row].bool()
        arrays["prompt_ids"] = inputs["input_ids"][row][mask].cpu().numpy()
        rows.append(arrays)
    return rows
