"""Sizes of a run, against brute force: FLOPs as torch counts them, bytes as autograd keeps them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, LlamaConfig, Qwen2Config

from lare import LareError
from lare.backbones.published import FULL_SIZE
from lare.cli import main as lare
from lare.cli.info import run_table
from lare.cost.flops import Row, Work, decoder_calls, gradients, measured, row_work
from lare.cost.memory import memory_of
from lare.cost.sizes import LENGTHS, Lengths, markdown, run_report, stage_row
from lare.cost.skeleton import skeleton
from lare.losses.base import weighted_names
from lare.model import LareConfig, LareForConditionalGeneration
from lare.training.feeding.batch import Draws, MicroBatch
from lare.training.model import TrainingModel
from lare.training.plan.run_file import run_config_from
from lare.training.plan.stages import STAGES, freeze_all_but
from tests.methods.tiny_checkpoint import write_checkpoint

VOCABULARY, ROWS = 64, 2
WEIGHTS = dict.fromkeys(weighted_names(), 0.0) | {"alignment": 1.0, "text": 1.0}
# Layer 0 of a frozen decoder needs no gradient for its inputs where only the cache carries any; the count says it does.
TOLERANCE = {"I": 0.01, "II": 0.06, "III": 0.01, "IV": 0.01}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def tiny(kind: str = "llama", width: int = 32, layers: int = 6, **changes: Any) -> LareForConditionalGeneration:
    values: dict[str, Any] = dict(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    text = {"llama": LlamaConfig, "qwen2": Qwen2Config}[kind](**values)
    vision = CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=3, image_size=32, patch_size=8
    )
    settings: dict[str, Any] = dict(image_size=32, grid=4, window=2, iterations=3, extractor_dim=24, extractor_heads=3)
    torch.manual_seed(0)
    config = LareConfig(text, vision, **(settings | {"extractor_output_init": 0.5, "text_prefix": 5} | changes))
    return LareForConditionalGeneration(config).train()


def batch_of(model: LareForConditionalGeneration, row: Row, rows: int = ROWS) -> MicroBatch:
    """Random rows of these lengths."""
    config = model.config
    words = torch.Generator().manual_seed(0)

    def ids(count: int) -> torch.Tensor:
        return torch.randint(3, VOCABULARY - 3, (rows, count), generator=words)

    slots = (row.lm_grid or config.lm_grid) ** 2
    tail = 1 if row.delimiters else 0
    opening = torch.full((rows, tail), config.latent_start_id)
    image = torch.full((rows, slots), config.image_token_id)
    target = ids(row.target)
    inputs: dict[str, Any] = {
        "input_ids": torch.cat((ids(2), image, ids(row.prompt - slots - 2 - tail), opening), dim=1),
        "target_ids": target,
        "target_mask": torch.ones_like(target),
        "pixel_values": torch.randn(rows, 3, config.image_size, config.image_size),
        "iterations": row.iterations,
        "delimiters": row.delimiters,
    }
    if row.prefix:
        inputs["prefix_ids"] = ids(row.prefix)
        inputs["prefix_mask"] = torch.ones(rows, row.prefix)
    if row.lm_grid is not None:
        inputs["lm_grid"] = row.lm_grid
    rationale = ids(row.rationale) if row.rationale else None
    corner = torch.tensor([0.0, 0.0, 0.5, 0.5]).expand(rows, row.iterations, 4)
    return MicroBatch(
        inputs,
        rationale,
        None if rationale is None else torch.ones_like(rationale),
        boxes=corner if row.look or row.fetch else None,
        fetch=row.fetch,
    )


def loss_of(model: TrainingModel, batch: MicroBatch, look: bool = False) -> torch.Tensor:
    rows = batch.rows
    draws = Draws(torch.zeros(rows, dtype=torch.bool), torch.zeros(rows), token=torch.zeros(rows, 8))
    out = model(batch, WEIGHTS | {"look": float(look)}, draws)
    loss = sum(out.sums.values(), torch.zeros(()))
    return loss + sum((one.sum() for made in out.embedded.values() for one in made), torch.zeros(()))


def row_of(stage: str) -> Row:
    if stage == "I":
        return Row(prompt=24, target=7, delimiters=False)
    return Row(prompt=25, target=9, iterations=3, prefix=5, rationale=8)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("kind", "changes"),
    [("llama", {}), ("qwen2", {"refocus_source": "fine", "lm_grid": 2, "latents_per_iteration": 2})],
    ids=["lm", "fine"],
)
def test_flops_are_those_that_torch_counts(kind: str, changes: dict[str, Any], stage: str) -> None:
    model, row = tiny(kind, **changes), row_of(stage)
    if changes:
        row = replace(row, prompt=row.prompt - 12)
    forward, total, counted, both = counted_and_told(model, row, STAGES[stage].parts)
    assert counted == pytest.approx(forward, rel=2e-3)
    assert both == pytest.approx(total, rel=TOLERANCE[stage])


def counted_and_told(model: LareForConditionalGeneration, row: Row, parts: tuple[str, ...]) -> tuple[float, ...]:
    """Forward and all operations as torch counts them, and as `row_work` tells them."""
    whole = TrainingModel(model, shared_dim=16)
    freeze_all_but(whole, parts)
    batch = batch_of(model, row)
    with sdpa_kernel(SDPBackend.MATH):
        counter: Any = FlopCounterMode(display=False)
        with counter:
            loss = loss_of(whole, batch, row.look)
            forward = counter.get_total_flops()
            loss.backward()
        total = counter.get_total_flops()
    pixels = torch.randn(1, 3, 32, 32)
    vision = {"vision_encoder": measured(model.vision_tower, pixels)}
    work = row_work(model, row, gradients(model, parts, row.iterations, row.fetch), vision)
    # The alignment heads are left out of the count.
    heads = 3 * 16 * 32 * 2 * ROWS if row.rationale else 0
    counted = 2 * ROWS * sum(work.forward.values())
    return forward - heads, total - 3 * heads, counted, counted + 2 * ROWS * sum(work.backward.values())


def kept_bytes(whole: TrainingModel, batch: MicroBatch) -> int:
    """Bytes that autograd keeps for the backward pass, parameters themselves left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in whole.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # holding it keeps its address from being used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(whole, batch)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("stage", ["I", "II", "III"])
