"""Turns what a model wrote into what a task's scorer reads: a bare letter, a bare yes or no, or the final answer.

Scorers are strict and differ: POPE compares the whole lower-cased reply with "yes" and "no" ("yes." scores zero),
ScienceQA wants the letter alone, and MMBench asks a paid service about a reply that it can't read and then draws a
letter at random. A reasoning model writes "The cup is left of the cat. Answer: dog (B)". So the reply is reduced here,
by fixed rules that look at the question and the reply only, never at the right answer; the trace keeps the full text.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["ANSWER_MARK", "Reply", "final_answer", "normalise", "options_of"]

ANSWER_MARK = "Answer:"
"""What precedes the final answer in a model's text; the last one counts."""

_LINE = re.compile(r"^[ \t]*\(?([A-Za-z])[.):][ \t]+(\S.*?)[ \t]*$", re.MULTILINE)
_INLINE = re.compile(r"(?:^|[\s,;])\(?([A-Za-z])[.):]\s*(.+?)(?=[\s,;]+\(?[A-Za-z][.):]\s|\s*$)")
_BARE = re.compile(r"\(?([A-Za-z])\)?[.,:;!]?")
_TRAILING = re.compile(r"\(([A-Za-z])\)[.,:;!]?$")
_LEADING = re.compile(r"\(?([A-Za-z])[.):](?:\s|$)")
_PHRASE = re.compile(r"\b(?i:answer|option|choice)\s+(?:is\s+)?(?:(?=\()\(|(?=[A-Z]))([A-Za-z])(?:[.,:)\s]|$)")
_ENCLOSED = re.compile(r"<answer>\s*(\S.*?)\s*</answer>|\\boxed\{([^{}]+)\}", re.DOTALL)  # as other projects' models do
_YES_NO = re.compile(r"(yes|no)\b", re.IGNORECASE)
_ASKS_YES_NO = re.compile(
    r"yes or no|^\W*(?:is|are|was|were|does|do|did|has|have|can|could|will|would|should)\b", re.IGNORECASE
)


class Reply(NamedTuple):
    """A reduced reply.

    Attributes:
        text: What the scorer gets.
        readable: False where the question shows options and none of them could be read from the model's text.
    """

    text: str
    readable: bool


def final_answer(text: str) -> str:
    r"""What follows the last "Answer:"; without one what the last ``<answer>`` or ``\boxed{}`` encloses; else all."""
    _, mark, rest = text.rpartition(ANSWER_MARK)
    if not mark and (enclosed := _ENCLOSED.findall(text)):
        rest = next(one for one in enclosed[-1] if one)
    return rest.strip()


def options_of(question: str) -> dict[str, str]:
    """Options that a question shows, letter to text; empty for a question without options.

    Understands one option a line ("A. cat", "(a) cat", "A) cat", "A: cat") and MMStar's single line
    ("Options: A: cat, B: dog"). Letters must run on from A, so that a sentence with an initial is no option list.
    """
    found = _running(_LINE.findall(question))
    if len(found) < 2:
        _, mark, rest = question.rpartition("Options:")
        found = _running(_INLINE.findall(rest.strip().split("\n")[0])) if mark else {}
    return found if len(found) >= 2 else {}


def _running(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """The last run of pairs whose letters go A, B, C, ..."""
    run: dict[str, str] = {}
    for letter, text in pairs:
        if letter in "Aa":
            run = {letter: text}
        elif run and ord(letter) == ord(list(run)[-1]) + 1:
            run[letter] = text
    return run


def normalise(text: str, question: str) -> Reply:
    """Reduce a model's text to what the scorer of this question reads.

    With options: the letter, in the case the question shows it in. If none can be read, the first letter after those
    shown: it is wrong by construction, as an unreadable reply is, where some scorers would draw a letter at random.
    For a question that asks for yes or no: "yes" or "no". Else: the final answer without its last full stop.

    Args:
        text: Everything the model wrote.
        question: The text that it was asked.
    """
    answer = final_answer(text)
    options = options_of(question)
    if options:
        letter = _letter(answer, options)
        return Reply(letter or chr(ord(list(options)[-1]) + 1), bool(letter))
    yes_no = _YES_NO.match(answer)
    if yes_no and (any(map(_ASKS_YES_NO.search, question.splitlines())) or len(answer.rstrip(".,!")) == yes_no.end()):
        return Reply(yes_no[1].lower(), True)
    return Reply(answer[:-1].rstrip() if answer.endswith(".") else answer, True)


def _letter(answer: str, options: dict[str, str]) -> str:
    """The option that an answer names, or ""."""
    shown = {letter.upper(): letter for letter in options}
    for match in (
        _BARE.fullmatch(answer),
        _TRAILING.search(answer),
        _LEADING.match(answer),
        _PHRASE.search(answer),
    ):
        if match and match[1].upper() in shown:
            return shown[match[1].upper()]
    plain = answer.rstrip(".,!").casefold()
    named = [letter for letter, option in options.items() if option.rstrip(".,!").casefold() == plain]
    return named[0] if len(named) == 1 else ""
