"""What a model sees and answers after every number of steps, for questions whose answer is known.

One pass sees all steps: the latents do not depend on when a rule would stop, so a run of T steps holds every shorter
one. The answers after 1 to T steps are branches of one call, which share the prompt.

Shapes: B questions at once, N questions, T steps, F inputs of a head, S prompt positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lare.data.questions import Question, is_right
from lare.errors import LareError
from lare.model.loop import prefill
from lare.model.observing import observe
from lare.model.stop_head import KINDS, head_inputs
from lare.progress import progress

if TYPE_CHECKING:
    from lare.methods.lare import Lare

__all__ = ["Collected", "collect"]


@dataclass(frozen=True)
class Collected:
    """N questions after each of T steps.

    Attributes:
        inputs: By kind of head, (N, T, F) float32.
        right: (N, T) booleans, whether the answer after 1 to T steps is right.
        group: (N,) numbers; questions of one picture share theirs.
    """

    inputs: dict[str, Tensor]
    right: npt.NDArray[np.bool_]
    group: npt.NDArray[np.int64]

    @property
    def as_good(self) -> npt.NDArray[np.bool_]:
        """(N, T) whether the answer after a step is as good as the best over all numbers of steps."""
        return np.asarray(self.right >= self.right.max(1, keepdims=True))


def collect(
    method: Lare,
    questions: Iterable[Question],
    count: int,
    steps: int,
    batch: int = 16,
    most: int = 64,
    label: str = "",
) -> Collected:
    """Ask a model and look at every step.

    Args:
        method: The model, by a fixed rule.
        questions: What to ask; no more than `count` are taken.
        count: N at most.
        steps: T.
        batch: Questions at once; T answers of each are written side by side.
        most: Text tokens of an answer.
        label: Of the progress bar.

    Raises:
        LareError: If there is no question.
    """
    inputs: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    right: list[list[bool]] = []
    groups: list[str] = []
    stream = islice(questions, count)
    with progress(total=count, desc=label, unit="question") as bar, torch.inference_mode(), method.configured():
        while part := list(islice(stream, batch)):
            for kind, seen in _inputs(method, part, steps).items():
                inputs[kind].append(seen)
            right += _answered(method, part, steps, most)
            groups += [one.group for one in part]
            bar.update(len(part))
    if not right:
        raise LareError("there is no question to fit a stop rule on; give other data")
    _, group = np.unique(groups, return_inverse=True)
    # Outside inference mode, so that autograd may use them.
    whole = {kind: torch.cat(parts).clone() for kind, parts in inputs.items()}
    return Collected(whole, np.array(right), group)


def _inputs(method: Lare, questions: Sequence[Question], steps: int) -> dict[str, Tensor]:
    """What each kind of head reads after each step, (B, T, F) on the CPU."""
    model = method.model
    made = method.inputs([one.image for one in questions], [one.text for one in questions])
    further = {name: made[name] for name in model.backbone.image_inputs}
    visual = model.visual_tokens(made["pixel_values"], None, image_inputs=further)
    room = steps * model.config.latents_per_iteration + 1
    state = prefill(model, made["input_ids"], made["attention_mask"], visual, room=room)
    found: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    for seen in observe(model, state, steps):
        for kind, parts in found.items():
            parts.append(head_inputs(kind, seen).cpu())
    return {kind: torch.stack(parts, 1) for kind, parts in found.items()}


def _answered(method: Lare, questions: Sequence[Question], steps: int, most: int) -> Iterator[list[bool]]:
    """Of each question whether the answers after 1 to T steps are right."""
    made = method.inputs([one.image for one in questions], [one.text for one in questions])
    budget = method.budget(made["input_ids"].shape[1], most)
    limits = torch.arange(1, steps + 1, device=made["input_ids"].device).repeat(len(questions))
    options: dict[str, Any] = {"iterations": steps, "branches": steps, "step_limits": limits, "stop": "fixed", **made}
    out = method.model.generate(max_new_tokens=budget, **options)
    ids = [row[:length] for row, length in zip(out.sequences.tolist(), out.lengths.tolist(), strict=True)]
    texts = method.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
    for place, one in enumerate(questions):
        yield [is_right(text, one.answer) for text in texts[place * steps : (place + 1) * steps]]
