"""Replies are reduced to what the real scorers read, by the question and the reply alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lare_eval.normalise import final_answer, normalise, options_of

LINES = "What is right of the cat?\nA. dog\nB. red car\nC. cup\nAnswer with the letter."
INLINE = "What is it?\nOptions: A: dog, B: red car, C: 1.5, D: none of A or B\nAnswer with the letter."
LOWER = "Which?\n(a) dog\n(b) car"
POPE = "Is there a dog in the image?\nAnswer yes or no."


def test_options_are_read_in_every_layout():
    assert options_of(LINES) == {"A": "dog", "B": "red car", "C": "cup"}
    assert list(options_of(INLINE)) == ["A", "B", "C", "D"]
    assert options_of(INLINE)["B"] == "red car"
    assert options_of(LOWER) == {"a": "dog", "b": "car"}
    assert options_of("There are several options:\nA. x\nB. y") == {"A": "x", "B": "y"}
    assert options_of("Context: A. Smith drew it.\nWho?\nA. Ann\nB. Bob") == {"A": "Ann", "B": "Bob"}
    for question in (POPE, "", "A. Smith painted what?", "Compare B. dog and C. cat"):
        assert options_of(question) == {}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), ("b", "B"), ("B.", "B"), ("(B)", "B"), ("B. red car", "B"), ("red car", "B"), ("Red car.", "B"),
        ("The cat is there. Answer: red car (B)", "B"), ("Answer: A\nNo. Answer: B", "B"), ("Answer: (B).", "B"),
        ("The answer is B.", "B"), ("option (b)", "B"), ("Answer: dog (C)", "C"),
    ],
)  # fmt: skip
def test_letters(text, letter):
    assert normalise(text, LINES) == (letter, True)


def test_case_follows_the_question():
    assert normalise("Answer: dog (A)", LOWER).text == "a"


@pytest.mark.parametrize(
    "text", ["", "a big dog", "A cat sat", "I do not know", "Answer:", "Z", "Answer: (Z)", "The answer is a cat"]
)
def test_unreadable_replies_are_wrong_and_counted(text):
    assert normalise(text, LINES) == ("D", False)
    assert normalise(text, INLINE) == ("E", False)


@pytest.mark.parametrize("text", ["yes", "Yes.", "YES!", "It is there. Answer: yes", "Answer: Yes, there is one."])
def test_yes(text):
    assert normalise(text, POPE) == ("yes", True)


def test_yes_no_only_where_asked():
    assert normalise("no parking", "What does the sign say?") == ("no parking", True)
    assert normalise("No.", "What does the sign say?") == ("no", True)
    assert normalise("no, it is not", "Is it red?") == ("no", True)
    assert normalise("nothing", "Is it red?") == ("nothing", True)


def test_open_answers():
    assert normalise("It stands there. Answer: two cups.", "How many?") == ("two cups", True)
    assert final_answer("no mark at all") == "no mark at all"
    assert final_answer("<answer>no</answer> <reason>so</reason><answer> yes </answer>") == "yes"
    assert final_answer(r"It is \boxed{A}, no: \boxed{B}.") == "B"
    assert (
        final_answer("<answer>A</answer> Answer: B") == "B"
        and final_answer("<answer> </answer>") == "<answer> </answer>"
    )


@given(st.text(max_size=60), st.sampled_from([LINES, INLINE, LOWER, POPE, "", "What?"]))
def test_any_text_gives_a_reply(text, question):
    reply = normalise(text, question)
    if options_of(question):
        assert len(reply.text) == 1
    assert isinstance(reply.text, str)


def test_real_scorers_read_the_replies():
    pytest.importorskip("lmms_eval")
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer
    from lmms_eval.tasks.pope.utils import pope_process_results

    doc = {"answer": "yes", "question_id": "1"}
    assert pope_process_results(doc, [normalise("So. Answer: Yes.", POPE).text])["pope_accuracy"]["score"] == 1.0
    assert extract_mcq_answer(normalise("Answer: red car (B)", INLINE).text, choices=list("ABCD")) == "B"
    assert extract_mcq_answer(normalise("A dog?", INLINE).text, choices=list("ABCD")) == ""
