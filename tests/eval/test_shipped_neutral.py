"""The checkpoint that had no boxes: its windows find what a step needs, and its answers need them."""

from pathlib import Path

import pytest

from lare.embedded.world.benchmark import make_task
from lare.loading import resolve_checkpoint
from lare.methods import load_method
from lare.methods.base import Sampling

QUESTIONS = 120


@pytest.fixture(scope="module")
def rows():
    """Questions of two hops or more, with options, validation scenes."""
    made = make_task("mmstar", "validation", n=2 * QUESTIONS, version=2)
    return [row for row in made if row["hops"] >= 2][:QUESTIONS]


def right(rows, **options):
    method = load_method("lare", resolve_checkpoint("neutral"), "cpu", **options)
    answers = []
    for first in range(0, len(rows), 40):
        part = rows[first : first + 40]
        answers += method.answer([row["image"] for row in part], [row["question"] for row in part], Sampling())
    return sum(one.text.rstrip(".").rpartition(": ")[2] == _option(row) for one, row in zip(answers, rows, strict=True))


def _option(row):
    """The right option's words."""
    options = dict(part.split(": ") for part in row["question"].rpartition("Options: ")[2].split(", "))
    return options[row["answer"]]


def test_answers_to_questions_of_several_hops_need_where_it_looks(rows):
    own, random = right(rows, iterations=4), right(rows, iterations=4, window_mode="random")
    assert own >= 0.65 * len(rows) and own - random >= 0.08 * len(rows), (own, random, len(rows))


def test_its_card_names_how_it_was_made():
    card = (Path(resolve_checkpoint("neutral")) / "README.md").read_text(encoding="utf-8")
    assert "--arms lare --starts neutral2-1" in card and "Box supervision" not in card
    assert "## Validation results" in card and "## Test results" not in card
