"""Training on vision-language models: adapters, checkpointing, the paper's stages by ``lare train``, and an answer."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lare import LareError
from lare.backbones.adopt import adopt
from lare.cli import main
from lare.loading import load_checkpoint
from lare.model import LareConfig, LareForConditionalGeneration
from lare.model.lora import LORA_MARK, merge_lora
from lare.training.model import TrainingModel
from lare.training.plan.run_file import load_run_config
from lare.training.plan.stages import freeze_all_but

from .runs import with_images, write_run
from .vlms import FAMILIES, SETTINGS, SIZES, Vlm, fresh, picture, write_vlm

QUESTIONS = ["Is it red?", "What is the colour of the cat in the image?", "Where?"]


def batch_of(vlm: Vlm, count: int = 3) -> dict[str, Any]:
    """Arguments of a training step."""
    inputs: dict[str, Any] = dict(
        vlm.processor(images=vlm.pictures(count), text=vlm.processor.build_prompts(QUESTIONS[:count]))
    )
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(3, 200, (count, 6), generator=generator)
    mask = torch.tensor([[1] * (6 - row) + [0] * row for row in range(count)])
    return inputs | {"target_ids": words, "target_mask": mask, "prefix_ids": words[:, :3]}


def loss_of(model: LareForConditionalGeneration, batch: dict[str, Any]) -> torch.Tensor:
    out = model(**batch)
    assert out.lm_loss is not None and out.prefix_loss is not None
    return out.lm_loss[0] / out.lm_loss[1] + out.prefix_loss[0]


def test_a_training_batch_is_its_rows(vlm: Vlm) -> None:
    """Losses of pictures of several sizes side by side are those of each alone."""
    model, batch = vlm.model, batch_of(vlm)
    with torch.no_grad():
        whole = model(**batch)
        parts = []
        for row, (one, question) in enumerate(zip(vlm.pictures(), QUESTIONS, strict=True)):
            inputs = dict(vlm.processor(images=[one], text=vlm.processor.build_prompts([question])))
            targets = {name: batch[name][row : row + 1] for name in ("target_ids", "target_mask", "prefix_ids")}
            parts.append(model(**inputs, **targets))
    for name in ("lm_loss", "prefix_loss"):
        assert float(getattr(whole, name)[0]) == pytest.approx(sum(float(getattr(p, name)[0]) for p in parts), rel=1e-5)


def test_checkpointing_changes_no_gradient(vlm: Vlm) -> None:
    model, batch = fresh(vlm).train(), batch_of(vlm)
    grown = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        grown.append((float(loss.detach()), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (loss_1, plain), (loss_2, again) = grown
    assert loss_1 == pytest.approx(loss_2, rel=1e-6) and plain.keys() == again.keys()
    size = max(float(value.abs().max()) for value in plain.values())
    for name, value in plain.items():
        assert torch.allclose(value, again[name], atol=1e-6 * size), name


@pytest.mark.parametrize(
    "vlm",
    ["qwen2_5_vl", *(pytest.param(kind, marks=pytest.mark.slow) for kind in FAMILIES if kind != "qwen2_5_vl")],
    indirect=True,
)
def test_twenty_steps_of_adapters_lower_the_loss_and_leave_the_base(vlm: Vlm, tmp_path: Path) -> None:
    """On 64 samples; what is saved loads, and merged weights compute the same."""
    model = adopt(str(vlm.folder), SETTINGS | {"lora": {"rank": 4, "alpha": 8}})[0]
    whole = TrainingModel(model, 0).train()
    trained = freeze_all_but(whole, ("extractor", "language_model"))
    names = {name for name, _ in trained if name.startswith("lare.language_model")}
    inside = f"{vlm.model.backbone.text}.layers."  # type: ignore[attr-defined]
    linear = [n for n, m in vlm.own.named_modules() if isinstance(m, torch.nn.Linear) and n.startswith(inside)]
    assert len(names) == 2 * len(linear) and all(LORA_MARK in name for name in names)
    before = {name: value.clone() for name, value in whole.state_dict().items() if name not in dict(trained)}
    optimiser = torch.optim.AdamW([value for _, value in trained], lr=5e-3)
    processor = vlm.processor
    samples = [picture(*SIZES[number % 3], seed=number) for number in range(64)]
    answers = torch.tensor([[5 + number % 7, 20 + number % 3] for number in range(64)])
    losses = []
    for step in range(20):
        rows = [(step * 8 + number) % 64 for number in range(8)]
        inputs = processor(images=[samples[r] for r in rows], text=processor.build_prompts(["Which?"] * 8))
        out = model(**inputs, target_ids=answers[rows])
        loss = out.lm_loss[0] / out.lm_loss[1]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    after = whole.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    model.train(False)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, _, _ = load_checkpoint(str(tmp_path), "cpu")
    inputs = processor(images=vlm.pictures(), text=processor.build_prompts(QUESTIONS))
    wanted = model.generate(**inputs, max_new_tokens=4, output_trace=True)
    found = loaded.generate(**inputs, max_new_tokens=4, output_trace=True)
    assert torch.equal(found.sequences, wanted.sequences) and torch.equal(found.latents, wanted.latents)
    merge_lora(loaded)
    assert not any(LORA_MARK in name for name, _ in loaded.named_parameters()) and loaded.config.lora is None
    merged = loaded.generate(**inputs, max_new_tokens=4, output_trace=True)
    assert torch.allclose(merged.latents, wanted.latents, atol=1e-5)


@pytest.mark.parametrize("lora", [{"rank": 0}, {"ranks": 4}, {"alpha": 0}, {"dropout": 1.0}])
def test_impossible_adapters_are_refused(lora: dict[str, Any]) -> None:
    with pytest.raises(LareError, match="lora"):
        LareConfig(lora=lora)


# lare train ---------------------------------------------------------------------------------------------------------


QUICK = "qwen3_vl"


@pytest.fixture(params=[QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in FAMILIES if kind != QUICK)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    yield write_vlm(str(request.param), tmp_path / "vlm")


def test_four_stages_a_resume_and_an_answer(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, place, gradient_checkpointing=True)
    assert main(["train", str(run), "model.settings.lora={rank: 2}"]) == 0
    out = tmp_path / "run"
    for stage in ("I", "II", "III", "IV"):
        rows = [json.loads(line) for line in (out / stage / "log.jsonl").read_text().splitlines()]
        assert rows[-1]["step"] == 2 and all(value == value for value in rows[-1]["losses"].values())
        assert ("alignment" in rows[-1]["losses"]) == (stage != "I")
    model, processor, _ = load_checkpoint(str(out / "IV" / "final"), "cpu")
    own, _ = adopt(str(place), SETTINGS)
    start, found = own.language_model.state_dict(), model.language_model.state_dict()
    moved = {n.replace(".base_layer", "") for n in found if LORA_MARK not in n}
    assert moved == set(start)
    for name, value in found.items():
        plain = name.replace(".base_layer", "")
        if LORA_MARK not in name and not f"language_model.{plain}".startswith(model.backbone.projector):
            assert torch.equal(value, start[plain]), name
    capsys.readouterr()
    words = ["ask", str(tmp_path / "1.png"), "How many?", "--checkpoint", str(out / "IV" / "final")]
    assert main([*words, "--json", "--max-new-tokens", "4", "--trace", str(tmp_path / "how.html")]) == 0
    reply = json.loads(capsys.readouterr().out)
    assert reply["latent_steps"] == SETTINGS["iterations"]
    page = (tmp_path / "how.html").read_text()
    assert "Latent step 2" in page


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_resumed_run_ends_in_the_same_weights(kind: str, tmp_path: Path) -> None:
    """Killed after its first update and resumed, against one that was not; with image reconstruction (eq. 7)."""
    place = write_vlm(kind, tmp_path / "vlm")
    run = write_run(tmp_path, place, save_every=1, keep=2, **with_images(tmp_path))
    plan = yaml.safe_load(run.read_text())
    plan["stages"] = plan["stages"][3:]
    run.write_text(yaml.safe_dump(plan))
    for name in ("one", "two"):
        assert main(["train", str(run), f"out={tmp_path / name}"]) == 0
    shutil.rmtree(tmp_path / "two" / "IV" / "final")
    assert main(["train", "--resume", str(tmp_path / "two")]) == 0
    one, two = (
        LareForConditionalGeneration.from_pretrained(tmp_path / name / "IV" / "final").state_dict()
        for name in ("one", "two")
    )
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_settings_that_do_not_go_together_are_refused(tmp_path: Path, vlm: Vlm) -> None:
    with pytest.raises(LareError, match="lm_grid"):
        vlm.model(**batch_of(vlm, 1), lm_grid=2)
    with pytest.raises(LareError, match="lm_grid"):
        LareConfig(backbone_config=copy.deepcopy(vlm.model.config.backbone_config), lm_grid=1)
    run = write_run(tmp_path, tmp_path / "vlm")
    with pytest.raises(LareError, match="cache_features"):
        load_run_config(run, ["cache_features=true"])
    with pytest.raises(LareError, match="model.vlm"):
        load_run_config(run, ["model.text=somewhere"])
