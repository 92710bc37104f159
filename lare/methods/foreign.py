"""Methods that answer with another project's model: loading, preset, prompts, and what is kept of an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from lare.errors import LareError
from lare.loading import fingerprint
from lare.methods.base import Answer, Method, MethodOptions, Sampling, option
from lare.methods.generating import GREY, cut_text
from lare.model.generation import Clock, GenerationOptions
from lare.reasoners.loading import TextProcessor, load_reasoner
from lare.reasoners.loop import Replies
from lare.reasoners.marks import find_tokens, recognise
from lare.reasoners.prompting import build_inputs, prompt_texts
from lare.reasoners.reading import load_preset
from lare.trace import Column

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

__all__ = ["Foreign", "ForeignOptions"]


@dataclass(frozen=True)
class ForeignOptions(MethodOptions):
    """Options of any preset.

    Attributes:
        preset: One of `lare.reasoners.preset_names`, or a YAML file; None takes the one whose marks the tokenizer has.
        iterations: Latents of a block, in the place of the preset's number.
        image: "blank" shows a grey picture instead (a control).
    """

    preset: str | None = option(
        None, "coconut, mirage, monet, ... or a .yaml file; by default the one whose marks the tokenizer has"
    )
    iterations: int | None = option(None, "latents of a block; 0 makes none between the marks", least=0, always=True)
    image: str = option("given", "blank shows a grey picture instead (control)", choices=("given", "blank"))


class Foreign(Method):
    """A method of a preset; a subclass writes `reply`.

    Attributes:
        kind: Kind of its presets.
        preset: The preset.
        tokens: Ids of its tokens.
    """

    kind: ClassVar[str]
    options_type = ForeignOptions
    options: ForeignOptions
    columns: ClassVar[Mapping[str, Column]] = {"blocks": Column("<i4", ("block",))}

    @classmethod
    def load(cls, pretrained: str | None, device: str | None, dtype: str | None) -> tuple[Any, Any]:
        """See `Method.load`."""
        return load_reasoner(pretrained, device, dtype)

    def check(self) -> None:
        """See `Method.check`; finds the preset and its tokens."""
        place, tokenizer = str(self.model.config._name_or_path), self.processor.tokenizer
        if self.options.preset is None:
            self.preset = recognise(self.kind, str(self.model.config.model_type), tokenizer, place)
        else:
            self.preset = load_preset(self.options.preset)
        if self.preset.kind != self.kind:
            raise LareError(f"the preset {self.preset.name!r} is one of lare_{self.preset.kind}; ask with that method")
        self.tokens = find_tokens(self.preset, self.model, tokenizer, place)

    def arguments(self) -> dict[str, Any]:
        """See `Method.arguments`; with the preset, all it says."""
        digest = hashlib.sha256(repr(self.preset).encode()).hexdigest()[:16]
        return super().arguments() | {"preset": self.preset.name, "preset_digest": digest}

    def fingerprint(self) -> str:
        """See `Method.fingerprint`."""
        return fingerprint(self.model, self.processor)

    @property
    def sees(self) -> bool:
        """Whether the model is shown the picture."""
        return not isinstance(self.processor, TextProcessor)

    def reply(self, inputs: dict[str, Tensor], options: GenerationOptions, clock: Clock) -> Replies:
        """Answer a batch of prompts, which are read by `lare.reasoners.stream.Stream`."""
        raise NotImplementedError

    def opening(self) -> str:
        """How replies begin, as far as it is forced."""
        return ""

    def answer(
        self, images: Sequence[Image], questions: Sequence[str], sampling: Sampling, trace: bool = False
    ) -> list[Answer]:
        """See `Method.answer`."""
        marks = (*self.preset.tokens(), *(self.preset.slots.tokens if self.preset.slots else ()))
        clock = Clock(self.model)
        with torch.inference_mode():
            texts = prompt_texts(
                self.processor, self.preset.prompt, questions, marks, self.options.system_prompt, self.opening()
            )
            inputs = build_inputs(self.processor, self.preset.prompt, texts, self._shown(images), self.model.device)
            options = self._decoding(sampling, self.room(inputs))
            replies = self.reply(inputs, options, clock)
            clock.lap("decode")
        seconds = {phase: spent / len(texts) for phase, spent in clock.seconds.items()}
        rows = range(len(texts))
        return [self._answer(row, replies, inputs, sampling, seconds, trace) for row in rows]

    def room(self, inputs: dict[str, Tensor]) -> int:
        """Positions left after the prompts.

        Raises:
            LareError: If there are none.
        """
        decoder: Any = self.model.get_decoder()  # type: ignore[no-untyped-call]
        limit, prompt = getattr(decoder.config, "max_position_embeddings", None), inputs["input_ids"]
        left = 1 << 20 if limit is None else int(limit) - prompt.shape[1]
        if left < 2:
            raise LareError(
                f"the question is too long: {prompt.shape[1]} tokens, the model has {limit} positions; shorten it"
            )
        return left

    def _shown(self, images: Sequence[Image]) -> list[Image]:
        if self.options.image == "given":
            return list(images)
        from PIL import Image

        return [Image.new("RGB", image.size, GREY) for image in images]

    def _decoding(self, sampling: Sampling, room: int) -> GenerationOptions:
        limit = min(sampling.max_new_tokens, room)
        if sampling.temperature <= 0:
            return GenerationOptions(limit)
        generator = torch.Generator(self.model.device).manual_seed(sampling.seed)
        return GenerationOptions(limit, True, sampling.temperature, sampling.top_p, sampling.top_k, generator=generator)

    def _answer(
        self,
        row: int,
        replies: Replies,
        inputs: dict[str, Tensor],
        sampling: Sampling,
        seconds: Mapping[str, float],
        trace: bool,
    ) -> Answer:
        marks = self.tokens.special()
        ids = [token for token in replies.ids[row] if token not in marks]
        text, kept = cut_text(ids, sampling.stop, self._decode)
        latents = replies.latents[row]
        prompt = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
        arrays: dict[str, Any] = {"prompt_ids": prompt.cpu().numpy()}
        if len(latents):
            arrays["latents"] = latents[:, None].float().cpu().numpy()
        arrays["blocks"] = torch.tensor(replies.lengths[row], dtype=torch.int32).numpy()
        if replies.picked is not None:
            arrays["picked"] = replies.picked[row].int().cpu().numpy()
        return Answer(
            text=text,
            input_tokens=len(prompt),
            output_tokens=kept,
            latent_steps=len(latents),
            stop_reason=replies.reasons[row],
            cut=bool(replies.cut[row]) and kept == len(ids),
            seconds=seconds,
            arrays=arrays if trace else {},
            extra_visual_tokens=0 if replies.picked is None else int(replies.picked[row].numel()),
            decoder_passes=1 + int(replies.passes[row]),
        )

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.processor.tokenizer.decode(list(ids), skip_special_tokens=True))
