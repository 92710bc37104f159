"""Stop heads learn planted signals, their thresholds keep their promise, and what is collected is what is answered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lare.errors import LareError
from lare.halting.choose import best_fixed, calibration_error, choose_threshold, stop_steps, upper_bound
from lare.halting.collect import Collected
from lare.halting.fit import FitOptions, fit_head, ponder_loss, stopping
from lare.halting.fitting import fit_heads
from lare.model.stop_head import KINDS

T = 5
QUICK = FitOptions(width=8, epochs=15, rate=0.01, batch=64)


def planted(count: int = 800, seed: int = 0, noise: float = 0.3) -> Collected:
    """Each question needs 1 to T steps, is wrong before and right from then on; one input tells whether it is there."""
    rng = np.random.default_rng(seed)
    need = rng.integers(1, T + 1, count)
    right = np.arange(1, T + 1)[None] >= need[:, None]
    told = 2.0 * right - 1 + noise * rng.standard_normal(right.shape)
    inputs = np.stack((told, rng.standard_normal(right.shape)), -1).astype(np.float32)
    return Collected(dict.fromkeys(KINDS, torch.from_numpy(inputs)), right, np.arange(count) // 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_learns_when_a_question_is_done(kind: str) -> None:
    head = fit_head(kind, planted(), QUICK)
    fresh = planted(600, 1)
    values = head.values(fresh.inputs[kind]).double().numpy()
    choice = choose_threshold(values, fresh, 0.03, T)
    assert choice.bound <= 0.03
    assert choice.steps < 3.6, "3 is the least"
    again = fit_head(kind, planted(), QUICK)
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), again.parameters(), strict=True))
    if kind != "ponder":
        assert calibration_error(values, fresh.as_good) < 0.08


def test_without_a_signal_next_to_nothing_is_saved() -> None:
    data = planted(noise=1000.0)
    values = fit_head("agreement", data, QUICK).values(planted(600, 1, 1000.0).inputs["agreement"]).double().numpy()
    choice = choose_threshold(values, planted(600, 1, 1000.0), 0.02, T)
    assert choice.steps > 4.7


def test_a_higher_price_stops_sooner() -> None:
    steps = []
    for price in (0.0, 0.4):
        how = FitOptions(width=8, epochs=15, rate=0.01, batch=64, price=price, weight=0.0)
        head = fit_head("ponder", planted(noise=3.0), how)
        steps.append(stop_steps(head.values(planted(400, 1, 3.0).inputs["ponder"]).double().numpy(), 0.5, T).mean())
    assert steps[1] < steps[0] - 0.5


def test_the_expected_loss_is_the_papers() -> None:
    """Against loops over questions and steps."""
    logits, wrong = torch.randn(6, T), (torch.rand(6, T) > 0.5).float()
    how = FitOptions(price=0.03, prior=0.4, weight=0.2)
    prior = np.array([0.4 * 0.6**k for k in range(T)])
    prior /= prior.sum()
    total = 0.0
    for row in range(6):
        left = 1.0
        for step in range(T):
            chance = 1.0 if step == T - 1 else float(logits[row, step].sigmoid())
            p, left = left * chance, left * (1 - chance)
            total += p * (float(wrong[row, step]) + 0.03 * (step + 1)) + 0.2 * p * np.log(p / prior[step])
    assert float(ponder_loss(logits, wrong, how)) == pytest.approx(total / 6, rel=1e-4)
    torch.testing.assert_close(stopping(logits).sum(1), torch.ones(6))


def test_a_threshold_keeps_its_promise() -> None:
    """Over many draws the loss on fresh questions exceeds the margin in no more than the risk's share."""
    fresh, margin = planted(6000, 99, 1.5), 0.03
    told = torch.sigmoid(2 * fresh.inputs["agreement"][..., 0]).double().numpy()
    over = saved = 0
    for seed in range(40):
        seen = planted(600, seed, 1.5)
        values = torch.sigmoid(2 * seen.inputs["agreement"][..., 0]).double().numpy()
        choice = choose_threshold(values, seen, margin, T)
        stops = stop_steps(told, choice.threshold, T)
        lost = fresh.right[:, T - 1].mean() - np.take_along_axis(fresh.right, stops[:, None] - 1, 1).mean()
        over += lost > margin
        saved += choice.steps < 4.8
    assert over <= 4
    assert saved > 20


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(1, T), st.floats(0, 1))
def test_stops_are_the_first_values_above(seed: int, most: int, threshold: float) -> None:
    values = np.random.default_rng(seed).random((9, T))
    for row, stop in zip(values, stop_steps(values, threshold, most), strict=True):
        assert stop == next((t for t in range(1, most) if row[t - 1] > threshold), most)


def test_few_questions_show_nothing() -> None:
    data = planted(20)
    values = data.right.astype(float)  # knows it all
    never = choose_threshold(values, data, 0.01, T)
    assert (never.threshold, never.steps, never.loss, never.bound) == (1.0, T, 0.0, 0.0)
    assert upper_bound(np.zeros(20), data.group) == pytest.approx(1 - 0.05**0.1)
    assert upper_bound(np.zeros(4000), np.arange(4000)) < 0.001
    # Questions of one picture are no more than one.
    lost = np.random.default_rng(0).random(400) < 0.1
    apart, together = (upper_bound(lost.astype(float), group) for group in (np.arange(400), np.arange(400) // 40))
    assert upper_bound(np.repeat(lost[:40], 10).astype(float), np.arange(400) // 10) > apart
    assert together > lost.mean()


def test_the_best_fixed_number_is_the_fewest_of_equals() -> None:
    right = np.array([[False, True, True, False], [True, True, True, True]])
    assert best_fixed(right) == 2


def test_heads_never_take_more_than_the_best_fixed_steps(tmp_path: Path) -> None:
    """Beyond 3 steps every answer of the planted model is wrong."""

    def worse(data: Collected) -> Collected:
        right = data.right.copy()
        right[:, 3:] = False
        return Collected(data.inputs, right, data.group)

    heads = fit_heads(worse(planted()), worse(planted(600, 1)), QUICK, 0.05)
    assert heads.steps == 3 == heads.facts["best_fixed"]
    told = heads.facts["heads"]
    assert heads.chosen == min(KINDS, key=lambda kind: told[kind]["passes"])
    assert told["confidence"]["passes"] == 2 * told["confidence"]["steps"]
    assert all(one["loss"] <= 0.05 for one in told.values())
    assert heads.save(tmp_path).is_file()


@pytest.mark.parametrize("wrong", [{"width": 0}, {"prior": 1.0}, {"price": -0.1}])
def test_impossible_options_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(LareError, match=next(iter(wrong))):
        FitOptions(**wrong)  # type: ignore[arg-type]
