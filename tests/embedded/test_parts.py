"""A run that begins with the shipped encoder and image tokenizer, and the precision that a machine gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lare.checkpoints import default_checkpoint
from lare.embedded.autoencoder import train_tokenizer
from lare.embedded.encoder import train_encoder
from lare.embedded.parts import HISTORY, PARTS, last_entry, main
from lare.embedded.vision_conv import LareVisionModel
from lare.losses.image_codes import build_tokenizer
from lare.model import LareForConditionalGeneration
from lare.training import precision
from lare.training.plan.run_file import load_run_config

SHIPPED = Path(default_checkpoint())


def test_unpacked_parts_are_the_shipped_ones_and_count_as_trained(tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path)]) == 0
    folder, drawing = train_encoder(tmp_path / "encoder"), train_tokenizer(tmp_path / "image_tokenizer")
    shipped = LareForConditionalGeneration.from_pretrained(SHIPPED).vision_tower.encoder.state_dict()
    taken = LareVisionModel.from_pretrained(folder).state_dict()
    assert taken.keys() == shipped.keys()
    assert all(torch.equal(value, shipped[name]) for name, value in taken.items())
    drawn = build_tokenizer(str(drawing)).state_dict()
    expected = build_tokenizer(str(SHIPPED.parent / "embedded_unet" / "image_tokenizer")).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in drawn.items())
    history = json.loads((SHIPPED / HISTORY).read_text())
    assert {part: last_entry(tmp_path / part) for part in PARTS} == history


def test_parts_that_are_there_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "encoder").mkdir()
    assert main(["--out", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_checkpoint_without_parts_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--checkpoint", str(tmp_path)], ["--drawing", str(tmp_path)]):
        assert main([*words, "--out", str(tmp_path / "run")]) == 2
        assert "no encoder and image tokenizer to take" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("hardware", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_is_what_the_machine_does_well(
    hardware: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "fast_bf16", lambda: hardware)
    config = load_run_config(Path("lare/configs/embedded.yaml"))
    assert config.precision == "auto"
    assert precision.settled(config).precision == expected
    asked = load_run_config(Path("lare/configs/embedded.yaml"), ["precision=bf16"])
    assert precision.settled(asked).precision == "bf16"
    assert precision.slow(asked) is not hardware
    assert not precision.slow(precision.settled(config))
