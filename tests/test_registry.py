"""Names that a run file may use beyond the general parts: known without an import, told in errors, open to others."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import lare
from lare import registry
from lare.backbones.decoders import load_text_config
from lare.backbones.encoders import load_vision_config
from lare.cli import main
from lare.embedded.vision_conv import LareVisionConfig
from lare.embedded.world_data import WorldData
from lare.errors import LareError
from lare.losses.image_codes import build_tokenizer
from lare.model.model_types import _stand_in
from lare.registry import BASE_MODELS, DATA_FORMATS, IMAGE_AUTOENCODERS, MODEL_TYPES, VISION_ENCODERS
from lare.training.plan.run_file import load_run_config, run_config_from

ROOT = Path(__file__).parents[1]
MODEL = {"text": "text", "vision": "vision"}


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's package as pip would install it; with a format that is broken, and one with a name of LaRe's own."""
    page = (ROOT / "docs" / "extend" / "data_format.md").read_text(encoding="utf-8")
    code, declared = (re.search(rf"^```{kind}\n(.*?)^```", page, re.M | re.S)[1] for kind in ("python", "toml"))
    (tmp_path / "squares.py").write_text(code)
    notes = tmp_path / "squares-1.0.dist-info"
    notes.mkdir()
    (notes / "METADATA").write_text("Metadata-Version: 2.1\nName: squares\nVersion: 1.0\n")
    names = declared.replace('project.entry-points."lare.data_formats"', "lare.data_formats").replace('"', "")
    (notes / "entry_points.txt").write_text(f"{names}broken = squares.missing:X\nworld = squares:SQUARES\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._installed.cache_clear()
    yield
    registry._installed.cache_clear()
    sys.modules.pop("squares", None)


def run(*data: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"model": MODEL, "stages": [{"stage": "III", "batch": 16, "data": list(data)}]} | changes


def test_own_names_are_known_and_lead_somewhere() -> None:
    for names in (BASE_MODELS, DATA_FORMATS, IMAGE_AUTOENCODERS, VISION_ENCODERS):
        assert names.names() and all(names.get(name) is not None for name in names.own)
    assert MODEL_TYPES.get("lare_vision").model_type == "lare_vision"
    with pytest.raises(LareError, match="the base model 'x' is unknown; known are: embedded"):
        BASE_MODELS.get("x")


@pytest.mark.parametrize("config", sorted((ROOT / "lare" / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_run_file_is_valid_and_reads_back_as_it_is(config: Path) -> None:
    if "stages" not in yaml.safe_load(config.read_text()):
        pytest.skip("no run file")
    read = load_run_config(config)
    assert run_config_from(read.to_dict()) == read


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (run({"format": "wrold"}), "data format 'wrold' is unknown; choose one of auto, llava, .*, world"),
        (run({"path": "a", "per_image": 4}), r"stages\.0\.data\.0\.per_image is only for the data format 'world'"),
        (
            run({"format": "world", "split": "test"}),
            "split and take choose from a file; the data format 'world' has none",
        ),
        (run({"path": "a", "take": {"x": 1}}), "take names x, and the format 'auto' has no question families"),
        (run({"path": "a", "split": "dev"}), "data split is 'dev'; give all, train, validation or test"),
        (
            run({"path": "a"}, model=MODEL | {"vision": "embedded"}),
            "vision embedded goes only with model.text embedded",
        ),
    ],
)
def test_a_wrong_name_is_told_with_those_that_are_known(content: dict[str, Any], message: str) -> None:
    with pytest.raises(LareError, match=message):
        run_config_from(content)


def test_a_wrong_part_is_told_with_those_that_are_known() -> None:
    with pytest.raises(LareError, match="'no/text'.* that the run builds itself: embedded"):
        load_text_config("no/text")
    with pytest.raises(LareError, match="'no/vision'.* that the run trains itself: embedded"):
        load_vision_config("no/vision")


def test_a_wrong_image_tokenizer_is_told_with_those_that_are_known() -> None:
    with pytest.raises(LareError, match=r"embeded can't be loaded .* one that a run trains itself \(embedded\)"):
        build_tokenizer("embeded")
    with pytest.raises(LareError, match="the embedded image tokenizer is made by a run"):
        build_tokenizer("embedded")


def test_run_files_of_before_spell_out_settings_of_the_world() -> None:
    """Every source had them, at their defaults."""
    old = {"path": "a.json", "families": {}, "styles": {}, "per_image": 16}
    assert run_config_from(run(old)) == run_config_from(run({"path": "a.json"}))
    world = run_config_from(run({"format": "world", "families": {}, "styles": {}, "per_image": 16, "path": None}))
    assert world.stages[0].data == (WorldData(),)


@pytest.mark.parametrize("make", ["from_pretrained", "from_dict", "for_model"])
def test_a_stand_in_gives_the_true_configuration(make: str, tmp_path: Path) -> None:
    stand_in = _stand_in("lare_vision")
    values = {"image_size": 64, "widths": [4, 4, 8, 8]}
    LareVisionConfig(**values).save_pretrained(tmp_path)
    made = {
        "from_pretrained": lambda: stand_in.from_pretrained(tmp_path),
        "from_dict": lambda: stand_in.from_dict(values),
        "for_model": lambda: stand_in(**values),
    }[make]()
    assert type(made) is LareVisionConfig and made.image_size == 64 and made.widths == values["widths"]


def test_another_package_brings_a_data_format(other_package: None, tmp_path: Path, capsys: Any) -> None:
    assert DATA_FORMATS.names() == ["broken", "squares", "world"]
    with pytest.raises(LareError, match="data count is 0"):
        run_config_from(run({"format": "squares", "count": 0}))
    with pytest.raises(LareError, match="'broken' .* can't be imported"):
        DATA_FORMATS.get("broken")
    assert DATA_FORMATS.get("world").settings is WorldData
    stage = {"stage": "III", "batch": 8, "samples": 16, "data": [{"format": "squares", "count": 12}]}
    content = {
        "out": str(tmp_path / "run"),
        "model": {"checkpoint": str(lare.default_checkpoint())},
        "losses": {"image": 0.0},
        "tensorboard": False,
        "validate_every": 1,
        "log_every": 1,
        "stages": [stage],
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    assert main(["train", str(tmp_path / "run.yaml")]) == 0
    logged = [json.loads(line) for line in (tmp_path / "run" / "III" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [1, 2] and not any(line.get("validation") for line in logged)
    assert len(json.loads((tmp_path / "run" / "squares" / "12.json").read_text())) == 12
