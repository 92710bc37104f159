"""The exact prompt text of each mini task: one source for training, the benchmark and its lmms-eval tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LETTERS = "ABCDEFGH"
LETTER_PROMPT = "\nAnswer with the letter."
POST_PROMPTS: dict[str, str] = {
    "mmbench": LETTER_PROMPT,
    "mmstar": LETTER_PROMPT,
    "mmvp": LETTER_PROMPT,
    "scienceqa": LETTER_PROMPT,
    "pope": "\nAnswer yes or no.",
}
"""What each task appends to its question (the tasks' YAML files carry the same text)."""


def option_lines(choices: Sequence[str]) -> str:
    """`A. cat` lines, each led by a newline."""
    return "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def inline_options(choices: Sequence[str]) -> str:
    """MMStar's way: `Options: A: cat, B: dog`, led by a newline."""
    return "\nOptions: " + ", ".join(f"{letter}: {c}" for letter, c in zip(LETTERS, choices, strict=False))


def _given(value: Any) -> str:
    """The text of a column, empty when the column holds nothing (None, NaN, "nan")."""
    text = "" if value is None else str(value).strip()
    return "" if text.lower() == "nan" else text


def _mmvp_choices(options: str) -> list[str]:
    first, second = options.removeprefix("(a) ").split(" (b) ", 1)
    return [first, second]


def task_prompt(task: str, row: Mapping[str, Any]) -> str:
    """The prompt of one row, in the columns of `lare.embedded.world.benchmark.make_task`.

    Raises:
        KeyError: unknown task, or a column is missing.
    """
    post = POST_PROMPTS[task]
    if task == "mmbench":
        hint = _given(row.get("hint"))
        choices = [_given(row[letter]) for letter in "ABCD" if _given(row.get(letter))]
        return (f"{hint} " if hint else "") + str(row["question"]) + option_lines(choices) + post
    if task == "mmstar":
        return str(row["question"]).strip() + post
    if task == "mmvp":
        return str(row["Question"]) + option_lines(_mmvp_choices(str(row["Options"]))) + post
    if task == "scienceqa":
        hint = _given(row.get("hint"))
        return (f"Context: {hint}\n" if hint else "") + str(row["question"]) + option_lines(row["choices"]) + post
    return str(row["question"]).strip() + post
