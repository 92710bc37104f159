"""Pictures of the mini tasks' questions, for sample tables: drawn again, since a trace does not keep them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from analysis.report.document import Picture
from analysis.showing import picture

__all__ = ["mini_pictures"]

PREFIX = "lare_mini_"


def mini_pictures(wanted: Iterable[tuple[str, int, str | None]]) -> Mapping[tuple[str, int], Picture]:
    """Pictures of questions of the embedded world; none for questions of other tasks.

    Args:
        wanted: Task, question number, and the scene that the trace names; a picture of another scene is left out (the
            trace is then of another version of the task).

    Returns:
        Task and question number to picture.
    """
    from lare.world.benchmark import make_task

    scenes = {(task, doc): scene for task, doc, scene in wanted if task.startswith(PREFIX)}
    found = {}
    for task in sorted({task for task, _ in scenes}):
        name = task.removeprefix(PREFIX)
        for doc, row in enumerate(make_task(name)):
            key = (task, doc)
            if key in scenes and row["scene"] == scenes[key]:
                found[key] = picture(row["image"], f"The picture of question {doc} of {task}")
    return found
