"""Assembling: both halves come in exactly, special tokens get sensible rows, and the result is a whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionModel,
)

from lare import LareError
from lare.backbones.assemble import FULL_SIZE, assemble
from lare.model import LareForConditionalGeneration, LareProcessor
from tests.methods.tiny_checkpoint import pictures, tiny_tokenizer
from tests.model.assembling import DECODERS, HEADER_TEMPLATE, SETTINGS, inputs_of, write_clip, write_decoder

from .tiny import clip_vision


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("qwen"), DECODERS[0], HEADER_TEMPLATE, spare=7)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("llama"), "lmsys/vicuna-7b-v1.5")


@pytest.mark.parametrize("source", ["lm", "fine"])
@pytest.mark.parametrize("name", DECODERS)
def test_end_to_end(name: str, source: str, clip: Path, tmp_path: Path) -> None:
    text = write_decoder(tmp_path / "text", name, HEADER_TEMPLATE)
    more = {"lm_grid": 2} if source == "fine" else {}
    model, processor = assemble(str(text), str(clip), SETTINGS | {"refocus_source": source} | more)
    assert type(model.config.text_config) is FULL_SIZE[name].kind
    if name.startswith("meta-llama"):
        assert model.language_model.model.rotary_emb.rope_type == "llama3"
    batch = inputs_of(processor)
    answer = processor.tokenizer(["yes", "no"], add_special_tokens=False, padding=True, return_tensors="pt")
    targets = {"target_ids": answer.input_ids, "target_mask": answer.attention_mask, "prefix_ids": answer.input_ids}
    out = model.train()(**batch, **targets)
    (out.lm_loss[0] + out.prefix_loss[0]).backward()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert silent == []
    assert all(p.grad is None for p in model.vision_tower.parameters())
    model.eval()
    said = model.generate(**batch, max_new_tokens=5)
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    again = LareForConditionalGeneration.from_pretrained(tmp_path / "saved")
    reread = inputs_of(LareProcessor.from_pretrained(tmp_path / "saved"))
    assert torch.equal(reread["input_ids"], batch["input_ids"])
    assert torch.equal(reread["pixel_values"], batch["pixel_values"])
    assert torch.equal(again.generate(**reread, max_new_tokens=5).sequences, said.sequences)
    for (key, ours), (other, theirs) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert key == other and torch.equal(ours, theirs), key


@pytest.mark.parametrize("name", DECODERS)
def test_the_decoder_is_copied_exactly(name: str, clip: Path, tmp_path: Path) -> None:
    text = write_decoder(tmp_path, name, HEADER_TEMPLATE)
    model, processor = assemble(str(text), str(clip), SETTINGS)
    before = AutoModelForCausalLM.from_pretrained(text, attn_implementation="sdpa").eval()
    tokenizer = AutoTokenizer.from_pretrained(text)
    ids = tokenizer("Is there a dog in the image?", return_tensors="pt").input_ids
    assert torch.equal(processor.tokenizer("Is there a dog in the image?", return_tensors="pt").input_ids, ids)
    ours, theirs = model.language_model(ids).logits, before(ids).logits
    # One more row changes how the head's product is split up, so the last bit may differ.
    torch.testing.assert_close(ours[..., : theirs.shape[-1]], theirs, rtol=0, atol=1e-5)
    assert ours.shape[-1] == len(tokenizer) + 3
    state = model.language_model.state_dict()
    for key, value in before.state_dict().items():
        assert torch.equal(state[key][: len(value)], value), key
    tied = before.config.tie_word_embeddings
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied


@pytest.mark.parametrize("whole", [False, True], ids=["vision", "clip"])
def test_the_encoder_is_copied_exactly(whole: bool, clip: Path, llama: Path, tmp_path: Path) -> None:
    place = clip
    if whole:
        text = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
        full = CLIPModel(CLIPConfig(text_config=text, vision_config=clip_vision().to_dict(), projection_dim=8))
        full.save_pretrained(tmp_path)
        place = tmp_path
    model, processor = assemble(str(llama), str(place), SETTINGS)
    pixels = inputs_of(processor)["pixel_values"]
    with torch.no_grad():
        reference = CLIPVisionModel.from_pretrained(place).eval()(pixels, output_hidden_states=True).hidden_states[-2]
    assert torch.equal(model.vision_tower(pixels), reference[:, 1:])
    assert not any(p.requires_grad for p in model.vision_tower.parameters())
    assert (model.config.image_size, model.config.grid, model.config.window) == (32, 4, 2)


def test_spare_rows_are_used_before_the_table_grows(qwen: Path, clip: Path) -> None:
    model, processor = assemble(str(qwen), str(clip), SETTINGS)
    size = len(AutoTokenizer.from_pretrained(qwen))
    assert model.config.text_config.vocab_size == len(tiny_tokenizer()) + 7
    assert (processor.image_token_id, processor.latent_start_id, processor.latent_end_id) == (size, size + 1, size + 2)


def test_new_rows(qwen: Path, clip: Path) -> None:
    model, processor = assemble(str(qwen), str(clip), SETTINGS)
    table, size = model.get_input_embeddings().weight, len(AutoTokenizer.from_pretrained(qwen))
    header = processor.tokenizer("<assistant>", add_special_tokens=False).input_ids
    assert len(header) > 1
    torch.testing.assert_close(table[processor.image_token_id], table[:size].mean(0))
    for row in (processor.latent_start_id, processor.latent_end_id):
        torch.testing.assert_close(table[row], table[header].mean(0))


def test_new_rows_without_a_header(clip: Path, tmp_path: Path) -> None:
    silent = "{{ messages[0]['content'] }}"
    place = write_decoder(tmp_path, "lmsys/vicuna-7b-v1.5", silent)
    model, processor = assemble(str(place), str(clip), SETTINGS)
    table, size = model.get_input_embeddings().weight, len(tiny_tokenizer())
    torch.testing.assert_close(table[processor.latent_end_id], 0.5 * (table[2] + table[:size].mean(0)))
    head = model.get_output_embeddings().weight
    torch.testing.assert_close(head[processor.latent_end_id], head[:size].mean(0))


def test_processor_defaults(llama: Path, clip: Path) -> None:
    model, processor = assemble(str(llama), str(clip), SETTINGS)
    tokenizer = processor.tokenizer
    assert tokenizer.padding_side == "left" and tokenizer.pad_token is not None
    assert processor.build_prompts(["Why?"])[0].endswith("ASSISTANT: <|latent_start|>")
    assert tokenizer.model_max_length == 256
    assert model.config.text_config.eos_token_id == 2
    wide = processor.image_processor(pictures(1)[0].resize((64, 16)), return_tensors="pt")["pixel_values"]
    assert wide.shape == (1, 3, 32, 32)


def test_half_precision_and_old_files(clip: Path, tmp_path: Path) -> None:
    """Vicuna's checkpoint is float16 in .bin files, and CLIP's holds a buffer that no model has any more."""
    place = write_decoder(tmp_path / "text", "lmsys/vicuna-7b-v1.5")
    half = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float16)
    half.save_pretrained(place)
    torch.save(half.state_dict(), place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()
    old = tmp_path / "clip"
    old.mkdir()
    (old / "config.json").write_bytes((clip / "config.json").read_bytes())
    weights = load_file(clip / "model.safetensors") | {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
    save_file(weights, old / "model.safetensors", {"format": "pt"})
    model, _ = assemble(str(place), str(old), SETTINGS)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model.save_pretrained(tmp_path / "saved")
    again = LareForConditionalGeneration.from_pretrained(tmp_path / "saved")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True))


def test_every_end_token_counts(clip: Path, tmp_path: Path) -> None:
    place = write_decoder(tmp_path, "meta-llama/Llama-3.2-1B-Instruct", eos_token_id=[5, 6])
    model, _ = assemble(str(place), str(clip), SETTINGS)
    assert model.config.text_config.eos_token_id == [5, 6, 2]


@pytest.mark.parametrize(("end", "expected"), [("<pad>", [5, 6, 2, 0]), ("</s>", [5, 6, 2]), ("", [5, 6, 2])])
def test_the_token_behind_an_answer_counts(clip: Path, tmp_path: Path, end: str, expected: list[int]) -> None:
    template = HEADER_TEMPLATE.replace("</s>", end)
    place = write_decoder(tmp_path, "meta-llama/Llama-3.2-1B-Instruct", template, eos_token_id=[5, 6])
    model, _ = assemble(str(place), str(clip), SETTINGS)
    assert model.config.text_config.eos_token_id == expected


def test_the_seed_decides_the_new_parts_only(llama: Path, clip: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one, two, other = (assemble(str(llama), str(clip), SETTINGS, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(torch.rand(2), expected)
    same = {name for name, value in one.state_dict().items() if torch.equal(value, other.state_dict()[name])}
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    assert {name for name in same if name.startswith(("language_model", "vision_tower"))} == {
        name for name in one.state_dict() if name.startswith(("language_model", "vision_tower"))
    }
    assert "projector.linear_1.weight" not in same and "extractor.state_proj.weight" not in same


def test_new_parts_start_as_the_constructor_starts_them(llama: Path, clip: Path) -> None:
    model, _ = assemble(str(llama), str(clip), SETTINGS)
    fresh = LareForConditionalGeneration(model.config).state_dict()
    for name, value in model.state_dict().items():
        if name.startswith(("projector", "extractor")) and value.numel() > 200:
            torch.testing.assert_close(value.std(), fresh[name].std(), rtol=0.3, atol=1e-6)
    eye = torch.eye(*model.extractor.output_proj.weight.shape)
    assert torch.equal(model.extractor.output_proj.weight, 0.5 * eye)


def wrong_text(tmp_path: Path) -> Path:
    values = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, is_decoder=True)
    BertLMHeadModel(BertConfig(**values)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "no/such-decoder"}, "can't be loaded from 'no/such-decoder'"),
        ({"text": "/nowhere::a.gguf"}, "no GGUF file 'a.gguf'"),
        ({"vision": "no/such-encoder"}, "can't be loaded from 'no/such-encoder'"),
        ({"settings": {"windows": 3}}, "unknown model setting 'windows'"),
        ({"settings": {"image_token_id": 3}}, "unknown model setting 'image_token_id'"),
        ({"settings": {"image_size": 336}}, "leave image_size out"),
        ({"settings": {"grid": 5}}, "set grid"),
        ({"settings": {"window": 9}}, "give at most 4"),
    ],
)
def test_mistakes(
    changes: dict[str, Any], message: str, llama: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given = {"text": str(llama), "vision": str(clip), "settings": {}} | changes
    given["settings"] = SETTINGS | given["settings"]
    with pytest.raises(LareError, match="(?s)" + message.replace("(", r"\(")):
        model, processor = assemble(**given)
        model(**inputs_of(processor))


def test_models_of_another_kind(llama: Path, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(LareError, match="of type 'llama', whose grid"):
        assemble(str(llama), str(llama), SETTINGS)
    with pytest.raises(LareError, match="no decoder with a list of layers|causal language model"):
        assemble(str(wrong_text(tmp_path / "bert")), str(clip), SETTINGS)
    CLIPTextModel(
        CLIPTextConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(tmp_path / "text_half")
    with pytest.raises(LareError, match="type 'clip_text_model', whose grid of patches is not known; give one of"):
        assemble(str(llama), str(tmp_path / "text_half"), SETTINGS)


def test_incomplete_weights(llama: Path, clip: Path, tmp_path: Path) -> None:
    for source, kind in ((llama, "decoder"), (clip, "encoder")):
        place = tmp_path / kind
        place.mkdir()
        for file in source.iterdir():
            (place / file.name).write_bytes(file.read_bytes())
        weights = load_file(place / "model.safetensors")
        weights.pop(next(name for name in weights if "layers.0" in name))
        save_file(weights, place / "model.safetensors", {"format": "pt"})
        pair = (str(place), str(clip)) if kind == "decoder" else (str(llama), str(place))
        with pytest.raises(LareError, match=f"the {kind} .* lacks 1 weights"):
            assemble(*pair, SETTINGS)