def test_memory_is_near_what_autograd_keeps(stage: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lare.model.attention._FEW", 0)  # as on a GPU
    model = tiny(width=64, layers=4)
    row = (
        Row(prompt=96, target=48, delimiters=False)
        if stage == "I"
        else Row(prompt=96, target=48, iterations=2, prefix=16, rationale=32)
    )
    rows = 6
    whole = TrainingModel(model, shared_dim=16, precision=precision)
    freeze_all_but(whole, STAGES[stage].parts)
    measured_bytes = kept_bytes(whole, batch_of(model, row, rows))
    grad = gradients(model, STAGES[stage].parts, row.iterations)
    modules = {"language_model": model.language_model, "extractor": model.extractor, "projector": model.projector}
    memory = memory_of(modules, model, row, grad, rows, precision != "fp32")
    assert 0.8 < (memory["autocast"] + memory["activations"]) / measured_bytes < 1.1


def test_a_frozen_decoder_is_copied_at_every_call_under_autocast() -> None:
    """Why stage II in bf16 needs memory for K + 2 copies of the decoder."""
    model = tiny(width=64, layers=2)
    whole = TrainingModel(model, shared_dim=0, precision="bf16")
    freeze_all_but(whole, STAGES["II"].parts)
    few, many = (
        kept_bytes(whole, batch_of(model, Row(prompt=20, target=2, iterations=k, prefix=1), rows=1)) for k in (1, 4)
    )
    copy = 2 * sum(layer.weight.numel() for layer in model.decoder.modules() if isinstance(layer, torch.nn.Linear))
    assert many - few > 2.5 * copy


def run(text: str = "Qwen/Qwen2.5-0.5B-Instruct", **changes: Any) -> Any:
    data = [{"path": "a.json"}]
    stages = [{"stage": "I", "data": data, "batch": 256}, {"stage": "II", "data": data}, {"stage": "III", "data": data}]
    model = {"text": text, "vision": "openai/clip-vit-large-patch14"}
    return run_config_from({"model": model, "stages": stages, "precision": "bf16"} | changes)


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return run_report(run())


def test_report_of_a_full_size_run(report: dict[str, Any]) -> None:
    counts = report["parameters"]
    assert counts["total"] == sum(counts.values()) / 2
    assert counts["language_model"] == FULL_SIZE["Qwen/Qwen2.5-0.5B-Instruct"].parameters
    assert counts["projector"] == 1024 * 896 + 896 + 896 * 896 + 896
    one, two, three = report["stages"]
    assert set(one["trains"]) == {"projector"} and one["trained"] == counts["projector"]
    assert set(two["trains"]) == {"extractor", "alignment", "unet"}
    assert three["trained"] == counts["total"] - counts["vision_encoder"] - counts["image_tokenizer"]
    for stage in report["stages"]:
        memory, flops = stage["memory"], stage["flops"]
        assert memory["weights"] == 4 * counts["total"]
        assert memory["gradients"] == 4 * stage["trained"] and memory["optimiser"] == 8 * stage["trained"]
        assert flops["total"] == sum(flops["forward"].values()) + sum(flops["backward"].values())
        assert flops["backward"]["vision_encoder"] == 0
    # A frozen decoder that gradient passes through: as much backward as forward, attention twice.
    assert 1 < one["flops"]["backward"]["language_model"] / one["flops"]["forward"]["language_model"] < 1.2
    assert three["flops"]["backward"]["lm_head"] == 2 * three["flops"]["forward"]["lm_head"]
    assert "image_tokenizer" in two["flops"]["forward"] and "unet" not in one["flops"]["forward"]


def test_clip_costs_what_it_is_known_to_cost() -> None:
    model = skeleton(run().model)
    # 81 GMACs: 257 tokens through 24 layers of 12 * 1024^2 weights, attention, and the patches.
    exact = 24 * (257 * 12 * 1024**2 + 2 * 257**2 * 1024) + 256 * 1024 * 3 * 14**2
    counted = measured(model.vision_tower, torch.empty(1, 3, 224, 224, device="meta"))
    assert counted == pytest.approx(exact, rel=1e-3)


def test_sharding_and_passes(report: dict[str, Any]) -> None:
    one = report["stages"][2]
    assert report["processes"] == 8 and one["micro_batch"] == 128 // 8
    half = run_report(run(precision="fp16"))
    assert (report["precision"], half["precision"]) == ("bf16", "fp16")
    assert "not sharded" in run_table(half) and "not sharded" not in run_table(report)
    for stage, other in zip(half["stages"], report["stages"], strict=True):  # what fp16 can't: shared by FSDP
        assert stage["memory"].pop("sharded") is None
        memory = {name: held for name, held in other["memory"].items() if name != "sharded"}
        assert stage == {**other, "memory": memory}
    states = sum(one["memory"][name] for name in ("weights", "gradients", "optimiser"))
    gathered = 2 * (report["parameters"]["total"] + one["trained"])
    assert one["memory"]["sharded"] == states // 8 + gathered + one["memory"]["activations"]
    stages = [{"stage": "III", "data": [{"path": "a.json"}], "micro_batch": 4}]
    again = run_report(run(stages=stages), processes=16)["stages"][0]
    assert (again["micro_batch"], again["memory"]["activations"]) == (4, one["memory"]["activations"] // 4)
    assert again["flops"]["forward"]["language_model"] > 1.3 * one["flops"]["forward"]["language_model"]


def test_losses_that_are_off_cost_nothing(report: dict[str, Any]) -> None:
    lengths = {stage: Lengths(64, 0, 512) for stage in LENGTHS}
    off = run_report(run(losses={"alignment": 0, "image": 0, "text": 0}), lengths)
    assert not {"alignment", "unet", "image_tokenizer"} & set(off["parameters"])
    row = off["stages"][1]["row"]
    assert (row["prefix"], row["rationale"], row["image_share"]) == (0, 0, 0)
    assert off["stages"][0]["flops"]["total"] > report["stages"][0]["flops"]["total"]


def test_rows_follow_the_stage() -> None:
    config = run()
    model = skeleton(config.model)
    one = stage_row(config, config.stages[0], model, LENGTHS["I"])
    assert (one.prompt, one.iterations, one.delimiters) == (32 + 256, 0, False)
    four = stage_row(config, replace(config.stages[2], stage="IV", name="x"), model, LENGTHS["IV"])
    assert (four.prompt, four.target, four.prefix, four.rationale) == (96 + 257, 384 - 32 + 64, 32, 384)
    calls = [(call.name, call.tokens, call.keys) for call in decoder_calls(four, gradients(model, (), 4), 1)]
    assert calls[1:5] == [("latents", 1, 353 + step) for step in (1, 2, 3, 4)]
    assert calls[5:] == [("target", 416, 353 + 4 + 416), ("prefix", 37, 37), ("rationale", 384, 384)]


def test_work_adds_up() -> None:
    work = Work()
    work.linear("a", 3, weights=True, inputs=False)
    work.linear("a", 2, weights=True, inputs=True)
    work.attention("b", 5, gradient=True)
    assert (work.forward, work.backward) == ({"a": 5, "b": 5}, {"a": 7, "b": 10})


def test_shapes_of_local_folders(tmp_path: Path) -> None:
    model = tiny()
    model.language_model.save_pretrained(tmp_path / "text")
    model.vision_tower.encoder.save_pretrained(tmp_path / "vision")
    made = replace(
        run().model,
        text=str(tmp_path / "text"),
        vision=str(tmp_path / "vision"),
        settings=dict(extractor_dim=24, extractor_heads=3),
    )
    found = skeleton(made)
    assert (found.config.image_size, found.config.grid, found.config.window) == (32, 4, 2)
    assert found.config.text_config.vocab_size == VOCABULARY + 3
    assert sum(p.numel() for p in found.extractor.parameters()) == sum(p.numel() for p in model.extractor.parameters())


def test_report_of_a_run_that_starts_from_a_checkpoint(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    stages = [{"stage": "IV", "data": [{"format": "world", "per_image": 4}], "batch": 8}]
    image = {"unet": "small", "tokenizer": "embedded", "size": 64}
    found = run_report(run_config_from({"model": {"checkpoint": str(folder)}, "stages": stages, "image": image}))
    model = LareForConditionalGeneration.from_pretrained(folder)
    assert found["parameters"]["language_model"] == sum(p.numel() for p in model.language_model.parameters())
    assert found["processes"] == 1 and found["stages"][0]["micro_batch"] == 8
    assert found["stages"][0]["memory"]["autocast"] == 0
    assert {"refocus_projector", "unet"} <= set(found["stages"][0]["trains"])


# The command --------------------------------------------------------------------------------------------------------


def write(tmp_path: Path, text: str = "Qwen/Qwen2.5-0.5B-Instruct") -> str:
    path = tmp_path / "small.yaml"
    stages = [{"stage": stage, "data": [{"path": "a.json"}]} for stage in ("I", "II")]
    vision = "openai/clip-vit-large-patch14"
    path.write_text(json.dumps({"model": {"text": text, "vision": vision}, "stages": stages}))  # JSON is YAML
    return str(path)


def test_info_of_a_run_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lare(["info", write(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for word in ("language_model", "stage II", "trains", "projector", "activations", "estimate", "TFLOPs"):
        assert word in printed
    assert "of it without the vision encoder" in printed
    assert lare(["info", write(tmp_path), "--json", "--processes", "4", "stages.0.batch=64"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["processes"] == 4 and report["stages"][0]["micro_batch"] == 16
    flops = report["stages"][0]["flops"]
    encoder = flops["forward"]["vision_encoder"]
    assert flops["total"] - flops["without_encoder"] == pytest.approx(encoder) and encoder > 0
    assert "run | stage" in markdown({"small": report})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stages.0.batch=0"], "batch is 0"),
        (["model.text=no/such-decoder"], "can't be loaded from 'no/such-decoder'"),
        (["model.settings.windows=1"], "unknown model setting 'windows'"),
        (["--processes", "0"], "--processes is 0"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert lare(["info", write(tmp_path), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_key_value_words_need_a_run_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert lare(["info", "somewhere", "seed=1"]) == 2
    assert "only for run files" in capsys.readouterr().err


def test_unknown_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(LareError, match="give a complete folder of an encoder"):
        skeleton(replace(run().model, vision="no/such-encoder"))
