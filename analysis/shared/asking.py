"""Asks a checkpoint questions for analyses that change what happens while it thinks.

Most analyses read traces of what an evaluation did. Causal controls and stop rules ask what would have happened
otherwise, so they run the model themselves, on the evaluation's questions (`analysis.shared.questions`), with the same
limit of text tokens and the same reduction of what was written (`lare_eval.normalise`); their scores equal the
evaluation's.

Shapes: N questions, K latent iterations, m latents an iteration, d width of a latent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from analysis.shared.questions import Question
from lare.errors import LareError
from lare.methods import load_method
from lare.methods.generating import cut_text
from lare.methods.lare import Lare
from lare.progress import progress
from lare_eval.normalise import normalise

if TYPE_CHECKING:
    from lare.methods.base import Method

__all__ = ["Answers", "Asker", "mark"]

CACHED = 2e9
"""Bytes of the encoder's features that are kept between passes; more are made anew in each."""


def mark(text: str, question: Question) -> tuple[str, bool, bool]:
    """What is scored of a text, whether it is right, and whether it could be read."""
    if question.judge is not None:
        verdict = question.judge(text)
        return verdict.reply, verdict.score >= 1, verdict.readable
    reply = normalise(text, question.text)
    return reply.text, reply.text.casefold() == question.target.casefold(), reply.readable


@dataclass(frozen=True)
class Answers:
    """Answers to N questions, in their order.

    Attributes:
        texts: Everything written.
        replies: What is scored of it.
        right: (N,) booleans.
        readable: (N,) booleans; False where options were shown and none could be read.
        tokens: (N,) text tokens written.
        steps: (N,) latent iterations.
        latents: (N, K, m, d) float32; None unless asked for.
    """

    texts: list[str]
    replies: list[str]
    right: npt.NDArray[np.bool_]
    readable: npt.NDArray[np.bool_]
    tokens: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    latents: Tensor | None = None

    def take(self, rows: npt.NDArray[np.bool_]) -> Answers:
        """Answers to some of the questions: (N,) which."""
        return Answers(
            list(compress(self.texts, rows)),
            list(compress(self.replies, rows)),
            self.right[rows],
            self.readable[rows],
            self.tokens[rows],
            self.steps[rows],
            None if self.latents is None else self.latents[torch.from_numpy(rows)],
        )


class Asker:
    """A checkpoint and questions whose pictures are encoded once, to be asked again and again.

    Args:
        questions: What to ask.
        pretrained: Checkpoint folder or hub id; None for the one shipped with LaRe.
        batch: Questions answered at once.
        quiet: No progress bars.
        method: A loaded method of LaRe's own model instead of `pretrained`.

    Raises:
        LareError: If the checkpoint can't be loaded.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        pretrained: str | None = None,
        batch: int = 64,
        quiet: bool = False,
        method: Method | None = None,
    ) -> None:
        self.questions, self.batch = list(questions), batch
        self.quiet = quiet or not sys.stderr.isatty()
        method = method or load_method("lare", pretrained)
        if not isinstance(method, Lare):
            raise LareError(f"the method {method.name!r} takes no latent steps; ask with the method 'lare'")
        self.method, self.model, self.processor = method, method.model, method.processor
        self.fingerprint: str = method.fingerprint()
        # Questions of like length stand together, so that little is spent on padding.
        self.order = sorted(range(len(self.questions)), key=lambda i: len(self.questions[i].text))

    @cached_property
    def features(self) -> Tensor:
        """(N, g * g, d_vis) of the vision encoder."""
        starts = range(0, len(self.questions), self.batch)
        return torch.cat([self._encoded(self.questions[start : start + self.batch]) for start in starts])

    def _encoded(self, questions: Sequence[Question]) -> Tensor:
        """(B, g * g, d_vis)."""
        pixels = self.processor.image_processor([one.image for one in questions], return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            features: Tensor = self.model.vision_tower(pixels.to(self.model.device, self.model.dtype))
        return features

    @cached_property
    def _kept(self) -> bool:
        """Whether all questions' features fit into memory."""
        one = self._encoded(self.questions[:1])
        return one.numel() * one.element_size() * len(self.questions) <= CACHED

    def batches(self, label: str) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Numbers of the questions of a batch and its inputs: ``input_ids``, ``attention_mask``, ``visual_features``.

        Args:
            label: Label of the progress bar.
        """
        starts = range(0, len(self.order), self.batch)
        for start in progress(starts, desc=label, unit="batch", disable=self.quiet, leave=False):
            rows = self.order[start : start + self.batch]
            chosen = [self.questions[row] for row in rows]
            prompts = self.method.prompts([one.text for one in chosen])
            made = self.processor(images=[one.image for one in chosen], text=prompts, return_tensors="pt")
            inputs = {name: made[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
            yield rows, {**inputs, "visual_features": self.features[rows] if self._kept else self._encoded(chosen)}

    def ask(
        self,
        label: str,
        instead: Tensor | None = None,
        keep_latents: bool = False,
        seed: int = 0,
        **options: Any,
    ) -> Answers:
        """Ask every question.

        Args:
            label: Label of the progress bar.
            instead: (N, K, m, d) to feed in place of the model's own latents.
            keep_latents: Return the latents.
            seed: Seed of random windows.
            **options: Options of the method, see `lare.methods.lare.LareOptions`.
        """
        count = len(self.questions)
        method = self.method.changed(**options)
        texts = [""] * count
        tokens, steps = np.zeros(count, np.int64), np.zeros(count, np.int64)
        kept: Tensor | None = None
        for rows, inputs in self.batches(label):
            arguments = method.arguments_of_generate()
            arguments |= {"generator": torch.Generator().manual_seed(seed * 1_000_003 + rows[0])}
            arguments |= {} if instead is None else {"latent_override": instead[rows]}
            made = self.model.generate(
                **inputs, **arguments, max_new_tokens=self._budget(rows, inputs["input_ids"].shape[1]),
                output_trace=keep_latents,
            )  # fmt: skip
            for place, row in enumerate(rows):
                steps[row] = int(made.steps[place])
                texts[row], tokens[row] = self._text(row, made.sequences[place, : int(made.lengths[place])].tolist())
            if keep_latents:
                assert made.latents is not None
                part = made.latents.float().cpu()
                kept = part.new_zeros(count, *part.shape[1:]) if kept is None else kept
                kept[rows] = part
        marks = [mark(text, question) for text, question in zip(texts, self.questions, strict=True)]
        right, readable = np.array([mark[1] for mark in marks]), np.array([mark[2] for mark in marks])
        return Answers(texts, [mark[0] for mark in marks], right, readable, tokens, steps, kept)

    def _budget(self, rows: Sequence[int], prompt: int) -> int:
        """Text tokens of a batch: the most that one of its questions may have, as far as the decoder has room."""
        config = self.model.config
        wanted = max(self.questions[row].max_new_tokens for row in rows)
        positions = getattr(config.text_config, "max_position_embeddings", None) or prompt + wanted + 10**6
        room = int(positions) - prompt - self.method.longest_steps * config.latents_per_iteration - 2
        if room < 1:
            raise LareError(f"a question has {prompt} tokens, the model {positions} positions; leave its task out")
        return min(wanted, room)

    def _text(self, row: int, ids: list[int]) -> tuple[str, int]:
        """A question's text within its own limit, and its tokens."""
        one, decode = self.questions[row], self.processor.tokenizer.decode
        return cut_text(ids[: one.max_new_tokens], one.stop, lambda part: str(decode(part, skip_special_tokens=True)))
