"""Questions of any lmms-eval task, each with the task's own scorer, for whoever asks a model outside an evaluation.

An evaluation asks every question once and keeps what happened. An analysis that changes something while the model
thinks asks them again and again; with this module it asks the very questions, on the very pictures, and scores a reply
as the evaluation does: reduced by `lare_eval.normalise`, through the task's filters, by its ``process_results``.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lare.errors import LareError
from lare.methods.base import Sampling
from lare_eval import TASKS
from lare_eval.categories import score_of
from lare_eval.normalise import normalise
from lare_eval.questions import Request, read_question, sampling_of
from lare_eval.store import image_digest

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["TaskQuestion", "TaskQuestions", "Verdict", "task_questions"]


@dataclass(frozen=True)
class Verdict:
    """What a task's scorer says of one text.

    Attributes:
        reply: What the scorer read.
        score: 1 right, 0 wrong, or the task's own score.
        readable: False where options were shown and none could be read.
    """

    reply: str
    score: float
    readable: bool


@dataclass(frozen=True)
class TaskQuestion:
    """One question of a task.

    Attributes:
        task: lmms-eval's name of the task.
        doc_id: Number of its row.
        text: What is asked, without the chat template.
        image: RGB picture.
        facts: Columns of the row that are text or numbers.
        target: The right answer as the task has it.
        sampling: How the task wants its text decoded.
        judge: Scores a text.
        picture: Hash of the picture; questions about one picture share it.
    """

    task: str
    doc_id: int
    text: str
    image: Image = field(repr=False, compare=False)
    facts: Mapping[str, Any]
    target: str
    sampling: Sampling
    judge: Callable[[str], Verdict] = field(repr=False, compare=False)
    picture: str


@dataclass(frozen=True)
class TaskQuestions:
    """Questions, and what could not be asked.

    Attributes:
        questions: The questions, in the order of tasks and rows.
        problems: A sentence for each row that was left out.
    """

    questions: list[TaskQuestion]
    problems: list[str]


def task_questions(
    tasks: Sequence[str],
    include_path: str | Path | None = None,
    limit: int | None = None,
    rows: Mapping[str, Sequence[int]] | None = None,
) -> TaskQuestions:
    """Load the questions of tasks.

    Args:
        tasks: Names of tasks, groups or tags, as ``lmms-eval --tasks`` takes them.
        include_path: Folder of further task files.
        limit: First rows of each task; None for all.
        rows: Only these row numbers of a task, by its name.

    Returns:
        The questions. A row whose picture is damaged, or that has not exactly one, is left out and named.

    Raises:
        LareError: If a task is unknown, its data can't be loaded, it does not ask for text, or no question is left.
    """
    if include_path is not None and not Path(include_path).is_dir():
        raise LareError(f"--include-path is {str(include_path)!r}, which is no folder; give the one of the task files")
    questions: list[TaskQuestion] = []
    problems: list[str] = []
    for name, task in _load(tasks, include_path).items():
        wanted = None if rows is None else set(rows.get(name, ()))
        for request in _requests(name, task, limit if wanted is None else None):
            if wanted is not None and request.doc_id not in wanted:
                continue
            try:
                questions.append(_read(request, task))
            except LareError as error:
                problems.append(f"{name} {request.doc_id}: {error}")
            except Exception as error:  # noqa: BLE001 - a task's own functions may fail in any way
                raise LareError(
                    f"the task {name} can't make question {request.doc_id} ({type(error).__name__}: {error}); mend its "
                    "task file's functions"
                ) from error
    if not questions:
        raise LareError(f"{', '.join(tasks)}: no question can be asked ({'; '.join(problems[:3]) or 'no rows'})")
    return TaskQuestions(questions, problems)


def _load(tasks: Sequence[str], include_path: str | Path | None) -> dict[str, Any]:
    """lmms-eval's task objects by name; its own thousands of task files are only indexed where they are needed."""
    try:
        from lmms_eval.tasks import TaskManager, get_task_dict
    except ImportError as error:
        raise LareError(f"--tasks needs lmms-eval ({error}); install it with: pip install 'lare[eval]'") from None
    from lare_eval.hooks import explain_missing_data

    explain_missing_data()
    places = [str(place) for place in (include_path, TASKS) if place is not None]
    with _quiet():
        manager = TaskManager("ERROR", include_defaults=False, include_path=places)
        if any(task not in manager.all_tasks for task in tasks):
            manager = TaskManager("ERROR", include_path=places)
        unknown = [task for task in tasks if task not in manager.all_tasks]
        if unknown or not tasks:
            raise LareError(
                f"there are no tasks {', '.join(unknown) or '(none given)'}; lmms-eval tasks list prints all names, "
                "and --include-path names a folder of further ones"
            )
        return dict(_flat(get_task_dict(list(tasks), manager, "chat")))


