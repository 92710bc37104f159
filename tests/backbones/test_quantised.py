"""A base in 8 or 4 bits: what transformers is told, what is refused, and, where bitsandbytes runs, a real one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from lare import LareError
from lare.backbones import quantised
from lare.backbones.adopt import adopt
from lare.cli import main
from lare.cost.flops import gradients
from lare.cost.memory import memory_of
from lare.cost.sizes import LENGTHS, run_report, stage_row
from lare.cost.skeleton import named_parts, skeleton
from lare.loading import load_checkpoint
from lare.model import LareForConditionalGeneration
from lare.model.lora import LORA_MARK
from lare.training.distributed.sharding import check_sharded
from lare.training.plan.config import PARTS, ModelConfig, OptimiserConfig
from lare.training.plan.run_file import load_run_config

from .runs import write_run
from .test_latents import QUESTIONS
from .vlms import SETTINGS, Vlm, lively, write_vlm

CONFIGS = Path(__file__).parents[2] / "lare" / "configs" / "vlm"
LORA: dict[str, Any] = {"rank": 4, "alpha": 8}


def decoder_layers(vlm: Vlm) -> set[str]:
    path = vlm.model.backbone.text  # type: ignore[attr-defined]
    return {name for name, one in vlm.own.named_modules() if isinstance(one, nn.Linear) and name.startswith(f"{path}.")}


def test_the_decoder_alone_is_quantised(vlm: Vlm) -> None:
    """On every family, by transformers' own rule."""
    rule = pytest.importorskip("transformers.quantizers.quantizers_utils").should_convert_module
    told = quantised.quantisation("4bit", vlm.model.backbone, torch.bfloat16)  # type: ignore[arg-type]
    linear = [name for name, one in vlm.own.named_modules() if isinstance(one, nn.Linear)]
    assert {name for name in linear if rule(name, told.llm_int8_skip_modules)} == decoder_layers(vlm)
    assert told.load_in_4bit and told.bnb_4bit_quant_type == "nf4" and told.bnb_4bit_use_double_quant
    assert told.bnb_4bit_compute_dtype == torch.bfloat16
    other = quantised.quantisation("8bit", vlm.model.backbone, torch.bfloat16)  # type: ignore[arg-type]
    assert other.load_in_8bit and not other.load_in_4bit


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LareError, match="needs the package bitsandbytes"):
        quantised.check_quantised("4bit")
    monkeypatch.setattr(quantised.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LareError, match="needs a GPU"):
        quantised.check_quantised("8bit")
    with pytest.raises(LareError, match="packs weights"):
        check_sharded(OptimiserConfig(), 0, quantise="4bit")
    with pytest.raises(LareError, match="give 8bit or 4bit"):
        ModelConfig(vlm="somewhere", quantise="2bit", settings={"lora": LORA})
    for wrong in ({"vlm": "somewhere"}, {"checkpoint": "somewhere", "settings": {"lora": LORA}}):
        with pytest.raises(LareError, match="model.settings.lora"):
            ModelConfig(quantise="4bit", **wrong)  # type: ignore[arg-type]


def test_memory_is_told_for_each_choice() -> None:
    """Weights by their bits, and one moment of a matrix under Muon."""
    config = load_run_config(CONFIGS / "smolvlm2_500m.yaml")
    model, stage = skeleton(config.model), config.stages[-1]
    modules = named_parts(model, {})
    row = stage_row(config, stage, model, LENGTHS["IV"])
    flows = gradients(model, PARTS, row.iterations, row.fetch)
    choices: tuple[tuple[Any, ...], ...] = ((), ("4bit",), ("8bit",), (None, "muon"))
    full, four, eight, muon = (memory_of(modules, model, row, flows, 2, True, True, *one) for one in choices)
    layer = 960 * 960 * 2 + 2 * 960 * 320 + 3 * 960 * 2560  # of the decoder, from its published sizes
    for held, bits in ((four, quantised.BITS["4bit"]), (eight, 8)):
        assert full["weights"] - held["weights"] == pytest.approx(32 * layer * (4 - bits / 8), rel=1e-6)
        assert held["autocast"] < full["autocast"] and held["optimiser"] == full["optimiser"]
    matrices = [one for part in ("language_model", "extractor", "projector") for one in modules[part].parameters()]
    inside = sum(one.numel() for one in matrices if one.dim() == 2)
    assert full["optimiser"] - muon["optimiser"] == pytest.approx(4 * inside, rel=0.01)


