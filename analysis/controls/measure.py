"""Numbers of the causal controls: the same questions under every control, each with its own latents beside it.

From Python::

    from analysis.controls.measure import ControlsOptions, measure

    found = measure(ControlsOptions(limit=50, checkpoint="runs/mine/IV/final"))
    found.answers["none"].right.mean() - found.answers["own"].right.mean()
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from analysis.controls.tables import CONTROLS
from analysis.shared.asking import Answers, Asker
from analysis.shared.options import option
from analysis.shared.questions import AskingOptions, Gathered, Question, gather_questions
from analysis.shared.tasks import Apart, find_apart
from lare.errors import LareError
from lare.interventions.content import at_norm

__all__ = ["ControlsOptions", "Measured", "derange", "measure", "moves_by_control", "replacements"]


@dataclass(frozen=True)
class ControlsOptions(AskingOptions):
    """Options of the controls.

    Attributes:
        limit: First questions of each task; None for all.
        samples: Questions to show.
    """

    name = "controls"
    example = "python analysis/controls.py --limit 50"

    limit: int | None = option(None, "first questions of each task (default: all)", metavar="N")
    samples: int = option(24, "questions to show", metavar="N")


@dataclass(frozen=True)
class Measured:
    """Answers under every control.

    Attributes:
        gathered: The questions.
        answers: Name of a control to answers, in the order of `analysis.controls.tables.CONTROLS`.
        checkpoint: Fingerprint of the weights.
    """

    gathered: Gathered
    answers: dict[str, Answers]
    checkpoint: str


def measure(options: ControlsOptions) -> Measured:
    """Ask under every control.

    Raises:
        LareError: If the questions can't be had, or the checkpoint can't be loaded or makes no latents.
    """
    gathered = gather_questions(options, limit=options.limit)
    asker = Asker(gathered.questions, options.checkpoint, options.batch_size)
    gathered.check(asker.fingerprint)
    return Measured(gathered, ask_all(asker, options.seeds[0]), asker.fingerprint)


def derange(questions: Sequence[Question], seed: int) -> npt.NDArray[np.int64]:
    """A partner for each question: of the same task and another scene, each used once where that is possible.

    Args:
        questions: N questions.
        seed: Seed of the draw.

    Returns:
        (N,) numbers of the partners.

    Raises:
        LareError: If a task has questions about one scene only.
    """
    rng = np.random.default_rng(seed)
    partner = np.full(len(questions), -1, np.int64)
    scenes = np.array([one.scene for one in questions])
    tasks = np.array([one.task for one in questions])
    for task in sorted(set(tasks)):
        rows = np.flatnonzero(tasks == task)
        if len(set(scenes[rows])) < 2:
            raise LareError(f"{task} has one scene only, so no question has another's latents; raise --limit")
        # Scenes in random order, each one's questions side by side: a shift by the largest scene leaves every scene.
        drawn = rng.permutation(sorted(set(scenes[rows])))
        ordered = np.concatenate([rows[scenes[rows] == scene] for scene in drawn])
        partner[ordered] = np.roll(ordered, int(max(np.bincount(np.unique(scenes[rows], return_inverse=True)[1]))))
        for row in rows[scenes[partner[rows]] == scenes[rows]]:  # one scene holds half of a tiny task
            partner[row] = rng.choice(rows[scenes[rows] != scenes[row]])
    return partner


def replacements(latents: Tensor, questions: Sequence[Question], seed: int) -> dict[str, Tensor]:
    """What is fed in place of latents (N, K, m, d), each of that shape; zeros are an option of the method itself.

    Args:
        latents: Latents of the run without a control.
        questions: Their questions.
        seed: Seed of noise and partners.

    Returns:
        "noise", Gaussian, each token as long as the latent it stands for; "mean" over all questions, step by
        step; "mean_norm", as long as the latents; "other", another question's.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    mean = latents.mean(0, keepdim=True).expand_as(latents)
    return {
        "noise": at_norm(noise, latents),
        "mean": mean,
        "mean_norm": at_norm(mean, latents),
        "other": latents[torch.from_numpy(derange(questions, seed))],
    }


def ask_all(asker: Asker, seed: int) -> dict[str, Answers]:
    """Ask under every control.

    Raises:
        LareError: If the checkpoint makes no latents.
    """
    natural = asker.ask("own", keep_latents=True)
    if natural.latents is None or not natural.latents.shape[1]:
        raise LareError("the checkpoint makes no latents (iterations 0), so there is nothing to control; give another")
    instead = replacements(natural.latents, asker.questions, seed)
    answers = {"own": natural}
    for control in CONTROLS[1:]:
        answers[control.name] = asker.ask(
            control.name,
            instead.get(control.latents),
            seed=seed,
            iterations=control.iterations,
            window_mode=control.window,
            hide_image=control.hidden,
            latents="zeros" if control.latents == "zeros" else "own",
        )
    return answers


def moves_by_control(answers: dict[str, Answers], questions: Sequence[Question]) -> Apart:
    """Which tasks move against the rest from a control's reference to the control."""
    names = [control.name for control in CONTROLS]
    pairs = [(names.index(control.against), place) for place, control in enumerate(CONTROLS) if control.against]
    right = np.stack([answers[name].right.astype(float) for name in names], 1)
    tasks, scenes = [one.task for one in questions], [one.scene for one in questions]
    return find_apart(right, tasks, scenes, names, pairs)
