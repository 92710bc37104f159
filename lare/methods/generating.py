"""Methods that are one batched call of the model's `generate`, and the options that control such a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch

from lare.errors import LareError
from lare.methods.base import Answer, Method, MethodOptions, Sampling, option
from lare.model.halting import parse_stop

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.model import LareGeneration
    from lare.model.stop_head import StopHead

__all__ = ["Generating", "GeneratingOptions", "cut_text"]

GREY = (128, 128, 128)
"""The colour of a picture that is not shown."""


@dataclass(frozen=True)
class GeneratingOptions(MethodOptions):
    """Options that change what the model sees.

    Attributes:
        image: "blank" shows a grey picture of the same size: what the words alone give away (a control).
        lm_grid: Side of the grid of visual tokens that the decoder reads; None takes the checkpoint's. With the fine
            grid's side the decoder reads every fine token, which bounds what refocusing can bring, and what it saves.
    """

    image: str = option("given", "blank shows a grey picture instead (control)", choices=("given", "blank"))
    lm_grid: int | None = option(None, "side of the decoder's grid of visual tokens", least=1)


class Generating(Method):
    """A method that is one call of `LareForConditionalGeneration.generate`; a subclass says with which arguments."""

    options_type = GeneratingOptions
    options: GeneratingOptions

    def check(self) -> None:
        """See `Method.check`."""
        self.stop_head()  # is refused here if the checkpoint lacks it
        config, side = self.model.config, self.options.lm_grid
        if side is None or side == config.lm_grid:
            return
        if config.refocus_source != "fine" or config.backbone_config is not None:
            raise LareError(f"lm_grid is {side}, but this checkpoint has one grid of {config.grid}; leave lm_grid out")
        if config.grid % side:
            raise LareError(f"lm_grid is {side}; give a divisor of the fine grid's {config.grid} cells a side")

    def stop_head(self) -> StopHead | None:
        """The learned head that ends thinking; None where the rule has none.

        Raises:
            LareError: If the checkpoint has no such head.
        """
        given = getattr(self.options, "stop", None) or self.model.config.stop
        return parse_stop(given).head_of(self.model.stop_heads) if self.latent else None

    def arguments(self) -> dict[str, Any]:
        """See `Method.arguments`; learned stop rules are no part of the fingerprint, so theirs is named here."""
        heads = self.model.stop_heads if self.stop_head() is not None else None
        return super().arguments() | ({} if heads is None else {"stop_heads": heads.digest})

    def prompts(self, questions: Sequence[str]) -> list[str]:
        """Questions as the model reads them: chat template, image first, ready for latents or for the answer."""
        return list(self.processor.build_prompts(questions, latent=self.latent, system=self.options.system_prompt))

    def arguments_of_generate(self) -> dict[str, Any]:
        """Keyword arguments of `generate` that make it this method; made anew for each call."""
        return {}

    @property
    def longest_steps(self) -> int:
        """Latent iterations for which positions are kept free."""
        return max(int(self.model.config.max_iterations), int(self.model.config.iterations))

    def inputs(self, images: Sequence[Image], questions: Sequence[str]) -> dict[str, torch.Tensor]:
        """What `generate` reads, on the model's device: input_ids and attention_mask (B, S), pixel_values.

        Call it, and `generate`, inside `configured`.
        """
        made = self.processor(images=self.shown(images), text=self.prompts(questions), return_tensors="pt")
        inputs = dict(made.to(self.model.device))
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        return inputs

    def shown(self, images: Sequence[Image]) -> list[Image]:
        """The pictures that the model sees."""
        if self.options.image == "blank":
            from PIL import Image

            return [Image.new("RGB", image.size, GREY) for image in images]
        return list(images)

    @contextmanager
    def configured(self) -> Iterator[None]:
        """Give model and processor this method's grid for the calls inside; others may share them, so it is undone."""
        config, processor = self.model.config, self.processor
        before = (config.lm_grid, processor.lm_grid)
        if self.options.lm_grid is not None:
            config.lm_grid = processor.lm_grid = self.options.lm_grid
        try:
            yield
        finally:
            config.lm_grid, processor.lm_grid = before

    def answer(
        self, images: Sequence[Image], questions: Sequence[str], sampling: Sampling, trace: bool = False
    ) -> list[Answer]:
        """See `Method.answer`."""
        options = self.arguments_of_generate()
        if sampling.temperature > 0:
            generator = torch.Generator(self.model.device).manual_seed(sampling.seed)
            options |= {"do_sample": True, "temperature": sampling.temperature, "generator": generator}
            options |= {"top_p": sampling.top_p, "top_k": sampling.top_k}
        with torch.inference_mode(), self.configured():
            inputs = self.inputs(images, questions)
            budget = self.budget(inputs["input_ids"].shape[1], sampling.max_new_tokens)
            generation = self.model.generate(max_new_tokens=budget, output_trace=trace, **(options | inputs))
        return self.answers_of(generation, inputs, sampling, budget, trace)

    def budget(self, prompt: int, wanted: int) -> int:
        """Text tokens that fit after a prompt of `prompt` tokens, at most `wanted`; tasks may ask for 49,152.

        Raises:
            LareError: If none fits.
        """
        config = self.model.config
        positions = getattr(config.text_config, "max_position_embeddings", None)
        if not positions:
            return wanted
        room = int(positions) - prompt - self.longest_steps * config.latents_per_iteration - 2
        if room < 1:
            raise LareError(
                f"the question is too long: {prompt} tokens, the model has {positions} positions; shorten it"
            )
        return min(wanted, room)

    def answers_of(
        self,
        generation: LareGeneration,
        inputs: Mapping[str, torch.Tensor],
        sampling: Sampling,
        budget: int,
        trace: bool,
    ) -> list[Answer]:
        """Answers from what `generate` has returned, in the order of its rows.

        Args:
            generation: What was generated.
            inputs: What it was generated from, one row an answer: input_ids and attention_mask (B, S).
            sampling: Its stop texts cut an answer.
            budget: Text tokens that were allowed.
            trace: Also return the arrays of the trace.
        """
        rows = generation.sequences.shape[0]
        prompt_lengths = inputs["attention_mask"].sum(1).tolist()
        seconds = {phase: float(spent) / rows for phase, spent in (generation.seconds or {}).items()}
        arrays = _trace_arrays(generation, inputs) if trace else [{}] * rows
        head = self.stop_head()
        answers = []
        for row, (length, steps) in enumerate(zip(generation.lengths.tolist(), generation.steps.tolist(), strict=True)):
            ids = generation.sequences[row, :length].tolist()
            text, length = cut_text(ids, sampling.stop, self._decode)
            reason = generation.stop_reason[row]
            # A rule that looks ahead does so after each step but the last that is allowed.
            ahead = 0 if head is None or not head.looks_ahead else int(steps) - (reason != "converged")
            answers.append(
                Answer(
                    text=text,
                    input_tokens=int(prompt_lengths[row]),
                    output_tokens=length,
                    latent_steps=int(steps),
                    stop_reason=reason,
                    cut=length >= budget,
                    seconds=seconds,
                    arrays=arrays[row],
                    decoder_passes=1 + int(steps) + max(0, ahead) + length,
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
    """The trace's columns of each question, cut to the row's own steps and prompt."""
    names = ("latents", "windows", "saliency", "cross_attention")
    values = {name: getattr(generation, name) for name in names}
    stacked = {name: value.float().cpu().numpy() for name, value in values.items() if value is not None}
    shares = generation.attention_shares
    rows = []
    for row, steps in enumerate(generation.steps.tolist()):
        arrays = {name: value[row, :steps] for name, value in stacked.items()}
        if generation.sizes is not None and "saliency" in arrays:
            height, width = generation.sizes[row].tolist()
            arrays["saliency"] = arrays["saliency"][:, :height, :width]
        if shares is not None:
            arrays["attention_shares"] = shares[row].float().cpu().numpy()
        mask = inputs["attention_mask"][row].bool()
        arrays["prompt_ids"] = inputs["input_ids"][row][mask].cpu().numpy()
        rows.append(arrays)
    return rows
