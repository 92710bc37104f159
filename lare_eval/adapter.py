"""The lmms-eval chat model that answers with any method of `lare.methods`.

lmms-eval hands over the requests of all tasks at once. They are grouped by how their text is to be decoded, sorted by
length, and answered in batches that may mix tasks. Every answer is kept as soon as its batch is done (`store`), so a
run that was killed goes on where it stopped; what was seen on the way goes to the trace.

A question may be impossible to answer: its picture is damaged or missing, there are two, there is no text, or it is
too long. The other questions go on. Its own response is empty, or for options the first letter after them, so that it
scores as wrong. It is counted, listed at the end, and kept in the trace with its reason.
"""

from __future__ import annotations

import inspect
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
    """One method as an lmms-eval model. Arguments come from ``--model_args``, but `model` and `progress`.

    Args:
        pretrained: Checkpoint folder or hub id; default: the small one shipped with LaRe.
        method: Method to answer with; default: that of the model's name.
        dtype: float32, bfloat16 or float16; default: the checkpoint's.
        device: Torch device; default: what accelerate gives this process.
        max_new_tokens: Most text tokens of every answer, in place of each task's own number.
        trace: Directory for the trace; default: no trace.
        resume: Directory where answers are kept and looked up; default: answers are not kept.
        batch_size: Questions answered at once, or "auto".
        max_batch_size: Accepted and not used.
        model: A ready `Method`, for evaluations from Python (during training, say), in place of `pretrained`, `method`,
            `dtype`, `device` and the method's options.
        progress: Called with the number of questions that were just answered, in place of a progress bar.
        **options: The method's options (its `options_type`); `system_prompt` may name a file with the text.

    Raises:
        LareError: If an argument is known neither here nor to the method, or impossible.
    """

    is_simple = False
    method_name: ClassVar[str] = "lare"

    def __init__(
        self,
        pretrained: str | None = None,
        method: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        max_new_tokens: int | None = None,
        trace: str | None = None,
        resume: str | None = None,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
        model: Method | None = None,
        progress: Callable[[int], None] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        name = method or self.method_name
        if options.get("system_prompt") is not None:
            options["system_prompt"] = self._resolve_system_prompt(str(options["system_prompt"]))
        _check_options(name, options)
        self.batch_size = _whole("batch_size", AUTO_BATCH if str(batch_size).startswith("auto") else batch_size or 1)
        self.max_new_tokens = None if max_new_tokens is None else _whole("max_new_tokens", max_new_tokens)
        explain_missing_data()
        keep_freed_memory()
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        if model is not None and any(value is not None for value in options.values()):
            raise LareError(f"{', '.join(options)} can't be given beside a ready model; give them to the model itself")
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
        writer = (
            None if self._trace is None else TraceWriter(self._trace, self._info(), columns=self._method[0].columns)
        )
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
        """Not offered.

        Raises:
            LareError: Always.
        """
        raise LareError(
            "LaRe answers with text; tasks that score by likelihood (output_type loglikelihood) can't be run"
        )

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Not offered.

        Raises:
            LareError: Always.
        """
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
            "stretches": bool(getattr(method.processor, "stretches", False)),  # other architectures have their own
            "device": str(self.device),
            "batch_size": self.batch_size,
        }


_OF_PYTHON = ("self", "model", "progress", "max_batch_size", "options")
"""Arguments of `LareAdapter` that ``--model_args`` has no use for."""


def _check_options(method: str, options: Mapping[str, Any]) -> None:
    """Refuse what neither the plug-in nor the method knows, and impossible values, before anything is loaded."""
    kind = get_method(method).options_type
    if unknown := sorted(set(options) - set(kind.names())):
        own = [name for name in inspect.signature(LareAdapter.__init__).parameters if name not in _OF_PYTHON]
        raise LareError(
            f"unknown --model_args {', '.join(unknown)}; known are {', '.join(own)}, and of the method {method!r} "
            f"{', '.join(kind.names())}"
        )
    kind.read(method, options)


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
