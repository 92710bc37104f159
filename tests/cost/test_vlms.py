"""Vision-language models of full size: parameters as published, and what the run files on them need."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from lare.backbones.adopt import adopted_config, family_of
from lare.backbones.published_vlms import VLMS, published_vlm
from lare.cli.info import run_table
from lare.cost.sizes import run_report
from lare.model.loading import quiet
from lare.training.plan.run_file import load_run_config

CONFIGS = Path(__file__).parents[2] / "lare" / "configs" / "vlm"
RUNS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("name", VLMS)
def test_parameters_are_the_published_ones(name: str) -> None:
    known = VLMS[name]
    with torch.device("meta"), quiet():
        model = AutoModelForImageTextToText.from_config(known.config())
    assert sum(weight.numel() for weight in model.parameters()) == known.parameters
    config = adopted_config(known.config(added=True), {})
    assert config.grid * config.grid == (config.image_size // (config.image_size // config.grid)) ** 2
    assert family_of(known.config()) is family_of(config.backbone_config)
    assert published_vlm(f"somewhere/{name.rpartition('/')[2]}") is known and published_vlm("somewhere/else") is None


QUICK = "smolvlm2_500m"


@pytest.mark.parametrize("name", [QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in RUNS if n != QUICK)])
def test_a_run_file_tells_what_it_needs(name: str) -> None:
    path = CONFIGS / f"{name}.yaml"
    words = shlex.split(path.read_text(encoding="utf8").splitlines()[0].removeprefix("#"))
    assert words[-1] == f"lare/configs/vlm/{name}.yaml"
    config = load_run_config(path)
    known = VLMS[str(config.model.vlm)]
    report = run_report(config)
    parts = report["parameters"]
    whole = sum(parts[part] for part in ("vision_encoder", "projector", "base"))
    table = known.config(added=True).get_text_config().vocab_size - known.text["vocab_size"]
    tables = 1 if known.more["tie_word_embeddings"] else 2
    assert whole == known.parameters + table * tables * known.text["hidden_size"]
    stage = report["stages"][-1]
    assert set(stage["trains"]) == {"projector", "extractor", "language_model", "alignment", "unet"}
    assert stage["trains"]["language_model"] < 0.1 * parts["base"]
    full = run_report(load_run_config(path, ["gradient_checkpointing=false"]))["stages"][-1]["memory"]
    assert stage["memory"]["activations"] < 0.5 * full["activations"]
    assert "language_model" in run_table(report)
