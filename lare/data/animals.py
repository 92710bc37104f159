"""Photographs of animals with boxes and key points (Animal Pose, Cao et al. 2019): questions about where to look.

A row is ``{"image", "size": [width, height], "animals": [{"name", "box", "keypoints": {name: [x, y]}}]}`` in pixels.
What is asked depends on what the marks tell without doubt, and each sentence of a rationale has the box that shows it:

- ``which``: the animal's name, where all are of one kind. ``how_many``: of up to six; photographs of a single one are
  thinned out, so that 1 is not the commonest answer by far.
- ``side``: which half it is in, ``head``: where in the image its head is, ``faces``: which way, by its nose against the
  base of its tail. ``head_of_two`` and ``faces_of_two`` ask this of the left or the right one of two.
- ``larger``: which of two takes more of the image. ``left_of``: where one is from another of another kind.

The file is read from a folder that the user names and is no part of this project.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lare.data.fields import image_field, list_field, text_field
from lare.data.sample import BadRow, Box, Sample
from lare.data.splits import share_of

__all__ = ["ANIMAL_FAMILIES", "Animal", "parse_animals"]

ANIMAL_FAMILIES = (
    "which",
    "how_many",
    "side",
    "head",
    "faces",
    "head_of_two",
    "faces_of_two",
    "larger",
    "left_of",
)
"""Question families."""

_HEAD = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
_MOST = 6  # animals counted; of more, some are often unmarked
_SINGLES = 1 / 7  # photographs of a single animal that are asked for a number
_APART = 0.15  # of the image's width, between centres that are told apart
_TURNED = 1 / 3  # of an animal's width, between nose and tail base of one that faces left or right
_RATIO = 1.3  # between areas that are told apart
_POINT = 0.25  # side of a key point's box as a share of the animal's longer side
_PLURAL = {"sheep": "sheep"}


class Animal(NamedTuple):
    """A marked animal, in shares of the image.

    Attributes:
        name: Its kind.
        box: Around it.
        points: Key points that are known, x and y.
    """

    name: str
    box: Box
    points: Mapping[str, tuple[float, float]]

    @property
    def centre(self) -> tuple[float, float]:
        """Of the box."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    @property
    def area(self) -> float:
        """Share of the image that the box takes."""
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


class _Asked(NamedTuple):
    """A question; each step of its rationale is a sentence and the box that shows it."""

    family: str
    question: str
    answer: str
    steps: Sequence[tuple[str, Box | None]]
    hops: int


def parse_animals(row: Any) -> list[Sample]:
    """Turn a row into a sample a question.

    Raises:
        BadRow: If a field is missing, a box or point is no pixels of the image, or the marks answer no question.
    """
    image, animals = image_field(row), _animals(row)
    asked = [question for ask in _QUESTIONS for question in ask(image, animals)]
    if not asked:
        raise BadRow("no_question", "the marks of the image answer none of the questions")
    return [_sample(image, number, one) for number, one in enumerate(asked)]


def _sample(image: str, number: int, asked: _Asked) -> Sample:
    sentences, boxes = zip(*asked.steps, strict=True)
    return Sample(
        f"{image}#{number} {asked.family}",
        asked.question,
        asked.answer,
        " ".join(sentences),
        image,
        boxes=boxes,
        family=asked.family,
        hops=asked.hops,
    )


# Reading ------------------------------------------------------------------------------------------------------------


def _animals(row: Any) -> list[Animal]:
    """The animals from left to right."""
    size = list_field(row, "size")
    if len(size) != 2 or not all(_number(side) and side > 0 for side in size):
        raise BadRow("bad_size", f"the size {size!r} is not width and height in pixels")
    found = [_animal(one, size) for one in list_field(row, "animals")]
    return sorted(found, key=lambda one: (one.centre, one.name))


def _animal(marks: Any, size: Sequence[float]) -> Animal:
    name, points = text_field(marks, "name"), marks.get("keypoints", {})
    if not isinstance(points, Mapping):
        raise BadRow("bad_keypoints", f"the key points of the {name} are a {type(points).__name__}, not an object")
    box = _numbers(marks.get("box"), 4, "box", name)
    left, top, right, bottom = (
        min(max(side / size[at % 2], 0.0), 1.0) for at, side in enumerate(box)
    )  # some reach a pixel outside
    if not (left < right and top < bottom):
        raise BadRow("bad_boxes", f"the box {box} of the {name} has no part inside the image")
    inside = {}
    for part, point in points.items():
        x, y = _numbers(point, 2, f"{part} point", name)
        inside[str(part)] = (min(max(x / size[0], 0.0), 1.0), min(max(y / size[1], 0.0), 1.0))
    return Animal(name, (left, top, right, bottom), inside)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _numbers(value: Any, count: int, what: str, name: str) -> list[float]:
    if not isinstance(value, list) or len(value) != count or not all(map(_number, value)):
        raise BadRow("bad_boxes", f"the {what} of the {name} is {value!r}, not {count} numbers in pixels")
    return [float(one) for one in value]


# Places -------------------------------------------------------------------------------------------------------------


def _place(x: float, y: float) -> str:
    """One of nine places of the image."""
    column = ("left", "middle", "right")[min(int(3 * x), 2)]
    row = ("top", "", "bottom")[min(int(3 * y), 2)]
    if not row:
        return column
    return row if column == "middle" else f"{row} {column}"


def _around(points: Sequence[tuple[float, float]], animal: Animal) -> Box:
    """A box around key points, with room for what they mark."""
    room = _POINT / 2 * max(animal.box[2] - animal.box[0], animal.box[3] - animal.box[1])
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, top = max(min(xs) - room, 0.0), max(min(ys) - room, 0.0)
    return left, top, min(max(xs) + room, 1.0), min(max(ys) + room, 1.0)


