"""Methods that answer with another project's model: loading, preset, prompts, and answers under interventions."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from lare.errors import LareError
from lare.interventions import OWN, Asked, Bank, Setting, get_intervention, read_bank
from lare.methods.base import Answer, Method, Sampling
from lare.methods.foreign_options import Batch, ForeignOptions
from lare.methods.generating import GREY, cut_text
from lare.methods.intervening import ask_of
from lare.model.generation import Clock, GenerationOptions
from lare.reasoners.loading import TextProcessor, load_reasoner
from lare.reasoners.loop import Replies
from lare.reasoners.marks import find_tokens, recognise
from lare.reasoners.prompting import build_inputs, prompt_texts
from lare.reasoners.reading import load_preset
from lare.reasoners.stream import attends
from lare.trace import Column

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

__all__ = ["Foreign"]

Inputs = dict[str, "Tensor"]


class Foreign(Method):
    """A method of a preset; a subclass writes `replies`.

    Attributes:
        kind: Kind of its presets.
        preset: The preset.
        tokens: Ids of its tokens.
    """

    kind: ClassVar[str]
    options_type = ForeignOptions
    options: ForeignOptions
    columns: ClassVar[Mapping[str, Column]] = {
        "blocks": Column("<i4", ("block",)),
        "step_shares": Column("<f4", ("K", "kind")),
        "attention_keys": Column("<i4", ("row",)),
    }

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
        attends(self.model)

    def check_setting(self, setting: Setting) -> None:
        """See `Method.check_setting`."""
        one = setting.intervention
        if not self.sees and (one.hides_image or "boxes" in one.needs or one.exchanges == "image"):
            raise LareError(f"this model sees no picture, so intervene={one.name} changes nothing")

    def arguments(self) -> dict[str, Any]:
        """See `Method.arguments`; with the preset, all it says."""
        digest = hashlib.sha256(repr(self.preset).encode()).hexdigest()[:16]
        return super().arguments() | {"preset": self.preset.name, "preset_digest": digest}

    @property
    def sees(self) -> bool:
        """Whether the model is shown the picture."""
        return not isinstance(self.processor, TextProcessor)

    @property
    def dummy(self) -> Tensor:
        """(d,) embedding that stands for a dummy: the latent's placeholder, or else the padding token's."""
        tokenizer, token = self.processor.tokenizer, self.tokens.latent
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        embeddings: Any = self.model.get_input_embeddings()
        found: Tensor = embeddings.weight[int(pad if token is None else token)].detach()
        return found

    @abstractmethod
    def replies(self, batch: Batch) -> list[tuple[Replies, Inputs]]:
        """What is written under each setting, and the prompts for it."""

    def answer(
        self, images: Sequence[Image], questions: Sequence[str], sampling: Sampling, trace: bool = False
    ) -> list[Answer]:
        """See `Method.answer`."""
        name = self.options.intervene
        if not get_intervention(name).alone and self._bank is None:
            raise LareError(
                f"intervene={name} takes more than the question itself; name the traces of a run without intervention "
                "with intervene_from=DIR, or ask with analysis/validate.py"
            )
        setting = Setting(name, self.options.seed, self._bank)
        return self.answer_under(images, questions, sampling, [setting], trace=trace)[0]

    def answer_under(
        self,
        images: Sequence[Image],
        questions: Sequence[str],
        sampling: Sampling,
        settings: Sequence[Setting],
        asked: Sequence[Asked] | None = None,
        trace: bool = False,
    ) -> list[list[Answer]]:
        """See `Method.answer_under`."""
        for setting in settings:
            self.check_setting(setting)
        if sampling.temperature > 0 and any(one.name != OWN for one in settings):
            raise LareError("interventions are compared on greedy answers; set temperature to 0")
        who = ask_of(images, questions) if asked is None else list(asked)
        clock = Clock(self.model)
        with torch.inference_mode():
            made = self.replies(Batch(self._shown(images), questions, who, settings, sampling, trace))
        clock.lap("answer")
        seconds = {phase: spent / len(questions) / len(settings) for phase, spent in clock.seconds.items()}
        rows = range(len(questions))
        return [[self._answer(row, *one, sampling, seconds, trace) for row in rows] for one in made]

    @cached_property
    def _bank(self) -> Bank | None:
        return None if self.options.intervene_from is None else read_bank(self.options.intervene_from)

    def inputs(self, batch: Batch, opening: str) -> Inputs:
        """Prompts whose replies begin with a text.

        Raises:
            LareError: If they leave no room for an answer.
        """
        slots = self.preset.slots.tokens if self.preset.slots is not None else ()
        said, prompt = self.options.system_prompt, self.preset.prompt
        texts = prompt_texts(self.processor, prompt, batch.questions, (*self.preset.tokens(), *slots), said, opening)
        made = build_inputs(self.processor, prompt, texts, batch.images, self.model.device)
        self.room(made)  # before anything is read
        return made

    def room(self, inputs: Inputs, needed: int = 0) -> int:
        """Positions left after the prompts, and after what else is needed.

        Raises:
            LareError: If there are none.
        """
        decoder: Any = self.model.get_decoder()  # type: ignore[no-untyped-call]
        limit, prompt = getattr(decoder.config, "max_position_embeddings", None), inputs["input_ids"].shape[1]
        left = (1 << 20 if limit is None else int(limit) - prompt) - needed
        if left < 2:
            raise LareError(f"the question is too long: {prompt} tokens, the model has {limit} positions; shorten it")
        return left

    def decoding(self, sampling: Sampling, room: int) -> GenerationOptions:
        """How text is chosen where so many positions are left."""
        limit = min(sampling.max_new_tokens, room)
        if sampling.temperature <= 0:
            return GenerationOptions(limit)
        generator = torch.Generator(self.model.device).manual_seed(sampling.seed)
        how = (True, sampling.temperature, sampling.top_p, sampling.top_k)
        return GenerationOptions(limit, *how, generator=generator)

    def _shown(self, images: Sequence[Image]) -> list[Image]:
        if self.options.image == "given":
            return list(images)
        from PIL import Image

        return [Image.new("RGB", image.size, GREY) for image in images]

    def _answer(
        self, row: int, replies: Replies, inputs: Inputs, sampling: Sampling, seconds: dict[str, float], trace: bool
    ) -> Answer:
        marks = self.tokens.special()
        ids = [token for token in replies.ids[row] if token not in marks]
        text, kept = cut_text(ids, sampling.stop, self.decode)
        latents = replies.latents[row]
        prompt = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
        arrays: dict[str, Any] = {"prompt_ids": prompt.cpu().numpy()}
        if len(latents):
            arrays["latents"] = latents[:, None].float().cpu().numpy()
        arrays["blocks"] = torch.tensor(replies.lengths[row], dtype=torch.int32).numpy()
        if replies.picked is not None:
            arrays["picked"] = replies.picked[row].int().cpu().numpy()
        if trace and replies.watch is not None:
            arrays |= replies.watch.arrays(row)
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

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return str(self.processor.tokenizer.decode(list(ids), skip_special_tokens=True))
