"""Chains that are longer than the decoder is deep: each method's published idea answers what the plain answer can't.

A method and the plain answer have the same weights to begin with, the same samples and as many updates.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.methods.chains import NODES, Phase, accuracy, aligned_model, answered, chain_model, train

STEPS, LAYERS, UPDATES = 3, 2, 400
CONTROLS: dict[str, tuple[list[Phase], dict[str, Any]]] = {
    "sft": ([("sft", {}, 200)], {"tokens": STEPS}),
    "norefocus": ([("norefocus", {"iterations": 1}, 250)], {"tokens": STEPS, "iterations": 1}),
}
"""How each is trained and asked."""
SEEDS = [0, pytest.param(1, marks=pytest.mark.slow)]
MARGIN = 0.2
SETTINGS = {"latent_maker": "mcout", "use_window": False}
"""Of a model that has MCOUT's module; the plain answer leaves it alone."""


@pytest.fixture(scope="module")
def plain() -> float:
    """Accuracy of the direct answer after as many updates, on the same questions, as the longest of the rivals has."""
    model = chain_model(LAYERS)
    train(model, [("llava", {}, UPDATES)], [STEPS])
    return accuracy(model, "llava", STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTROLS)
def test_an_idea_beats_the_plain_answer(name: str, plain: float) -> None:
    phases, options = CONTROLS[name]
    assert sum(updates for _, _, updates in phases) <= UPDATES
    model = chain_model(LAYERS)
    train(model, phases, [STEPS])
    own = accuracy(model, name, STEPS, **options)
    print(f"{name} {own:.3f}, plain {plain:.3f}, chance {1 / NODES:.3f}")
    assert own > plain + 0.4


@pytest.mark.parametrize("seed", SEEDS)
def test_coconuts_curriculum_follows_a_chain_that_two_layers_cannot(seed: int) -> None:
    """Four steps: the rationale as text, then one, two and three latents in the place of its three."""
    stages: list[Phase] = [("coconut", {"stage": stage}, n) for stage, n in enumerate((75, 15, 15, 15))]
    own, plain = aligned_model(2, seed), aligned_model(2, seed)
    train(own, stages, [4], seed, rows=48)
    train(plain, [("llava", {}, 120)], [4], seed, rows=48)
    found, without = (accuracy(own, "coconut", 4, iterations=steps) for steps in (3, 0))
    at_once = accuracy(plain, "llava", 4)
    print(f"coconut {found:.3f}, without its latents {without:.3f}, plain {at_once:.3f}")
    assert found > max(at_once, without) + MARGIN


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_lvrs_latents_find_regions_that_one_layer_cannot(seed: int) -> None:
    """Two boxes, one cell each: the state fed back becomes the first region's token, and then the second's."""
    own, plain = aligned_model(1, seed, start=0), aligned_model(1, seed, start=0)
    for model, method in ((own, "lvr"), (plain, "llava")):
        train(model, [(method, {}, 260)], [2], seed, rows=48, rate=4e-3, start=0)
    found, at_once = accuracy(own, "lvr", 2, start=0, iterations=2), accuracy(plain, "llava", 2, start=0)
    print(f"lvr {found:.3f}, plain {at_once:.3f}")
    assert found > at_once + MARGIN


def test_lvrs_answer_reads_the_regions_between_its_delimiters() -> None:
    """After few updates the states are no regions yet, but with the regions' own tokens the answer is known."""
    own, plain = aligned_model(1, start=0), aligned_model(1, start=0)
    for model, method in ((own, "lvr"), (plain, "llava")):
        train(model, [(method, {}, 70)], [2], rows=48, rate=4e-3, start=0)
    found, at_once = answered(own, "lvr", 2), answered(plain, "llava", 2)
    print(f"lvr {found:.3f}, plain {at_once:.3f}")
    assert found > at_once + MARGIN


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_mcouts_thoughts_take_a_second_look_that_one_layer_cannot(seed: int) -> None:
    """One thought: the decoder's look-up, then one of MCOUT's attention. Both have practised chains as text before."""
    own, plain = (aligned_model(1, seed, start=0, **SETTINGS) for _ in range(2))
    phases: dict[str, Phase] = {"mcout": ("mcout", {"iterations": 1}, 170), "llava": ("llava", {}, 170)}
    for model, method in ((own, "mcout"), (plain, "llava")):
        train(model, [("cot", {}, 80), phases[method]], [2], seed, start=0)
    found, at_once = accuracy(own, "mcout", 2, start=0, iterations=1), accuracy(plain, "llava", 2, start=0)
    print(f"mcout {found:.3f}, plain {at_once:.3f}")
    assert found > at_once + MARGIN


def test_mcouts_attention_reads_fine_tokens_that_the_decoder_does_not_see() -> None:
    """One step, but the decoder reads one pooled token for the whole table."""
    settings = SETTINGS | {"refocus_source": "fine", "lm_grid": 1, "shared_projector": True}
    own, plain = (aligned_model(1, start=0, latent_maker_settings={"tokens": "fine"}, **settings) for _ in range(2))
    phases: dict[str, Phase] = {"mcout": ("mcout", {"iterations": 1}, 90), "llava": ("llava", {}, 90)}
    for model, method in ((own, "mcout"), (plain, "llava")):
        train(model, [phases[method]], [1], rows=48, rate=4e-3, start=0)
    found, at_once = accuracy(own, "mcout", 1, start=0, iterations=1), accuracy(plain, "llava", 1, start=0)
    print(f"mcout {found:.3f}, plain {at_once:.3f}")
    assert found > at_once + MARGIN
