"""From conversations to token ids, and to which of them are supervised.

A row is one sequence: the prompt up to where the latents or the first answer stand, that answer, and the turns after
it. In those turns questions and the template's own marks are only read; answers are supervised. The ids are those that
chat template and tokenizer give the whole conversation, with two cuts where latents may stand: after the prompt, which
has the ids that it has when it is asked, and after a rationale, whose beginning the latents stand for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import TemplateError

from lare.data.sample import BadRow, Sample, Turn
from lare.errors import LareError
from lare.model.processing_lare import IMAGE_PLACEHOLDER

if TYPE_CHECKING:
    from lare.model import LareProcessor

__all__ = ["ANSWERED", "READ", "THOUGHT", "Encoded", "encode_samples"]

READ, ANSWERED, THOUGHT = range(3)
"""What a token after the first answer is: read only, part of an answer, part of a rationale."""

# Marks in a rendered conversation, which `UserText` keeps out of the texts themselves.
_THINK, _ANSWER, _END = "\ufdd3", "\ufdd4", "\ufdd5"
_MARKS = re.compile(f"([{_THINK}{_ANSWER}{_END}])")
_ROLE = {_THINK: THOUGHT, _ANSWER: ANSWERED, _END: READ}


class Encoded(NamedTuple):
    """A sample's ids.

    Attributes:
        prompt: Up to where <|latent_start|> or the answer follows, image tokens included.
        rationale: The first answer's rationale; empty where it has none.
        answer: The first answer, end token included.
        rest: The turns after it.
        roles: What each token of `rest` is.
    """

    prompt: list[int]
    rationale: list[int]
    answer: list[int]
    rest: list[int]
    roles: list[int]

    @property
    def tokens(self) -> int:
        """All of them."""
        return len(self.prompt) + len(self.rationale) + len(self.answer) + len(self.rest)

    @property
    def answers(self) -> int:
        """How many answers it has."""
        return 1 + len(self._ends())

    def _ends(self) -> list[int]:
        """Where each answer of `rest` ends."""
        pairs = zip(self.roles, [*self.roles[1:], READ], strict=False)
        return [at + 1 for at, (role, after) in enumerate(pairs) if role == ANSWERED != after]

    def shortened(self, most: int) -> Encoded | None:
        """With as many whole turns as fit in `most` tokens; None if the first does not."""
        room = most - (self.tokens - len(self.rest))
        if room < 0:
            return None
        cut = max((end for end in self._ends() if end <= room), default=0)
        return self._replace(rest=self.rest[:cut], roles=self.roles[:cut])


@dataclass
class _Rendered:
    """A sample as the chat template writes it.

    Attributes:
        prompt: Up to the first answer, ready for it.
        pieces: The whole conversation, cut at its marks.
        marks: The mark before each piece but the first.
        end: Text of the token that ends an answer.
        closed: Whether the template itself writes that after every answer.
        first: The first answer's texts: rationale and answer, end included.
    """

    prompt: str
    pieces: list[str]
    marks: list[str]
    end: str
    closed: bool
    first: tuple[str, str]

    @property
    def reasoned(self) -> bool:
        return bool(self.first[0])


def encode_samples(samples: Sequence[Sample], processor: LareProcessor) -> list[Encoded | BadRow]:
    """Ids of samples, or why a sample has none; all at once, unless one of them can't be encoded."""
    made = [_rendered(sample, processor) for sample in samples]
    good = [one for one in made if not isinstance(one, BadRow)]
    found = _found(good, processor)
    return [one if isinstance(one, BadRow) else next(found) for one in made]


def _found(rendered: Sequence[_Rendered], processor: LareProcessor) -> Iterator[Encoded | BadRow]:
    if not rendered:
        return
    try:
        yield from _encoded(rendered, processor)
    except LareError as error:
        if len(rendered) == 1:
            yield BadRow("special_token", str(error))
        else:
            for one in rendered:
                yield from _found([one], processor)


# Rendering ----------------------------------------------------------------------------------------------------------


