"""Decoder families: LaRe computes what each family's own `forward` does, or refuses the family by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lare import LareError
from lare.backbones import assembly
from lare.model import LareForConditionalGeneration, family_check, loop, modeling_lare
from lare.model import families as facts
from lare.model.families import TABLE, check_family, families
from lare.model.family_check import TOLERANCE, compare, tiny_config, why_not

from .tiny import VOCABULARY, collate, make_samples, randomise
from .tiny import tiny_config as lare_config

COMMON = (
    "cohere",
    "cohere2",
    "deepseek_v3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm4",
    "gpt_oss",
    "granite",
    "llama",
    "ministral",
    "mistral",
    "mixtral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "smollm3",
)
WINDOWED = ("gemma2", "gemma3_text", "gpt_oss", "mistral", "qwen2")


@pytest.mark.parametrize("family", COMMON)
def test_a_family_computes_what_its_own_forward_does(family: str) -> None:
    worst = compare(tiny_config(CONFIG_MAPPING[family]))
    assert set(worst) == {"embedding", "logits", "loss", "layers", "rows"}
    assert max(worst.values()) <= TOLERANCE, worst
    assert families()[family] == ""


@pytest.mark.slow
def test_the_table_is_what_the_check_finds() -> None:
    """`python -m lare.model.families` writes it anew."""
    if f'"transformers": "{transformers.__version__}"' not in TABLE.read_text(encoding="utf-8"):
        pytest.skip("the table was written with another version of transformers")
    assert set(families()) == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    found = {family: why_not(CONFIG_MAPPING[family]) for family in families()}
    assert {name: reason == "" for name, reason in found.items()} == {n: r == "" for n, r in families().items()}


@pytest.mark.parametrize("family", ["cohere", "granite", "gemma2", "gemma3_text", "gemma4_text"])
def test_a_factor_in_the_head_shows(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the output table alone, without what the family does to its logits."""
    monkeypatch.setattr(assembly, "own_logits", lambda whole, path, x: whole.get_output_embeddings()(x))
    worst = compare(tiny_config(CONFIG_MAPPING[family]))
    assert worst["logits"] > 0.1 and worst["loss"] > 0.1


def test_a_factor_in_the_embedding_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_lare, "embedding_scale", lambda table: 1.0)
    assert compare(tiny_config(CONFIG_MAPPING["gemma3_text"]))["embedding"] > 0.5


@pytest.mark.parametrize("family", WINDOWED)
def test_a_window_that_is_left_out_shows(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "attention_window", lambda text: None)
    worst = compare(tiny_config(CONFIG_MAPPING[family]))
    assert worst["logits"] > 1e-3 and worst["rows"] > 1e-3


# Whole models -------------------------------------------------------------------------------------------------------


def model_of(family: str, **changes: Any) -> LareForConditionalGeneration:
    text = tiny_config(CONFIG_MAPPING[family], vocab_size=VOCABULARY, max_position_embeddings=256)
    torch.manual_seed(0)
    return randomise(LareForConditionalGeneration(lare_config(text_config=text, **changes)), 0).eval()


@pytest.mark.parametrize("family", [*WINDOWED, "deepseek_v3", "cohere"])
def test_a_row_does_not_depend_on_its_neighbours(family: str) -> None:
    """Latents, loss and answers of a padded batch are those of each row alone, also where windows end in the image."""
    model = model_of(family)
    samples = make_samples(model.config, lengths=(7, 2))
    with torch.no_grad():
        whole = model(**collate(samples))
        said = model.generate(**collate(samples, targets=False, prefixes=False), max_new_tokens=6, eos_token_ids=[])
        total = torch.zeros(2)
        for row, sample in enumerate(samples):
            alone = model(**collate([sample]))
            torch.testing.assert_close(alone.thoughts.latents[0], whole.thoughts.latents[row], atol=2e-4, rtol=2e-4)
            total += torch.stack((alone.lm_loss[0], alone.prefix_loss[0]))
            inputs = collate([sample], targets=False, prefixes=False)
            answer = model.generate(**inputs, max_new_tokens=6, eos_token_ids=[])
            assert answer.sequences[0].tolist() == said.sequences[row].tolist()
    torch.testing.assert_close(torch.stack((whole.lm_loss[0], whole.prefix_loss[0])), total, rtol=1e-4, atol=1e-4)


def test_eager_attention_equals_sdpa() -> None:
    model = model_of("llama")
    batch = collate(make_samples(model.config, lengths=(6, 2)))
    with torch.no_grad():
        kernel = model(**batch)
        model.set_attn_implementation("eager")
        assert model.language_model.config._attn_implementation == "lare_eager"
        plain = model(**batch)
    torch.testing.assert_close(plain.thoughts.latents, kernel.thoughts.latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain.lm_loss[0], kernel.lm_loss[0])


@pytest.mark.parametrize("asked", ["flash_attention_2", "flex_attention", "nothing/known"])
def test_attention_that_cant_be_captured_is_refused_by_name(asked: str, tmp_path: Any) -> None:
    model = model_of("llama")
    model.save_pretrained(tmp_path)
    for load in (
        lambda: model.set_attn_implementation(asked),
        lambda: LareForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=asked),
    ):
        with pytest.raises(LareError, match=f"attn_implementation '{asked}' can't be used: .*; give \"sdpa\""):
            load()
    eager = LareForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.language_model.config._attn_implementation == "lare_eager"


# Refusals -----------------------------------------------------------------------------------------------------------


def test_every_other_family_is_refused_by_name() -> None:
    refused = {family: reason for family, reason in families().items() if reason}
    assert {"gpt2", "bert", "mamba", "gemma3", "llama4"} <= set(refused)
    for family in refused:
        config = PreTrainedConfig()
        config.model_type = family
        with pytest.raises(LareError) as caught:
            check_family(config)
        assert f"text_config of type {family!r} can't be LaRe's decoder: " in str(caught.value)
        assert "such as llama" in str(caught.value) and "\n" not in str(caught.value)


def test_layers_of_another_kind_are_refused() -> None:
    text = AutoConfig.for_model("lfm2", num_hidden_layers=2, layer_types=["conv", "full_attention"])
    with pytest.raises(LareError, match="layers of kind conv"):
        check_family(text)


def test_a_family_that_is_not_in_the_table_is_checked_on_the_spot(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(facts, "families", dict)
    monkeypatch.setattr(family_check, "why_not", lambda kind: asked.append(kind) or why_not(kind))
    state = torch.get_rng_state()
    check_family(CONFIG_MAPPING["llama"]())
    assert torch.equal(torch.get_rng_state(), state)
    with torch.device("meta"), pytest.raises(LareError, match="'gpt2' can't be LaRe's decoder"):
        check_family(CONFIG_MAPPING["gpt2"]())
    assert [kind.model_type for kind in asked] == ["llama", "gpt2"]
