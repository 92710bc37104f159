"""One pass over requests: look up, batch, answer, keep, report."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger

from lare.errors import LareError
from lare.methods.base import Answer, Method, Sampling
from lare.progress import progress
from lare.trace import ARRAYS, AnswerRecord, TraceReader, TraceWriter
from lare_eval.counts import Counts
from lare_eval.normalise import ANSWER_MARK, normalise
from lare_eval.questions import Question, Request, read_question
from lare_eval.store import AnswerStore, StoredAnswer, answer_key

__all__ = ["Run", "Settings"]

_LISTED = 10  # problems that are listed one by one
_MEANS = ("output_tokens", "latent_steps", "unanswered", "unreadable", "cut", "resumed")  # reported per answer


@dataclass(frozen=True)
class Settings:
    """How requests are answered.

    Attributes:
        method: What answers.
        fingerprint: Name of its weights.
        batch_size: Questions answered at once.
        quiet: No progress bar.
        progress: Called with the number of questions that were just answered, in place of the bar.
    """

    method: Method
    fingerprint: str
    batch_size: int = 1
    quiet: bool = False
    progress: Callable[[int], None] | None = None


class Run:
    """Answers a list of requests once.

    Args:
        settings: How.
        requests: What.
        documents: lmms-eval's data sets, task to split to rows.
        store: Where answers are kept.
        writer: Where traces go, or None.
    """

    def __init__(
        self,
        settings: Settings,
        requests: list[Request],
        documents: Mapping[str, Any],
        store: AnswerStore,
        writer: TraceWriter | None,
    ) -> None:
        self._settings = settings
        self._requests = requests
        self._documents = documents
        self._store = store
        self._writer = writer
        self._arguments = settings.method.arguments()
        # A kept answer whose trace is missing was made without trace=, and is made again.
        self._traced = set(TraceReader(writer.directory).column("key")) if writer is not None else None
        self._results: dict[str, StoredAnswer] = {}
        self.tally: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def answer_all(self) -> list[tuple[str, Counts]]:
        """Answer everything; (response, counts) in the order of the requests."""
        keys = self._keys()
        asked = list({key: (key, request) for key, request in zip(keys, self._requests, strict=True)}.values())
        started = time.perf_counter()
        told = self._settings.progress
        with progress(total=len(asked), desc="Answering", disable=self._settings.quiet or told is not None) as bar:
            tell = told or bar.update
            waiting = [pair for pair in asked if not self._found(*pair)]
            self.tally["resumed"] = len(asked) - len(waiting)
            tell(self.tally["resumed"])
            for batch in _batches(waiting, self._settings.batch_size):
                self._answer_batch(batch)
                tell(len(batch))
        self.seconds["total"] += time.perf_counter() - started
        found = [self._results[key] for key in keys]
        return [(one.response, Counts(**one.counts)) for one in found]

    def _keys(self) -> list[str]:
        """One key a request. Greedy answers repeat, so requests that are the same share a key; samples do not."""
        seen: Counter[str] = Counter()
        keys = []
        for request in self._requests:
            facts: dict[str, Any] = {
                "task": request.task,
                "doc": [request.split, request.doc_id],
                "prompt": request.context,
                "sampling": vars(request.sampling),
                "weights": self._settings.fingerprint,
                "arguments": self._arguments,
            }
            if request.sampling.temperature > 0:
                facts["seed"] = torch.initial_seed()
                once = answer_key(**facts)
                facts["repeat"] = seen[once]
                seen[once] += 1
            keys.append(answer_key(**facts))
        return keys

    def _found(self, key: str, request: Request) -> bool:
        """Whether the store has the answer; the picture must be the same as well, which needs opening it."""
        stored = self._store.get(key)
        if stored is None or (self._traced is not None and key not in self._traced):
            return False
        try:
            digest = read_question(request, self._documents).digest
        except LareError:
            digest = ""
        if stored.digest != digest:
            return False
        self._results[key] = stored
        return True

    def _answer_batch(self, batch: list[tuple[str, Request]]) -> None:
        questions: dict[str, Question] = {}
        problems: dict[str, str] = {}
        for key, request in batch:
            try:
                questions[key] = read_question(request, self._documents)
            except LareError as error:
                problems[key] = str(error)
        started = time.perf_counter()
        answers, refused = self._ask(questions, batch[0][1].sampling)
        self.seconds["answering"] += time.perf_counter() - started
        problems |= refused
        finished = [
            _stored(key, request, questions.get(key), answers.get(key), problems.get(key, "")) for key, request in batch
        ]
        started = time.perf_counter()
        for stored, (key, request) in zip(finished, batch, strict=True):
            self._trace(stored, request, questions.get(key), answers.get(key))
        if self._writer is not None:  # before the store: an answer that is found again must have its trace
            self._writer.flush()
        self.seconds["trace"] += time.perf_counter() - started
        self._store.add(finished)
        self._results |= {stored.key: stored for stored in finished}

    def _ask(self, questions: Mapping[str, Question], sampling: Sampling) -> tuple[dict[str, Answer], dict[str, str]]:
        """Ask a batch, or, where one question spoils it, each by itself; answers and refusals by key."""
        if not questions:
            return {}, {}
        keys = list(questions)
        if sampling.temperature > 0:
            sampling = replace(sampling, seed=int(answer_key(keys=keys)[:15], 16))
        try:
            answers = self._settings.method.answer(
                [question.image for question in questions.values()],
                [question.text for question in questions.values()],
                sampling,
                trace=self._writer is not None,
            )
            return dict(zip(keys, answers, strict=True)), {}
        except LareError as error:
            if len(questions) == 1:
                return {}, {keys[0]: str(error)}
        found: dict[str, Answer] = {}
        refused: dict[str, str] = {}
        for key, question in questions.items():
            one, none = self._ask({key: question}, sampling)
            found |= one
            refused |= none
        return found, refused

    def _trace(self, stored: StoredAnswer, request: Request, question: Question | None, answer: Answer | None) -> None:
        if self._writer is None:
            return
        arrays = answer.arrays if answer else {}
        record = AnswerRecord(
            method=self._settings.method.name,
            checkpoint=self._settings.fingerprint,
            task=request.task,
            doc_id=request.doc_id,
            question=question.text if question else request.context,
            text=stored.text,
            answer=stored.response,
            input_tokens=answer.input_tokens if answer else 0,
            output_tokens=answer.output_tokens if answer else 0,
            latent_steps=answer.latent_steps if answer else 0,
            stop_reason=answer.stop_reason if answer else f"error: {stored.problem}",
            seconds=answer.seconds if answer else {},
            meta=question.facts if question else {},
            key=stored.key,
            extra_visual_tokens=answer.extra_visual_tokens if answer else 0,
            decoder_passes=answer.decoder_passes if answer else 0,
            **{name: value for name, value in arrays.items() if name in ARRAYS},
            own={name: value for name, value in arrays.items() if name not in ARRAYS},
        )
        self._writer.append(record)

    def report(self) -> None:
        """Log what lmms-eval puts into the results file ("throughput"), and what a reader must know.

        lmms-eval writes every further number as ``avg_<name>``, so each is what that says: a mean over the answers.
        """
        results = list(self._results.values())
        self.tally["answers"] = len(results)
        self.tally["output_tokens"] = sum(stored.counts["output_tokens"] for stored in results)
        self.tally["latent_steps"] = sum(stored.counts["reasoning_tokens"] for stored in results)
        self.tally["unanswered"] = sum(bool(stored.problem) for stored in results)
        self.tally["unreadable"] = sum(not stored.readable for stored in results)
        self.tally["cut"] = sum(stored.cut for stored in results)
        _warn(results, self._settings.quiet)
        totals = _over_processes(self.tally)
        spent, answers = self.seconds["answering"], max(totals["answers"], 1)
        log_metrics(
            total_elapsed_time=spent,
            total_gen_tokens=totals["output_tokens"],
            avg_speed=totals["output_tokens"] / spent if spent > 0 else 0.0,
            additional_metrics={
                "total_requests": totals["answers"],
                **{name: totals[name] / answers for name in _MEANS},
                "trace_seconds": self.seconds["trace"] / max(self.tally["answers"], 1),
            },
        )


def _batches(waiting: list[tuple[str, Request]], size: int) -> Iterator[list[tuple[str, Request]]]:
    """Batches of equal decoding, longest questions first so that a batch that does not fit shows at once."""
    groups: dict[Sampling, list[tuple[str, Request]]] = {}
    for pair in waiting:
        groups.setdefault(pair[1].sampling, []).append(pair)
    for group in groups.values():
        group.sort(key=lambda pair: (-len(pair[1].context), pair[1].context, pair[1].task, pair[1].doc_id))
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _stored(key: str, request: Request, question: Question | None, answer: Answer | None, problem: str) -> StoredAnswer:
    text = answer.text if answer else ""
    reply = normalise(text, question.text if question else request.context)
    counts = Counts(
        answer.input_tokens if answer else 0,
        answer.output_tokens if answer else 0,
        answer.latent_steps if answer else 0,
        **({"unanswered": 1} if answer is None else {}),
        **({"unreadable": 1} if answer and not reply.readable else {}),
    )
    return StoredAnswer(
        key=key,
        task=request.task,
        doc_id=request.doc_id,
        text=text,
        response=reply.text,
        counts=counts.to_dict(),
        digest=question.digest if question else "",
        problem="" if answer else problem,
        readable=reply.readable or answer is None,
        cut=bool(answer and answer.cut and ANSWER_MARK not in text),
    )


def _warn(results: list[StoredAnswer], quiet: bool) -> None:
    failed = [stored for stored in results if stored.problem]
    for stored in failed[:_LISTED]:
        logger.warning(f"LaRe: no answer to {stored.task} document {stored.doc_id}: {stored.problem}")
    if len(failed) > _LISTED:
        logger.warning(f"LaRe: and no answer to {len(failed) - _LISTED} more; every reason is in the trace")
    if quiet:
        return
    if unreadable := sum(not stored.readable for stored in results):
        logger.warning(f"LaRe: in {unreadable} of {len(results)} replies no option could be read; they count as wrong")
    if cut := Counter(stored.task for stored in results if stored.cut):
        tasks = ", ".join(f"{task} {number}" for task, number in sorted(cut.items()))
        logger.warning(
            f"LaRe: max_new_tokens ended the text before its final answer ({tasks}); "
            "give more with --model_args max_new_tokens=N"
        )


def _over_processes(tally: Counter[str]) -> Counter[str]:
    """Sums over all processes of the run."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return tally
    tallies: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(tallies, dict(tally))
    return sum((Counter(one) for one in tallies), Counter())
