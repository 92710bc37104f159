"""Processors like those of published decoders: their kinds of tokenizers, special tokens and chat templates, small."""

from __future__ import annotations

import functools
import json
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast

from lare.model import LareProcessor

CORPUS = [
    "What is the colour of the cat in the image? The cat is red, and the dog is blue.\nAnswer: red\n\n",
    "user assistant system USER: ASSISTANT: Is a tree left of the house? Yes. No.\n A chat. Question Answer of row",
    "Ünïcode 漢字 naïve café; 0123456789, it's what they're for -- x = y * 2;  two  spaces\t\ttabs",
]
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if tools %}<tool_call>{% endif %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
VICUNA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ messages[0].content }}{% else %}A chat.{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %} USER: {{ m.content }}"
    "{% elif m.role == 'assistant' %} ASSISTANT: {{ m.content }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content.strip() }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content.strip() }} {{ eos_token }}{% endif %}{% endfor %}"
)
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_SPECIALS = {
    "chatml": (CHATML, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], None, "<|im_end|>"),
    "llama3": (
        LLAMA3,
        ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|begin_of_text|>",
        "<|eot_id|>",
    ),
    "vicuna": (VICUNA, ["<unk>", "<s>", "</s>"], "<s>", "</s>"),
    "llama2": (LLAMA2, ["<unk>", "<s>", "</s>"], "<s>", "</s>"),
    "phi": (PHI, ["<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"], None, "<|endoftext|>"),
    "gemma": (GEMMA, ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], "<bos>", "<eos>"),
    "plain": (None, ["<|begin|>", "<|end|>"], "<|begin|>", "<|end|>"),
}
FAMILIES = list(_SPECIALS)
BYTES = ["chatml", "llama3", "phi", "plain"]
"""Families whose tokenizers work on bytes."""


def _byte_level(family: str) -> Tokenizer:
    made = Tokenizer(models.BPE(ignore_merges=family == "llama3"))
    split = pre_tokenizers.Split(Regex(_QWEN), "isolated")
    bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, bare])
    made.normalizer = normalizers.NFC() if family == "chatml" else None
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS * 4, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    return made


def _sentence_piece(specials: list[str], prepend: bool) -> Tokenizer:
    """As Llama 2's and Gemma's: spaces are letters, unknown characters are bytes."""
    made = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token=specials[0]))
    made.pre_tokenizer = pre_tokenizers.Metaspace()  # no piece reaches over words
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", int(prepend), 0)]
    )
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=pieces, show_progress=False, max_token_length=8)
    made.train_from_iterator(CORPUS * 4, trainer)
    state = json.loads(made.to_str())
    # Bytes are pieces of the model and no special tokens.
    made = Tokenizer.from_str(json.dumps(state | {"added_tokens": [], "pre_tokenizer": None}))
    space = normalizers.Replace(" ", "▁")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space]) if prepend else space
    return made


@functools.cache
def family_processor(family: str, lm_grid: int = 2) -> LareProcessor:
    """A processor of one of `FAMILIES`; read only."""
    template, specials, bos, eos = _SPECIALS[family]
    pieces = family in ("vicuna", "llama2", "gemma")
    made = _sentence_piece(specials, family != "gemma") if pieces else _byte_level(family)
    loose = family == "llama2"  # Llama 2's own were looked for in normalised text
    kept = [AddedToken(one, special=True, normalized=loose, rstrip=family == "phi") for one in specials]
    made.add_special_tokens(kept)
    if bos is not None:
        first = (bos, made.token_to_id(bos))
        made.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[first])
    options: dict[str, Any] = {"bos_token": bos, "eos_token": eos, "pad_token": eos}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **options)
    if family == "chatml":
        tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    if family == "gemma":
        tokenizer.add_tokens([AddedToken("\n\n", special=False, normalized=False)])
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return LareProcessor(images, tokenizer, chat_template=template, lm_grid=lm_grid)
