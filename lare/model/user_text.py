"""User text as plain text: no question, answer, rationale or option becomes one of the tokenizer's control tokens.

A tokenizer can't tell the `<|im_end|>` that a chat template writes from one in a question, and the latter would close
the user's turn. So a control token inside user text is broken by a noncharacter (which Unicode keeps for a program's
own use) before the template sees it, and put together again when the prompt is encoded: by a twin of the tokenizer that
takes control tokens for plain text, and in which other names stand for those that the template wrote. Text without
control tokens takes neither way round, and has the ids that it always had.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from lare.errors import LareError

__all__ = ["Marked", "UserText", "user_text"]

_Places = tuple[list[int], Sequence[tuple[int, int]]]

_BREAK = "\ufdd0"
_OWN = re.compile("[\ufdd0-\ufdef]")
_ESCAPED = re.compile(f"{_BREAK}([\ufdd0-\ufdef]?)")


class Marked(NamedTuple):
    """Ids of a text with the places of its marks.

    Attributes:
        ids: S ids.
        spans: S pairs (start, end) of characters.
        marks: Where each mark stood, in characters.
    """

    ids: list[int]
    spans: Sequence[tuple[int, int]]
    marks: list[int]


class UserText:
    """Keeps one tokenizer's control tokens out of user text.

    Control tokens are the special ones, those given by name, and added ones that stand in the chat template.

    Args:
        tokenizer: Any tokenizer.
        template: The chat template.
        names: Texts that are control tokens for this project.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str, names: Sequence[str]) -> None:
        added = list(tokenizer.added_tokens_decoder.values())
        found = {*names, *(str(one) for one in tokenizer.all_special_tokens)}
        found |= {one.content for one in added if one.special or (one.content in template and one.content.strip())}
        self.tokens = tuple(sorted(found - {""}, key=lambda one: (-len(one), one)))
        self._pattern = re.compile("|".join(map(re.escape, self.tokens)) or "(?!)")
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._backend: Tokenizer | None = backend if isinstance(backend, Tokenizer) else None
        loose = any(one.normalized for one in added if one.content in found)
        self._normalizer = self._backend.normalizer if self._backend is not None and loose else None

    def holds_control(self, text: str) -> bool:
        """Whether the tokenizer would find a control token in a text."""
        if self._pattern.search(text):
            return True
        # A token that is looked for in normalised text may be spelt otherwise in the text itself.
        return self._normalizer is not None and bool(self._pattern.search(self._normalizer.normalize_str(text)))

    def escape(self, text: str) -> str:
        """User text as it may be put into a chat template; the text itself where it holds no control token.

        Raises:
            LareError: If it holds one that this tokenizer can't keep as text.
        """
        control = self.holds_control(text)
        if not control and _OWN.search(text) is None:
            return text
        if self._backend is None:
            if control:
                raise LareError(
                    f"it holds the special token {self._named(text)}, which this tokenizer can't keep as text"
                )
            return text
        text = _OWN.sub(f"{_BREAK}\\g<0>", text)
        while found := self._pattern.search(text):
            if len(found[0]) == 1:
                raise LareError(f"it holds {found[0]!r}, a special token that this tokenizer can't keep as text")
            text = self._pattern.sub(lambda one: f"{one[0][0]}{_BREAK}{one[0][1:]}", text)
        if control and _BREAK not in text:
            at = len(text) - len(text.lstrip()) + 1
            text = f"{text[:at]}{_BREAK}{text[at:]}"
        return text

    def _named(self, text: str) -> str:
        found = self._pattern.search(text)
        return "of another spelling" if found is None else found[0]

    def encode(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], special: bool) -> list[list[int]]:
        """Ids of texts in which user text is escaped.

        Args:
            tokenizer: The tokenizer that this was made of.
            texts: Rendered prompts, or escaped texts.
            special: Whether the tokenizer adds its own tokens around each.

        Raises:
            LareError: If the tokenizer makes a control token of plain text all the same.
        """
        plain = [text for text in texts if _BREAK not in text]
        if len(plain) == len(texts) or self._backend is None:
            return _ids(tokenizer, list(texts), special)
        known = iter(_ids(tokenizer, plain, special))
        broken = iter(self._twin.encode([text for text in texts if _BREAK in text], special))
        return [next(broken if _BREAK in text else known) for text in texts]

    @property
    def knows_places(self) -> bool:
        """Whether the tokenizer tells where its tokens stand, so that `encode_marked` works."""
        return self._backend is not None

    def encode_marked(
        self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[str]], special: bool
    ) -> list[Marked]:
        """As `encode`, of texts that come in pieces; marks stand between the pieces and change no id."""
        broken = [any(_BREAK in piece for piece in pieces) for pieces in texts]
        ready = [
            [self._twin.prepare(piece) for piece in pieces] if by else list(pieces)
            for pieces, by in zip(texts, broken, strict=True)
        ]
        plain = ["".join(pieces) for pieces, by in zip(ready, broken, strict=True) if not by]
        found = iter(_places(tokenizer, plain, special) if plain else [])
        other = ["".join(pieces) for pieces, by in zip(ready, broken, strict=True) if by]
        twins = iter(self._twin.places(other, special) if other else [])
        made = [next(twins if by else found) for by in broken]
        marks = [list(accumulate(map(len, pieces[:-1]))) for pieces in ready]
        return [Marked(*one, at) for one, at in zip(made, marks, strict=True)]

    def ending(self, text: str) -> str:
        """The control token that a rendered text begins with, after white space; "" if there is none."""
        found = self._pattern.match(text, len(text) - len(text.lstrip()))
        return "" if found is None else text[: found.end()]

    @cached_property
    def _twin(self) -> _Twin:
        assert self._backend is not None  # or nothing would have been escaped
        return _Twin(self._backend, self.tokens, self._pattern)


