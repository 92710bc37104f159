"""Other projects' checkpoints, small: the real classes of transformers with random weights, marks and processors."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    CLIPVisionConfig,
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from lare.reasoners import Preset, load_preset

QUESTIONS = [
    "Is there a dog in the image? Answer yes or no.",
    "What?",
    "A. cup B. cat C. car D. dog Answer with the letter.",
    "How many cups are left of the red car?",
    "Which?",
    "Is the cat red or blue?",
    "Say A or B.",
    "Where is the dog?",
]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
            "<|video_pad|>", "<image>"]  # fmt: skip
WIDTH = 32
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}IMAGE{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@functools.cache
def _bytes() -> str:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(QUESTIONS, trainer)
    return made.to_str()


def tokenizer_with(marks: Sequence[str]) -> PreTrainedTokenizerFast:
    """Bytes and a few merges, and the marks as single tokens."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bytes()), pad_token="<|endoftext|>", eos_token="<|im_end|>"
    )
    made.add_tokens(list(marks), special_tokens=True)
    return made


def _text(size: int, **more: Any) -> dict[str, Any]:
    return dict(
        vocab_size=size, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, eos_token_id=2, pad_token_id=0, bos_token_id=None, **more,
    )  # fmt: skip


def _qwen(family: str, tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    image, video, start, end = (
        tokenizer.convert_tokens_to_ids(one)
        for one in ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    )
    ids = dict(image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end)
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4}
    if family == "qwen3_vl":
        vision = dict(depth=2, hidden_size=16, intermediate_size=24, num_heads=2, out_hidden_size=WIDTH, patch_size=14,
                      deepstack_visual_indexes=[0, 1], num_position_embeddings=64)  # fmt: skip
        text = _text(len(tokenizer), head_dim=8, rope_parameters=rope | {"mrope_interleaved": True})
        config: Any = Qwen3VLConfig(text_config=text, vision_config=vision, **ids)
        kind, videos = Qwen3VLProcessor, Qwen3VLVideoProcessor
    elif family == "qwen2_5_vl":
        vision = dict(depth=2, hidden_size=16, intermediate_size=24, num_heads=2, out_hidden_size=WIDTH, window_size=56,
                      fullatt_block_indexes=[1])  # fmt: skip
        config = Qwen2_5_VLConfig(text_config=_text(len(tokenizer), rope_parameters=rope), vision_config=vision, **ids)
        kind, videos = Qwen2_5_VLProcessor, Qwen2VLVideoProcessor
    else:
        vision = dict(depth=2, embed_dim=16, num_heads=2, hidden_size=WIDTH, mlp_ratio=2)
        config = Qwen2VLConfig(text_config=_text(len(tokenizer), rope_parameters=rope), vision_config=vision, **ids)
        kind, videos = Qwen2VLProcessor, Qwen2VLVideoProcessor
    pictures = Qwen2VLImageProcessor(size={"shortest_edge": 28 * 28, "longest_edge": 280 * 280}, patch_size=14)
    shown = _TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    return config, kind(
        image_processor=pictures, tokenizer=tokenizer, video_processor=videos(patch_size=14), chat_template=shown
    )


def _llava(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                              image_size=28, patch_size=14)  # fmt: skip
    config = LlavaConfig(
        text_config=LlamaConfig(**_text(len(tokenizer))), vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), vision_feature_layer=-1,
    )  # fmt: skip
    pictures = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        image_processor=pictures, tokenizer=tokenizer, patch_size=14, num_additional_image_tokens=1,
        vision_feature_select_strategy="default", chat_template=_TEMPLATE.replace("IMAGE", "<image>\n"),
    )  # fmt: skip
    return config, processor


def parts(family: str, marks: Sequence[str], seed: int = 0) -> tuple[Any, Any]:
    """A model with wide random weights, so that texts differ, and its processor or tokenizer."""
    tokenizer = tokenizer_with(marks)
    torch.manual_seed(seed)
    if family == "gpt2":
        config: Any = GPT2Config(vocab_size=len(tokenizer), n_embd=WIDTH, n_layer=2, n_head=4, n_positions=512,
                                 eos_token_id=2, bos_token_id=None)  # fmt: skip
        model, processor = AutoModelForCausalLM.from_config(config), tokenizer
    elif family == "llama":
        model, processor = AutoModelForCausalLM.from_config(LlamaConfig(**_text(len(tokenizer)))), tokenizer
    else:
        config, processor = _llava(tokenizer) if family == "llava" else _qwen(family, tokenizer)
        model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                wide = 0.5 if "embed" in name or "head" in name or "wte" in name else 0.2
                parameter.copy_(torch.randn_like(parameter) * wide)
    return model.eval(), processor


def write(folder: Path, preset: Preset, family: str, seed: int = 0) -> Path:
    """Save a tiny checkpoint that has a preset's tokens and parts."""
    slots = preset.slots.tokens if preset.slots is not None else ()
    model, processor = parts(family, dict.fromkeys((*preset.tokens(), *slots)), seed)
    _likely(model, processor, preset)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    own: dict[str, torch.Tensor] = {}
    block = preset.block
    if block is not None and block.head is not None:
        for number, shape in (("1", (WIDTH // 2, WIDTH)), ("3", (WIDTH, WIDTH // 2)), ("4", (WIDTH,))):
            own[f"{block.head}.{number}.weight"] = torch.randn(*shape)
            own[f"{block.head}.{number}.bias"] = torch.randn(shape[0])
    if block is not None and block.end_embedding is not None:
        own[block.end_embedding] = torch.randn(WIDTH)
    if own:
        path = folder / "model.safetensors"
        save_file(load_file(path) | own, path, {"format": "pt"})
    return folder


def _likely(model: Any, processor: Any, preset: Preset) -> None:
    """Let the marks be written now and then, where the model has to write them itself."""
    tokenizer = getattr(processor, "tokenizer", processor)
    written = preset.block is not None and preset.block.opened_by == "model"
    likely = {preset.marks.start: 4.0, preset.marks.end: 2.5} if written else {}
    if preset.slots is not None and preset.slots.opened_by == "model":
        likely = {preset.slots.tokens[0]: 4.0}
    with torch.no_grad():
        for token, factor in likely.items():
            model.get_output_embeddings().weight[tokenizer.convert_tokens_to_ids(token)] *= factor


def pictures(number: int) -> list[Image.Image]:
    """Noise of several sizes."""
    drawn = np.random.default_rng(0)
    sides = [(84, 56), (56, 56), (56, 84), (112, 56)]
    return [Image.fromarray(drawn.integers(0, 255, (*sides[one % 4], 3), dtype=np.uint8)) for one in range(number)]


def first_family(name: str) -> str:
    """The family that a preset's project published on."""
    return load_preset(name).backbones[0]
