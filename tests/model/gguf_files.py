"""A tiny random Qwen2 as a GGUF file of the published layout: its keys, its tensor names, weights of several types."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np

from tests.methods.tiny_checkpoint import tiny_tokenizer

HIDDEN, INNER, LAYERS, HEADS, KEY_HEADS = 64, 96, 2, 4, 2
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_ENDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def write_qwen2_gguf(path: Path, seed: int = 0) -> Path:
    """Write the file."""
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(512)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    words = _write_tokenizer(writer)
    draw, kinds = np.random.default_rng(seed), gguf.GGMLQuantizationType

    def weight(name: str, *shape: int, kind: gguf.GGMLQuantizationType = kinds.Q8_0) -> None:
        values = (draw.standard_normal(shape) * 0.2).astype(np.float32)
        data = values if kind == kinds.F32 else gguf.quants.quantize(values, kind)
        writer.add_tensor(name, data, raw_dtype=kind)

    weight("token_embd.weight", words, HIDDEN)
    width = HIDDEN // HEADS * KEY_HEADS
    for layer in range(LAYERS):
        start = f"blk.{layer}"
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{start}.{name}.weight", np.ones(HIDDEN, np.float32))
        for name, out in (("attn_q", HIDDEN), ("attn_k", width), ("attn_v", width)):
            weight(f"{start}.{name}.weight", out, HIDDEN, kind=kinds.Q4_0)
            weight(f"{start}.{name}.bias", out, kind=kinds.F32)
        weight(f"{start}.attn_output.weight", HIDDEN, HIDDEN, kind=kinds.Q5_0)
        weight(f"{start}.ffn_gate.weight", INNER, HIDDEN)
        weight(f"{start}.ffn_up.weight", INNER, HIDDEN)
        weight(f"{start}.ffn_down.weight", HIDDEN, INNER)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_tokenizer(writer: gguf.GGUFWriter) -> int:
    """Bytes and merges, with Qwen's marks at the end; returns how many words there are."""
    model = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    words = [*sorted(model["vocab"], key=model["vocab"].get), *_ENDS]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(words)
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if word in _ENDS else kinds.NORMAL for word in words])
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]])
    writer.add_bos_token_id(words.index("<|endoftext|>"))
    writer.add_eos_token_id(words.index("<|im_end|>"))
    writer.add_pad_token_id(words.index("<|endoftext|>"))
    writer.add_chat_template(TEMPLATE)
    return len(words)
