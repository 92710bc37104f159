"""The five mini tasks: test questions in the columns of MMBench, MMStar, MMVP, ScienceQA and POPE.

A stand-in for offline use. The formats and scorers are the benchmarks'; the pictures are the embedded world's, so a
score here is never a score on the benchmark that it imitates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count as counter
from random import Random
from typing import Any, NamedTuple

from lare.embedded.world.concepts import COLOUR_NAMES, DIRECTIONS, N_DRAWINGS, SIZES, TILE_KIND
from lare.embedded.world.items import Item, ItemSampler, columns
from lare.embedded.world.questions import FAMILIES
from lare.embedded.world.render import render_image
from lare.embedded.world.scene import Scene
from lare.embedded.world.v2 import categories as categories_2
from lare.embedded.world.v2 import pairs as pairs_2
from lare.embedded.world.v2.difficulty import difficulty
from lare.embedded.world.versions import World, world
from lare.embedded.world.wording import Question, place, refer
from lare.errors import LareError

TASKS = ("mmbench", "mmstar", "mmvp", "scienceqa", "pope")
SIZES_BY_TASK = {"mmbench": 500, "mmstar": 504, "mmvp": 400, "scienceqa": 400, "pope": 600}
_FIRST_SCENE = {"mmbench": 0, "mmstar": 100_000, "mmvp": 200_000, "scienceqa": 300_000, "pope": 400_000}

MMBENCH_CATEGORIES: dict[str, tuple[str, dict[str, float]]] = {
    "object_localization": ("finegrained_perception (instance-level)", {"where": 1.0, "what_at": 1.0}),
    "attribute_recognition": (
        "finegrained_perception (instance-level)",
        {"colour": 1.0, "direction": 1.0, "digit": 1.0, "size": 0.4},
    ),
    "attribute_comparison": ("finegrained_perception (cross-instance)", {"larger_digit": 1.0, "more": 0.7}),
    "spatial_relationship": (
        "finegrained_perception (cross-instance)",
        {"beside1": 1.0, "beside2": 1.0, "further": 0.7},
    ),
    "function_reasoning": ("attribute_reasoning", {"function": 1.0}),
    "action_recognition": ("relation_reasoning", {"gaze1": 1.0, "gaze2": 1.0}),
}
"""MMBench's category -> its L2 category and the question families that stand for it."""

MMSTAR_CATEGORIES: dict[str, tuple[str, dict[str, float]]] = {
    "coarse perception": ("image style & quality", {"common_colour": 1.0, "what_at": 0.5}),
    "fine-grained perception": ("attribute & celebrity recognition", {"direction": 1.0, "digit": 1.0, "colour": 1.0}),
    "instance reasoning": ("single-instance reasoning", {"gaze1": 1.0, "chain_attribute": 1.0}),
    "logical reasoning": ("code & sequence reasoning", {"gaze2": 1.0, "gaze3": 1.0, "beside2": 1.0, "beside3": 1.0}),
    "science & technology": ("biology & chemistry & physics", {"function": 1.0}),
    "math": ("numeric commonsense & calculation", {"count": 1.0, "larger_digit": 1.0, "more": 0.5}),
}
"""MMStar's core ability -> an l2 category and the question families that stand for it."""

SCIENCEQA_FAMILIES = {"function": 1.0, "gaze1": 0.7, "gaze2": 0.7, "gaze3": 0.4, "count": 0.5}


Categories = Mapping[str, tuple[str, Mapping[str, float]]]


@dataclass(frozen=True)
class _Draw:
    """What questions are drawn: the world and split, how many, which draw, with or without pictures."""

    world: World
    split: str
    n: int
    seed: int
    images: bool

    @property
    def group(self) -> str:
        """Name of the evaluation's group of tasks."""
        return f"lare_mini{self.world.version if self.world.version > 1 else ''}"

    def scenes(self, task: str, skip: int = 0) -> Iterator[Scene]:
        """A task's scenes, endlessly."""
        for number in counter(_FIRST_SCENE[task] + self.seed * 1_000_000 + skip):
            yield self.world.sample_scene(self.split, number)

    def extras(self, scene: Scene, question: Question, task: str) -> dict[str, Any]:
        """The picture, and what analyses need beside the benchmark's own columns."""
        picture = {"image": render_image(scene)} if self.images else {}
        level = {"difficulty": difficulty(question)} if self.world.version > 1 else {}
        return picture | {
            "sort": question.family,
            "hops": question.hops,
            **level,
            "boxes": [list(scene.box(cell)) for cell in question.cells],
            "rationale": " ".join(question.rationale),
            "scene": scene.name,
            "task": f"{self.group}_{task}",
        }


