"""Stop rules replayed (section on adaptive steps, Table 4): one run with an answer after every step, then look-ups.

Latents of later steps do not depend on the decision to stop, so what a rule would have done follows exactly from one
run of T steps in which the answer is decoded after every prefix of the latents.

Shapes: N questions, T steps, t = 0..T, m latents a step, d width of a latent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats as scipy_stats
from torch import Tensor

from analysis.shared.asking import Asker
from lare.errors import LareError
from lare.model.loop import extend, prefill
from lare.model.thinking import think

__all__ = [
    "RULES",
    "Prefixes",
    "at_stop",
    "choose_for_budget",
    "choose_safe",
    "distances",
    "earliest_right",
    "run_once",
    "stable_answer",
    "stop_steps",
    "thresholds",
]

Array = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]

RULES = {
    "cosine": "Cosine: 1 - cos of a step's latents and the step's before",
    "l1": "L1: distance to the step before",
    "l2": "L2: distance to the step before",
    "kl": "KL: of the next token's distribution to the one a step before",
    "second": "Second difference: of the latents, a step to a step",
    "patience": "Patience: the answer stayed the same so many steps",
}
"""The rules. All are distances: a run stops where its own falls below the threshold."""


@dataclass(frozen=True)
class Prefixes:
    """One run with an answer after every prefix.

    Attributes:
        right: (N, T + 1) booleans; column t is the answer after t steps.
        tokens: (N, T + 1) text tokens.
        replies: (N, T + 1) what was scored.
        texts: (N, T + 1) everything written.
        latents: (N, T, m, d) float32.
        kl: (N, T + 1) KL divergence of the next token's distribution after t steps from that after t - 1, in nats;
            NaN in column 0.
        task: (N,) names.
        doc_id: (N,) numbers.
        scene: (N,) names.
        hops: (N,) numbers.
    """

    right: npt.NDArray[np.bool_]
    tokens: Steps
    replies: npt.NDArray[np.str_]
    texts: npt.NDArray[np.str_]
    latents: npt.NDArray[np.float32]
    kl: Array
    task: npt.NDArray[np.str_]
    doc_id: Steps
    scene: npt.NDArray[np.str_]
    hops: Steps

    @property
    def most(self) -> int:
        """T."""
        return int(self.right.shape[1]) - 1

    def take(self, rows: npt.NDArray[np.bool_]) -> Prefixes:
        """The same run of some of its questions: (N,) which."""
        return Prefixes(**{one.name: getattr(self, one.name)[rows] for one in fields(self)})


def run_once(asker: Asker, most: int, cache: Path | None = None) -> Prefixes:
    """Think T steps and answer after each; kept in a file, so that it is done once.

    Args:
        asker: Checkpoint and questions.
        most: T, at least 3.
        cache: File to read if it is there, and to write else.

    Raises:
        LareError: If T is too small, or the file is of other questions or damaged.
    """
    if most < 3:
        raise LareError(f"--steps is {most}; a stop rule needs at least 3 steps to choose from")
    if cache is not None and cache.is_file():
        return _load(cache, asker, most)
    kl, latents = _latents(asker, most)
    answers = [asker.ask(f"answers after {t} steps", iterations=t) for t in range(most + 1)]
    questions = asker.questions
    made = Prefixes(
        right=np.stack([one.right for one in answers], 1),
        tokens=np.stack([one.tokens for one in answers], 1),
        replies=np.array([one.replies for one in answers]).T,
        texts=np.array([one.texts for one in answers]).T,
        latents=latents.numpy(),
        kl=kl,
        task=np.array([one.task for one in questions]),
        doc_id=np.array([one.doc_id for one in questions]),
        scene=np.array([one.scene for one in questions]),
        hops=np.array([one.hops for one in questions]),
    )
    if cache is not None:
        _save(cache, made)
    return made


@torch.inference_mode()
def _latents(asker: Asker, most: int) -> tuple[Array, Tensor]:
    """KL (N, T + 1) and latents (N, T, m, d) of a run of T steps, looked at after each step and taken back."""
    model, count = asker.model, len(asker.questions)
    kl = np.full((count, most + 1), np.nan)
    kept: Tensor | None = None
    for rows, inputs in asker.batches("latents"):
        visual = model.encode_features(inputs["visual_features"])
        room = (most + 1) * model.config.latents_per_iteration + 1
        state = prefill(model, inputs["input_ids"], inputs["attention_mask"], visual, room=room)
        end = model.embed_token(model.config.latent_end_id, len(rows))
        before, steps = None, []
        for step in range(most + 1):
            if step:
                thoughts = think(model, state, 1, stop="fixed")
                state = thoughts.state
                steps.append(thoughts.latents[:, 0].float().cpu())
            hidden, _ = extend(model, state, end)
            state.cache.crop(-1)
            now = model.lm_head(hidden[:, -1]).float().log_softmax(-1)
            if before is not None:
                kl[rows, step] = (now.exp() * (now - before)).sum(-1).cpu().numpy()
            before = now
        made = torch.stack(steps, 1)
        kept = made.new_zeros(count, *made.shape[1:]) if kept is None else kept
        kept[rows] = made
    assert kept is not None
    return kl, kept


def _save(path: Path, made: Prefixes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **{one.name: getattr(made, one.name) for one in fields(made)})
    temporary.replace(path)


def _load(path: Path, asker: Asker, most: int) -> Prefixes:
    try:
        with np.load(path, allow_pickle=False) as content:
            made = Prefixes(**{one.name: content[one.name] for one in fields(Prefixes)})
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise LareError(f"{str(path)!r} can't be read ({error}); delete it to run again") from None
    asked = [(one.task, one.doc_id, one.scene) for one in asker.questions]
    if made.most != most or list(zip(made.task, made.doc_id, made.scene, strict=True)) != asked:
        raise LareError(f"{str(path)!r} is of other questions or steps; delete it to run again")
    return made


# Rules --------------------------------------------------------------------------------------------------------------


def distances(made: Prefixes, rule: str, relative: bool = True) -> Array:
    """What a rule looks at after each step.

    Args:
        made: The run.
        rule: One of `RULES`.
        relative: L1, L2 and second difference by the norm of the step before's latents, so that a threshold means the
            same for every model; False as the model's own ``stop`` rules take them.

    Returns:
        (N, T + 1); NaN where the rule can't decide yet (one latent has nothing to be compared with).

    Raises:
        LareError: If the rule is unknown.
    """
    if rule not in RULES:
        raise LareError(f"there is no stop rule {rule!r}; choose from {', '.join(RULES)}")
    values = np.full(made.right.shape, np.nan)
    if rule == "kl":
        return made.kl.copy()
    if rule == "patience":
        run = np.zeros(len(values))
        for step in range(1, made.most + 1):
            run = np.where(made.replies[:, step] == made.replies[:, step - 1], run + 1, 0)
            values[:, step] = -run
        return values
    flat = made.latents.reshape(len(values), made.most, -1)
    moved = np.diff(flat, axis=1)
    old = flat[:, :-1]
    if rule == "cosine":
        norms = np.linalg.norm(flat, axis=-1)
        product = (flat[:, 1:] * old).sum(-1) / np.maximum(norms[:, 1:] * norms[:, :-1], 1e-12)
        values[:, 2:] = 1 - product
    elif rule == "l1":
        values[:, 2:] = np.abs(moved).sum(-1) / (np.abs(old).sum(-1) if relative else 1)
    elif rule == "l2":
        values[:, 2:] = np.linalg.norm(moved, axis=-1) / (np.linalg.norm(old, axis=-1) if relative else 1)
    else:
        bend = np.linalg.norm(np.diff(moved, axis=1), axis=-1)
        values[:, 3:] = bend / (np.linalg.norm(old[:, 1:], axis=-1) if relative else 1)
    return values


def stop_steps(values: Array, threshold: float, patience: int = 1, least: int = 1) -> Steps:
    """Where a rule stops each run.

    Args:
        values: (N, T + 1) from `distances`.
        threshold: Stop where the distance is below it.
        patience: Steps in a row that must be below it.
        least: Steps to take at least.

    Returns:
        (N,) steps, T where the rule never fires.
    """
    below = np.where(np.isnan(values), False, values < threshold)
    fired = below.copy()
    for back in range(1, patience):
        fired[:, back:] &= below[:, :-back]
        fired[:, :back] = False
    fired[:, :least] = False
    last = values.shape[1] - 1
    stops: Steps = np.where(fired.any(1), fired.argmax(1), last).astype(np.int64)
    return stops


def thresholds(values: Array, rule: str, points: int = 41) -> Array:
    """Quantile grid of the distances seen, with never (-inf) first and at once (inf) last; whole steps of patience."""
    if rule == "patience":
        inner = -np.arange(values.shape[1] - 1, 0, -1) + 0.5
    else:
        inner = np.unique(np.quantile(values[np.isfinite(values)], np.linspace(0, 1, points)[1:]))
    return np.concatenate([[-np.inf], inner, [np.inf]])


def choose_for_budget(values: Array, grid: Array, budget: float, patience: int = 1) -> float:
    """The threshold whose mean steps are nearest to a budget; on validation questions."""
    means = [stop_steps(values, float(threshold), patience).mean() for threshold in grid]
    return float(grid[int(np.argmin(np.abs(np.array(means) - budget)))])


def choose_safe(
    values: Array, grid: Array, right: npt.NDArray[np.bool_], scene: Sequence[str] | npt.NDArray[np.str_],
    margin: float = 0.01, risk: float = 0.05, patience: int = 1,
) -> float:  # fmt: skip
    """The most eager threshold shown to harm at most `margin` of the answers (Learn then Test, fixed sequence).

    A harmed answer is right after T steps and wrong where the rule stops; gains are not set against harm, so accuracy
    is at most `margin` lower. Thresholds are tested from never on, each by an exact binomial test over scenes (a scene
    counts as harmed if any of its questions is), and the first that fails ends the sequence, so no correction for the
    many thresholds is due.

    Args:
        values: (N, T + 1) from `distances`, of validation questions.
        grid: Ascending thresholds.
        right: (N, T + 1).
        scene: (N,) clusters.
        margin: Share of harmed answers to allow.
        risk: Chance of allowing more.
        patience: As in `stop_steps`.
    """
    _, codes = np.unique(np.asarray(scene), return_inverse=True)
    chosen = -np.inf
    for threshold in grid:
        stops = stop_steps(values, float(threshold), patience)
        harmed = right[:, -1] & (at_stop(right, stops) == 0)
        scenes = np.bincount(codes, weights=harmed) > 0
        if scipy_stats.binom.cdf(int(scenes.sum()), scenes.size, margin) > risk:
            break
        chosen = float(threshold)
    return float(chosen)


def at_stop(table: npt.NDArray[Any], stops: Steps) -> npt.NDArray[Any]:
    """(N,) entries of an (N, T + 1) table where each run stopped."""
    return np.take_along_axis(table, stops[:, None], 1)[:, 0]


def earliest_right(made: Prefixes) -> Steps:
    """(N,) first step from 1 on whose answer is right, T if none: a bound inflated by lucky guesses."""
    later = made.right[:, 1:]
    found: Steps = np.where(later.any(1), later.argmax(1) + 1, made.most).astype(np.int64)
    return found


def stable_answer(made: Prefixes) -> Steps:
    """(N,) first step from 1 on after which the answer no longer changes: what a perfect rule could save."""
    same = made.replies == made.replies[:, -1:]
    kept = np.logical_and.accumulate(same[:, ::-1], axis=1)[:, ::-1]
    kept[:, 0] = False
    found: Steps = kept.argmax(1).astype(np.int64)
    return found
