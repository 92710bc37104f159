"""Version 2 of the world in a run: its own scenes, questions, feature files and fingerprints; version 1 as before."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lare.embedded import feed as feed_module
from lare.embedded.batches import cache_world_features
from lare.embedded.feed import WorldFeed
from lare.embedded.held_out import answers, draw_questions
from lare.embedded.lengths import world_lengths
from lare.embedded.vision_conv import LareVisionConfig, LareVisionModel
from lare.embedded.world.render import render
from lare.embedded.world.versions import world
from lare.embedded.world_data import WorldData, world_data
from lare.errors import LareError
from lare.training.feeding.loader import Split
from lare.training.plan.config import DataConfig, StageConfig
from lare.training.plan.run_file import load_run_config
from tests.training.loading import config, processor

ROOT = Path(__file__).parents[2]


def _batches(data: WorldData, split: str = "train"):  # type: ignore[no-untyped-def]
    from lare.embedded.batches import WorldBatches

    stage = StageConfig("III", (data,), batch=8)
    return WorldBatches(data, stage, processor(), config(), Split(), 3, None, 40, split, True)


def test_batches_are_of_their_version() -> None:
    data = WorldData(per_image=4, version=2, families={"gaze5": 1.0, "exist": 1.0}, styles={"open": 1.0})
    batches = _batches(data)
    scenes, items, mode = batches.draw(0)
    assert {item.scene.name for item in items} == {f"train@2/{scene}" for scene in scenes}
    batch = batches.encode(scenes, items, 0, mode)
    assert batch.pictures is None or np.array_equal(
        batch.pictures[0].permute(1, 2, 0).numpy(), render(world(2).sample_scene("train", scenes[0]), 24)
    )
    pictures = batches._pictures(scenes).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(pictures[0], render(world(2).sample_scene("train", scenes[0]), 24))


def test_fingerprints_differ_between_versions_and_stay_in_version_1() -> None:
    one, two = _batches(WorldData(per_image=4)).fingerprint, _batches(WorldData(per_image=4, version=2)).fingerprint
    assert one.startswith("world-train-40-") and two.startswith("world2-train-40-")


def test_features_lie_in_files_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = LareVisionModel(LareVisionConfig(widths=(4, 4, 8, 8)))
    run = SimpleNamespace(
        model=SimpleNamespace(lare=SimpleNamespace(vision_tower=SimpleNamespace(encoder=encoder))), folder=tmp_path
    )
    monkeypatch.setattr(feed_module, "VALIDATION_SCENES", 3)
    feed = WorldFeed(run)  # type: ignore[arg-type]
    one, two = (feed.features("validation", WorldData(version=version)) for version in (1, 2))
    assert one is not None and two is not None and not np.array_equal(one, two)
    assert sorted(path.name for path in tmp_path.glob("*.npy")) == [
        "features_validation_3.npy",
        "features_world2_validation_3.npy",
    ]
    again = cache_world_features(encoder, tmp_path / "again.npy", "validation", 3, version=2)
    assert np.array_equal(np.asarray(again), np.asarray(two))


def test_held_out_questions_are_of_their_version() -> None:
    asked = draw_questions(WorldData(version=2, families={"gaze6": 1.0, "caption": 1.0}), 4)
    assert all(one.item.scene is not None and one.item.scene.name == f"validation@2/{one.scene}" for one in asked)
    assert {one.item.question.family for one in asked} <= {"gaze6", "what_at"}
    assert asked != draw_questions(WorldData(version=2), 4)
    assert callable(answers)


def test_lengths_are_those_of_the_version() -> None:
    one, two = world_lengths(WorldData()), world_lengths(WorldData(version=2))
    assert two[1] > one[1]  # longer chains, more steps


def test_a_source_names_only_what_its_version_has() -> None:
    WorldData(version=2, families={"gaze6": 1.0}).check_source()
    with pytest.raises(LareError, match="gaze6 is unknown"):
        WorldData(families={"gaze6": 1.0}).check_source()
    with pytest.raises(LareError, match="no version 3"):
        WorldData(version=3).check_source()
    with pytest.raises(LareError, match="needs the data format 'world'"):
        world_data(DataConfig(path="a.json"))


def test_the_run_file_of_version_2_asks_only_it() -> None:
    run = load_run_config(ROOT / "lare" / "configs" / "world2.yaml")
    sources = [data for stage in run.stages for data in stage.data]
    assert all(isinstance(data, WorldData) and data.version == 2 for data in sources)
    asked = {name for data in sources if isinstance(data, WorldData) for name in data.families}
    assert asked == {*world(2).families, "caption"}
