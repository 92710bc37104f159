"""LLaVA's and Vision-R1's conversations.

LLaVA-1.5 (pretrain and SFT): ``{"id", "image", "conversations": [{"from": "human" | "gpt", "value"}, ...]}``, with
``<image>`` standing in the first question. Vision-R1-cold: the same with ``image`` or ``images`` and replies of the
form ``<think>rationale</think> answer``. The ``messages`` / ``role`` / ``content`` spelling is read too, and Parquet's
``{"bytes", "path"}`` images.

Two further fields are read: ``boxes``, what each step of the first reply's rationale needs (left, top, right and bottom
as shares of the image, null where a step needs nothing), and ``scene_graph``, a text or JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lare.data.sample import BadRow, Box, Sample, Turn

__all__ = ["parse_llava", "parse_vision_r1"]

_ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}
_THINK = re.compile(r"\s*<think>(.*?)</think>\s*(.*)", re.DOTALL)
_ANSWER = re.compile(r"\s*<answer>(.*?)</answer>\s*", re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Said(NamedTuple):
    role: str
    text: str


def parse_llava(row: Any) -> list[Sample]:
    """Turn a LLaVA row into a sample: its first question and the turns that follow it.

    As in LLaVA, a conversation that begins with an answer loses that turn.

    Raises:
        BadRow: If it has none, or anything in it is not as LLaVA's rows are.
    """
    return _samples(row, reasoning=False)


def parse_vision_r1(row: Any) -> list[Sample]:
    """Turn a Vision-R1-cold row into a sample with rationales.

    Raises:
        BadRow: As `parse_llava`, and if a reply has no ``<think>...</think>`` part or no answer after it.
    """
    return _samples(row, reasoning=True)


def _samples(row: Any, reasoning: bool) -> list[Sample]:
    if not isinstance(row, Mapping):
        raise BadRow("not_object", f"the row is a {type(row).__name__}, not an object")
    image = _image(row)
    turns = _turns(row)
    system = turns.pop(0).text if turns[0].role == "system" else ""
    if len(turns) > 1 and turns[0].role == "gpt":
        del turns[0]
    if len(turns) % 2 or any(turn.role != ("human", "gpt")[i % 2] for i, turn in enumerate(turns)):
        raise BadRow("wrong_order", "questions and replies don't take turns, beginning with a question")
    if not turns:
        raise BadRow("no_turns", "the conversation has no question and reply")
    marks = sum(turn.text.count("<image>") for turn in turns)
    if marks > 1:
        raise BadRow("several_images", f"the conversation has {marks} <image> marks; one image a row is read")
    if marks and image is None:
        raise BadRow("mark_without_image", "the question has an <image> mark, but the row names no image")
    first, *later = [_answered(turns[i], turns[i + 1], reasoning) for i in range(0, len(turns), 2)]
    boxes, graph, name = _boxes(row, image), _scene_graph(row), _name(row)
    whole = Sample(name, *first, image=image, later=tuple(later), system=system, boxes=boxes, scene_graph=graph)
    return [whole]


def _boxes(row: Mapping[str, Any], image: str | bytes | None) -> tuple[Box | None, ...]:
    """The boxes of the first answer's steps: a list that holds, for each step, four shares of the image or null."""
    found = row.get("boxes")
    if found is None:
        return ()
    if not isinstance(found, Sequence) or isinstance(found, (str, bytes)):
        raise BadRow("bad_boxes", f"'boxes' is a {type(found).__name__}, not a list of one box a step")
    if found and image is None:
        raise BadRow("bad_boxes", "the row has boxes and no image")
    return tuple(None if box is None else _box(box) for box in found)


def _box(box: Any) -> Box:
    sides = list(box) if isinstance(box, Sequence) and not isinstance(box, (str, bytes)) else []
    if len(sides) != 4 or not all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in sides):
        raise BadRow("bad_boxes", f"the box {box!r} is not four numbers: left, top, right, bottom")
    left, top, right, bottom = (float(one) for one in sides)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise BadRow(
            "bad_boxes",
            f"the box {box!r} is not left < right and top < bottom as shares of the image from 0 to 1; divide pixels "
            "by the image's width and height",
        )
    return left, top, right, bottom


