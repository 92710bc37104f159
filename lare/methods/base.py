"""What every method has in common: options, trace columns, and one batched call that answers questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy.typing as npt

from lare.errors import LareError
from lare.interventions import Asked, Setting
from lare.loading import fingerprint, load_checkpoint
from lare.methods.options import MethodOptions, option
from lare.methods.training import Training

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import Self

    from lare.model import LareForConditionalGeneration, LareProcessor
    from lare.model.latent_maker import LatentMaker
    from lare.trace import Column

__all__ = ["Answer", "Method", "MethodOptions", "Sampling", "option"]


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
        extra_visual_tokens: Visual tokens that the decoder reads beside those of the prompt: tokens of crops, or tokens
            read again.
        decoder_passes: Calls of the decoder. 0 means the usual number: one for the prompt, one for each latent step
            and one for each text token.
        arrays: Columns of the trace by name: of `lare.trace.ARRAYS` and of `Method.columns`; empty unless asked for.
    """

    text: str
    input_tokens: int
    output_tokens: int
    latent_steps: int = 0
    stop_reason: str = "fixed"
    cut: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    extra_visual_tokens: int = 0
    decoder_passes: int = 0

    def __post_init__(self) -> None:
        if not self.decoder_passes:
            object.__setattr__(self, "decoder_passes", 1 + self.latent_steps + self.output_tokens)


class Method:
    """A way of answering a question about an image with a LaRe checkpoint.

    A subclass sets the class attributes and writes `answer`; `lare.methods.generating.Generating` has one for methods
    that are one call of the model's `generate`. How it is trained is told by `training`, an object that needs no model.

    Args:
        model: The model, in evaluation mode and on its device.
        processor: Its processor.
        options: The method's options; None takes their defaults.
        **values: Single options by name, in place of `options`; None stands for the default.

    Attributes:
        name: The method's name: that of its module, or of its entry point.
        latent: Whether the prompt ends in <|latent_start|>, so that latent steps follow.
        options_type: The dataclass of the method's options.
        columns: Trace columns of the method's own, beyond `lare.trace.ARRAYS`: name to type and shape. An answer's
            `arrays` may hold them, and the trace keeps them.
        training: How it is trained; None for a method that has no training of its own.
        latent_maker: What makes its latents, where that is neither the Extractor nor the last hidden state: a subclass
            of `lare.model.latent_maker.LatentMaker`. A checkpoint whose ``latent_maker`` is the method's name has one.
        calls: How many prompts of about equal length an answer takes; estimates of its cost multiply by it.

    Raises:
        LareError: If an option is impossible, means nothing to this method, or does not fit the model.
    """

    name: ClassVar[str]
    latent: ClassVar[bool] = False
    options_type: ClassVar[type[MethodOptions]] = MethodOptions
    columns: ClassVar[Mapping[str, Column]] = {}
    training: ClassVar[type[Training] | None] = None
    latent_maker: ClassVar[type[LatentMaker] | None] = None
    calls: ClassVar[int] = 1

    options: MethodOptions

    def __init__(
        self,
        model: LareForConditionalGeneration,
        processor: LareProcessor,
        options: MethodOptions | None = None,
        **values: Any,
    ) -> None:
        self.model = model
        self.processor = processor
        if options is not None and values:
            raise TypeError(f"give options or single ones by name, not both: {', '.join(values)}")
        self.options = self.options_type.read(self.name, values) if options is None else options
        self.check()

    @classmethod
    def load(
        cls, pretrained: str | None, device: str | None, dtype: str | None
    ) -> tuple[LareForConditionalGeneration, LareProcessor]:
        """Model and processor of a checkpoint; a method with another architecture loads its own here.

        Raises:
            LareError: If the checkpoint, the device or the dtype is impossible.
        """
        return load_checkpoint(pretrained, device, dtype)[:2]

    @classmethod
    def build(cls, model: LareForConditionalGeneration, processor: LareProcessor, options: MethodOptions) -> Self:
        """The method around a loaded model; a method that adds parts of its own to the model does it here."""
        return cls(model, processor, options)

    def check(self) -> None:
        """Refuse options that don't fit the model.

        Raises:
            LareError: If one doesn't.
        """

    def changed(self, **values: Any) -> Self:
        """The same model with some other options."""
        known = {name: getattr(self.options, name) for name in self.options_type.names()}
        options = self.options_type.read(self.name, known | values)
        return self.build(self.model, self.processor, options)

    def arguments(self) -> dict[str, Any]:
        """What, beside the weights, decides an answer of this method; JSON-able."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        return {"method": self.name, "dtype": dtype, **self.options.given()}

    def fingerprint(self) -> str:
        """Name of the weights, see `lare.loading.fingerprint`."""
        return fingerprint(self.model, self.processor)

    def images_encoded(self, extra_visual_tokens: float) -> float:
        """Images that the vision encoder reads for an answer with so many extra visual tokens."""
        return float(self.calls)

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
        raise NotImplementedError

    def check_setting(self, setting: Setting) -> None:
        """Refuse an intervention that means nothing to this method, before anything is asked.

        Raises:
            LareError: If it means nothing: to a method without latents, everything but a change of what is asked.
        """
        if not setting.intervention.plain:
            raise LareError(f"the method {self.name!r} makes no latents, so intervene={setting.name} changes nothing")

    def answer_under(
        self,
        images: Sequence[Image],
        questions: Sequence[str],
        sampling: Sampling,
        settings: Sequence[Setting],
        asked: Sequence[Asked] | None = None,
        trace: bool = False,
    ) -> list[list[Answer]]:
        """Answer a batch under several interventions, sharing what they share.

        A method that makes latents hands each step's to `lare.interventions.Replacer` and feeds what comes back; LaRe's
        own do it in `lare.methods.intervening`.

        Args:
            images: RGB pictures. Where a setting exchanges them, they are the other ones already.
            questions: What is asked about each.
            sampling: How text is decoded; greedy.
            settings: The interventions.
            asked: The questions' names, groups and boxes; None takes names from pictures and texts.
            trace: Also return the arrays of the trace; latents are those that were fed.

        Returns:
            For each setting the answers in the order of the questions; each is what it would be alone.

        Raises:
            LareError: If a setting means nothing to this method, or lacks what it needs.
        """
        for setting in settings:
            self.check_setting(setting)
        return [self.answer(images, questions, sampling, trace) for _ in settings]
