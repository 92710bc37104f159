"""Vision-language models that LaRe is trained on, with their published numbers written out; see `published`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

__all__ = ["VLMS", "PublishedVlm", "published_vlm"]


@dataclass(frozen=True)
class PublishedVlm:
    """A published model.

    Attributes:
        kind: Its model type.
        text: Values of its decoder's configuration.
        vision: Values of its encoder's.
        parameters: Its published number of parameters (tied tables once).
        tokens: Length of its tokenizer; spare rows of the embedding table lie beyond.
        more: Further values of its configuration.
    """

    kind: str
    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    parameters: int
    tokens: int
    more: Mapping[str, Any]

    def config(self, added: bool = False) -> PreTrainedConfig:
        """A fresh configuration; `added` gives the table rows for the two latent delimiters where none are spare."""
        text = dict(self.text)
        if added:
            text["vocab_size"] = max(text["vocab_size"], self.tokens + 2)
        return AutoConfig.for_model(self.kind, text_config=text, vision_config=dict(self.vision), **self.more)


def _text(hidden: int, inner: int, layers: int, heads: int, keys: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    values = dict(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        vocab_size=vocabulary,
        rms_norm_eps=1e-6,
    )
    return values | more


def _rope(theta: float, *section: int, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, "mrope_section": list(section), **more}


_QWEN_2_5: dict[str, Any] = dict(
    depth=32,
    hidden_size=1280,
    intermediate_size=3420,
    num_heads=16,
    patch_size=14,
    spatial_merge_size=2,
    temporal_patch_size=2,
    window_size=112,
    fullatt_block_indexes=[7, 15, 23, 31],
)
_QWEN_3: dict[str, Any] = dict(
    num_heads=16, patch_size=16, spatial_merge_size=2, temporal_patch_size=2, num_position_embeddings=2304
)
_ROPE_2_5, _ROPE_3 = _rope(1e6, 16, 24, 24), _rope(5e6, 24, 20, 20, mrope_interleaved=True)
_TOKENS = 151665  # of Qwen2.5's tokenizer; Qwen3's has four more
_CLIP_336 = dict(
    model_type="clip_vision_model",
    hidden_size=1024,
    intermediate_size=4096,
    projection_dim=768,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=336,
    patch_size=14,
)
_VICUNA = _text(4096, 11008, 32, 32, 32, 32064, model_type="llama", rms_norm_eps=1e-5, max_position_embeddings=4096)
_SMOL = _text(
    960, 2560, 32, 15, 5, 49280, model_type="llama", head_dim=64, rms_norm_eps=1e-5, max_position_embeddings=8192
)
_SIGLIP_512 = dict(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, image_size=512, patch_size=16
)

VLMS: dict[str, PublishedVlm] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": PublishedVlm(
        "qwen2_5_vl",
        _text(2048, 11008, 36, 16, 2, 151936, rope_parameters=_ROPE_2_5, max_position_embeddings=128000),
        _QWEN_2_5 | {"out_hidden_size": 2048},
        3_754_622_976,  # files of 3.98 and 3.53 GB in bf16, huggingface.co/unsloth/Qwen2.5-VL-3B-Instruct/tree/main
        _TOKENS,
        {"tie_word_embeddings": True},
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": PublishedVlm(
        "qwen2_5_vl",
        _text(3584, 18944, 28, 28, 4, 152064, rope_parameters=_ROPE_2_5, max_position_embeddings=128000),
        _QWEN_2_5 | {"out_hidden_size": 3584},
        8_292_166_656,  # model.safetensors.index.json: total_size 16,584,333,312 bytes in bf16
        _TOKENS,
        {"tie_word_embeddings": False},
    ),
    "Qwen/Qwen3-VL-4B-Instruct": PublishedVlm(
        "qwen3_vl",
        _text(2560, 9728, 36, 32, 8, 151936, head_dim=128, rope_parameters=_ROPE_3, max_position_embeddings=262144),
        _QWEN_3
        | dict(depth=24, hidden_size=1024, intermediate_size=4096, out_hidden_size=2560)
        | dict(deepstack_visual_indexes=[5, 11, 17]),
        4_437_815_808,  # model.safetensors.index.json: total_size 8,875,631,616 bytes in bf16
        _TOKENS + 4,
        {"tie_word_embeddings": True},
    ),
    "Qwen/Qwen3-VL-8B-Instruct": PublishedVlm(
        "qwen3_vl",
        _text(4096, 12288, 36, 32, 8, 151936, head_dim=128, rope_parameters=_ROPE_3, max_position_embeddings=262144),
        _QWEN_3
        | dict(depth=27, hidden_size=1152, intermediate_size=4304, out_hidden_size=4096)
        | dict(deepstack_visual_indexes=[8, 16, 24]),
        8_767_123_696,  # model.safetensors.index.json: total_size 17,534,247,392 bytes in bf16
        _TOKENS + 4,
        {"tie_word_embeddings": False},
    ),
    "llava-hf/llava-1.5-7b-hf": PublishedVlm(
        "llava",
        _VICUNA,
        _CLIP_336,
        7_063_427_072,  # 7.06 B on the hub's pages of models of this class, such as SurendraKumarDhaka/llava
        32002,
        {"image_token_id": 32000, "tie_word_embeddings": False},
    ),
    "HuggingFaceTB/SmolVLM2-500M-Video-Instruct": PublishedVlm(
        "smolvlm",
        _SMOL,
        _SIGLIP_512,
        507_482_304,  # model.safetensors of 2.03 GB in fp32, on the model's page (tree/main)
        49280,
        {"image_token_id": 49190, "scale_factor": 4, "pad_token_id": 2, "tie_word_embeddings": False},
    ),
}
"""By hub id."""


def published_vlm(name: str) -> PublishedVlm | None:
    """The published model of that hub id, or whose name the last part of a path is."""
    last = name.rstrip("/").rpartition("/")[2].lower()
    matches = [one for known, one in VLMS.items() if name == known or last == known.rpartition("/")[2].lower()]
    return matches[0] if matches else None
