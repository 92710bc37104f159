"""Checkpoints: what is saved is what is loaded, and anything else is refused with one clear message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, LlamaForCausalLM, PreTrainedModel

from lare import LareError
from lare.model import LareForConditionalGeneration
from lare.model.attention import ATTENTION_NAME

from .tiny import BACKBONES, collate, conv_vision, make_samples, text_config, tiny_model, trainable

Loader = Any


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint, to be copied before it is harmed."""
    place = tmp_path_factory.mktemp("saved")
    tiny_model(refocus_source="fine").save_pretrained(place)
    return place


@pytest.fixture
def harmed(saved: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.mark.parametrize("loader", [LareForConditionalGeneration, AutoModelForImageTextToText], ids=["own", "auto"])
@pytest.mark.parametrize("kind", BACKBONES)
def test_round_trip(kind: str, loader: Loader, tmp_path: Path) -> None:
    model = tiny_model(kind, refocus_source="fine", latents_per_iteration=2)
    model.save_pretrained(tmp_path)
    again = loader.from_pretrained(tmp_path)
    assert isinstance(again, LareForConditionalGeneration)
    assert not again.training
    assert again.language_model.config._attn_implementation == ATTENTION_NAME
    assert set(trainable(again)) == set(trainable(model))
    for (name, ours), (other, theirs) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(ours, theirs), name
    batch = collate(make_samples(model.config))
    before, after = model(**batch), again(**batch)
    assert torch.equal(before.thoughts.latents, after.thoughts.latents)
    assert torch.equal(before.lm_loss[0], after.lm_loss[0])
    assert [path.name for path in tmp_path.glob("*.bin")] == []
    assert (tmp_path / "model.safetensors").exists()


def test_ties_survive(tmp_path: Path) -> None:
    model = tiny_model("qwen2")
    model.save_pretrained(tmp_path)
    again = LareForConditionalGeneration.from_pretrained(tmp_path)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight


def test_untied_tables_stay_apart(saved: Path) -> None:
    model = LareForConditionalGeneration.from_pretrained(saved)
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight


def test_batch_statistics_are_saved(tmp_path: Path) -> None:
    model = tiny_model(vision_config=conv_vision(), image_size=64)
    for name, value in model.vision_tower.named_buffers():
        if name.endswith("running_mean"):
            value.add_(torch.randn(value.shape))
    pixels = torch.randn(1, 3, 64, 64)
    model.save_pretrained(tmp_path)
    again = LareForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(again.vision_tower(pixels), model.vision_tower(pixels))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_dtype_on_loading(saved: Path, dtype: torch.dtype) -> None:
    model = LareForConditionalGeneration.from_pretrained(saved, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    again = model(**collate(make_samples(model.config)))
    assert bool(torch.isfinite(again.lm_loss[0]))


def test_shards(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = LareForConditionalGeneration.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_resized_vocabulary_survives(tmp_path: Path) -> None:
    model = tiny_model()
    size = model.config.text_config.vocab_size
    model.resize_token_embeddings(size + 3)
    assert model.config.text_config.vocab_size == size + 3
    model.save_pretrained(tmp_path)
    again = LareForConditionalGeneration.from_pretrained(tmp_path)
    assert again.get_input_embeddings().weight.shape[0] == size + 3
    assert again.get_output_embeddings().weight.shape[0] == size + 3
    assert float(again.embedding_rms()) == pytest.approx(float(model.embedding_rms()))


# Refusals ------------------------------------------------------------------------------------------------------


def refused(place: Path | str, *words: str, loader: Loader = LareForConditionalGeneration) -> None:
    with pytest.raises(LareError) as caught:
        loader.from_pretrained(place)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def change_weights(place: Path, change: Any) -> None:
    path = place / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_no_checkpoint_there(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", str(tmp_path / "nothing"))
    refused(tmp_path, str(tmp_path))


def test_another_models_checkpoint(tmp_path: Path) -> None:
    LlamaForCausalLM(text_config()).save_pretrained(tmp_path)
    refused(tmp_path, "'llama'", "LaRe")


def test_missing_weights_are_named(harmed: Path) -> None:
    change_weights(harmed, lambda weights: weights.pop("extractor.output_proj.weight"))
    refused(harmed, "missing", "extractor.output_proj.weight")
    refused(harmed, "missing", "extractor.output_proj.weight", loader=AutoModelForImageTextToText)


def test_weights_of_the_vision_tower_may_not_be_missing(harmed: Path) -> None:
    def drop(weights: dict[str, Any]) -> None:
        for name in [name for name in weights if name.startswith("vision_tower")]:
            del weights[name]

    change_weights(harmed, drop)
    refused(harmed, "missing", "vision_tower", "more")


def test_left_over_weights_are_named(harmed: Path) -> None:
    change_weights(harmed, lambda weights: weights.update({"extractor.extra": torch.zeros(2)}))
    refused(harmed, "extractor.extra")


def test_misshapen_weights_are_named(harmed: Path) -> None:
    change_weights(harmed, lambda weights: weights.update({"projector.linear_1.bias": torch.zeros(5)}))
    refused(harmed, "projector.linear_1.bias")


def test_a_configuration_of_another_size_is_named(harmed: Path) -> None:
    path = harmed / "config.json"
    values = json.loads(path.read_text())
    values["extractor_dim"] = 48
    path.write_text(json.dumps(values))
    refused(harmed, "extractor.")


def change_config(place: Path, part: str, **changes: Any) -> None:
    values = json.loads((place / "config.json").read_text())
    values[part] |= changes
    (place / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize("shards", [False, True], ids=["single", "shards"])
@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        ("text_config", {"hidden_size": 64}, ("embed_tokens.weight is (72, 32)", "(72, 64)", "text_config")),
        (
            "text_config",
            {"num_hidden_layers": 500},
            ("layer_embedding is (3, 24)", "(500, 24)"),
        ),
        ("vision_config", {"hidden_size": 48}, ("vision_tower.", "(48,)", "vision_config")),
    ],
)
def test_shapes_are_compared_before_anything_is_made(
    shards: bool, part: str, changes: dict[str, int], words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path, max_shard_size="60KB" if shards else "1GB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == shards
    change_config(tmp_path, part, **changes)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", lambda *a, **k: pytest.fail("it began to load"))
    refused(tmp_path, "does not fit its configuration", *words)


@pytest.mark.parametrize("keep", [0, 4, 300, 0.5, -1])
def test_truncated_weights(harmed: Path, keep: float) -> None:
    """Cut to nothing, inside the header's length, inside the header, in the middle, and by the last byte."""
    path = harmed / "model.safetensors"
    data = path.read_bytes()
    size = int(len(data) * keep) if isinstance(keep, float) else keep
    path.write_bytes(data[:size])
    refused(harmed, str(harmed))


def test_weights_that_are_no_safetensors(harmed: Path) -> None:
    (harmed / "model.safetensors").write_bytes(b"PK\x03\x04" * 4000)
    refused(harmed, str(harmed))


def test_pickled_weights_are_not_opened(harmed: Path) -> None:
    """Only safetensors: a pickle could run code."""
    weights = load_file(harmed / "model.safetensors")
    (harmed / "model.safetensors").unlink()
    torch.save(weights, harmed / "pytorch_model.bin")
    refused(harmed, str(harmed))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model_type": "lare", "window": 99}'])
def test_damaged_configuration(harmed: Path, content: str) -> None:
    (harmed / "config.json").write_text(content)
    refused(harmed)


def test_missing_configuration(harmed: Path) -> None:
    (harmed / "config.json").unlink()
    refused(harmed, str(harmed))
