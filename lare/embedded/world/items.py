"""Items: a question in one of the benchmark formats, with its options, prompt and the text that answers it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random

from lare.embedded.world.concepts import (
    CATEGORY_NAMES,
    COLOUR_NAMES,
    DIRECTIONS,
    FUNCTIONS,
    KINDS,
    N_DRAWINGS,
)
from lare.embedded.world.prompts import LETTERS, inline_options, task_prompt
from lare.embedded.world.scene import Scene
from lare.embedded.world.v2.difficulty import difficulty
from lare.embedded.world.versions import world
from lare.embedded.world.wording import Question, article, place, scene_graph
from lare.errors import LareError

STYLES = ("open", "mmbench", "mmstar", "mmvp", "scienceqa", "pope")
NOTCH_HINT = "A dark notch shows where a thing points."


@dataclass(frozen=True)
class Item:
    """One trainable or scorable question about one scene.

    Attributes:
        question: the question with its rationale.
        style: `open` or the benchmark whose format the prompt has.
        choices: the offered options, empty for open and yes/no questions.
        index: position of the right option (0 without options).
        hint: context given before the question, empty when there is none.
        prompt: the user's text.
        scene: the scene that is asked about.
    """

    question: Question
    style: str
    choices: tuple[str, ...]
    index: int
    hint: str
    prompt: str
    scene: Scene | None = field(default=None, repr=False, compare=False)

    @property
    def difficulty(self) -> str:
        """`easy`, `medium` or `hard` (see `lare.embedded.world.v2.difficulty`)."""
        return difficulty(self.question)

    def scene_graph(self) -> str:
        """The things of the picture as compact JSON: place to kind, colour and size (see `wording.scene_graph`).

        Raises:
            LareError: If the item was made without its scene.
        """
        if self.scene is None:
            raise LareError("this item does not know its scene; make it with make_item or an ItemSampler")
        return scene_graph(self.scene)

    @property
    def final(self) -> str:
        """The answer as the model should write it: always its text, e.g. `cat`.

        Not the option's letter: with `cat (B)` a small decoder had the text right and the letter at chance (24 % after
        192,000 questions). The evaluation turns an option's text into its letter, as MMBench's own scorer does.
        """
        return self.question.answer

    @property
    def letter(self) -> str:
        """The right option's letter, empty without options."""
        return LETTERS[self.index] if self.choices else ""


def _pool(scene: Scene, question: Question) -> list[str]:
    """Wrong answers that look right: of the answer's type, from this scene where possible."""
    kind = question.answer_type
    if kind == "kind":
        kinds = scene.kind if scene.version == 1 else scene.kinds
        return [KINDS[one] for one in kinds if one >= 0]
    if kind == "place":
        return [place(c) for c in scene.things]
    if kind == "colour":
        return [COLOUR_NAMES[scene.colour[c]] for c in scene.things]
    return []


_CLOSED: dict[str, Sequence[str]] = {
    "direction": DIRECTIONS,
    "digit": tuple("0123456789"),
    "function": tuple(FUNCTIONS.values()),
    "colour": COLOUR_NAMES,
    "kind": KINDS[:N_DRAWINGS],
}


def offer(scene: Scene, question: Question, rng: Random, n: int = 4) -> tuple[tuple[str, ...], int] | None:
    """Options for a question and the index of the right one; None when no options can be had.

    Distractors come from the scene (in version 1 as often as they stand there), so that neither the look of an option
    nor its presence tells anything without the image.
    """
    if question.options:
        choices = list(question.options)
    else:
        banned = {question.answer, *question.blocked}
        pool = [p for p in _pool(scene, question) if p not in banned]
        if scene.version > 1:  # there each option is right alike, however often it stands in the scene
            pool = list(dict.fromkeys(pool))
        rng.shuffle(pool)
        distinct = list(dict.fromkeys(pool))[: n - 1]
        if len(distinct) < n - 1 and scene.version > 1 and question.answer_type == "kind":
            return (
                None  # a kind of another scene would show, and tell a little blind: scenes don't draw all kinds alike
            )
        if len(distinct) < n - 1:
            rest = [p for p in _CLOSED.get(question.answer_type, ()) if p not in banned and p not in distinct]
            distinct += rng.sample(rest, min(len(rest), n - 1 - len(distinct)))
        choices = [question.answer, *distinct]
        if len(choices) < 2:
            return None
    if question.answer_type != "count":
        rng.shuffle(choices)
    return tuple(choices), choices.index(question.answer)


