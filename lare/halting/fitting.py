"""Fits the stop heads of a checkpoint: collect, fit, choose thresholds, pick one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from lare.errors import LareError
from lare.halting.choose import Choice, best_fixed, calibration_error, choose_threshold
from lare.halting.collect import Collected, collect
from lare.halting.fit import FitOptions, fit_head
from lare.halting.source import Target
from lare.methods import load_method
from lare.methods.lare import Lare
from lare.model.stop_head import KINDS, StopHead, StopHeads

__all__ = ["fit_checkpoint", "fit_heads"]


def fit_checkpoint(
    target: Target,
    how: FitOptions,
    limit: int,
    validation: int,
    steps: int | None = None,
    margin: float = 0.01,
    batch_size: int = 16,
    max_new_tokens: int = 64,
    device: str | None = None,
) -> StopHeads:
    """Ask a checkpoint training and validation questions, and fit its heads; nothing is written.

    Args:
        target: The checkpoint and its questions.
        how: How heads are fitted.
        limit: Training questions.
        validation: Validation questions.
        steps: T; None takes the checkpoint's `max_iterations`.
        margin: Share of accuracy that may be lost.
        batch_size: Questions at once.
        max_new_tokens: Text tokens of an answer.
        device: A torch device; None takes a GPU if there is one.

    Raises:
        LareError: If the checkpoint can't be loaded, there are no questions, or T is impossible.
    """
    method = load_method("lare", str(target.checkpoint), device, stop="fixed")
    assert isinstance(method, Lare)
    most = int(method.model.config.max_iterations)
    chosen = most if steps is None else steps
    if not 2 <= chosen <= most:
        raise LareError(f"--steps is {chosen}; give 2 to {most}, the checkpoint's max_iterations")
    asked = (chosen, batch_size, max_new_tokens)
    train = collect(method, target.questions("train", limit), limit, *asked, label="training questions")
    held = collect(method, target.questions("validation", validation), validation, *asked, label="validation questions")
    facts = {"weights": method.fingerprint(), "data": target.facts, "fit": dataclasses.asdict(how)}
    return fit_heads(train, held, how, margin, facts)


def fit_heads(
    train: Collected, held: Collected, how: FitOptions, margin: float, facts: dict[str, Any] | None = None
) -> StopHeads:
    """Fit every kind of head, choose thresholds, and take the one with the fewest decoder passes.

    Args:
        train: Questions to fit on.
        held: Questions to choose thresholds on.
        how: How heads are fitted.
        margin: Share of accuracy that may be lost.
        facts: What else is to be kept with the heads.
    """
    most = best_fixed(held.right)
    heads: dict[str, StopHead] = {}
    told: dict[str, dict[str, float | None]] = {}
    for kind in KINDS:
        head = heads[kind] = fit_head(kind, train, how)
        values = head.values(held.inputs[kind]).double().numpy()
        choice = choose_threshold(values, held, margin, most)
        head.threshold = choice.threshold
        error = None if kind == "ponder" else calibration_error(values, held.as_good)
        told[kind] = {**dataclasses.asdict(choice), "passes": _passes(head, choice), "calibration_error": error}
    chosen = min(heads, key=lambda kind: told[kind]["passes"] or 0.0)
    about = {
        "questions": len(train.right), "validation": len(held.right), "margin": margin, "best_fixed": most,
        "accuracy": np.round(held.right.mean(0), 6).tolist(), "heads": told,
    }  # fmt: skip
    return StopHeads(heads, chosen, most, {**(facts or {}), **about})


def _passes(head: StopHead, choice: Choice) -> float:
    """Decoder passes of thinking, mean over validation questions; a look ahead is one more a step."""
    return choice.steps * (2 if head.looks_ahead else 1)