def _rendered(sample: Sample, processor: LareProcessor) -> _Rendered | BadRow:
    try:
        return _render(sample, processor)
    except TemplateError as error:
        return BadRow("chat_template", f"the model's chat template refuses the conversation ({error})")
    except BadRow as bad:
        return bad
    except LareError as error:
        refused = isinstance(error.__cause__, TemplateError)  # a template that takes no system turn
        return BadRow("chat_template" if refused else "special_token", str(error))


def _render(sample: Sample, processor: LareProcessor) -> _Rendered:
    escape = processor.user_text.escape
    system = sample.system.replace(IMAGE_PLACEHOLDER, "").strip()
    before = [("system", escape(system))] if system else []
    for question, answer in sample.history:
        before += [("user", escape(question)), ("assistant", escape(answer))]
    turns = [Turn(sample.question, sample.answer, sample.rationale), *sample.later]
    before.append(("user", escape(turns[0].question)))
    if sample.image is not None:
        first = next(at for at, (who, _) in enumerate(before) if who == "user")
        before[first] = ("user", f"{IMAGE_PLACEHOLDER}\n{before[first][1]}")
    after = [("assistant", _marked(turns[0], processor))]
    for turn in turns[1:]:
        after += [("user", escape(turn.question)), ("assistant", _marked(turn, processor))]
    prompt = processor.render(_messages(before), add_generation_prompt=True)
    whole = processor.render(_messages([*before, *after]))
    expected = [mark for turn in turns for mark in (_THINK * bool(turn.rationale), _ANSWER, _END) if mark]
    if _MARKS.findall(whole) != expected:
        raise BadRow("chat_template", "the model's chat template leaves out, or changes, a part of the conversation")
    return _cut(prompt, whole, turns, processor)


def _messages(said: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"role": who, "content": text} for who, text in said]


def _marked(turn: Turn, processor: LareProcessor) -> str:
    """An answer between its marks; a rationale comes first, then the answer's name."""
    escape = processor.user_text.escape
    if not turn.rationale:
        return f"{_ANSWER}{escape(turn.answer)}{_END}"
    return f"{_THINK}{escape(turn.rationale)}{_ANSWER}\nAnswer: {escape(turn.answer)}{_END}"


def _cut(prompt: str, whole: str, turns: Sequence[Turn], processor: LareProcessor) -> _Rendered:
    """Move the marks to where answers begin and end for a model that writes them, and cut the text there.

    An answer begins where the prompt ended, with the space that some templates write before it, and ends after the
    token that tells its end.
    """
    end = processor.user_text.ending(whole[whole.rindex(_END) + 1 :])
    closed = bool(end) and whole.count(_END + end) == len(turns)
    opening = next(mark for mark in whole if mark in (_THINK, _ANSWER))
    start = whole.index(opening)
    gap = whole[len(prompt) : start] if whole.startswith(prompt) and len(prompt) < start else ""
    gap = gap if gap.isspace() else ""
    if closed:
        whole = whole.replace(_END + end, end + _END)
    else:
        end = processor.tokenizer.eos_token or ""
    if gap:
        for mark in (_THINK, _ANSWER):
            whole = whole.replace(gap + mark, mark + gap)
    first, *rest = _MARKS.split(whole)
    escape = processor.user_text.escape
    name = "\nAnswer: " if turns[0].rationale else ""
    texts = (escape(turns[0].rationale), f"{name}{escape(turns[0].answer)}{end}")
    return _Rendered(prompt, [first, *rest[1::2]], rest[::2], end, closed, texts)


# Encoding -----------------------------------------------------------------------------------------------------------


