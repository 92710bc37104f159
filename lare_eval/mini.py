"""The `lare_mini` and `lare_mini2` tasks: stand-ins in the formats of five benchmarks, made from the embedded world.

They exist so that everything can be run and measured without any download. A result on ``lare_mini_pope`` says
something about the embedded world and nothing about POPE; hence "mini" in every name.

Questions come from `lare.embedded.world.benchmark`, prompts from `lare.embedded.world.prompts` (what the
embedded model is trained on), and scores from lmms-eval's own functions for the benchmark that a task imitates.
Beside the benchmark's own metrics every task has ``score``, the share of right answers, which lmms-eval's efficiency
table, its paired comparison (``--baseline``) and the group's mean are computed from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import datasets
from lmms_eval.api.task import ConfigurableMessagesTask
from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer
from lmms_eval.tasks.mmbench.en_utils import mmbench_evaluator, mmbench_process_results
from lmms_eval.tasks.mmstar.utils import mmstar_process_results
from lmms_eval.tasks.mmvp.utils import mmvp_process_results
from lmms_eval.tasks.pope.utils import pope_process_results
from lmms_eval.tasks.scienceqa.utils import sqa_process_results
from PIL import Image

from lare.embedded.world.prompts import task_prompt

__all__ = [
    "MiniTask",
    "mmbench_accuracy",
    "mmbench_results",
    "mmbench_text",
    "mmstar_results",
    "mmstar_text",
    "mmvp_results",
    "mmvp_text",
    "picture",
    "pope_results",
    "pope_text",
    "scienceqa_results",
    "scienceqa_text",
]

Row = Mapping[str, Any]
Text = Callable[..., str]


class MiniTask(ConfigurableMessagesTask):  # type: ignore[misc]
    """An lmms-eval chat task whose rows are made instead of downloaded.

    Args:
        config: The task file's content; ``dataset_name`` is the benchmark to imitate.
        model_name: Name of the model that will answer.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, model_name: str | None = None) -> None:
        super().__init__(
            config={name: value for name, value in (config or {}).items() if name != "class"}, model_name=model_name
        )

    def download(self, dataset_kwargs: Any = None) -> None:
        """Make the rows."""
        split = str(self.config.test_split)
        rows = mini_rows(str(self.config.dataset_name), split, int((self.config.metadata or {}).get("world", 1)))
        self.dataset = datasets.DatasetDict({split: rows})
        self.dataset_no_image = datasets.DatasetDict({split: rows.remove_columns("image")})


@cache
def mini_rows(name: str, split: str = "test", version: int = 1) -> datasets.Dataset:
    """The rows of one stand-in; columns that lmms-eval has no use for are kept as JSON text, for the trace."""
    from lare.embedded.world.benchmark import GROUPS, make_task

    rows = make_task(name, split, version=version)
    own = next(({"task": f"{group}_{name}"} for group, of in GROUPS.items() if of == (version, split)), {})
    return datasets.Dataset.from_list(
        [{key: _column(key, value) for key, value in (row | own).items()} for row in rows]
    )


def _column(key: str, value: Any) -> Any:
    scored = key == "choices" or value is None or isinstance(value, (str, int, float, Image.Image))
    return value if scored else json.dumps(value)


def picture(row: Row) -> list[Image.Image]:
    """The one picture of a row."""
    return [row["image"].convert("RGB")]


def _text(name: str) -> Text:
    def text(row: Row, lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> str:
        return str(task_prompt(name, row))

    text.__doc__ = f"Prompt of a lare_mini_{name} row."
    return text


mmbench_text = _text("mmbench")
mmstar_text = _text("mmstar")
mmvp_text = _text("mmvp")
scienceqa_text = _text("scienceqa")
pope_text = _text("pope")


def mmbench_results(row: Row, results: list[str]) -> dict[str, Any]:
    """MMBench's record of an answer."""
    record = mmbench_process_results(row, results)["gpt_eval_score"]
    letter = extract_mcq_answer(results[0], choices=list("ABCD"))
    return {"mmbench_accuracy": record, "score": float(letter == row["answer"])}


def mmbench_accuracy(records: list[dict[str, Any]]) -> float:
    """MMBench's circular accuracy by rules alone; its evaluator's other mode asks a paid service, this one never."""
    return float(mmbench_evaluator.eval_result(records, eval_method="static")[0])


def mmstar_results(row: Row, results: list[str]) -> dict[str, Any]:
    """MMStar's record of an answer."""
    scores: dict[str, Any] = mmstar_process_results(row, results)
    return {**scores, "score": scores["average"]["score"]}


def mmvp_results(row: Row, results: list[str]) -> dict[str, Any]:
    """MMVP's record of an answer."""
    scores: dict[str, Any] = mmvp_process_results(row, results)
    return {**scores, "score": float(scores["mmvp_accuracy"]["is_correct"])}


def scienceqa_results(row: Row, results: list[str]) -> dict[str, Any]:
    """ScienceQA's record of an answer."""
    scores: dict[str, Any] = sqa_process_results(row, results)
    return {**scores, "score": scores["exact_match"]}


def pope_results(row: Row, results: list[str]) -> dict[str, Any]:
    """POPE's record of an answer."""
    scores: dict[str, Any] = pope_process_results(row, results)
    return {**scores, "score": scores["pope_accuracy"]["score"]}
