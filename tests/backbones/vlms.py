"""Tiny random vision-language models of the real classes, written as folders like published ones."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    Gemma3Config,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlavaConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen3VLProcessor,
    SmolVLMImageProcessor,
)
from transformers.models.llava_onevision.video_processing_llava_onevision import LlavaOnevisionVideoProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from lare.backbones.adopt import adopt
from lare.model import LareForConditionalGeneration, LareProcessor
from tests.families import CORPUS

WIDTH, LAYERS = 32, 2
SETTINGS: dict[str, Any] = dict(
    iterations=2, window=2, extractor_dim=24, extractor_heads=3, extractor_output_init=0.5, max_iterations=3
)
SIZES = ((24, 16), (32, 48), (40, 40))
"""Width and height of pictures that keep their proportions: grids of 2 x 3, 6 x 4 and 5 x 5 cells of 8 pixels."""

QWEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in c %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_QWEN_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Coarse noise, so that a resized picture still differs from place to place."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@cache
def _bytes() -> str:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    return str(made.to_str())


def tokenizer_of(specials: Sequence[str], template: str, **options: Any) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a family's control tokens."""
    made = Tokenizer.from_str(_bytes())
    every = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *specials]
    made.add_special_tokens([AddedToken(one, special=True, normalized=False) for one in every])
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", **options}
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=template, **names)


def _text(**more: Any) -> dict[str, Any]:
    values = dict(
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        attention_dropout=0.0,
    )
    return values | more


def _qwen(kind: str) -> tuple[Any, Any]:
    tokenizer = tokenizer_of(_QWEN_TOKENS, QWEN)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in tokenizer.all_special_tokens + _QWEN_TOKENS}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    text = _text(vocab_size=len(tokenizer) + 8 * (kind != "qwen2_vl"), rope_parameters=rope,
                 eos_token_id=ids["<|im_end|>"], bos_token_id=None, pad_token_id=ids["<|endoftext|>"])  # fmt: skip
    vision: dict[str, Any] = dict(depth=2, num_heads=2, patch_size=4, spatial_merge_size=2, temporal_patch_size=2)
    if kind == "qwen2_vl":
        vision |= dict(embed_dim=16, hidden_size=WIDTH, mlp_ratio=2)
    elif kind == "qwen2_5_vl":
        vision |= dict(hidden_size=16, out_hidden_size=WIDTH, intermediate_size=24, window_size=16)
        vision |= dict(fullatt_block_indexes=[1])
    else:
        vision |= dict(hidden_size=16, out_hidden_size=WIDTH, intermediate_size=24, num_position_embeddings=16)
        vision |= dict(depth=3, deepstack_visual_indexes=[0, 1])
        rope |= {"mrope_interleaved": True}
    config = AutoConfig.for_model(
        kind,
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=kind == "qwen2_5_vl",
    )
    sizes: dict[str, Any] = dict(patch_size=4, merge_size=2, temporal_patch_size=2)
    sizes |= dict(size={"shortest_edge": 64, "longest_edge": 64 * 64})
    kinds = {"qwen2_vl": Qwen2VLProcessor, "qwen2_5_vl": Qwen2_5_VLProcessor, "qwen3_vl": Qwen3VLProcessor}
    own = kinds[kind](Qwen2VLImageProcessor(**sizes), tokenizer, Qwen2VLVideoProcessor(**sizes), chat_template=QWEN)
    return config, own


