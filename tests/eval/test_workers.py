"""The demo's passes side by side: answers and costs are those of one process without sharing."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lare.embedded.world.benchmark import make_task
from lare.embedded.world.prompts import task_prompt
from lare.methods import load_method
from lare.methods.base import Sampling
from lare.trace import TraceReader
from lare_eval import demo
from lare_eval.settings import make_method, names
from lare_eval.sharing import SharedFeatures
from lare_eval.workers import Estimate
from tests.methods.tiny_checkpoint import write_checkpoint


@pytest.fixture(scope="module")
def asked():
    rows = make_task("pope", n=6)
    return [row["image"] for row in rows], [task_prompt("pope", row) for row in rows]


@pytest.fixture(scope="module")
def thinking():
    return load_method("lare", None, "cpu")


def test_shared_features_change_no_answer(thinking, asked):
    """Bit for bit, for every setting of the shipped checkpoint; each picture is encoded once, and nothing stays."""
    encoded = []
    tower = thinking.model.vision_tower
    handle = tower.encoder.register_forward_hook(lambda module, given, out: encoded.append(len(given[0])))
    plain, shared = SharedFeatures(), SharedFeatures()
    try:
        for setting in names(thinking.model.config, None):
            method = make_method(setting, thinking)
            expected = method.answer(*asked, Sampling(max_new_tokens=8), trace=True)
            before = len(encoded)
            with shared.of(method):
                found = method.answer(*asked, Sampling(max_new_tokens=8), trace=True)
            first = setting in ("K=4", "blind")  # others read the same pictures; blind reads a grey one
            assert len(encoded) - before == first, setting
            for one, other in zip(found, expected, strict=True):
                assert (one.text, one.latent_steps) == (other.text, other.latent_steps)
                for name, value in other.arrays.items():
                    assert (one.arrays[name] == value).all(), (setting, name)
                assert one.seconds["vision"] > 0
    finally:
        handle.remove()
    assert "forward" not in vars(tower) and "answer" not in vars(thinking) and len(plain) == 0
    assert len(shared) == 2 + 1  # two scenes of three questions, and grey


def test_a_look_up_is_charged_what_encoding_took(thinking, asked):
    import time

    shared, encode = SharedFeatures(), thinking.model.vision_tower.forward

    def slow(pixels):
        time.sleep(0.2)
        return encode(pixels)

    thinking.model.vision_tower.forward = slow
    try:
        with shared.of(thinking):
            first, second = (
                [answer.seconds["vision"] for answer in thinking.answer(*asked, Sampling(max_new_tokens=2))]
                for _ in range(2)
            )
    finally:
        vars(thinking.model.vision_tower).pop("forward", None)
    assert 0.2 < sum(second) <= sum(first)  # the first ones have the projector's time on top


def test_a_batch_with_a_new_picture_is_encoded_whole():
    shared, seen = SharedFeatures(), []

    def encode(pixels):
        seen.append(len(pixels))
        return pixels.flatten(1).double()

    pixels = torch.rand(3, 3, 4, 4)
    shared._features(encode, pixels[:2])
    assert (shared._features(encode, pixels) == pixels.flatten(1)).all() and seen == [2, 3]
    assert (shared._features(encode, pixels.flip(0)) == pixels.flip(0).flatten(1)).all() and seen == [2, 3]


@given(
    rates=st.lists(st.floats(0.7, 1.4), min_size=20, max_size=20),
    pace=st.floats(1e-3, 10),
    wait=st.floats(0, 100),
)
def test_the_estimate_is_right_within_a_factor_of_two(rates, pace, wait):
    """Batches as unequal as the settings are, after any time of preparation."""
    now = [wait]
    estimate = Estimate(20 * 32, share=0.15, clock=lambda: now[0])
    said = None
    for rate in rates:
        now[0] += pace * rate
        left = estimate.add(32)
        assert said is None or left is None
        said = said if left is None else (left, now[0])
    left, at = said
    assert (now[0] - at) / 2 <= left <= 2 * (now[0] - at)


@pytest.mark.slow
def test_two_processes_answer_as_one(tmp_path, capsys):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    words = ["--checkpoint", str(checkpoint), "--tasks", "lare_mini_mmvp", "--limit", "6"]
    found = []
    for jobs in ("1", "2"):
        out = tmp_path / jobs
        assert demo.main([*words, "--jobs", jobs, "--out", str(out)]) == 0
        (folder,) = out.iterdir()
        cells = json.loads((folder / "summary.json").read_text())["cells"]
        texts = {
            path.name: sorted(zip(reader.column("doc_id"), reader.column("text"), strict=True))
            for path in (folder / "traces").iterdir()
            for reader in [TraceReader(path)]
        }
        found.append((texts, [{**cell, "seconds": 0} for cell in cells]))
    assert found[0] == found[1]
    assert "first answer: " in capsys.readouterr().out
