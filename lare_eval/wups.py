"""WUPS, the score of DAQUAR (Malinowski and Fritz 2014): how near an answer is in meaning to the right one.

An answer is a list A of words and the right one a list T:

    WUPS(A, T) = min( prod_{a in A} max_{t in T} WUP(a, t),  prod_{t in T} max_{a in A} WUP(a, t) )

WUP is Wu and Palmer's similarity in WordNet, of the two nouns' most similar senses; below a threshold (0.9) it counts a
tenth. Equal words have 1, and words that WordNet does not know have 0 with all others. WordNet comes from nltk's data
(``nltk.download("wordnet")``) or from Debian's package wordnet-base, both version 3.0, as in the authors' script.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

__all__ = ["DEBIAN", "exact", "items_of", "wordnet", "wup", "wups"]

DEBIAN = Path("/usr/share/wordnet")
"""Where Debian's package wordnet-base puts WordNet 3.0."""
_LITTLE = 0.1  # factor of similarities below the threshold
_FIELDS = 45  # lexicographer's files of WordNet 3.0

Similarity = Callable[[str, str], float]


def items_of(answer: str) -> list[str]:
    """The words of an answer: a list divided by commas, each in DAQUAR's spelling (``tape_dispenser``)."""
    found = (" ".join(one.replace("_", " ").split()).casefold() for one in answer.split(","))
    return [one.strip(" .").replace(" ", "_") for one in found if one.strip(" .")]


def exact(answer: Sequence[str], right: Sequence[str]) -> float:
    """1 where the two are the same set of words, else 0."""
    return float(set(answer) == set(right))


def wups(answer: Sequence[str], right: Sequence[str], threshold: float, similarity: Similarity | None = None) -> float:
    """WUPS of one answer.

    Args:
        answer: Its words.
        right: Words of the right answer.
        threshold: Similarities below it count a tenth; 0 takes them as they are.
        similarity: WUP of two words; None takes `wup`.

    Returns:
        In [0, 1].
    """
    if not answer or not right:
        return float(not answer and not right)
    measure = similarity if similarity is not None else wup

    def near(one: str, other: str) -> float:
        if one == other:
            return 1.0
        value = measure(one, other)
        return value if value >= threshold else _LITTLE * value

    return min(
        prod(max(near(one, other) for other in right) for one in answer),
        prod(max(near(one, other) for one in answer) for other in right),
    )


@cache
def wup(one: str, other: str) -> float:
    """Wu and Palmer's similarity of the most similar noun senses of two words; 0 where WordNet lacks one of them.

    Raises:
        LookupError: If there is no WordNet.
    """
    reader = wordnet()
    if reader is None:
        raise LookupError("there is no WordNet")
    senses = [[sense for sense in reader.synsets(word, pos="n") if sense is not None] for word in (one, other)]
    return max((_similar(first, second) for first in senses[0] for second in senses[1]), default=0.0)


def _similar(first: Any, second: Any) -> float:
    """Similarity of two senses; 0 where the files lack one above them (a few places of Debian's index lead nowhere)."""
    try:
        return float(first.wup_similarity(second) or 0.0)
    except AttributeError:
        return 0.0


@cache
def wordnet() -> Any:
    """A reader of WordNet's nouns, by nltk; None where neither nltk's data nor Debian's package is there."""
    try:
        import nltk

        nltk.data.find("corpora/wordnet.zip")
        from nltk.corpus import wordnet as found

        found.ensure_loaded()
        return found
    except (LookupError, ImportError, OSError):
        return _debian() if (DEBIAN / "data.noun").is_file() else None


def _debian() -> Any:
    """A reader of nltk's on Debian's files, which lack a table of names that similarities do not need."""
    try:
        import nltk
        from nltk.corpus.reader.wordnet import WordNetCorpusReader
    except ImportError:
        return None
    if str(DEBIAN) not in nltk.data.path:  # nltk opens no file elsewhere
        nltk.data.path.append(str(DEBIAN))

    class Reader(WordNetCorpusReader):  # type: ignore[misc]
        def open(self, file: str) -> Any:
            if file == "lexnames":
                return io.StringIO("".join(f"{number:02} field{number} 1\n" for number in range(_FIELDS)))
            return super().open(file)

        def map_wn(self, version: str = "wordnet") -> None:
            """Nothing: no other version is read."""

    return Reader(str(DEBIAN), omw_reader=object())