class _Twin:
    """A copy of a tokenizer for which control tokens are text; those of the template come under secret names."""

    def __init__(self, backend: Tokenizer, tokens: Sequence[str], pattern: re.Pattern[str]) -> None:
        state = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
        flags = {one["content"]: one for one in state["added_tokens"] if one["content"] in tokens}
        for one in flags.values():
            one["special"] = True  # or it would be looked for in spite of `encode_special_tokens`
        self._made = Tokenizer.from_str(json.dumps(state))
        self._made.encode_special_tokens = True
        self._pattern = pattern
        secret = secrets.randbits(64)
        self._names = {token: f"\ufdd1{secret}.{number}\ufdd2" for number, token in enumerate(flags)}
        kept = ("lstrip", "rstrip", "single_word", "normalized")
        named = [
            AddedToken(name, special=False, **{key: flags[token][key] for key in kept})
            for token, name in self._names.items()
        ]
        self._made.add_tokens(named)
        own = {token: int(one["id"]) for token, one in flags.items()}
        self._ids: dict[int | None, int] = {
            self._made.token_to_id(name): own[token] for token, name in self._names.items()
        }
        self._control = {number: token for token, number in own.items()}

    def encode(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        return [ids for ids, _ in self.places([self.prepare(text) for text in texts], special)]

    def places(self, ready: Sequence[str], special: bool) -> list[_Places]:
        """Ids of prepared texts, and the characters of each."""
        found = self._made.encode_batch(list(ready), add_special_tokens=special)
        return [(self._own(one.ids, one.special_tokens_mask), one.offsets) for one in found]

    def prepare(self, text: str) -> str:
        """Name the template's control tokens and put the user's together again."""
        named = self._pattern.sub(lambda one: self._names.get(one[0], one[0]), text)
        return _ESCAPED.sub(r"\1", named)

    def _own(self, ids: Sequence[int], added: Sequence[int]) -> list[int]:
        wrong = next((one for one, by in zip(ids, added, strict=True) if one in self._control and not by), None)
        if wrong is not None:
            raise LareError(f"this tokenizer can't keep {self._control[wrong]} as text; remove it")
        return [self._ids.get(one, one) for one in ids]


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], special: bool) -> list[list[int]]:
    # verbose=False: its own warning about length would only repeat our error
    if not texts:
        return []
    found: list[list[int]] = tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"]
    return found


def _places(tokenizer: PreTrainedTokenizerBase, texts: list[str], special: bool) -> list[_Places]:
    found = tokenizer(texts, add_special_tokens=special, verbose=False, return_offsets_mapping=True)
    return list(zip(found["input_ids"], found["offset_mapping"], strict=True))


_MADE: WeakKeyDictionary[Any, tuple[tuple[Any, ...], UserText]] = WeakKeyDictionary()


def user_text(tokenizer: PreTrainedTokenizerBase, template: str, names: Sequence[str]) -> UserText:
    """The `UserText` of a tokenizer, made once as long as tokenizer and template stay as they are."""
    key = (len(tokenizer), template, tuple(names))
    found = _MADE.get(tokenizer)
    if found is None or found[0] != key:
        found = (key, UserText(tokenizer, template, names))
        _MADE[tokenizer] = found
    return found[1]
