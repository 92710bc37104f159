"""``python -m lare_eval.clock REQUEST.json``: milliseconds an answer at batch 1 and 16, for ``lare experiments time``.

The request names ``rows`` (``name``, ``checkpoint``, ``method``, ``options``), ``group``, ``questions``, ``rounds`` and
``out``, the file that is written. Trained models answer questions of the group, vision encoder and all; what is read
from disk is alike for all and not timed. Rows take turns, in both orders, on one thread, and the median over rounds
counts, so that a slow minute of the machine falls on all of them alike.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lare.commands import request_command
from lare.errors import LareError
from lare.files import save_text
from lare_eval import TASKS

if TYPE_CHECKING:
    from PIL.Image import Image

    from lare.methods.base import Method

__all__ = ["load_questions", "main", "milliseconds"]

BATCHES = (1, 16)
MAX_NEW_TOKENS = 128


def load_questions(group: str, count: int) -> tuple[list[Image], list[str]]:
    """The first questions of a group's tasks, in equal parts: pictures and texts.

    Args:
        group: lmms-eval's name.
        count: How many.

    Raises:
        LareError: If there is no such group.
    """
    from lmms_eval.tasks import TaskManager, get_task_dict

    try:
        found = get_task_dict([group], TaskManager("ERROR", include_defaults=False, include_path=[str(TASKS)]))
    except (KeyError, ValueError) as error:
        raise LareError(f"there is no group of tasks {group!r} ({error}); check tasks in the grid") from None
    tasks = list(_tasks(found))
    images, texts = [], []
    for task in tasks:
        for row in task.test_docs().select(range(-(-count // len(tasks)))):
            images.append(task.doc_to_visual(row)[0])
            texts.append(str(task.doc_to_text(row)))
    return images[:count], texts[:count]


def _tasks(found: Mapping[Any, Any]) -> list[Any]:
    """Tasks of nested groups."""
    tasks: list[Any] = []
    for one in found.values():
        tasks += _tasks(one) if isinstance(one, Mapping) else [one]
    return tasks


def milliseconds(
    methods: Mapping[str, Method], images: Sequence[Image], texts: Sequence[str], rounds: int = 7
) -> dict[str, dict[str, float]]:
    """Median over rounds, ``batch1`` and ``batch16``, by name.

    Args:
        methods: What answers.
        images: Pictures.
        texts: Questions; a quarter of them is asked at batch 1.
        rounds: Rounds, beside one that warms up.
    """
    import torch

    from lare.progress import progress

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    spent: dict[str, dict[int, list[float]]] = {name: {size: [] for size in BATCHES} for name in methods}
    for number in progress(range(rounds + 1), desc="timed", unit="round"):
        for name in methods if number % 2 else reversed(list(methods)):
            for size in BATCHES:
                seconds = _seconds(methods[name], images, texts, size)
                if number:  # the first round warms up
                    spent[name][size].append(seconds)
    torch.set_num_threads(threads)
    return {
        name: {f"batch{size}": 1000 * float(np.median(found)) for size, found in sizes.items()}
        for name, sizes in spent.items()
    }


def _seconds(method: Method, images: Sequence[Image], texts: Sequence[str], size: int) -> float:
    """Seconds an answer."""
    from lare.methods.base import Sampling

    count = len(texts) if size > 1 else max(1, len(texts) // 4)
    _settle(method)
    started = time.perf_counter()
    for first in range(0, count, size):
        part = slice(first, min(first + size, count))
        method.answer(images[part], texts[part], Sampling(max_new_tokens=MAX_NEW_TOKENS))
    _settle(method)
    return (time.perf_counter() - started) / count


def _settle(method: Method) -> None:
    """Wait for what a GPU still does."""
    import torch

    if method.model.device.type == "cuda":
        torch.cuda.synchronize(method.model.device)


def _time(request: Mapping[str, Any]) -> None:
    """Time what a request names, and write it."""
    from lare.methods import load_method

    methods = {one["name"]: load_method(one["method"], one["checkpoint"], **one["options"]) for one in request["rows"]}
    images, texts = load_questions(request["group"], request["questions"])
    found = milliseconds(methods, images, texts, request["rounds"])
    save_text(Path(request["out"]), json.dumps(found, indent=1))


main = request_command(_time, __doc__)
"""Run from the command line; returns the exit code."""


if __name__ == "__main__":
    sys.exit(main())
