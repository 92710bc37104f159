"""Stop rules replayed (section on adaptive steps, Table 4): one run with an answer after every step, then look-ups.

Latents of later steps do not depend on the decision to stop, so what a rule would have done follows exactly from one
run of T steps in which the answer is decoded after every prefix of the latents.

Shapes: N questions, T steps, t = 0..T, m latents a step, d width of a latent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
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
from lare.model.loop import prefill
from lare.model.observing import observe
from lare.model.stop_head import KINDS, head_inputs
from lare.model.thinking import first_token

__all__ = [
    "LEARNED",
    "RULES",
    "Prefixes",
    "at_stop",
    "choose_for_budget",
    "choose_safe",
    "distances",
    "earliest_right",
    "rule_label",
    "rules_of",
    "run_once",
    "shuffled_right",
    "stable_answer",
    "stop_steps",
    "thresholds",
]

RISK = 0.05
"""Chance that a threshold which counts as safe harms more answers than it may."""

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

LEARNED = {
    "agreement": "Learned, agreement: 1 - probability that the answer is as good as the best",
    "ponder": "Learned, ponder: 1 - probability of having stopped, by expected loss and a price a step",
    "confidence": "Learned, confidence: 1 - calibrated confidence of the first token, from a look ahead",
}
"""Rules of the checkpoint's stop heads (`lare.model.stop_head`), as distances; a checkpoint may have none."""


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
        difficulty: (N,) "easy", "medium" or "hard"; empty where nothing says.
        learned: (N, T + 1, 3) distances of the stop heads in the order of `LEARNED`; NaN where there is no head.
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
    difficulty: npt.NDArray[np.str_] = field(default_factory=lambda: np.empty(0, "<U6"))
    learned: Array = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        """Files of earlier versions say nothing of difficulty and of heads."""
        count, columns = self.right.shape
        if len(self.difficulty) != count:
            object.__setattr__(self, "difficulty", np.full(count, "", "<U6"))
        if len(self.learned) != count:
            object.__setattr__(self, "learned", np.full((count, columns, len(LEARNED)), np.nan))

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
    kl, latents, learned = _latents(asker, most)
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
        difficulty=np.array([one.difficulty for one in questions]),
        learned=learned,
    )
    if cache is not None:
        _save(cache, made)
    return made


@torch.inference_mode()
def _latents(asker: Asker, most: int) -> tuple[Array, Tensor, Array]:
    """KL (N, T + 1), latents (N, T, m, d) and the heads' distances (N, T + 1, 3) of a run of T steps."""
    model, count = asker.model, len(asker.questions)
    heads = {} if model.stop_heads is None else model.stop_heads.heads
    kl, learned = np.full((count, most + 1), np.nan), np.full((count, most + 1, len(KINDS)), np.nan)
    kept: Tensor | None = None
    for rows, given in asker.batches("latents"):
        visual = model.encode_features(given["visual_features"])
        room = (most + 1) * model.config.latents_per_iteration + 1
        state = prefill(model, given["input_ids"], given["attention_mask"], visual, room=room)
        before, steps = first_token(model, state).float().log_softmax(-1), []
        inputs: dict[str, list[Tensor]] = {kind: [] for kind in heads}
        for seen in observe(model, state, most):
            assert seen.first is not None
            steps.append(seen.latents.float().cpu())
            now = seen.first.float().log_softmax(-1)
            kl[rows, seen.step] = (now.exp() * (now - before)).sum(-1).cpu().numpy()
            before = now
            for kind, parts in inputs.items():
                parts.append(head_inputs(kind, seen))
        for kind, parts in inputs.items():
            values = heads[kind].to(parts[0].device).values(torch.stack(parts, 1))
            learned[rows, 1:, KINDS.index(kind)] = 1 - values.double().cpu().numpy()
        made = torch.stack(steps, 1)
        kept = made.new_zeros(count, *made.shape[1:]) if kept is None else kept
        kept[rows] = made
    assert kept is not None
    return kl, kept, learned


def _save(path: Path, made: Prefixes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **{one.name: getattr(made, one.name) for one in fields(made)})
    temporary.replace(path)


