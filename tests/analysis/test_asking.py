"""Asking from inside an analysis scores as the evaluation does, whatever was written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from analysis.shared.asking import Asker, mark
from analysis.shared.questions import Question, load_questions, questions_of_rows
from lare.embedded.world.benchmark import TASKS, make_task, stand_in
from lare.embedded.world.prompts import task_prompt
from lare.methods import load_method
from lare.methods.base import Sampling
from lare_eval import mini
from lare_eval.normalise import normalise

TEXTS = [
    "A",
    "B",
    "(b)",
    "Answer: dog (C)",
    "yes",
    "No.",
    "Answer: no",
    "",
    "the cup is red. Answer: E",
    "d",
    "AB",
    "(d)",
]


@pytest.mark.parametrize("task", TASKS)
def test_scores_are_the_evaluations(task: str) -> None:
    """On the rows as they are, against the functions that the task files name."""
    results: Any = getattr(mini, f"{task}_results")
    questions = load_questions(limit=11, tasks=(task,))
    rows = make_task(task, n=12)[:11]
    assert [one.text for one in questions] == [task_prompt(task, row) for row in rows]
    seen = set()
    for question, row in zip(questions, rows, strict=True):
        for text in [*TEXTS, question.target, f"It is so. Answer: {question.target.lower()}"]:
            wanted = float(results(row, [normalise(text, task_prompt(task, row)).text])["score"])
            assert float(mark(text, question)[1]) == wanted, (text, question.target)
            seen.add(wanted)
    assert seen == {0.0, 1.0}


def test_rows_of_every_group_are_found_under_its_own_name() -> None:
    """As traces name them: those of the validation split and of version 2 too."""
    wanted = [("lare_mini_pope", 1), ("lare_mini_val_pope", 1), ("lare_mini_val_mmvp", 0), ("lare_mini2_val_pope", 2)]
    found, problems = questions_of_rows(wanted)
    assert sorted(found) == sorted(wanted) and not problems
    for (task, number), question in found.items():
        known = stand_in(task)
        assert known is not None
        row = make_task(known.name, known.split, n=4, version=known.version)[number]
        assert (question.task, question.text) == (task, task_prompt(known.name, row))
        assert question.scene == row["scene"] and question.scene.startswith(known.split)


def test_unreadable_is_wrong_and_told() -> None:
    image = Image.new("RGB", (8, 8))
    question = Question("t", 0, "What?\nA. cat\nB. dog", "A", "s", image)
    assert mark("a horse", question)[1:] == (False, False)
    assert mark("Answer: cat (A)", question)[1:] == (True, True)


def test_answers_are_the_methods() -> None:
    """Cached features, batches by length and own decoding give what the method that evaluations use gives."""
    questions = load_questions(limit=6)
    asker = Asker(questions, batch=7, quiet=True)
    mine = asker.ask("own", keep_latents=True)
    method = load_method("lare")
    sampling = Sampling(max_new_tokens=128)
    theirs = method.answer([one.image for one in questions], [one.text for one in questions], sampling, trace=True)
    assert mine.texts == [one.text for one in theirs]
    assert mine.tokens.tolist() == [one.output_tokens for one in theirs]
    assert mine.steps.tolist() == [one.latent_steps for one in theirs]
    assert mine.latents is not None
    np.testing.assert_allclose(mine.latents.numpy(), np.stack([one.arrays["latents"] for one in theirs]), atol=1e-4)
    assert len(set(mine.texts)) > 10
