"""Sanity checks of the heat maps: what is disturbed is disturbed as said, and nothing else."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from analysis.heatmaps.disturbed import cascade, maps_of, mirrored, mirrored_back, randomised, shuffled_heads
from analysis.heatmaps.measure import Maps, boxes_of
from analysis.heatmaps.numbers import lay_out
from analysis.heatmaps.sanity import cascade_table, checks_by_model, sanity_table, steps_of_cascade


def test_a_mirrored_question_asks_for_the_same_thing() -> None:
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    turned, question = mirrored(picture, "What is left of the thing at a1? A: right, B: up, C: a cat, d4.\nLeft or b2")
    assert question == "What is right of the thing at d1? A: left, B: up, C: a cat, a4.\nRight or c2"
    assert np.array_equal(np.asarray(turned), np.asarray(picture)[:, ::-1])
    again, first = mirrored(turned, question)
    assert np.array_equal(np.asarray(again), np.asarray(picture)) and first.startswith(
        "What is left of the thing at a1"
    )


def test_mirrored_maps_come_back_to_their_place() -> None:
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 5, (3, 2, 2))
    maps, inside = lay_out(rng.gamma(1, size=(3, 2, 16)), corners, 8)
    back, places = mirrored_back(maps[..., ::-1], np.stack([corners[..., 0], 4 - corners[..., 1]], -1), 4)
    assert np.array_equal(back, maps) and np.array_equal(places, corners)
    # The corners lie where the maps do.
    again = lay_out(np.ones((3, 2, 16)), mirrored_back(maps, corners, 4)[1], 8)[1]
    assert np.array_equal(again, inside[..., ::-1])


@pytest.fixture(scope="module")
def method():
    from lare.methods import load_method

    return load_method("lare", device="cpu")


def changed(method, other) -> set[str]:
    before, after = method.model.state_dict(), other.model.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def test_the_cascade_goes_from_the_output_to_the_input_and_touches_the_extractor_alone(method) -> None:
    before = method.fingerprint()
    seen: list[set[str]] = []
    labels = []
    for label, copy in cascade(method, 0):
        labels.append(label)
        seen.append(changed(method, copy))
    assert all(earlier < later for earlier, later in zip(seen, seen[1:], strict=False))
    assert labels[0] == "output" and "layer 2" in labels[1] and labels[-1] == "input"
    assert all(name.startswith("extractor.") for name in seen[-1])
    whole = changed(method, randomised(method, 0, ["extractor."]))
    assert whole == seen[-1] and "extractor.cross_attention.0.query.weight" not in seen[2]
    assert any(not name.startswith("extractor.") for name in changed(method, randomised(method, 0, [""])))
    assert method.fingerprint() == before


def test_shuffled_heads_meet_other_keys(method) -> None:
    other = shuffled_heads(method, 0)
    names = changed(method, other)
    assert names == {f"extractor.cross_attention.{i}.query.{kind}" for i in (0, 1) for kind in ("weight", "bias")}
    heads = method.model.config.extractor_heads
    name = "extractor.cross_attention.0.query.weight"
    old, new = (one.model.state_dict()[name].reshape(heads, -1) for one in (method, other))
    partner = [next(j for j in range(heads) if torch.equal(new[i], old[j])) for i in range(heads)]
    assert sorted(partner) == list(range(heads)) and all(i != j for i, j in enumerate(partner))


def test_the_shipped_model_gives_its_own_maps_again_and_others_when_disturbed(method) -> None:
    from lare.embedded.world.benchmark import make_task

    rows = make_task("mmvp", n=12)
    pictures = [row["image"] for row in rows]
    questions = [f"{row['Question']}\nAnswer with the letter." for row in rows]
    grid = method.model.config.grid
    own, corners = maps_of(method, pictures, questions, grid)
    table = pd.DataFrame({"question": questions, "cluster": [row["scene"] for row in rows]})
    boxes = [boxes_of(row["boxes"], 128.0, "x") for row in rows]
    maps = Maps(table, own, own > 0, own, corners, grid, boxes, method.fingerprint())
    before = method.fingerprint()
    found = {check.name: check for check in checks_by_model(method, maps, pictures, 0)}
    assert method.fingerprint() == before
    assert np.abs(found["nothing changed"].divergence).max() < 1e-6
    for name, check in found.items():
        if name != "nothing changed":
            assert check.divergence.mean() > 0.1, name
    own_mass = np.nanmean(found["nothing changed"].mass)
    assert np.nanmean(found["whole model with random weights"].mass) < own_mass
    kept = {word: check for name, check in found.items() for word in ("as it is", "mirrored back") if word in name}
    assert kept["mirrored back"].divergence.mean() < kept["as it is"].divergence.mean() - 0.2
    assert np.nanmean(kept["mirrored back"].mass) > np.nanmean(kept["as it is"].mass)
    fallen = list(steps_of_cascade(method, maps, pictures, 0))
    assert fallen[0].spearman == pytest.approx(1) and fallen[1].spearman[:, 0] == pytest.approx(1, abs=0.02)
    assert fallen[0].within == pytest.approx(1) and abs(np.nanmean(fallen[-1].within)) < 0.4
    assert fallen[-1].spearman.mean() < 0.6 and fallen[-1].entropy.mean() > fallen[0].entropy.mean() + 0.5
    assert np.allclose(fallen[-1].divergence, found["Extractor with random weights"].divergence)
    assert [row["check"] for row in cascade_table(fallen).rows][:2] == ["nothing", "output"]
    assert all(row["n"] == 12 and row["entropy"] > 0 for row in sanity_table(list(found.values())).rows)
