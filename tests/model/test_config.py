"""Impossible configurations raise at once, and the message names the field and the mend."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig, GPT2Config, LlamaConfig, Qwen2Config

from lare import LareError
from lare.model import LareConfig, LareForConditionalGeneration

from .tiny import EOS, LAYERS, VOCABULARY, clip_vision, collate, make_samples, text_config, tiny_config, tiny_model

IMPOSSIBLE: list[tuple[str, dict[str, Any]]] = [
    ("image_size", {"image_size": 0}),
    ("grid", {"grid": 0}),
    ("grid", {"grid": 4.0}),
    ("window", {"window": 0}),
    ("window 5 is wider", {"window": 5}),
    ("lm_grid", {"refocus_source": "fine", "lm_grid": 0}),
    ("lm_grid 3 does not divide", {"refocus_source": "fine", "lm_grid": 3}),
    ("lm_grid 8 does not divide", {"refocus_source": "fine", "lm_grid": 8}),
    ("lm_grid 2 differs from grid 4", {"lm_grid": 2}),
    ("refocus_source is 'coarse'", {"refocus_source": "coarse"}),
    ("iterations is -1", {"iterations": -1}),
    ("max_iterations is 0", {"max_iterations": 0}),
    ("latents_per_iteration is 0", {"latents_per_iteration": 0}),
    (f"latents_per_iteration is {LAYERS + 1}", {"latents_per_iteration": LAYERS + 1}),
    ("text_prefix is 0", {"text_prefix": 0}),
    ("extractor_layers is 0", {"extractor_layers": 0}),
    ("extractor_heads is 0", {"extractor_heads": 0}),
    ("extractor_dim 24 is not divisible by extractor_heads 5", {"extractor_heads": 5}),
    ("extractor_output_init is -0.1", {"extractor_output_init": -0.1}),
    ("residual_feedback=False", {"residual_feedback": False}),
    (f"image_token_id {VOCABULARY} is outside", {"image_token_id": VOCABULARY}),
    ("latent_start_id -1 is outside", {"latent_start_id": -1}),
    ("must differ", {"latent_start_id": VOCABULARY - 1}),
    ("stop is 'cosine'", {"stop": "cosine"}),
    ("stop is 'cosine:2'", {"stop": "cosine:2"}),
    ("text_config", {"text_config": "llama"}),
    ("text_config.model_type 'no_such_model'", {"text_config": {"model_type": "no_such_model"}}),
    ("vision_config.model_type 'no_such_model'", {"vision_config": {"model_type": "no_such_model"}}),
    ("text_config of type 'clip' has no vocab_size", {"text_config": {"model_type": "clip"}}),
]


@pytest.mark.parametrize(("message", "changes"), IMPOSSIBLE, ids=[message for message, _ in IMPOSSIBLE])
def test_impossible_values_are_refused(message: str, changes: dict[str, Any]) -> None:
    with pytest.raises(LareError) as caught:
        tiny_config(**changes)
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    assert len(text) > len(message) + 10, "the message must also say how to mend it"


def test_defaults_are_the_papers() -> None:
    config = LareConfig()
    wanted = {
        "image_size": 224,
        "grid": 16,
        "lm_grid": 16,
        "refocus_source": "lm",
        "iterations": 4,
        "latents_per_iteration": 1,
        "window": 8,
        "use_extractor": True,
        "use_window": True,
        "extractor_dim": 1536,
        "extractor_layers": 2,
        "extractor_heads": 12,
        "residual_feedback": True,
        "rms_scale": True,
        "stop": "fixed",
        "max_iterations": 8,
        "vision_feature_layer": -2,
        "text_prefix": 32,
    }
    assert {name: getattr(config, name) for name in wanted} == wanted
    assert config.text_config.model_type == "llama"
    assert config.vision_config.model_type == "clip_vision_model"


def test_special_ids_default_to_the_end_of_the_vocabulary() -> None:
    config = LareConfig(text_config=text_config(), vision_config=clip_vision())
    ids = (config.image_token_id, config.latent_start_id, config.latent_end_id)
    assert ids == (VOCABULARY - 3, VOCABULARY - 2, VOCABULARY - 1)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_sub_configurations_may_be_dictionaries(kind: str) -> None:
    text = text_config(kind).to_dict()
    config = tiny_config(text_config=text, vision_config=clip_vision().to_dict())
    assert isinstance(config.text_config, LlamaConfig if kind == "llama" else Qwen2Config)
    assert config.text_config.hidden_size == text["hidden_size"]
    assert text == text_config(kind).to_dict(), "the caller's dictionary is left alone"


def test_round_trip_keeps_every_field(tmp_path: Any) -> None:
    config = tiny_config(
        "qwen2",
        refocus_source="fine",
        window=3,
        stop="l2:0.5",
        use_window=False,
        extractor_output_init=0.25,
        latents_per_iteration=2,
        rms_scale=False,
        vision_feature_layer=-1,
    )
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(again, LareConfig)
    ours, theirs = config.to_dict(), again.to_dict()
    ours.pop("transformers_version", None), theirs.pop("transformers_version", None)
    for values in (ours, theirs):
        values.pop("_name_or_path", None)
        for part in ("text_config", "vision_config"):
            values[part].pop("_name_or_path", None)
    assert ours == theirs


def test_a_changed_file_is_checked_on_loading(tmp_path: Any) -> None:
    import json

    tiny_config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["window"] = 40
    path.write_text(json.dumps(values))
    with pytest.raises(LareError, match="window 40 is wider"):
        AutoConfig.from_pretrained(tmp_path)


def test_a_decoder_of_another_make_is_refused() -> None:
    """GPT-2 has no list `layers`; better one clear message than a loop without states."""
    text = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=LAYERS, n_head=4, eos_token_id=EOS, bos_token_id=1)
    with pytest.raises(LareError, match="gpt2"):
        LareForConditionalGeneration(tiny_config(text_config=text))


def test_sliding_layers_are_fine_when_switched_off() -> None:
    """Qwen2.5's own files name a sliding window and do not use it."""
    text = text_config("qwen2", use_sliding_window=False, sliding_window=4, max_window_layers=1)
    model = tiny_model(text_config=text)
    assert model(**collate(make_samples(model.config))).lm_loss is not None
