"""Asks a checkpoint the mini tasks' questions for analyses that change what happens while it thinks.

Most analyses read traces of what an evaluation did. Causal controls and stop rules ask what would have happened
otherwise, so they run the model themselves, on the same rows (`lare.embedded.world.benchmark`), with the same prompts
(`lare.embedded.world.prompts`), the same limit of text tokens and the same reduction of what was written
(`lare_eval.normalise`); their scores equal the evaluation's.

Shapes: N questions, K latent iterations, m latents an iteration, d width of a latent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lare.embedded.world.benchmark import SIZES_BY_TASK, TASKS, make_task
from lare.embedded.world.prompts import task_prompt
from lare.methods import load_method
from lare.progress import progress
from lare_eval.normalise import normalise

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.methods.base import Method

__all__ = ["MAX_NEW_TOKENS", "Answers", "Asker", "Question", "load_questions", "score"]

MAX_NEW_TOKENS = 128
"""Text tokens of an answer at most, as in the mini tasks' files."""


@dataclass(frozen=True)
class Question:
    """One question of a mini task.

    Attributes:
        task: lmms-eval's name of the task, such as "lare_mini_pope".
        doc_id: Number of its row.
        text: What is asked, options included, without the chat template.
        target: What a right reply is: a capital letter, or yes or no.
        scene: Its picture's scene; questions of one scene are one cluster.
        image: The picture.
        hops: Facts that have to be put together.
        sort: Family of the question.
    """

    task: str
    doc_id: int
    text: str
    target: str
    scene: str
    image: Image = field(repr=False, compare=False)
    hops: int = 0
    sort: str = ""


def load_questions(split: str = "test", limit: int | None = None, tasks: Sequence[str] = TASKS) -> list[Question]:
    """Make the mini tasks' questions.

    Args:
        split: "test" (what evaluations ask) or "validation".
        limit: First rows of each task; None for all.
        tasks: Names without "lare_mini_".

    Raises:
        LareError: If a task or the split is unknown.
    """
    questions = []
    for task in tasks:
        size = SIZES_BY_TASK[task]  # a task's first rows are the same however many are made; pairs need an even number
        rows = make_task(task, split, size if limit is None else min(limit + limit % 2, size))[:limit]
        for number, row in enumerate(rows):
            image = row["image"].convert("RGB")
            text, target = task_prompt(task, row), _target(task, row)
            names, facts = (str(row["task"]), number), (int(row["hops"]), str(row["sort"]))
            questions.append(Question(*names, text, target, str(row["scene"]), image, *facts))
    return questions


def _target(task: str, row: Mapping[str, Any]) -> str:
    if task == "scienceqa":
        return "ABCDEFGH"[int(row["answer"])]
    if task == "mmvp":
        return str(row["Correct Answer"]).strip("()").upper()
    return str(row["answer"])


def score(text: str, question: Question) -> tuple[bool, bool]:
    """Whether a text is right, and whether an answer could be read from it."""
    reply = normalise(text, question.text)
    return reply.text.casefold() == question.target.casefold(), reply.readable


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
        method: A loaded method instead of `pretrained`.

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
        self.method, self.model, self.processor = method, method.model, method.processor
        self.fingerprint: str = method.fingerprint()
        # Questions of like length stand together, so that little is spent on padding.
        self.order = sorted(range(len(self.questions)), key=lambda i: len(self.questions[i].text))

    @cached_property
    def features(self) -> Tensor:
        """(N, g * g, d_vis) of the vision encoder."""
        made = []
        model = self.model
        for start in range(0, len(self.questions), self.batch):
            images = [one.image for one in self.questions[start : start + self.batch]]
            pixels = self.processor.image_processor(images, return_tensors="pt")["pixel_values"]
            with torch.inference_mode():
                made.append(model.vision_tower(pixels.to(model.device, model.dtype)))
        return torch.cat(made)

    def batches(self, label: str, latent: bool = True) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Numbers of the questions of a batch and its inputs: ``input_ids``, ``attention_mask``, ``visual_features``.

        Args:
            label: Of the progress bar.
            latent: Whether prompts end in <|latent_start|>.
        """
        starts = range(0, len(self.order), self.batch)
        for start in progress(starts, desc=label, unit="batch", disable=self.quiet, leave=False):
            rows = self.order[start : start + self.batch]
            chosen = [self.questions[row] for row in rows]
            prompts = self.processor.build_prompts([one.text for one in chosen], latent=latent)
            made = self.processor(images=[one.image for one in chosen], text=list(prompts), return_tensors="pt")
            inputs = {name: made[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
            yield rows, {**inputs, "visual_features": self.features[rows]}

    def ask(
        self,
        label: str,
        latents: Tensor | None = None,
        keep_latents: bool = False,
        seed: int = 0,
        **options: Any,
    ) -> Answers:
        """Ask every question.

        Args:
            label: Of the progress bar.
            latents: (N, K, m, d) to feed in place of the model's own.
            keep_latents: Return the latents.
            seed: Of random windows.
            **options: See `lare.model.LareForConditionalGeneration.generate`.
        """
        count = len(self.questions)
        texts = [""] * count
        tokens, steps = np.zeros(count, np.int64), np.zeros(count, np.int64)
        kept: Tensor | None = None
        for rows, inputs in self.batches(label, options.get("delimiters", True)):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + rows[0])
            given = None if latents is None else latents[rows]
            made = self.model.generate(
                **inputs, max_new_tokens=MAX_NEW_TOKENS, latent_override=given, generator=generator,
                output_trace=keep_latents, **options,
            )  # fmt: skip
            for place, row in enumerate(rows):
                tokens[row], steps[row] = int(made.lengths[place]), int(made.steps[place])
                ids = made.sequences[place, : tokens[row]].tolist()
                texts[row] = str(self.processor.tokenizer.decode(ids, skip_special_tokens=True)).strip()
            if keep_latents:
                assert made.latents is not None
                part = made.latents.float()
                kept = part.new_zeros(count, *part.shape[1:]) if kept is None else kept
                kept[rows] = part
        marks = [score(text, question) for text, question in zip(texts, self.questions, strict=True)]
        replies = [normalise(text, one.text).text for text, one in zip(texts, self.questions, strict=True)]
        right, readable = np.array([mark[0] for mark in marks]), np.array([mark[1] for mark in marks])
        return Answers(texts, replies, right, readable, tokens, steps, kept)
