"""Captioned photographs: captions to write, and questions that captions can answer.

A row is ``{"image", "captions": [...]}``, as of Flickr8k (Hodosh et al. 2013). Its families:

- ``caption``: each caption as the answer to a request to describe the image.
- ``presence_random``, ``presence_popular``, ``presence_adversarial``: POPE's yes-no questions (Li et al. 2023). As many
  are answered yes, about things that a caption names, as no, about things that none of the image's captions names: any,
  those named most often, those named most often together with what is there.
- ``choice``: which of four things is there.

The rationale of the questions is what is seen, a caption. How often things are named is counted over the train split
alone. The file is read from a folder that the user names and is no part of this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from lare.data.fields import image_field, list_field
from lare.data.rows import read_rows
from lare.data.sample import BadRow, Sample
from lare.data.splits import split_of
from lare.data.things import Common, Named, named_in, phrase

__all__ = ["CAPTION_FAMILIES", "Captions", "captions_of"]

CAPTION_FAMILIES = ("caption", "presence_random", "presence_popular", "presence_adversarial", "choice")
"""Question families."""

_MOST = 3  # questions of each answer, as in POPE
_OPTIONS = 4
_DESCRIBE = "Describe the image in one sentence."


class Captions:
    """Turns rows into samples.

    Args:
        common: How often things are named; None leaves out the families that are chosen by it.
    """

    def __init__(self, common: Common | None = None) -> None:
        self.common = common

    def __call__(self, row: Any) -> list[Sample]:
        """Samples of one image; what is drawn depends on the image's name alone.

        Raises:
            BadRow: If a field is missing or a caption is no text.
        """
        image, captions = image_field(row), _captions(row)
        samples = [
            Sample(f"{image}#caption{number}", _DESCRIBE, caption, image=image, family="caption")
            for number, caption in enumerate(captions)
        ]
        named, random = named_in(captions), Random(f"captions {image}")
        yes = random.sample(named.there, min(_MOST, len(named.there)))
        for family, absent in self._negatives(named, random).items():
            for thing, answer in [(one, "yes") for one in yes] + [(one, "no") for one in absent[: len(yes)]]:
                samples.append(_presence(image, captions, family, thing, answer))
        return [*samples, *self._choice(image, captions, named, random)]

    def _negatives(self, named: Named, random: Random) -> dict[str, list[str]]:
        """Things that are not there by family, in the order in which they are asked about."""
        found = {"presence_random": random.sample(named.absent, len(named.absent))}
        if self.common is not None:
            found["presence_popular"] = self.common.popular(named.absent)
            found["presence_adversarial"] = self.common.adversarial(named.absent, named.there)
        least = min(_MOST, len(named.there))
        return {family: absent for family, absent in found.items() if len(absent) >= least}

    def _choice(self, image: str, captions: Sequence[str], named: Named, random: Random) -> list[Sample]:
        """One question; a thing is offered as often wrongly as rightly, so that its name tells little."""
        if self.common is None or not named.there:
            return []
        there, offered = random.choice(named.there), list[str]()
        absent = [name for name in named.absent if self.common.alone[name]]
        while absent and len(offered) < _OPTIONS - 1:
            offered += random.choices(absent, [self.common.odds(name) for name in absent])
            absent.remove(offered[-1])
        if len(offered) < _OPTIONS - 1:
            return []
        options = random.sample([there, *offered], _OPTIONS)
        listed = "\n".join(f"{chr(65 + number)}. {option}" for number, option in enumerate(options))
        question = f"Which of these is in the image?\n{listed}\nAnswer with the letter."
        letter = chr(65 + options.index(there))
        told = _told(captions, there)
        return [Sample(f"{image}#choice", question, letter, told, image, family="choice", hops=1)]


def captions_of(path: Path) -> Captions:
    """The reader of a file: its train split is read once before, to count what is named how often.

    Args:
        path: The file.

    Raises:
        LareError: If it can't be read.
    """
    images = []
    for row in read_rows(path):
        try:
            if split_of(image_field(row)) == "train":
                images.append(named_in(_captions(row)))
        except BadRow:
            continue  # counted when the row is read for its samples
    return Captions(Common(images))


def _captions(row: Any) -> list[str]:
    found = [_plain(one) for one in list_field(row, "captions")]
    kept = list(dict.fromkeys(one for one in found if one))
    if not kept:
        raise BadRow("missing_field", "the row has no caption with words")
    return kept


def _plain(caption: Any) -> str:
    """A caption with one full stop, and no space before it."""
    if not isinstance(caption, str):
        raise BadRow("bad_caption", f"a caption is a {type(caption).__name__}, not a text")
    text = " ".join(caption.split()).rstrip(" .")
    return f"{text}." if text else ""


def _presence(image: str, captions: Sequence[str], family: str, thing: str, answer: str) -> Sample:
    question = f"Is there {phrase(thing)} in the image?\nAnswer with yes or no."
    told = _told(captions, thing)
    return Sample(f"{image}#{family} {thing}", question, answer, told, image, family=family, hops=1)


def _told(captions: Sequence[str], thing: str) -> str:
    """The first caption that names a thing, else the first."""
    return next((one for one in captions if thing in named_in([one]).there), captions[0])
