"""Asking from inside an analysis scores as the evaluation does, whatever was written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from analysis.shared.asking import Asker, score
from analysis.shared.questions import Question, load_questions
from lare.embedded.world.benchmark import TASKS, make_task
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
    rows = make_task(task)[:11]
    assert [one.text for one in questions] == [task_prompt(task, row) for row in rows]
    seen = set()
    for question, row in zip(questions, rows, strict=True):
        for text in [*TEXTS, question.target, f"It is so. Answer: {question.target.lower()}"]:
            wanted = float(results(row, [normalise(text, task_prompt(task, row)).text])["score"])
            assert float(score(text, question)[0]) == wanted, (text, question.target)
            seen.add(wanted)
    assert seen == {0.0, 1.0}


def test_unreadable_is_wrong_and_told() -> None:
    image = Image.new("RGB", (8, 8))
    question = Question("t", 0, "What?\nA. cat\nB. dog", "A", "s", image)
    assert score("a horse", question) == (False, False)
    assert score("Answer: cat (A)", question) == (True, True)


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
