"""The lmms-eval chat model that answers with any method of `lare.methods`.

lmms-eval hands over the requests of all tasks at once. They are grouped by how their text is to be decoded, sorted by
length, and answered in batches that may mix tasks. Every answer is kept as soon as its batch is done (`store`), so a
run that was killed goes on where it stopped; what was seen on the way goes to the trace.

A question that can't be answered (a damaged picture, none, two, no text, too long) costs nobody else anything: its
response is empty, or for options the first letter after them, so that it scores as wrong; it is counted, listed at
the end, and kept in the trace with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from lmms_eval.api.model import lmms
from lmms_eval.utils import simple_parse_args_string

from lare.allocator import keep_freed_memory
from lare.errors import LareError
from lare.methods import get_method, load_method
from lare.methods.base import Method
from lare.trace import TraceWriter
from lare_eval.counts import Counts
from lare_eval.hooks import explain_missing_data, give_up
from lare_eval.questions import Request, sampling_of
from lare_eval.run import Run, Settings
from lare_eval.store import AnswerStore

__all__ = ["LareAdapter"]

AUTO_BATCH = 16
"""Batch size for ``--batch_size auto``."""


class LareAdapter(lmms):  # type: ignore[misc]
    """One method as an lmms-eval model. All arguments but the last three come from ``--model_args``.

    Args:
        pretrained: Checkpoint folder or hub id; default: the small one shipped with LaRe.
        method: Method to answer with; default: that of the model's name.
        iterations: Latent iterations K.
        window: Side of the window in cells of the fine grid.
        stop: When to stop thinking: fixed, cosine:C, l1:C or l2:C.
        system_prompt: Text, or file with the text, of a system turn.
        dtype: float32, bfloat16 or float16; default: the checkpoint's.
        device: Torch device; default: what accelerate gives this process.
        max_new_tokens: Most text tokens of every answer, in place of each task's own number.
        trace: Directory for the trace; default: no trace.
        resume: Directory where answers are kept and looked up; default: answers are not kept.
        batch_size: Questions answered at once, or "auto".
        max_batch_size: Accepted and not used.
        model: A ready `Method`, for evaluations from Python (during training, say), in place of all of the above up to
            `dtype`.
        progress: Called with the number of questions that were just answered, in place of a progress bar.

    Raises:
        LareError: If an argument is unknown or impossible.
    """

    is_simple = False
    method_name: ClassVar[str] = "lare"

    def __init__(
        self,
        pretrained: str | None = None,
        method: str | None = None,
        iterations: int | None = None,
        window: int | None = None,
        stop: str | None = None,
        system_prompt: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        max_new_tokens: int | None = None,
        trace: str | None = None,
        resume: str | None = None,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
        model: Method | None = None,
        progress: Callable[[int], None] | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise LareError(f"unknown --model_args {', '.join(sorted(unknown))}; known are {', '.join(_ARGUMENTS)}")
        self.batch_size = _whole("batch_size", AUTO_BATCH if str(batch_size).startswith("auto") else batch_size or 1)
        self.max_new_tokens = None if max_new_tokens is None else _whole("max_new_tokens", max_new_tokens)
        options = {"iterations": iterations, "window": window, "stop": stop}
        options["system_prompt"] = self._resolve_system_prompt(str(system_prompt or "")) or None
        options = {name: value for name, value in options.items() if value is not None}
        name = method or self.method_name
        get_method(name).check_options(options)
        explain_missing_data()
        keep_freed_memory()
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        if model is None:
            model = load_method(name, pretrained, device or str(self.accelerator.device), dtype, **options)
        # In a tuple, so that lmms-eval, which after a run deletes every module it finds on this object, finds none.
        self._method = (model,)
        self._fingerprint = model.fingerprint()
        self._progress = progress
        self._trace = None if trace is None else str(trace)
        self._resume = None if resume is None else str(resume)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str | Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> LareAdapter:
        """Make the model from ``--model_args``, which win over ``--batch_size`` and ``--device``."""
        try:
            given = dict(_parse(arg_string))
            further = {name: value for name, value in (additional_config or {}).items() if value is not None}
            return cls(**{**further, **given})
        except LareError as error:
            give_up(error)

    @property
    def device(self) -> torch.device:
        """Where the model is; lmms-eval asks for it when there are several processes."""
        return torch.device(self._method[0].model.device)

    def generate_until(self, requests: list[Any]) -> list[tuple[str, Counts]]:
        """Answer requests; returns (response, token counts) in their order."""
        prepared = [_request(request.args, self.max_new_tokens) for request in requests]
        settings = Settings(
            method=self._method[0],
            fingerprint=self._fingerprint,
            batch_size=self.batch_size,
            quiet=self._rank != 0,
            progress=self._progress,
        )
        store = AnswerStore(self._resume)
        writer = None if self._trace is None else TraceWriter(self._trace, self._info())
        run = Run(settings, prepared, self.task_dict, store, writer)
        try:
            answers = run.answer_all()
        finally:
            store.close()
            if writer is not None:
                writer.close()
        run.report()
        return answers

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Not offered."""
        raise LareError(
            "LaRe answers with text; tasks that score by likelihood (output_type loglikelihood) can't be run"
        )

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Not offered."""
        raise LareError("LaRe answers one question about one image; tasks of several rounds can't be run")

    def clean(self) -> None:
        """Keep the model: the same object can be evaluated again, during training for instance."""

    def _info(self) -> dict[str, Any]:
        """Facts about the run for the trace."""
        from lare import __version__

        method = self._method[0]
        return {
            "lare": __version__,
            "torch": torch.__version__,
            "checkpoint": self._fingerprint,
            "arguments": method.arguments(),
            "config": method.model.config.to_dict(),
            "device": str(self.device),
            "batch_size": self.batch_size,
        }


_ARGUMENTS = (
    "pretrained", "method", "iterations", "window", "stop", "system_prompt", "dtype", "device", "max_new_tokens",
    "trace", "resume", "batch_size",
)  # fmt: skip


def _parse(arguments: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(arguments, Mapping):
        return arguments
    try:
        parsed: Mapping[str, Any] = simple_parse_args_string(arguments)
    except ValueError:
        raise LareError(f"--model_args {arguments!r} can't be read; write name=value,name=value") from None
    return parsed


def _whole(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1 or isinstance(value, bool) or (isinstance(value, float) and value != number):
        raise LareError(f"{name} is {value!r}; give a whole number from 1")
    return number


def _request(arguments: tuple[Any, ...], max_new_tokens: int | None) -> Request:
    context, to_messages, generation, doc_id, task, split = arguments
    return Request(str(context), to_messages, sampling_of(generation, max_new_tokens), int(doc_id), task, split)
