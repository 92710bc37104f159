"""The image tokenizer trains, resumes and loads; what is no tokenizer is named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lare.embedded import autoencoder as image_tokenizer
from lare.embedded.autoencoder import train_tokenizer
from lare.errors import LareError
from lare.losses.image import ImageReconstruction
from lare.losses.image_codes import build_tokenizer, image_features, image_pixels
from lare.training.plan.config import ImageConfig
from tests.losses.images import WIDTH, assert_near, tiny_tokenizer


def small_run(out: Path) -> Path:
    return train_tokenizer(out, images=64, seed=1, workers=0, report_every=3)


@pytest.fixture
def quick(monkeypatch):
    """Without augmented drawings, whose making takes seconds, and with few crops to validate on."""
    stream, crops = image_tokenizer.SceneStream, image_tokenizer.validation_crops(8)
    monkeypatch.setattr(image_tokenizer, "SceneStream", lambda size, start: stream(size, start, variants=0))
    monkeypatch.setattr(image_tokenizer, "validation_crops", lambda: crops)
    return crops


def test_the_tokenizer_trains_resumes_and_loads(tmp_path, quick, monkeypatch):
    whole = small_run(tmp_path / "whole")
    steps, loss = [], image_tokenizer.tokenizer_loss

    def interrupted(*arguments):
        steps.append(1)
        if len(steps) == 5:  # between two states
            raise KeyboardInterrupt
        return loss(*arguments)

    monkeypatch.setattr(image_tokenizer, "tokenizer_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "parts")
    assert not (tmp_path / "parts" / "config.json").exists(), "an unfinished run is not to be taken for a tokenizer"
    small_run(tmp_path / "parts")
    assert len(steps) == 5 + 8 - 3, "it went on after the last state"
    name = "diffusion_pytorch_model.safetensors"
    assert_near(load_file(tmp_path / "parts" / name), load_file(whole / name))
    histories = [(tmp_path / run / "history.jsonl").read_text().splitlines() for run in ("whole", "parts")]
    found, expected = ([json.loads(row)["psnr"] for row in rows] for rows in histories)
    assert len(found) == 3 and found == pytest.approx(expected, rel=1e-3)
    small_run(whole)
    assert len((whole / "history.jsonl").read_text().splitlines()) == 3, "a finished run is left alone"

    loaded = build_tokenizer(str(whole))
    codes = image_features(loaded, quick)
    assert codes.shape[-2:] == (8, 8)
    assert float(codes.mean()) == pytest.approx(0, abs=0.01) and float(codes.std()) == pytest.approx(1, abs=0.01)
    assert image_pixels(loaded, codes).shape == quick.shape
    reconstruction = ImageReconstruction.from_config(WIDTH, ImageConfig("small", str(whole), 64))
    assert reconstruction.code_shape == codes.shape[1:]


def test_the_command_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        image_tokenizer.main(["--help"])
    assert stopped.value.code == 0 and "example:" in capsys.readouterr().out
    assert image_tokenizer.main(["--out", str(tmp_path), "--images", "3"]) == 2
    assert "at least 8" in capsys.readouterr().err


def test_kl16_has_its_shape():
    state = torch.random.get_rng_state()
    with torch.device("meta"):
        tokenizer = build_tokenizer("kl16")
    assert torch.equal(state, torch.random.get_rng_state()), "a run's random numbers are not disturbed"
    assert not tokenizer.training and not any(p.requires_grad for p in tokenizer.parameters())
    features = image_features(tokenizer, torch.zeros(1, 3, 64, 64, device="meta"))
    assert features.shape == (1, 16, 4, 4)


def test_tokenizers_that_cannot_be_loaded_are_named(tmp_path):
    with pytest.raises(LareError, match="made by a run"):
        build_tokenizer("embedded")
    with pytest.raises(LareError, match="nowhere"):
        build_tokenizer(str(tmp_path / "nowhere"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"_class_name": "VQModel"}')
    with pytest.raises(LareError, match="VQModel"):
        build_tokenizer(str(tmp_path / "other"))
    folder = tmp_path / "damaged"
    tiny_tokenizer().save_pretrained(folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    left_out = sorted(tensors)[0]
    save_file({name: value for name, value in tensors.items() if name != left_out}, weights)
    with pytest.raises(LareError, match=left_out):
        build_tokenizer(str(folder))
    save_file(tensors | {left_out: tensors[left_out][:1]}, weights)
    with pytest.raises(LareError, match="can't be loaded"):
        build_tokenizer(str(folder))
    weights.write_bytes(b"damaged")
    with pytest.raises(LareError, match="damaged"):
        build_tokenizer(str(folder))
    weights.unlink()
    torch.save(tensors, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(LareError, match="safetensors"):
        build_tokenizer(str(folder))