LLAVA = (
    "{% for m in messages %}{% if m.role != 'system' %}{{ m.role.upper() + ': ' }}{% endif %}"
    "{% for c in m.content | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m.content | selectattr('type', 'equalto', 'text') %}{{ c.text + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
IDEFICS = (
    "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}{{ ':' if m.content[0].type == 'image' else ': ' }}"
    "{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% else %}{{ '<image>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
GEMMA = (
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{% if m.content is string %}{{ m.content | trim }}{% else %}{% for c in m.content %}{% if c.type == 'image' %}"
    "<start_of_image>{% else %}{{ c.text | trim }}{% endif %}{% endfor %}{% endif %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_VIT: dict[str, Any] = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=3)


def _ends(tokenizer: Any) -> dict[str, Any]:
    return dict(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
                pad_token_id=tokenizer.pad_token_id)  # fmt: skip


def _llava(kind: str) -> tuple[Any, Any]:
    tokenizer = tokenizer_of(["<image>", "<video>"], LLAVA)
    image = tokenizer.convert_tokens_to_ids("<image>")
    if kind == "llava":
        config = LlavaConfig(
            text_config=_text(model_type="llama", **_ends(tokenizer)),
            vision_config=_VIT | dict(model_type="clip_vision_model", image_size=32, patch_size=8),
            image_token_id=image,
            tie_word_embeddings=False,
        )
        images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        options = dict(patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1)
        return config, LlavaProcessor(images, tokenizer, chat_template=LLAVA, **options)
    pinpoints = [[16, 16], [16, 32], [32, 16], [32, 32]]
    config = LlavaOnevisionConfig(
        text_config=_text(model_type="qwen2", **_ends(tokenizer)),
        vision_config=_VIT | dict(model_type="siglip_vision_model", image_size=16, patch_size=8),
        image_token_id=image,
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    images = LlavaOnevisionImageProcessor(size={"height": 16, "width": 16}, image_grid_pinpoints=pinpoints)
    options = dict(num_image_tokens=4, vision_feature_select_strategy="full", video_token="<video>")
    return config, LlavaOnevisionProcessor(
        images,
        tokenizer,
        LlavaOnevisionVideoProcessor(size={"height": 16, "width": 16}),
        chat_template=LLAVA,
        **options,
    )


def _idefics(kind: str) -> tuple[Any, Any]:
    tiles = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    marks = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    tokenizer = tokenizer_of([*marks, *tiles], IDEFICS)
    vision = _VIT | dict(image_size=16, patch_size=4)
    config = AutoConfig.for_model(
        kind,
        text_config=_text(model_type="llama", **_ends(tokenizer)),
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    edges = dict(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    images = Idefics3ImageProcessor(**edges) if kind == "idefics3" else SmolVLMImageProcessor(**edges)
    # SmolVLM's own processor needs a package for videos; of pictures it makes the same.
    return config, Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=IDEFICS)


def _gemma(kind: str) -> tuple[Any, Any]:
    marks = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    every = [*marks.values(), "<start_of_turn>", "<end_of_turn>"]
    tokenizer = tokenizer_of(every, GEMMA, eos_token="<end_of_turn>", extra_special_tokens=marks)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in marks.items()}
    text = _text(**_ends(tokenizer), sliding_window=6, query_pre_attn_scalar=8,
                 layer_types=["sliding_attention", "full_attention"])  # fmt: skip
    config = Gemma3Config(
        text_config=text,
        vision_config=_VIT | dict(image_size=32, patch_size=4, vision_use_head=False),
        mm_tokens_per_image=16,
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
        image_token_index=ids["image_token"],
    )
    images = Gemma3ImageProcessor(size={"height": 32, "width": 32})
    return config, Gemma3Processor(images, tokenizer, chat_template=GEMMA, image_seq_length=16)


MAKERS = {
    "qwen2_vl": _qwen,
    "qwen2_5_vl": _qwen,
    "qwen3_vl": _qwen,
    "llava": _llava,
    "llava_onevision": _llava,
    "idefics3": _idefics,
    "smolvlm": _idefics,
    "gemma3": _gemma,
}
FAMILIES = tuple(MAKERS)
NATIVE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Families whose grids have the picture's proportions."""


@torch.no_grad()
def lively(model: nn.Module, seed: int = 0) -> None:
    """Weights so wide that every part shows in the output, and attention is peaky."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        draw = torch.randn(parameter.shape, generator=generator)
        if "embed_tokens" in name or "lm_head" in name:
            parameter.copy_(draw * 0.4)
        elif parameter.dim() >= 2:
            parameter.copy_(draw * (0.9 / parameter[0].numel() ** 0.5))
        else:
            parameter.copy_(1 + 0.2 * draw if name.endswith("weight") else 0.05 * draw)


@dataclass
class Vlm:
    """A family's tiny model, as transformers runs it and as LaRe does; read only.

    Attributes:
        folder: Where it lies.
        own: The model, loaded by transformers.
        own_processor: Its processor.
        model: LaRe on it.
        processor: LaRe's.
    """

    folder: Path
    own: PreTrainedModel
    own_processor: Any
    model: LareForConditionalGeneration
    processor: LareProcessor

    def pictures(self, count: int = 3) -> list[Image.Image]:
        """Pictures of several sizes."""
        return [picture(*SIZES[number % 3], seed=number) for number in range(count)]

    def own_inputs(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> dict[str, Tensor]:
        """What the model's own processor makes of a batch, padded on the left."""
        texts = [
            self.own_processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
                add_generation_prompt=True,
            )
            for question in questions
        ]
        self.own_processor.tokenizer.padding_side = "left"
        images = [[one] for one in pictures]
        return dict(self.own_processor(images=images, text=texts, padding=True, return_tensors="pt"))


def write_vlm(kind: str, folder: Path) -> Path:
    """A tiny random model of a family with its processor."""
    config, own = MAKERS[kind](kind)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    lively(model)
    model.save_pretrained(folder)
    if kind == "smolvlm":
        own.image_processor.save_pretrained(folder)
        own.tokenizer.save_pretrained(folder)
    else:
        own.save_pretrained(folder)
    return folder


def load_vlm(kind: str, folder: Path) -> Vlm:
    """Both sides of a family."""
    write_vlm(kind, folder)
    model, processor = adopt(str(folder), SETTINGS)
    lively(model.extractor)  # type: ignore[arg-type]
    own = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    return Vlm(folder, own, MAKERS[kind](kind)[1], model, processor)


def fresh(vlm: Vlm) -> LareForConditionalGeneration:
    """A model of the same weights that a test may change."""
    return copy.deepcopy(vlm.model)
