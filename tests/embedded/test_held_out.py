"""Held-out questions: the losses against their plain formulas, answers against what is right, intervals over scenes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lare.embedded import held_out
from lare.embedded.batches import WorldBatches
from lare.embedded.held_out import answers, by_family, draw_questions, held_out_losses, majority, share_right
from lare.embedded.world.scene import sample_scene
from lare.embedded.world_data import WorldData
from lare.loading import load_checkpoint
from lare.training.feeding.loader import Split
from lare.training.feeding.mode import main_layout
from lare.training.model import TrainingModel
from lare.training.plan.config import StageConfig
from lare.training.trainer import make_draws
from tests.training.plain import DATA, plain_losses, processor, run_config, tiny_model

OPEN = WorldData(per_image=4, families={"what_at": 1.0, "exist": 1.0}, styles={"open": 1.0})


def test_losses_are_those_of_the_plain_formulas(tmp_path) -> None:
    model, config = tiny_model().float(), run_config(tmp_path)
    asked = draw_questions(DATA, 2)
    found = held_out_losses(model, config, processor(), asked)
    stage, settings = config.stages[-1], model.lare.config
    made = WorldBatches(DATA, stage, processor(), settings, Split(), 0, None, 8, "validation", pictures=True)
    batch = made.encode([0, 1], [one.item for one in asked], 0, main_layout(stage, settings))
    assert batch.inputs["iterations"] == settings.iterations > 0
    batch.inputs["pixel_values"] = batch.inputs["pixel_values"].double()
    expected = plain_losses(tiny_model(), batch, make_draws(config, model, len(config.stages), 0, 8))
    assert found.keys() == expected.keys() == {"lm", "alignment", "text", "look", "image"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value.detach()), rel=2e-3), name


def test_losses_of_parts_weigh_by_their_counts(tmp_path) -> None:
    """Passes of 4 and of 8 rows give one mean; the alignment alone depends on them, by its negatives."""
    config = run_config(tmp_path)
    config = replace(config, image=replace(config.image, share=1.0))
    model, asked = tiny_model().float(), draw_questions(DATA, 2)
    whole, halves = (held_out_losses(model, config, processor(), asked, rows) for rows in (8, 4))
    for name in ("lm", "text", "look"):
        assert halves[name] == pytest.approx(whole[name], rel=1e-4)
    assert halves["alignment"] < whole["alignment"]


def test_heads_that_are_not_there_have_no_loss(tmp_path) -> None:
    model = TrainingModel(tiny_model().float().lare, 0)
    assert held_out_losses(model, run_config(tmp_path), processor(), draw_questions(OPEN, 1)).keys() == {
        "lm",
        "text",
        "look",
    }


def test_questions_are_the_validation_splits_and_the_same_each_time() -> None:
    asked = draw_questions(OPEN, 3)
    assert [one.scene for one in asked] == [0] * 4 + [1] * 4 + [2] * 4
    assert asked == draw_questions(OPEN, 3) and asked != draw_questions(OPEN, 3, "train")
    for one in asked:
        assert one.item.question.family in OPEN.families
        scene = sample_scene("validation", one.scene)
        if one.item.question.family == "what_at":
            assert one.item.question.cells[0] in scene.things
    captions = WorldData(families={"caption": 1.0, "exist": 1.0})
    assert {one.item.question.family for one in draw_questions(captions, 3)} == {"exist"}


def test_the_shipped_checkpoint_answers_and_is_marked() -> None:
    """Right far more often than its replies shuffled among the questions."""
    model, processor_of, _ = load_checkpoint(None, "cpu")
    asked = draw_questions(OPEN, 8)
    replies = answers(TrainingModel(model, 0), processor_of, asked, batch=16)
    right = share_right(replies, asked)
    assert right.mean() > 0.6
    assert share_right(replies[5:] + replies[:5], asked).mean() < right.mean() - 0.2
    families = by_family(right, asked)
    assert sum(count for _, count in families.values()) == len(asked)
    assert sum(share * count for share, count in families.values()) == pytest.approx(right.sum())


def test_the_majority_knows_family_and_options_alone() -> None:
    asked = draw_questions(DATA, 40)
    guesses = majority(DATA, asked, scenes=60)
    trained = Counter(
        one.item.final for one in draw_questions(DATA, 60, "train") if one.item.question.family == "exist"
    )
    for guess, one in zip(guesses, asked, strict=True):
        if one.item.choices:
            assert guess in one.item.choices
        elif one.item.question.family == "exist":
            assert trained[guess] == max(trained.values())
    assert 0.1 < share_right(guesses, asked).mean() < 0.6


def test_intervals_are_over_scenes() -> None:
    """With answers that agree inside a scene the interval is as wide as four times fewer questions make it."""
    rng = np.random.default_rng(1)
    scenes = np.repeat(np.arange(100), 4)
    agreeing = np.repeat(rng.random(100) < 0.5, 4).astype(float)
    low, high = held_out.scene_interval(agreeing, scenes)
    assert low < agreeing.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 10, rel=0.15)
    alone_low, alone_high = held_out.scene_interval(agreeing, np.arange(400))
    assert alone_high - alone_low == pytest.approx((high - low) / 2, rel=0.15)


def test_a_stage_without_latents_is_asked_in_its_own_way(tmp_path) -> None:
    config = run_config(tmp_path)
    first = replace(config, stages=(StageConfig("I", (OPEN,), batch=16, train=("projector", "language_model")),))
    found = held_out_losses(tiny_model().float(), first, processor(), draw_questions(OPEN, 1))
    assert found.keys() == {"lm"}
