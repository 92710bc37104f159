"""How a run does on questions that no stage trains on: the world's validation split (own scenes, drawings and digits).

Two figures. Losses, each by its formula, teacher-forced and at weight 1, so that runs of different weights compare. And
answers: what the model writes by itself, right when the text after ``Answer:`` is the answer's. Test questions, on
which nothing may be chosen, are never looked at here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from lare.embedded.batches import WorldBatches
from lare.embedded.world.items import STYLES, Item, ItemSampler
from lare.embedded.world.render import render
from lare.embedded.world.versions import world
from lare.embedded.world_data import WorldData
from lare.losses.base import Contrastive, get_loss, weighted_names
from lare.methods.base import Sampling
from lare.methods.lare import Lare
from lare.training.feeding.loader import Split
from lare.training.feeding.mode import main_layout
from lare.training.model import TrainingModel
from lare.training.plan.config import RunConfig
from lare.training.step import counts
from lare.training.trainer import make_draws

if TYPE_CHECKING:
    from lare.model import LareProcessor

__all__ = ["Asked", "answers", "draw_questions", "held_out_losses", "majority", "scene_interval"]

PER_SCENE = 4
SEED = 8_191
"""Seed of the questions, the same for all runs, so that comparisons are paired."""


@dataclass(frozen=True)
class Asked:
    """A held-out question.

    Attributes:
        scene: Number of its scene.
        item: The question in its format.
    """

    scene: int
    item: Item


def draw_questions(data: WorldData, scenes: int, split: str = "validation", first: int = 0) -> list[Asked]:
    """`PER_SCENE` questions about scenes of a split from number `first` on, by the weights of a source of the world."""
    made = world(data.version)
    families = dict(data.families) or dict.fromkeys(made.families, 1.0)
    asked = {name: weight for name, weight in families.items() if name not in made.training_families}
    sampler = ItemSampler(asked or families, dict(data.styles) or dict.fromkeys(STYLES, 1.0), SEED, data.version)
    return [
        Asked(scene, item)
        for scene in range(first, first + scenes)
        for item in sampler.sample(made.sample_scene(split, scene), PER_SCENE)
    ]


def _version(asked: Sequence[Asked]) -> int:
    """The version of the world that questions are about."""
    scene = asked[0].item.scene if asked else None
    return 1 if scene is None else scene.version


@torch.no_grad()
def held_out_losses(
    model: TrainingModel, config: RunConfig, processor: LareProcessor, asked: Sequence[Asked], rows: int = 128
) -> dict[str, float]:
    """Mean of each loss over questions, in the way of answering of the run's last stage.

    Args:
        model: The model; the losses of heads that it does not have are left out.
        config: The run.
        processor: Its processor.
        asked: Questions, those of a scene together.
        rows: Questions a forward pass, which are also the alignment's negatives.
    """
    stage = config.stages[-1]
    settings = model.lare.config
    source = WorldData(per_image=PER_SCENE, version=_version(asked))
    pictures = model.image is not None
    made = WorldBatches(
        source, stage, processor, settings, Split(), 0, None, len(asked), "validation", pictures=pictures
    )
    mode, entry = main_layout(stage, settings), stage.mixture[-1]
    losses = [get_loss(name) for name in weighted_names()]
    weights = {one.name: float(not one.owner or model.head(one) is not None) for one in losses}
    sums: defaultdict[str, float] = defaultdict(float)
    totals: Counter[str] = Counter()
    model.train(False)
    device = next(model.parameters()).device
    for start in range(0, len(asked), rows):
        part = asked[start : start + rows]
        scenes, items = [one.scene for one in part[::PER_SCENE]], [one.item for one in part]
        batch = made.encode(scenes, items, 0, mode, entry, made.picks(start, len(items))).to(device)
        draws = make_draws(config, model, len(config.stages), start, len(part)).to(device)
        out = model(batch, weights, draws)
        for name, value in out.sums.items():
            sums[name] += float(value)
        for loss in losses:
            if isinstance(loss, Contrastive) and loss.name in out.embedded:
                made_rows = out.embedded[loss.name]
                sums[loss.name] += float(loss.contrast(made_rows, [batch], config.losses.temperature))
        totals.update(counts([batch], weights, [draws]))
    return {name: total / totals[name] for name, total in sums.items() if totals[name]}


def answers(
    model: TrainingModel, processor: LareProcessor, asked: Sequence[Asked], batch: int = 32, most: int = 64
) -> list[str]:
    """What the model writes to each question: the text after the last ``Answer:``, else all of it.

    Args:
        model: The model.
        processor: Its processor.
        asked: Questions.
        batch: Questions answered at once.
        most: Text tokens an answer.
    """
    model.train(False)
    method = Lare(model.lare, processor)
    found: list[str] = []
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        sample_scene = world(_version(part)).sample_scene
        images = [Image.fromarray(render(sample_scene("validation", one.scene), 0)) for one in part]
        replies = method.answer(images, [one.item.prompt for one in part], Sampling(max_new_tokens=most))
        found += [reply.text.rpartition("Answer:")[2].strip().lower() for reply in replies]
    return found


def majority(data: WorldData, asked: Sequence[Asked], scenes: int = 2_000) -> list[str]:
    """What one would answer by the question's family and options alone: the commonest answer in the training split."""
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one in draw_questions(data, scenes, "train"):
        seen[one.item.question.family][one.item.final] += 1

    def guess(item: Item) -> str:
        known = seen[item.question.family]
        options: Sequence[str] = item.choices or tuple(known) or ("",)
        return max(options, key=lambda option: (known[option], option))

    return [guess(one.item) for one in asked]


def scene_interval(values: npt.NDArray[np.float64], scenes: npt.NDArray[np.int64]) -> tuple[float, float]:
    """95 % interval of a mean over questions, by drawing whole scenes 4,000 times.

    Args:
        values: (n,) a value for each question.
        scenes: (n,) the question's scene.
    """
    _, numbers = np.unique(scenes, return_inverse=True)
    sums, sizes = np.bincount(numbers, values), np.bincount(numbers)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=4_000)
    low, high = np.percentile(weights @ sums / (weights @ sizes), [2.5, 97.5])
    return float(low), float(high)


def share_right(replies: Sequence[str], asked: Sequence[Asked]) -> npt.NDArray[np.float64]:
    """(n,) 1 where a reply is the answer's text."""
    return np.array([float(reply == one.item.final.lower()) for reply, one in zip(replies, asked, strict=True)])


def by_family(right: npt.NDArray[np.float64], asked: Sequence[Asked]) -> Mapping[str, tuple[float, int]]:
    """Accuracy and number of questions of each family."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for value, one in zip(right.tolist(), asked, strict=True):
        found[one.item.question.family].append(value)
    return {name: (sum(values) / len(values), len(values)) for name, values in sorted(found.items())}