def _encoded(rendered: Sequence[_Rendered], processor: LareProcessor) -> list[Encoded]:
    """Ids of all samples, in as few calls of the tokenizer as that takes."""
    special = not processor.opens_with_bos(rendered[0].prompt)
    image = (processor.image_token_id, processor.packed_image)
    token = processor.image_token
    prompts = processor.encode_text([_one_image(one.prompt, token) for one in rendered], special=special)
    whole = _whole(rendered, prompts, processor, special)
    alone = [by is None or by[0] is None or one.reasoned for one, by in zip(rendered, whole, strict=True)]
    firsts = iter(
        processor.encode_text([text for one, by in zip(rendered, alone, strict=True) if by for text in one.first])
    )
    loose = _loose([one for one, found in zip(rendered, whole, strict=True) if found is None], processor)
    made = []
    for prompt, found, by in zip(prompts, whole, alone, strict=True):
        own, rest, roles = next(loose) if found is None else found
        rationale, answer = (next(firsts), next(firsts)) if by else ([], own or [])
        made.append(Encoded(_with_image(prompt, *image), rationale, answer, rest, roles))
    return made


_After = tuple["list[int] | None", list[int], list[int]]
"""The first answer's ids (None: those that it has alone), the ids after it, and their roles."""


def _whole(
    rendered: Sequence[_Rendered], prompts: Sequence[list[int]], processor: LareProcessor, special: bool
) -> list[_After | None]:
    """What follows each prompt, by the tokens of the whole conversation; None where that can't be told."""
    guard = processor.user_text
    can = [one.closed and guard.knows_places for one in rendered]
    token = processor.image_token
    texts = [[_one_image(piece, token) for piece in one.pieces] for one, by in zip(rendered, can, strict=True) if by]
    marked = iter(guard.encode_marked(processor.tokenizer, texts, special) if texts else [])
    found: list[_After | None] = []
    for one, prompt, by in zip(rendered, prompts, can, strict=True):
        if not by:
            found.append(None)
            continue
        made = next(marked)
        roles = _roles(made.spans, made.marks, [_ROLE[mark] for mark in one.marks])
        begins = next(at for at, role in enumerate(roles) if role != READ)
        last = made.marks[one.marks.index(_END)]
        ends = next((at for at in range(begins, len(roles)) if made.spans[at][0] >= last and roles[at] == READ), None)
        ends = len(roles) if ends is None else ends
        stop = max((at + 1 for at, role in enumerate(roles) if role != READ), default=0)
        own = made.ids[begins:ends] if made.ids[:begins] == prompt else None
        found.append((own, made.ids[ends:stop], roles[ends:stop]))
    return found


def _roles(spans: Sequence[tuple[int, int]], marks: Sequence[int], kinds: Sequence[int]) -> list[int]:
    """The role of each token, by the last mark before its end; a token on a border belongs to what is answered."""
    roles, at, current = [], 0, READ
    for start, end in spans:
        while at < len(marks) and marks[at] <= start:
            current, at = kinds[at], at + 1
        role = current
        if role == READ and at < len(marks) and marks[at] < end:
            role = kinds[at]
        roles.append(role)
    return roles


def _loose(rendered: Sequence[_Rendered], processor: LareProcessor) -> Iterator[_After]:
    """What follows each prompt piece by piece, with the end token that the template leaves out after answers."""
    plans: list[list[tuple[str, int]]] = []
    for one in rendered:
        kinds = [_ROLE[mark] for mark in one.marks]
        parts = [
            (piece + one.end if kind == ANSWERED and not one.closed else piece, kind)
            for piece, kind in zip(one.pieces[1:], kinds, strict=True)
        ]
        own = kinds.index(READ)
        plans.append(parts[own:-1])
    ids = iter(processor.encode_text([text for plan in plans for text, _ in plan]))
    for plan in plans:
        parts_ids = [(next(ids), kind) for _, kind in plan]
        rest = [token for part, _ in parts_ids for token in part]
        yield None, rest, [kind for part, kind in parts_ids for _ in part]


def _one_image(text: str, token: str) -> str:
    """The image as one token, which stands for all of them until `_with_image`."""
    return text.replace(IMAGE_PLACEHOLDER, token)


def _with_image(ids: list[int], image: int, times: int) -> list[int]:
    if image not in ids:
        return ids
    at = ids.index(image)
    return [*ids[:at], *[image] * times, *ids[at + 1 :]]