def _items(draw: _Draw, task: str, skip: int, families: Mapping[str, float]) -> Iterator[tuple[Scene, Item]]:
    """One item a scene, from a task's scene number `skip` on, endlessly."""
    first = _FIRST_SCENE[task] + draw.seed * 1_000_000 + skip
    sampler = ItemSampler(families, {task: 1.0}, (draw.seed, first), draw.world.version)
    for scene in draw.scenes(task, skip):
        for _ in range(40):
            item = sampler.draw(scene, task)
            if item is not None:
                yield scene, item
                break


def _choice_rows(task: str, categories: Categories, draw: _Draw) -> list[dict[str, Any]]:
    """Rows of a task whose categories take turns."""
    streams = {
        name: _items(draw, task, 10_000 * i, families) for i, (name, (_, families)) in enumerate(categories.items())
    }
    rows = []
    for i in range(draw.n):
        name = list(categories)[i % len(categories)]
        scene, item = next(streams[name])
        row = columns(task, item.question, item.choices, item.index, item.hint)
        row |= {"category": name, "question_id": f"{task}-{i}"}
        rows.append(row | draw.extras(scene, item.question, task) | {"l2": categories[name][0]})
    return rows


def _mmbench(draw: _Draw) -> list[dict[str, Any]]:
    rows = _choice_rows("mmbench", _CATEGORIES[draw.world.version]["mmbench"], draw)
    for i, row in enumerate(rows):
        row |= {"index": i + 1, "L2-category": row.pop("l2"), "source": draw.group, "split": draw.split}
        row["comment"] = "nan"
    return rows


def _mmstar(draw: _Draw) -> list[dict[str, Any]]:
    rows = _choice_rows("mmstar", _CATEGORIES[draw.world.version]["mmstar"], draw)
    for i, row in enumerate(rows):
        row |= {"index": i, "l2_category": row.pop("l2")}
    return rows


def _scienceqa(draw: _Draw) -> list[dict[str, Any]]:
    rows = _choice_rows("scienceqa", _CATEGORIES[draw.world.version]["scienceqa"], draw)
    for row in rows:
        row.pop("l2")
    return rows


def _pope(draw: _Draw) -> list[dict[str, Any]]:
    rng = Random(repr((draw.split, draw.seed, "pope")))
    exist: Callable[..., Question | None] = draw.world.families["exist"]
    rows: list[dict[str, Any]] = []
    for scene in draw.scenes("pope"):
        found = [(c, exist(scene, rng, c)) for c in ("random", "popular", "adversarial")]
        if any(q is None for _, q in found):
            continue
        for category, question in found:
            assert question is not None
            row = columns("pope", question, (), 0, "") | draw.extras(scene, question, "pope")
            row |= {"question_id": str(len(rows) + 1), "image_source": row["scene"], "category": category}
            rows.append(row)
        if len(rows) >= draw.n:
            return rows[: draw.n]
    raise AssertionError("unreachable")


# --- MMVP: minimal pairs -----------------------------------------------------------------------------------------


def minimal_pair(scene: Scene, rng: Random) -> tuple[Scene, Question, Question] | None:
    """Change one attribute of one thing so that one question gets another answer.

    Returns:
        The changed scene, the question about the scene as it was, and the same question about the changed one.
    """
    family = rng.choice(("colour", "direction", "size", "digit", "what_at", "gaze1"))
    question = FAMILIES[family](scene, rng)
    if question is None:
        return None
    cell = question.cells[0]
    changed = _change(scene, cell, family, rng)
    if changed is None:
        return None
    other = _same_question(changed, question, cell)
    if other is None or other.answer == question.answer:
        return None
    return changed, question, other


