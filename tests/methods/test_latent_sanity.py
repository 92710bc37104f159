"""On chains that are longer than the decoder is deep, a rationale as text answers what the plain answer can't."""

from __future__ import annotations

from typing import Any

import pytest

from tests.methods.chains import NODES, Phase, accuracy, chain_model, train

pytestmark = pytest.mark.slow
STEPS, LAYERS, UPDATES = 3, 2, 400
RIVALS: dict[str, tuple[list[Phase], dict[str, Any]]] = {
    "sft": ([("sft", {}, 200)], {"tokens": STEPS}),
    "norefocus": ([("norefocus", {"iterations": 1}, 250)], {"tokens": STEPS, "iterations": 1}),
}
"""How each is trained and asked."""


@pytest.fixture(scope="module")
def plain() -> float:
    """Accuracy of the direct answer after as many updates, on the same questions, as the longest of the rivals has."""
    model = chain_model(LAYERS)
    train(model, [("llava", {}, UPDATES)], [STEPS])
    return accuracy(model, "llava", STEPS)


@pytest.mark.parametrize("name", RIVALS)
def test_an_idea_beats_the_plain_answer(name: str, plain: float) -> None:
    phases, options = RIVALS[name]
    assert sum(updates for _, _, updates in phases) <= UPDATES
    model = chain_model(LAYERS)
    train(model, phases, [STEPS])
    own = accuracy(model, name, STEPS, **options)
    print(f"{name} {own:.3f}, plain {plain:.3f}, chance {1 / NODES:.3f}")
    assert own > plain + 0.4
