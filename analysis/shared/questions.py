"""Where analyses that ask a model take their questions from: the mini tasks, any lmms-eval task, or given traces.

With no option they are the mini tasks' rows (`lare.embedded.world.benchmark`), made without any download and without
lmms-eval. ``--tasks`` takes those of any task of lmms-eval, ``--include-path`` a folder of own task files, and
``--traces`` the very questions that were answered in given traces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.shared.options import Options, option
from lare.embedded.world.benchmark import SIZES_BY_TASK, TASKS, make_task, stand_in
from lare.embedded.world.prompts import task_prompt
from lare.errors import LareError

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare_eval.task_questions import TaskQuestion, Verdict

__all__ = [
    "MAX_NEW_TOKENS",
    "AskingOptions",
    "Gathered",
    "Question",
    "gather_questions",
    "halves",
    "load_questions",
    "questions_of_rows",
    "stand_ins",
]

MAX_NEW_TOKENS = 128
"""Text tokens of an answer at most, as in the mini tasks' files."""

RATIONALES = ("rationale", "solution", "explanation", "reasoning")
"""Columns of a task's row that may hold the ground-truth reasoning; the first that is there counts."""

LISTED = 3
"""Rows that a warning names one by one."""


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        task: lmms-eval's name of the task, such as "lare_mini_pope".
        doc_id: Number of its row.
        text: What is asked, options included, without the chat template.
        target: The right reply; of the mini tasks a capital letter, or yes or no.
        scene: Its picture's scene; questions of one scene are one cluster.
        image: The picture.
        hops: Facts that the question joins; 0 where nothing says.
        sort: Family of the question.
        max_new_tokens: Text tokens of its answer at most.
        stop: Texts that end its answer.
        rationale: The ground-truth reasoning; empty where there is none.
        boxes: (left, top, right, bottom) of what the question is about, as shares of the picture.
        judge: The task's scorer; None compares the reply with the target.
        difficulty: "easy", "medium" or "hard"; empty where nothing says.
    """

    task: str
    doc_id: int
    text: str
    target: str
    scene: str
    image: Image = field(repr=False, compare=False)
    hops: int = 0
    sort: str = ""
    max_new_tokens: int = MAX_NEW_TOKENS
    stop: tuple[str, ...] = ()
    rationale: str = ""
    boxes: tuple[tuple[float, ...], ...] = ()
    judge: Callable[[str], Verdict] | None = field(default=None, repr=False, compare=False)
    difficulty: str = ""


@dataclass(frozen=True)
class AskingOptions(Options):
    """Options of an analysis that asks a model.

    Attributes:
        checkpoint: LaRe checkpoint; None for the shipped one.
        tasks: Tasks of lmms-eval; none takes the mini tasks.
        include_path: Folder of further task files.
        batch_size: Questions answered at once.
    """

    traces: tuple[str, ...] = option((), "ask the questions of these traces again, of the checkpoint that answered",
                                     metavar="DIR")  # fmt: skip
    seeds: tuple[int, ...] = option((0,), "random seeds; the first is used", metavar="N")
    checkpoint: str | None = option(None, "LaRe checkpoint; default: the shipped one", metavar="PATH")
    tasks: tuple[str, ...] = option((), "tasks of lmms-eval to ask, with their own scorers; default: the mini tasks",
                                    metavar="NAME[,NAME]", split=True)  # fmt: skip
    include_path: str | None = option(None, "folder of further task files, as lmms-eval takes it", metavar="DIR")
    batch_size: int = option(64, "questions answered at once", metavar="N")

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise LareError(f"--batch-size is {self.batch_size}; give at least 1")
        if self.traces and self.tasks:
            raise LareError("--traces name the questions already; leave --tasks out")


@dataclass(frozen=True)
class Gathered:
    """Questions to ask.

    Attributes:
        questions: N of them.
        warnings: What a reader must know of their choice.
        label: Names the choice, for files that are kept; empty for the mini tasks.
        checkpoint: Fingerprint of the weights that answered given traces; empty without.
    """

    questions: list[Question]
    warnings: tuple[str, ...] = ()
    label: str = ""
    checkpoint: str = ""

    def check(self, fingerprint: str) -> None:
        """Refuse weights that are not those of the given traces.

        Raises:
            LareError: If they aren't.
        """
        if self.checkpoint and self.checkpoint != fingerprint:
            raise LareError(
                f"the traces are of the weights {self.checkpoint}, the checkpoint at hand is {fingerprint}; give "
                "theirs with --checkpoint"
            )

    @property
    def told_hops(self) -> bool:
        """Whether anything says how many facts a question joins."""
        return any(one.hops for one in self.questions)


def gather_questions(options: AskingOptions, split: str = "test", limit: int | None = None) -> Gathered:
    """The questions that the options name.

    Args:
        options: `traces`, `tasks`, `include_path`.
        split: Split of the mini tasks: "test" or "validation".
        limit: First rows of each task; None for all.

    Raises:
        LareError: If they can't be had.
    """
    if options.traces:
        return _of_traces(options, limit)
    if not options.tasks:
        return Gathered(load_questions(split, limit))
    from lare_eval.task_questions import task_questions

    found = task_questions(options.tasks, options.include_path, limit)
    questions = [_of_task(one) for one in found.questions]
    return Gathered(questions, _left_out(found.problems), "+".join(options.tasks))


def load_questions(
    split: str = "test", limit: int | None = None, tasks: Sequence[str] = TASKS, version: int = 1
) -> list[Question]:
    """Make the mini tasks' questions.

    Args:
        split: "test" (what evaluations ask) or "validation".
        limit: First rows of each task; None for all.
        tasks: Names without "lare_mini_".
        version: Version of the world.

    Raises:
        LareError: If a task or the split is unknown.
    """
    questions = []
    for task in tasks:
        size = SIZES_BY_TASK[task]  # a task's first rows are the same however many are made; pairs need an even number
        count = size if limit is None else min(limit + limit % 2, size)
        rows = make_task(task, split, count, version=version)[:limit]
        for number, row in enumerate(rows):
            image = row["image"].convert("RGB")
            text, target = task_prompt(task, row), _target(task, row)
            names, facts = (str(row["task"]), number), (int(row["hops"]), str(row["sort"]))
            questions.append(
                Question(
                    *names,
                    text,
                    target,
                    str(row["scene"]),
                    image,
                    *facts,
                    rationale=str(row["rationale"] or ""),
                    difficulty=str(row.get("difficulty", "")),
                )
            )
    return questions


def _target(task: str, row: Mapping[str, Any]) -> str:
    if task == "scienceqa":
        return "ABCDEFGH"[int(row["answer"])]
    if task == "mmvp":
        return str(row["Correct Answer"]).strip("()").upper()
    return str(row["answer"])


def _of_task(one: TaskQuestion) -> Question:
    """A question of lmms-eval as analyses know it."""
    from analysis.shared.boxes import box_shares
    from analysis.shared.traces import cluster_of

    facts = one.facts
    hops = facts.get("hops")
    return Question(
        one.task,
        one.doc_id,
        one.text,
        one.target,
        cluster_of(one.task, one.doc_id, facts) or one.picture,
        one.image,
        hops if isinstance(hops, int) else 0,
        next((str(facts[name]) for name in ("sort", "category") if facts.get(name)), ""),
        one.sampling.max_new_tokens,
        one.sampling.stop,
        next((str(facts[name]) for name in RATIONALES if isinstance(facts.get(name), str) and facts[name]), ""),
        box_shares(facts.get("boxes"), one.image.size, f"{one.task} {one.doc_id}"),
        one.judge,
        str(facts.get("difficulty") or ""),
    )


def _left_out(problems: Sequence[str]) -> tuple[str, ...]:
    if not problems:
        return ()
    more = f" and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
    return (f"{len(problems)} rows could not be asked and are left out: {'; '.join(problems[:LISTED])}{more}",)


def questions_of_rows(
    wanted: Iterable[tuple[str, int]], include_path: str | None = None
) -> tuple[dict[tuple[str, int], Question], list[str]]:
    """Questions by task and row number, as they are now, and why some are not there.

    Args:
        wanted: Tasks and row numbers; the mini tasks' are drawn, others come from lmms-eval.
        include_path: Folder of further task files.

    Raises:
        LareError: If a task is unknown or its data are not at hand.
    """
    rows: dict[str, list[int]] = {}
    for task, number in wanted:
        rows.setdefault(task, []).append(number)
    found: list[Question] = []
    problems: list[str] = []
    foreign: dict[str, list[int]] = {}
    for task, numbers in rows.items():
        known = stand_in(task)
        if known is None:
            foreign[task] = numbers
            continue
        made = load_questions(known.split, max(numbers) + 1, (known.name,), known.version)
        found += [replace(one, task=task) for one in made]
    if foreign:
        from lare_eval.task_questions import task_questions

        others = task_questions(list(foreign), include_path, rows=foreign)
        found += map(_of_task, others.questions)
        problems = others.problems
    chosen = {(task, number) for task, numbers in rows.items() for number in numbers}
    return {(one.task, one.doc_id): one for one in found if (one.task, one.doc_id) in chosen}, problems


def _of_traces(options: AskingOptions, limit: int | None) -> Gathered:
    """The questions that given traces answered; refused where the tasks ask others by now."""
    from analysis.shared.traces import open_traces

    reader = open_traces(options.traces)
    asked = dict(
        zip(zip(reader.column("task"), reader.column("doc_id"), strict=True), reader.column("question"), strict=True)
    )
    keys = sorted(asked)
    if limit is not None:
        keys = [key for key in keys if sum(other[0] == key[0] and other[1] < key[1] for other in keys) < limit]
    found, problems = questions_of_rows(keys, options.include_path)
    other = [key for key in keys if key in found and found[key].text != asked[key]]
    if other:
        raise LareError(
            f"{len(other)} questions of the traces read otherwise in their task by now (first: {other[0][0]} "
            f"{other[0][1]}); evaluate again, or give --tasks in place of --traces"
        )
    gone = [f"{task} {number}" for task, number in keys if (task, number) not in found]
    questions = [found[key] for key in keys if key in found]
    label = hashlib.sha256(repr([(one.task, one.doc_id, one.text) for one in questions]).encode()).hexdigest()[:12]
    return Gathered(questions, _left_out(problems or gone), label, str(reader.column("checkpoint")[0]))


def stand_ins(questions: Sequence[Question]) -> bool:
    """Whether a question is of the stand-ins made from the embedded world, which a report says on its page."""
    return any(stand_in(one.task) for one in questions)


def halves(questions: Sequence[Question], first: int, second: int) -> tuple[list[Question], list[Question]]:
    """Split questions of tasks that have one split into two, no picture on both sides, in shares of two numbers.

    Args:
        questions: All of them.
        first: Size of the first side, compared with the second's.
        second: Size of the second.

    Raises:
        LareError: If there is only one picture.
    """
    names = sorted({one.scene for one in questions})
    if len(names) < 2:
        raise LareError("all questions are about one picture, so they can't be split in two; raise --limit")
    drawn = [names[place] for place in np.random.default_rng(0).permutation(len(names))]
    cut = min(max(round(len(names) * first / (first + second)), 1), len(names) - 1)
    chosen = set(drawn[:cut])
    return [one for one in questions if one.scene in chosen], [one for one in questions if one.scene not in chosen]
