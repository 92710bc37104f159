"""Each rival's published idea beats the plain answer on a task of its own, trained alike: same samples and updates."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lare.data.sample import Sample
from lare.methods.ccot import Ccot
from lare.methods.cof import Cof
from lare.methods.icot import Icot
from lare.methods.llava import Llava
from lare.methods.mmcot import Mmcot
from tests.methods.sanity import COLOURS, GRID, PLACES, picture, share_right, tiny, train, trained

pytestmark = pytest.mark.slow
STEPS = 200
NAMES = list(COLOURS)[:5]
RULES = {place: np.random.default_rng(1).permutation(5)[np.random.default_rng(at).permutation(5)]
         for at, place in enumerate(("a1", "b2", "c3"))}  # fmt: skip


def composed(rng: Any) -> tuple[Image.Image, Sample]:
    """A colour is shown, and five rules tell which follows which: too many steps for one pass of two layers."""
    at, rules, passed = int(rng.integers(5)), rng.choice(list(RULES), 5).tolist(), []
    image = picture([NAMES[at]] * 16)
    for rule in rules:
        at = int(RULES[rule][at])
        passed.append(NAMES[at])
    chain = " ".join(passed)
    return image, Sample("", " ".join(rules), passed[-1], f"{chain}.", scene_graph=json.dumps([f" {chain} "]))


def placed(rng: Any) -> tuple[Image.Image, Sample]:
    """The colour of a named cell, where the decoder reads one token for all sixteen."""
    cells, at = [NAMES[one] for one in rng.integers(5, size=GRID**2)], int(rng.integers(16))
    row, column = divmod(at, GRID)
    box = (column / GRID, row / GRID, (column + 1) / GRID, (row + 1) / GRID)
    return picture(cells), Sample("", PLACES[at], cells[at], boxes=(box,))


def upper(rng: Any) -> tuple[Image.Image, Sample]:
    """The colour of the upper half, where the decoder reads one token for both; a rationale that says nothing."""
    first, second = rng.choice(5, 2, replace=False)
    asked = "small " * int(rng.integers(4)) + "a1"
    return picture([NAMES[first]] * 8 + [NAMES[second]] * 8), Sample("", asked, NAMES[first], "large.")


@pytest.fixture(scope="module")
def composed_at_once() -> float:
    """What the plain answer reaches on `composed`."""
    return share_right(Llava(*train(tiny(), composed, [trained("llava")], STEPS)), composed)


@pytest.fixture(scope="module")
def placed_at_once() -> float:
    """What the plain answer reaches on `placed`."""
    return share_right(Llava(*train(tiny(1), placed, [trained("llava")], STEPS)), placed)


def test_mmcot_composes_what_a_plain_answer_cannot(composed_at_once: float) -> None:
    first = train(tiny(), composed, [trained("mmcot", part="rationale")], STEPS // 2)
    method = Mmcot(*train(tiny(), composed, [trained("mmcot", part="answer")], STEPS // 2))
    method.first = method.asking(*first)
    assert share_right(method, composed) > composed_at_once + 0.2


def test_ccot_composes_what_a_plain_answer_cannot(composed_at_once: float) -> None:
    method = Ccot(*train(tiny(), composed, [trained("ccot", instruction="small")], STEPS), instruction="small")
    assert share_right(method, composed) > composed_at_once + 0.2


def test_cof_sees_what_is_too_small_for_a_plain_answer(placed_at_once: float) -> None:
    method = Cof(*train(tiny(1), placed, [trained("cof")], STEPS))
    assert share_right(method, placed) > placed_at_once + 0.2


def test_icot_reads_again_what_a_plain_answer_cannot() -> None:
    plain = share_right(Llava(*train(tiny(1), upper, [trained("llava")], STEPS)), upper)
    method = Icot(*train(tiny(1), upper, [trained("cot"), trained("cot", fine=True)], STEPS), repeat=True)
    without = share_right(method.changed(times=0), upper)
    assert share_right(method, upper) > max(plain, without) + 0.2