def _change(scene: Scene, cell: int, family: str, rng: Random) -> Scene | None:
    if family == "colour":
        return scene.with_cell(cell, colour=_another(scene.colour[cell], len(COLOUR_NAMES), rng))
    if family in ("direction", "gaze1"):
        return scene.with_cell(cell, direction=_another(scene.direction[cell], len(DIRECTIONS), rng))
    if family == "size":
        # A thing keeps its centre; a large one has less room, so the shift goes to zero in both pictures' place.
        return scene.with_cell(cell, size=1 - scene.size[cell]) if scene.offset[cell] == (0, 0) else None
    if family == "digit":
        return _another_digit(scene, cell, rng)
    kind = scene.kind[cell]
    if kind >= N_DRAWINGS:
        return None
    return scene.with_cell(cell, kind=kind // 8 * 8 + _another(kind % 8, 8, rng))


def _another(value: int, n: int, rng: Random) -> int:
    return (value + rng.randrange(1, n)) % n


def _another_digit(scene: Scene, cell: int, rng: Random) -> Scene | None:
    from lare.embedded.world.assets import digits

    labels = digits(scene.split)[1]
    sample = rng.randrange(len(labels))
    if int(labels[sample]) == scene.label[cell] or scene.kind[cell] != TILE_KIND:
        return None
    return scene.with_cell(cell, digit=sample, label=int(labels[sample]))


def _same_question(changed: Scene, question: Question, cell: int) -> Question | None:
    """The question asked of the changed scene; None when its words no longer pick out the thing."""
    phrase = refer(changed, cell)
    if f"the {phrase}" not in question.stem and place(cell) not in question.stem:
        return None
    for attempt in range(200):
        family = question.family if question.family in FAMILIES else ""
        other = FAMILIES[family](changed, Random(attempt)) if family else None
        if other is not None and other.stem == question.stem and other.cells[:1] == (cell,):
            return other
    return None


def _mmvp(draw: _Draw) -> list[dict[str, Any]]:
    rng = Random(repr((draw.split, draw.seed, "mmvp")))
    rows: list[dict[str, Any]] = []
    for scene in draw.scenes("mmvp"):
        if len(rows) >= draw.n - draw.n % 2:
            return rows
        pair = _PAIRS[draw.world.version](scene, rng)
        if pair is None:
            continue
        changed, first, second = pair
        choices = SIZES if first.answer_type == "size" else tuple(rng.sample((first.answer, second.answer), 2))
        for picture, question in ((scene, first), (changed, second)):
            row = columns("mmvp", question, choices, choices.index(question.answer), "")
            row |= {"Index": len(rows) + 1, "question_id": f"mmvp-{len(rows) + 1}"}
            rows.append(row | draw.extras(picture, question, "mmvp"))
    raise AssertionError("unreachable")


_PAIRS = {1: minimal_pair, 2: pairs_2.minimal_pair}
_CATEGORIES: Mapping[int, Mapping[str, Categories]] = {
    1: {
        "mmbench": MMBENCH_CATEGORIES,
        "mmstar": MMSTAR_CATEGORIES,
        "scienceqa": {"embedded world": ("", SCIENCEQA_FAMILIES)},
    },
    2: {
        "mmbench": categories_2.MMBENCH,
        "mmstar": categories_2.MMSTAR,
        "scienceqa": {"embedded world": ("", categories_2.SCIENCEQA)},
    },
}
_MAKERS: dict[str, Callable[[_Draw], list[dict[str, Any]]]] = {
    "mmbench": _mmbench,
    "mmstar": _mmstar,
    "mmvp": _mmvp,
    "scienceqa": _scienceqa,
    "pope": _pope,
}

GROUPS: Mapping[str, tuple[int, str]] = {
    "lare_mini": (1, "test"),
    "lare_mini_val": (1, "validation"),
    "lare_mini2": (2, "test"),
    "lare_mini2_val": (2, "validation"),
}
"""Group of evaluation tasks -> version of the world and split."""


class StandIn(NamedTuple):
    """What an evaluation task asks.

    Attributes:
        name: The benchmark whose format it has.
        split: Split of the world's scenes.
        version: Version of the world.
    """

    name: str
    split: str
    version: int


def stand_in(task: str) -> StandIn | None:
    """What an evaluation task such as ``lare_mini_val_pope`` asks; None for any that is no stand-in."""
    group, _, name = task.rpartition("_")
    if group not in GROUPS or name not in TASKS:
        return None
    version, split = GROUPS[group]
    return StandIn(name, split, version)


def make_task(
    task: str, split: str = "test", n: int | None = None, seed: int | None = None, images: bool = True, version: int = 1
) -> list[dict[str, Any]]:
    """The rows of one mini task, in the imitated benchmark's columns, with a PIL image in column `image`.

    Args:
        task: mmbench, mmstar, mmvp, scienceqa or pope.
        split: train, validation or test; test pictures hold drawings and digits never seen in training.
        n: number of rows (pairs count two in mmvp); the default sizes are about 500 a task.
        seed: another draw of the same task; None is the published one.
        images: False leaves the column `image` out, and its drawing, which takes most of the time.
        version: version of the world.

    Returns:
        Rows with the benchmark's columns plus question_id, sort, hops, boxes, rationale, scene, and from version 2 on
        difficulty.

    Raises:
        LareError: unknown task, split or version.
    """
    if task not in _MAKERS:
        raise LareError(f"unknown mini task {task!r}; choose one of {', '.join(TASKS)}")
    if split not in ("train", "validation", "test"):
        raise LareError(f"unknown split {split!r}; choose train, validation or test")
    return _MAKERS[task](_Draw(world(version), split, SIZES_BY_TASK[task] if n is None else n, seed or 0, images))