@pytest.mark.slow
def test_a_run_file_tells_it() -> None:
    path = CONFIGS / "smolvlm2_500m.yaml"
    full, four = (
        run_report(load_run_config(path, words))["stages"][-1]["memory"] for words in ([], ["model.quantise=4bit"])
    )
    assert four["weights"] < full["weights"] and four["total"] < full["total"]


@pytest.mark.slow
@pytest.mark.parametrize("vlm", ["qwen2_5_vl", "smolvlm"], indirect=True)
@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_a_real_one(vlm: Vlm, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters train beside a base that stays, and what is saved is plain, and loads back."""
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(quantised, "_accelerated", lambda: True)
    settings = SETTINGS | {"lora": LORA}
    model, processor = adopt(str(vlm.folder), settings, quantise=kind)
    lively(model.extractor)  # type: ignore[arg-type]
    inside = {n for n, one in model.language_model.named_modules() if type(one).__module__.startswith("bitsandbytes")}
    assert {name.removesuffix(".base_layer") for name in inside} == decoder_layers(vlm)
    for name in inside:  # its own products on CPUs take no layers as narrow as these
        model.language_model.get_submodule(name).support_avx512bf16_for_cpu = False
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = {name.replace("base_layer.", ""): one for name, one in before.items() if LORA_MARK not in name}
    own = vlm.model.state_dict()
    assert set(plain) == set(own) and all(plain[name].shape == own[name].shape for name in own)
    inputs = dict(processor(images=vlm.pictures(), text=processor.build_prompts(QUESTIONS)))
    trained = [one for name, one in model.named_parameters() if LORA_MARK in name]
    for name, one in model.named_parameters():
        one.requires_grad_(LORA_MARK in name) if one.is_floating_point() else None
    optimiser = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(6):
        out = model(**inputs, target_ids=torch.tensor([[5, 20], [6, 21], [7, 22]]))
        loss = out.lm_loss[0] / out.lm_loss[1]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    after = model.state_dict()
    assert all(torch.equal(after[name], one) for name, one in before.items() if LORA_MARK not in name)
    model.train(False)
    model.save_pretrained(tmp_path)
    loaded = LareForConditionalGeneration.from_pretrained(tmp_path)
    assert "quantization" not in (tmp_path / "config.json").read_text()
    wanted, found = (one.generate(**inputs, max_new_tokens=2, output_trace=True) for one in (model, loaded))
    assert torch.allclose(found.latents, wanted.latents, atol=1e-4 if kind == "4bit" else 0.3)
    model.load_state_dict(loaded.state_dict())  # as a resumed run does
    assert all(torch.equal(value, after[name]) for name, value in model.state_dict().items())
    wrong = {name: one + 1 if "base_layer" in name else one for name, one in loaded.state_dict().items()}
    with pytest.raises(RuntimeError, match="another base"):
        model.load_state_dict(wrong)


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`lare train` on a base in 4 bits ends in the same weights, killed or not, and its folder answers."""
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(quantised, "_accelerated", lambda: True)
    run = write_run(tmp_path, write_vlm("qwen2_5_vl", tmp_path / "vlm"), save_every=1, keep=2)
    plan = yaml.safe_load(run.read_text())
    plan["stages"] = plan["stages"][3:]
    run.write_text(yaml.safe_dump(plan))
    words = ["model.quantise=4bit", "model.settings.lora={rank: 2}"]
    for name in ("one", "two"):
        assert main(["train", str(run), f"out={tmp_path / name}", *words]) == 0
    shutil.rmtree(tmp_path / "two" / "IV" / "final")
    assert main(["train", "--resume", str(tmp_path / "two")]) == 0
    one, two = (load_checkpoint(str(tmp_path / name / "IV" / "final"), "cpu")[0] for name in ("one", "two"))
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
