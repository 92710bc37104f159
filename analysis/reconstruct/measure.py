"""Numbers of the pictures sampled back from latents: every condition's scores, question by question.

From Python::

    from analysis.reconstruct.measure import ReconstructOptions, measure, over_steps

    found = measure(ReconstructOptions(rows=48))
    over_steps(found.scores["own"], "found").mean()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lare
from analysis.reconstruct.sampling import (
    TITLES,
    Looks,
    Scores,
    Target,
    conditions,
    draw,
    final_folder,
    load_reconstruction,
    look,
    nearest,
    score_pictures,
    target_of,
    through_tokenizer,
    training_crops,
)
from analysis.shared.asking import Asker
from analysis.shared.options import option
from analysis.shared.questions import AskingOptions, Gathered, Question, gather_questions
from lare.errors import LareError
from lare.progress import progress

__all__ = ["SAMPLED", "SHIPPED", "ByStep", "Measured", "ReconstructOptions", "measure", "over_steps"]

SAMPLED = ("own", "other", "mean", "noise", "zeros")

SHIPPED = Path(lare.__file__).parent / "checkpoints" / "embedded_unet"
"""U-Net and tokenizer of ``lare train lare/configs/embedded_unet.yaml``."""

ByStep = Mapping[str, Sequence[Scores]]
"""Condition to scores of each step."""

NO_TRAINING = (
    "Nothing is said of copies of training pictures: those at hand are the embedded world's, which the pictures of "
    "these tasks don't come from"
)


@dataclass(frozen=True)
class ReconstructOptions(AskingOptions):
    """Options of the reconstruction.

    Attributes:
        run: Folder of a finished training run that trained image reconstruction.
        rows: Questions, of different pictures.
        candidates: C, pictures to tell apart.
        draws: Samples that a picture is the mean of.
        denoising: Steps of the sampler.
        training: Training pictures of the embedded world to look for copies in; unused for other tasks.
        samples: Questions to show.
    """

    name = "reconstruct"
    example = "python analysis/reconstruct.py --run runs/embedded_unet"

    run: str = option(str(SHIPPED), "folder of a finished training run", metavar="DIR")
    rows: int = option(128, "questions, of different scenes; validation questions of the mini tasks", metavar="N")
    candidates: int = option(16, "pictures to tell apart", metavar="C")
    draws: int = option(4, "samples a picture is the mean of", metavar="N")
    denoising: int = option(10, "steps of the sampler", metavar="N")
    training: int = option(256, "training pictures to look for copies in", metavar="N")
    samples: int = option(12, "questions to show", metavar="N")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows < 2 * self.candidates or self.candidates < 2:
            raise LareError(
                f"--rows is {self.rows}, --candidates {self.candidates}; give at least two groups of at least 2"
            )


@dataclass(frozen=True)
class Measured:
    """Pictures and their scores.

    Attributes:
        gathered: The questions, a multiple of C.
        checkpoint: Fingerprint of the weights.
        looks: What was seen while thinking.
        size: S, side of a crop in pixels.
        pictures: Condition to the pictures (N, 3, S, S) of each step.
        scores: Condition to scores of each step; "training" and `Scores.copied` only with training pictures.
        chance: 1 / C.
    """

    gathered: Gathered
    checkpoint: str
    looks: Looks
    size: int
    pictures: dict[str, list[Tensor]]
    scores: dict[str, list[Scores]]
    chance: float

    @property
    def copies(self) -> bool:
        """Whether copies of training pictures were looked for."""
        return "training" in self.scores


def measure(options: ReconstructOptions) -> Measured:
    """Sample crops from latents and compare.

    Raises:
        LareError: If the run or its image reconstruction is missing, or questions can't be had or are too few.
    """
    path = Path(options.run)
    folder = final_folder(path)
    gathered = _questions(options)
    # What is shipped beside the embedded checkpoint has no weights of its own but the U-Net's.
    own = (folder / "model.safetensors").is_file()
    asker = Asker(gathered.questions, str(folder) if own else options.checkpoint, options.batch_size)
    gathered.check(asker.fingerprint)
    reconstruction = load_reconstruction(path, int(asker.model.config.text_config.hidden_size))
    looks = look(asker, reconstruction.config.cells)
    drawn = not options.tasks and not options.traces
    training = training_crops(options.training, looks.pictures.shape[-1]) if drawn else None
    targets = [target_of(looks, step, reconstruction, options.candidates) for step in range(looks.latents.shape[1])]
    made = _pictures(looks, reconstruction, targets, options, training)
    each = [
        score_pictures({name: one[step] for name, one in made.items()}, target, looks, reconstruction, training)
        for step, target in enumerate(targets)
    ]
    scores = {name: [one[name] for one in each] for name in made}
    return Measured(gathered, asker.fingerprint, looks, reconstruction.size, made, scores, 1 / options.candidates)


def _questions(options: ReconstructOptions) -> Gathered:
    """The first questions of pairwise different scenes, tasks taking turns, a multiple of the group."""
    count, group = options.rows, options.candidates
    gathered = gather_questions(options, "validation", count)
    every: dict[str, list[Question]] = {}
    for one in gathered.questions:
        every.setdefault(one.task, []).append(one)
    turns = [one for rank in range(count) for task in every.values() for one in task[rank : rank + 1]]
    unique = {one.scene: one for one in reversed(turns)}
    chosen = sorted(unique.values(), key=lambda one: (one.doc_id, one.task))[: count // group * group]
    if len(chosen) < 2 * group:
        raise LareError(
            f"there are {len(chosen)} pictures to ask about, two groups of {group} are needed; lower --candidates"
        )
    warnings = gathered.warnings if not options.tasks and not options.traces else (*gathered.warnings, NO_TRAINING)
    return replace(gathered, questions=chosen[: len(chosen) // group * group], warnings=warnings)


def _pictures(
    looks: Looks, reconstruction: Any, targets: Sequence[Target], options: ReconstructOptions, training: Tensor | None,
) -> dict[str, list[Tensor]]:  # fmt: skip
    """Condition to the pictures (N, 3, S, S) of each step."""
    seed = options.seeds[0]
    generator = torch.Generator().manual_seed(seed)
    noises = [reconstruction.draw(len(looks.latents), generator)[0] for _ in range(options.draws)]
    made: dict[str, list[Tensor]] = {name: [] for name in TITLES if name != "training" or training is not None}
    given = conditions(looks.latents, seed, options.candidates)
    for step, target in enumerate(progress(targets, desc="sampling", unit="step")):
        for name in SAMPLED:
            drawn = [draw(reconstruction, given[name][:, step], noise, options.denoising) for noise in noises]
            made[name].append(torch.stack(drawn).mean(0))
        made["tokenizer"].append(through_tokenizer(reconstruction, target.crops))
        if training is not None:
            made["training"].append(nearest(target.crops, target.corners, looks, training)[0])
        made["crop"].append(target.crops.mean(0, keepdim=True).expand_as(target.crops).contiguous())
    return made


def over_steps(scores: Sequence[Scores], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(N,) mean over steps: a question is one item, however many steps it took."""
    return np.asarray(np.mean([getattr(one, name) for one in scores], axis=0), dtype=np.float64)