def _flat(tasks: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Tasks by name, those inside groups too."""
    for name, task in tasks.items():
        if isinstance(task, Mapping):
            yield from _flat(task)
        else:
            yield str(name), task


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep lmms-eval's log lines and printed tables away."""
    from loguru import logger

    logger.disable("lmms_eval")
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.enable("lmms_eval")


def _requests(name: str, task: Any, limit: int | None) -> list[Request]:
    """The task's requests, as an evaluation makes them."""
    from lare_eval.passes import own_bar

    if task.OUTPUT_TYPE != "generate_until":
        raise LareError(f"the task {name} is scored by {task.OUTPUT_TYPE}; LaRe answers with text (generate_until)")
    with _quiet(), own_bar(lambda _: None):
        task.build_all_requests(limit=limit)
    made = []
    for instance in task.instances:
        context, to_messages, generation, doc_id, _, split = instance.args
        made.append(Request(str(context), to_messages, sampling_of(generation, None), int(doc_id), name, split))
    return made


def _read(request: Request, task: Any) -> TaskQuestion:
    """Open a request's row."""
    question = read_question(request, {request.task: task.dataset})
    row = task.eval_docs_no_media[request.doc_id]
    with _quiet():
        target = task.doc_to_target(row)
    return TaskQuestion(
        task=request.task,
        doc_id=request.doc_id,
        text=question.text,
        image=question.image,
        facts=question.facts,
        target=", ".join(map(str, target)) if isinstance(target, list | tuple) else str(target),
        sampling=request.sampling,
        judge=lambda text: _judged(task, row, request, question.text, text),
        picture=image_digest(question.image),
    )


def _judged(task: Any, row: Mapping[str, Any], request: Request, question: str, text: str) -> Verdict:
    """Score a text as the evaluation does."""
    reply = normalise(text, question)
    try:
        with _quiet():
            metrics = task.process_results(row, [_filtered(task, reply.text, row)])
    except Exception as error:  # noqa: BLE001 - somebody else's scorer may fail in any way
        raise LareError(
            f"the scorer of {request.task} fails on row {request.doc_id} ({type(error).__name__}: {error})"
        ) from error
    score = score_of(metrics)
    if score is None:
        numbers = [value for value in metrics.values() if isinstance(value, bool | int | float)]
        if not numbers:
            raise LareError(
                f"the scorer of {request.task} gives no score of a single answer ({', '.join(metrics)}); add a metric "
                "`score` (1 right, 0 wrong) to its process_results"
            )
        score = float(numbers[0])
    return Verdict(reply.text, score, reply.readable)


def _filtered(task: Any, reply: str, row: Mapping[str, Any]) -> str:
    """A reply after the task's first pipeline of filters."""
    answers: Any = [[reply]]
    for step in task._filters[0].filters if task._filters else ():  # noqa: SLF001 - lmms-eval has no other way in
        answers = list(step.apply(answers, [row]))
    found = answers[0]
    return str(found[0] if isinstance(found, list) and found else found)
