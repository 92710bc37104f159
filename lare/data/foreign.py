"""Two formats of other projects, as examples of how to add one: NLVR's sentences and PuzzleVQA's puzzles.

Their files are read from a folder that the user names; neither is part of this project.
"""

from __future__ import annotations

from typing import Any

from lare.data.fields import text_field
from lare.data.sample import BadRow, Sample

__all__ = ["parse_nlvr", "parse_puzzlevqa"]


def parse_nlvr(row: Any) -> list[Sample]:
    """Turn an NLVR row (Suhr et al. 2017) into a yes/no sample an image: all of a sentence's images share its label.

    Raises:
        BadRow: If a field is missing or the label is neither "true" nor "false".
    """
    sentence, label, images = text_field(row, "sentence"), text_field(row, "label").lower(), row.get("images")
    if label not in ("true", "false"):
        raise BadRow("unknown_label", f"the label is {label!r}, not 'true' or 'false'")
    if not isinstance(images, list) or not images or not all(isinstance(name, str) and name for name in images):
        raise BadRow("bad_image", "'images' is no list of file names")
    question = f"Is this true of the image? {sentence}\nAnswer with yes or no."
    answer = {"true": "yes", "false": "no"}[label]
    name = str(row.get("identifier", ""))
    return [Sample(f"{name}#{i}", question, answer, image=image) for i, image in enumerate(images)]


def parse_puzzlevqa(row: Any) -> list[Sample]:
    """Turn a PuzzleVQA row (Chia et al. 2024) into a multiple-choice sample with its rationale.

    Raises:
        BadRow: If a field is missing or the answer is none of the options.
    """
    stem, answer, image = (text_field(row, name) for name in ("question", "answer", "image"))
    options = row.get("options")
    if not isinstance(options, list) or len(options) < 2:
        raise BadRow("bad_options", "'options' is no list of at least two")
    words = [str(option) for option in options]
    if answer not in words:
        raise BadRow("answer_no_option", f"the answer {answer!r} is none of the options")
    listed = ", ".join(f"{chr(65 + i)}: {word}" for i, word in enumerate(words))
    rationale = " ".join(text_field(row, name) for name in ("caption", "explanation", "deduction"))
    return [Sample(image, f"{stem}\nOptions: {listed}", chr(65 + words.index(answer)), rationale, image)]
