"""A small task of lmms-eval that no drawn world knows: 20 pictures of coloured squares, three questions about each."""

from __future__ import annotations

import argparse
import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

PICTURES = 20
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 220), "yellow": (230, 210, 40)}
SIDE = 120

FUNCTIONS = """
def image(doc):
    return [doc["image"].convert("RGB")]

def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def results(doc, results):
    return {"score": float(results[0].strip().lower() == doc["answer"].lower())}
"""

CONFIG = """
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_visual: !function functions.image
doc_to_text: !function functions.text
doc_to_target: answer
process_results: !function functions.results
generation_kwargs:
  max_new_tokens: 24
  temperature: 0
  do_sample: false
metric_list:
  - metric: score
    aggregation: mean
    higher_is_better: true
"""

COLOUR, SIDE_OF, IS_RED = (
    "What colour is the square?\nA. red\nB. green\nC. blue\nD. yellow",
    "On which side is the square?\nA. left\nB. right",
    "Is the square red? Answer with yes or no.",
)


def rows(boxes: bool = True, rationales: bool = True) -> list[dict[str, Any]]:
    """Three questions about each picture; the same three about all."""
    rng, made = np.random.default_rng(0), []
    for number in range(PICTURES):
        name = list(COLOURS)[number % 4]
        left, top = (int(one) for one in rng.integers(0, SIDE - 40, 2))
        pixels = np.full((SIDE, SIDE, 3), 235, np.uint8)
        pixels[top : top + 40, left : left + 40] = COLOURS[name]
        side = "left" if left + 20 < SIDE / 2 else "right"
        told = {
            COLOUR: ("ABCD"[number % 4], f"The square is {name}."),
            SIDE_OF: ("A" if side == "left" else "B", f"The square of {name} is at the {side}, at {left}."),
            IS_RED: ("yes" if name == "red" else "no", f"Picture {number} shows a {name} square."),
        }
        for question, (answer, rationale) in told.items():
            row: dict[str, Any] = {"image": Image.fromarray(pixels), "question": question, "answer": answer}
            row |= {"boxes": json.dumps([[left, top, left + 40, top + 40]])} if boxes else {}
            made.append(row | ({"rationale": rationale} if rationales else {}))
    return made


def write(folder: Path, name: str = "own_squares", boxes: bool = True, rationales: bool = True) -> Path:
    """Write task file, its functions and its data; returns the folder for ``--include-path``."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{name}.parquet"
    table = datasets.Dataset.from_list(rows(boxes, rationales))
    table.cast_column("image", datasets.Image()).to_parquet(str(data))
    (folder / "functions.py").write_text(FUNCTIONS, encoding="utf-8")
    (folder / f"{name}.yaml").write_text(CONFIG.format(name=name, data=data), encoding="utf-8")
    return folder


def traces(folder: Path, out: Path, method: Any, task: str = "own_squares") -> Path:
    """Evaluate a method on the task and keep its trace, as ``lare eval --model_args trace=`` does."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from lare_eval.adapter import LareAdapter
    from lare_eval.passes import own_bar

    with redirect_stdout(io.StringIO()), own_bar(lambda _: None):
        simple_evaluate(
            model=LareAdapter(model=method, batch_size=32, trace=str(out), progress=lambda _: None),
            tasks=[task],
            task_manager=TaskManager("ERROR", include_defaults=False, include_path=[str(folder)]),
            bootstrap_iters=0,
            verbosity="ERROR",
            cli_args=argparse.Namespace(output_path=None, process_with_media=False, reasoning_tags=None),
        )
    return out