def _load(path: Path, asker: Asker, most: int) -> Prefixes:
    try:
        with np.load(path, allow_pickle=False) as content:
            names = [one.name for one in fields(Prefixes) if one.name in content or one.default_factory is MISSING]
            made = Prefixes(**{name: content[name] for name in names})
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise LareError(f"{str(path)!r} can't be read ({error}); delete it to run again") from None
    asked = [(one.task, one.doc_id, one.scene) for one in asker.questions]
    if made.most != most or list(zip(made.task, made.doc_id, made.scene, strict=True)) != asked:
        raise LareError(f"{str(path)!r} is of other questions or steps; delete it to run again")
    return made


# Rules --------------------------------------------------------------------------------------------------------------


def rules_of(made: Prefixes) -> list[str]:
    """Names of the rules that a run can be judged by: all, and of the learned ones those that have a head."""
    known = [kind for place, kind in enumerate(LEARNED) if np.isfinite(made.learned[..., place]).any()]
    return [*RULES, *known]


def rule_label(rule: str) -> str:
    """A rule's name in tables; "none" for a bound."""
    return (RULES | LEARNED).get(rule, "none").split(":")[0]


def distances(made: Prefixes, rule: str, relative: bool = True) -> Array:
    """What a rule looks at after each step.

    Args:
        made: The run.
        rule: One of `RULES` or `LEARNED`.
        relative: L1, L2 and second difference by the norm of the step before's latents, so that a threshold means the
            same for every model; False as the model's own ``stop`` rules take them.

    Returns:
        (N, T + 1); NaN where the rule can't decide yet (one latent has nothing to be compared with).

    Raises:
        LareError: If the rule is unknown.
    """
    if rule not in RULES | LEARNED:
        raise LareError(f"there is no stop rule {rule!r}; choose from {', '.join(RULES | LEARNED)}")
    if rule in LEARNED:
        found: Array = made.learned[..., list(LEARNED).index(rule)]
        return found
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


def thresholds(values: Array, rule: str) -> Array:
    """Quantile grid of the distances seen, with never (-inf) first and at once (inf) last; whole steps of patience."""
    if rule == "patience":
        inner = -np.arange(values.shape[1] - 1, 0, -1) + 0.5
    else:
        inner = np.unique(np.quantile(values[np.isfinite(values)], np.linspace(0, 1, 41)[1:]))
    return np.concatenate([[-np.inf], inner, [np.inf]])


def choose_for_budget(values: Array, grid: Array, budget: float, patience: int = 1) -> float:
    """The threshold whose mean steps are nearest to a budget; on validation questions."""
    means = [stop_steps(values, float(threshold), patience).mean() for threshold in grid]
    return float(grid[int(np.argmin(np.abs(np.array(means) - budget)))])


def choose_safe(
    values: Array, grid: Array, right: npt.NDArray[np.bool_], scene: Sequence[str] | npt.NDArray[np.str_],
    margin: float = 0.01, patience: int = 1,
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
        patience: Steps in a row below the threshold, as in `stop_steps`.
    """
    _, codes = np.unique(np.asarray(scene), return_inverse=True)
    chosen = -np.inf
    for threshold in grid:
        stops = stop_steps(values, float(threshold), patience)
        harmed = right[:, -1] & (at_stop(right, stops) == 0)
        scenes = np.bincount(codes, weights=harmed) > 0
        if scipy_stats.binom.cdf(int(scenes.sum()), scenes.size, margin) > RISK:
            break
        chosen = float(threshold)
    return float(chosen)


def at_stop(table: npt.NDArray[Any], stops: Steps) -> npt.NDArray[Any]:
    """(N,) entries of an (N, T + 1) table where each run stopped."""
    return np.take_along_axis(table, stops[:, None], 1)[:, 0]


def shuffled_right(made: Prefixes, stops: Steps) -> Array:
    """(N,) chance of a right answer if the same stops were dealt out at random."""
    shares = np.bincount(stops, minlength=made.most + 1) / len(stops)
    found: Array = made.right @ shares
    return found


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
