"""First weights of the embedded model: attention and Extractor begin as look-ups by likeness."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lare.embedded.model import Sizes, build_model, mimetic_extractor, warm_start
from lare.embedded.vision_conv import LareVisionConfig, LareVisionModel
from lare.errors import LareError
from lare.model.extractor import Extractor
from tests.training.plain import processor

SIZES = Sizes(hidden=32, layers=3, heads=2, ffn=48, projector=24, mimetic_extractor=True, overrides={"window": 2})


def make(sizes=SIZES):
    torch.manual_seed(7)
    encoder = LareVisionModel(LareVisionConfig(widths=(4, 4, 8, 8)))
    return build_model(sizes, encoder, processor().tokenizer.get_vocab(), 0), encoder


def test_attention_begins_as_a_look_up_by_likeness() -> None:
    model, _ = make()
    layers = [layer.self_attn for layer in model.decoder.layers]
    for attention in layers[:2]:
        assert torch.equal(attention.q_proj.weight, attention.k_proj.weight)
        assert torch.equal(attention.o_proj.weight, attention.v_proj.weight.T)
    assert not torch.equal(layers[2].q_proj.weight, layers[2].k_proj.weight)


def test_families_are_decoders_of_their_own() -> None:
    model, _ = make(replace(SIZES, family="qwen2"))
    assert model.config.text_config.model_type == "qwen2"
    assert model.decoder.layers[0].self_attn.q_proj.bias is not None, "Qwen2's queries have biases, Llama's none"
    assert make()[0].decoder.layers[0].self_attn.q_proj.bias is None
    with pytest.raises(LareError, match="family is 'gpt'; give one of llama, qwen2"):
        make(replace(SIZES, family="gpt"))


def test_settings_are_overridden_and_the_encoder_is_taken_over() -> None:
    model, encoder = make()
    assert model.config.window == 2
    own = model.vision_tower.encoder.state_dict()
    assert all(torch.equal(own[name], value) for name, value in encoder.state_dict().items())


def test_the_extractor_finds_the_token_that_is_like_its_state() -> None:
    torch.manual_seed(0)
    extractor = Extractor(64, 3, dim=64, layers=1, heads=1, output_init=2.0).eval()
    mimetic_extractor(extractor, 0.02)
    extractor.init_output(0.0)
    tokens = torch.randn(1, 16, 64)
    for wanted in range(16):
        states = tokens[:, wanted : wanted + 1].expand(1, 3, 64)
        latents, attention = extractor(states, tokens)
        assert int(attention.argmax()) == wanted and float(attention.max()) > 0.9
        likeness = torch.nn.functional.cosine_similarity(latents[0], tokens[0])
        assert int(likeness.argmax()) == wanted


def test_delimiters_begin_as_what_precedes_answers() -> None:
    model, _ = make()
    vocab = processor().tokenizer.get_vocab()
    warm_start(model, vocab["<|assistant|>"])
    table = model.get_input_embeddings().weight
    for token in (model.config.latent_start_id, model.config.latent_end_id):
        assert torch.equal(table[token], table[vocab["<|assistant|>"]])