def _scene_graph(row: Mapping[str, Any]) -> str:
    found = row.get("scene_graph")
    if found is None:
        return ""
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    return _clean(text.strip(), "scene graph")


def _answered(question: _Said, reply: _Said, reasoning: bool) -> Turn:
    asked = _question(question.text)
    rationale, answer = _reasoned(reply.text) if reasoning else ("", _plain(reply.text))
    return Turn(asked, answer, rationale)


def _name(row: Mapping[str, Any]) -> str:
    name = row.get("id", "")
    if not isinstance(name, (str, int)) or isinstance(name, bool):
        raise BadRow("bad_id", f"the id is a {type(name).__name__}, not a text or a number")
    return _clean(str(name), "id")


def _image(row: Mapping[str, Any]) -> str | bytes | None:
    image = row.get("image", row.get("images"))
    if isinstance(image, Sequence) and not isinstance(image, (str, bytes)):
        if len(image) > 1:
            raise BadRow("several_images", f"the row has {len(image)} images; one a row is read")
        image = image[0] if image else None
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if image is None:
        return None
    if isinstance(image, bytes) and image:
        return image
    if not isinstance(image, str):
        raise BadRow("bad_image", f"the image is a {type(image).__name__}, not a file's name")
    if not image.strip():
        raise BadRow("bad_image", "the image's name is empty")
    return _clean(image, "image")


def _turns(row: Mapping[str, Any]) -> list[_Said]:
    found = row.get("conversations", row.get("messages"))
    if found is None:
        raise BadRow("no_conversations", "the row has no 'conversations'")
    if not isinstance(found, Sequence) or isinstance(found, (str, bytes)):
        raise BadRow("conversations_no_list", f"'conversations' is a {type(found).__name__}, not a list")
    if not found:
        raise BadRow("no_turns", "'conversations' is empty")
    return [_turn(turn) for turn in found]


def _turn(turn: Any) -> _Said:
    if not isinstance(turn, Mapping):
        raise BadRow("turn_not_object", f"a turn is a {type(turn).__name__}, not an object")
    role, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    if not isinstance(role, str) or role not in _ROLES:
        raise BadRow("unknown_role", f"a turn is from {role!r}, not from human, gpt or system")
    if not isinstance(text, str):
        raise BadRow("text_no_string", f"a turn's text is a {type(text).__name__}")
    return _Said(_ROLES[role], _clean(text, "text"))


def _clean(text: str, part: str) -> str:
    if _SURROGATE.search(text):
        raise BadRow("broken_text", f"the {part} has bytes or escapes that are no Unicode text")
    if "\0" in text:
        raise BadRow("null_character", f"the {part} has a null character")
    return text


def _question(text: str) -> str:
    question = text.replace("<image>", "").strip()
    if not question:
        raise BadRow("empty_question", "a question is empty")
    return question


def _plain(reply: str) -> str:
    if "<image>" in reply:
        raise BadRow("mark_in_reply", "a reply has an <image> mark")
    if not reply.strip():
        raise BadRow("empty_answer", "a reply is empty")
    return reply.strip()


def _reasoned(reply: str) -> tuple[str, str]:
    reply = _plain(reply)
    found = _THINK.fullmatch(reply)
    if found is None:
        kind = "open_think" if "<think>" in reply else "no_think"
        raise BadRow(kind, "a reply has no '<think>...</think>' before its answer")
    rationale, answer = found[1].strip(), found[2].strip()
    marked = _ANSWER.fullmatch(answer)
    answer = marked[1].strip() if marked else answer
    if not rationale:
        raise BadRow("empty_rationale", "there is nothing between <think> and </think>")
    if not answer:
        raise BadRow("empty_answer", "there is no answer after </think>")
    return rationale, answer