def _hint(question: Question, choices: Sequence[str]) -> str:
    if question.answer_type == "function":
        lines = [c for c in CATEGORY_NAMES if FUNCTIONS[c] in choices]
        return " ".join(f"{article(c).capitalize()} {FUNCTIONS[c]}." for c in lines)
    return NOTCH_HINT if question.family.startswith("gaze") else ""


def columns(style: str, question: Question, choices: tuple[str, ...], index: int, hint: str) -> dict[str, object]:
    """The text columns of the imitated benchmark for one item."""
    if style == "mmbench":
        cells = {letter: choices[i] if i < len(choices) else "nan" for i, letter in enumerate("ABCD")}
        return {"question": question.stem, "hint": hint or "nan", "answer": LETTERS[index], **cells}
    if style == "mmstar":
        return {"question": question.stem + inline_options(choices), "answer": LETTERS[index]}
    if style == "mmvp":
        right = "(a)" if index == 0 else "(b)"
        return {"Question": question.stem, "Options": f"(a) {choices[0]} (b) {choices[1]}", "Correct Answer": right}
    if style == "scienceqa":
        return {"question": question.stem, "choices": list(choices), "answer": index, "hint": hint}
    return {"question": question.stem, "answer": question.answer}


def make_item(scene: Scene, question: Question, style: str, rng: Random) -> Item | None:
    """Put a question into a format; None when the format cannot hold it."""
    if question.answer_type == "caption" or style == "open" or (style == "pope" and question.answer_type != "yesno"):
        return Item(question, "open", (), 0, "", question.stem, scene)
    if question.answer_type == "yesno":
        return Item(question, "pope", (), 0, "", task_prompt("pope", {"question": question.stem}), scene)
    offered = offer(scene, question, rng, 2 if style == "mmvp" else 4)
    if offered is None or (style == "mmvp" and len(offered[0]) != 2):
        return None
    choices, index = offered
    hint = _hint(question, choices) if style == "scienceqa" else ""
    prompt = task_prompt(style, columns(style, question, choices, index, hint))
    return Item(question, style, choices, index, hint, prompt, scene)


class ItemSampler:
    """Samples items about scenes by weight of family and style; counts are kept evenly spread over their values.

    Args:
        families: weight of each question family.
        styles: weight of each format.
        seed: seed of the sampler's own random stream (its state goes into checkpoints).
        version: version of the world whose families they are; scenes must be of the same.
    """

    def __init__(
        self,
        families: Mapping[str, float],
        styles: Mapping[str, float],
        seed: int | tuple[int | str, ...],
        version: int = 1,
    ) -> None:
        self.rng, self._world = Random(repr(seed)), world(version)
        self._families, self._family_sum = list(families), list(accumulate(families.values()))
        self._styles, self._style_sum = list(styles), list(accumulate(styles.values()))
        self._seen: Counter[tuple[str, str]] = Counter()

    def _even(self, question: Question) -> bool:
        """Whether this answer may be taken without making one count more likely than another."""
        if question.answer_type != "count" or self._world.version > 1:  # whose counts are even by themselves
            return True
        group = "colour" if question.stem.split()[2] in COLOUR_NAMES else "category"
        low = min(self._seen[group, option] for option in question.options)
        if self._seen[group, question.answer] > low + 1:
            return False
        self._seen[group, question.answer] += 1
        return True

    def style(self) -> str:
        """A format drawn by weight."""
        return self.rng.choices(self._styles, cum_weights=self._style_sum)[0]

    def draw(self, scene: Scene, style: str | None = None) -> Item | None:
        """One item (of the given style, else a drawn one), or None when the drawn family does not fit the scene."""
        family = self.rng.choices(self._families, cum_weights=self._family_sum)[0]
        question = None
        for _ in range(self._world.tries):
            question = self._world.ask(family, scene, self.rng)
            if question is not None:
                break
        if question is None or not self._even(question):
            return None
        return make_item(scene, question, style or self.style(), self.rng)

    def sample(self, scene: Scene, n: int, style: str | None = None) -> list[Item]:
        """`n` items about a scene, all of one style if it is given.

        Where the families and the style find too little in a scene, the rest is filled with open look-ups.
        """
        items: list[Item] = []
        for _ in range(60 * n):
            if len(items) == n:
                break
            item = self.draw(scene, style)
            if item is not None:
                items.append(item)
        while len(items) < n:
            question = self._world.families["what_at"](scene, self.rng)
            if question is not None:
                items.append(Item(question, "open", (), 0, "", question.stem, scene))
        return items