def _here(animal: Animal, called: str) -> tuple[str, Box | None]:
    """The step that finds an animal."""
    return f"The {called} is at the {_place(*animal.centre)}.", animal.box


def _lone(animals: Sequence[Animal]) -> list[Animal]:
    """Animals that are the only one of their kind, so that the name is enough."""
    count = Counter(one.name for one in animals)
    return [one for one in animals if count[one.name] == 1]


def _two(animals: Sequence[Animal]) -> list[tuple[Animal, str]]:
    """Two of one kind that stand apart, each with what it is called; none where there are more, or others."""
    if len(animals) != 2 or animals[0].name != animals[1].name:
        return []
    if animals[1].centre[0] - animals[0].centre[0] < _APART:
        return []
    return [(animals[0], f"left {animals[0].name}"), (animals[1], f"right {animals[1].name}")]


# Questions ----------------------------------------------------------------------------------------------------------


def _which(image: str, animals: Sequence[Animal]) -> Iterator[_Asked]:
    if len({one.name for one in animals}) == 1:
        largest = max(animals, key=lambda one: one.area)
        yield _Asked("which", "Which animal is in the image?", largest.name, [_here(largest, largest.name)], 1)


def _how_many(image: str, animals: Sequence[Animal]) -> Iterator[_Asked]:
    for name in dict.fromkeys(one.name for one in animals):
        own = [one for one in animals if one.name == name]
        if len(own) > _MOST or (len(own) == 1 and share_of(f"how many {image}") >= _SINGLES):
            continue
        steps = [_here(one, f"{name} {number}") for number, one in enumerate(own, 1)]
        plural = _PLURAL.get(name, f"{name}s")
        yield _Asked("how_many", f"How many {plural} are in the image?\nAnswer with a number.", str(len(own)), steps, 1)


def _side(image: str, animals: Sequence[Animal]) -> Iterator[_Asked]:
    for one in _lone(animals):
        off = one.centre[0] - 0.5
        if abs(off) >= _APART / 2:
            question = f"Which half of the image is the {one.name} in?\nAnswer with left or right."
            yield _Asked("side", question, "left" if off < 0 else "right", [_here(one, one.name)], 1)


def _head(one: Animal, called: str, family: str, hops: int) -> Iterator[_Asked]:
    points = [one.points[name] for name in _HEAD if name in one.points]
    if len(points) < 2:
        return
    box = _around(points, one)
    place = _place((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    steps = [_here(one, called), (f"Its head is at the {place}.", box)]
    question = f"Where in the image is the head of the {called}?\nAnswer with a place, such as top left or middle."
    yield _Asked(family, question, place, steps, hops)


def _faces(one: Animal, called: str, family: str, hops: int) -> Iterator[_Asked]:
    if "nose" not in one.points or "tailbase" not in one.points:
        return
    nose, tail = one.points["nose"], one.points["tailbase"]
    if abs(nose[0] - tail[0]) < _TURNED * (one.box[2] - one.box[0]):
        return
    way, back = ("left", "right") if nose[0] < tail[0] else ("right", "left")
    steps: list[tuple[str, Box | None]] = [
        (f"The nose of the {called} is on its {way} side.", _around([nose], one)),
        (f"Its tail begins on its {back} side.", _around([tail], one)),
    ]
    if hops > 2:  # which of two it is has to be seen first
        steps.insert(0, _here(one, called))
    question = f"Which way does the {called} face?\nAnswer with left or right."
    yield _Asked(family, question, way, steps, hops)


def _of_lone(image: str, animals: Sequence[Animal]) -> Iterator[_Asked]:
    for one in _lone(animals):
        yield from _head(one, one.name, "head", 2)
        yield from _faces(one, one.name, "faces", 2)


def _of_two(image: str, animals: Sequence[Animal]) -> Iterator[_Asked]:
    for one, called in _two(animals):
        yield from _head(one, called, "head_of_two", 2)
        yield from _faces(one, called, "faces_of_two", 3)


def _larger(image: str, animals: Sequence[Animal]) -> Iterator[_Asked]:
    pair = _two(animals) or [(one, one.name) for one in animals if len(animals) == 2 == len(_lone(animals))]
    if not pair or max(one.area for one, _ in pair) < _RATIO * min(one.area for one, _ in pair):
        return
    answer = max(pair, key=lambda one: one[0].area)[1]
    steps: list[tuple[str, Box | None]] = [
        (f"The {called} takes {max(round(100 * one.area), 1)} % of the image.", one.box) for one, called in pair
    ]
    first, second = sorted(called for _, called in pair)
    yield _Asked("larger", f"Which is larger in the image, the {first} or the {second}?", answer, steps, 2)


def _left_of(image: str, animals: Sequence[Animal]) -> Iterator[_Asked]:
    lone = _lone(animals)
    for one in lone:
        for other in lone:
            off = one.centre[0] - other.centre[0]
            if one is not other and abs(off) >= _APART:
                question = f"Is the {one.name} left or right of the {other.name}?\nAnswer with left or right."
                steps = [_here(one, one.name), _here(other, other.name)]
                yield _Asked("left_of", question, "left" if off < 0 else "right", steps, 2)


_QUESTIONS: tuple[Callable[[str, Sequence[Animal]], Iterator[_Asked]], ...] = (
    _which,
    _how_many,
    _side,
    _of_lone,
    _of_two,
    _larger,
    _left_of,
)
