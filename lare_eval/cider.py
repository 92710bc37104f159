"""CIDEr (Vedantam et al. 2015) of captions, by pycocoevalcap, without Java.

pycocoevalcap's own tokenizer starts Stanford's in Java. Here nltk's Treebank tokenizer stands in for it, in lower case
and without the punctuation that the original leaves out. Both follow the Penn Treebank's rules, and differ in rare
cases such as abbreviations; so a number here is not to be set beside published ones to the last digit.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["cider", "words_of"]

_LEFT_OUT = frozenset(
    ["''", "'", "``", "`", '"', "(", ")", "{", "}", "[", "]", "-LRB-", "-RRB-", "-LCB-", "-RCB-"]
    + [".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
"""What pycocoevalcap's tokenizer takes out, brackets in both spellings."""


def words_of(caption: str) -> str:
    """A caption's words, lower-cased, between single spaces."""
    from nltk.tokenize.treebank import TreebankWordTokenizer

    found = TreebankWordTokenizer().tokenize(" ".join(caption.lower().split()))
    return " ".join(word for word in found if word not in _LEFT_OUT)


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr of each caption; their mean is that of the whole.

    Args:
        captions: One an image.
        references: Human captions of each image. How rare a phrase is, is counted over these, so a score hangs on which
            images are asked together.
    """
    from pycocoevalcap.cider.cider import Cider

    if not captions:
        return []
    written = {number: [words_of(one)] for number, one in enumerate(captions)}
    right = {number: [words_of(one) for one in of_image] for number, of_image in enumerate(references)}
    return [float(one) for one in Cider().compute_score(right, written)[1]]
