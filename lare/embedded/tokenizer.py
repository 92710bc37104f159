"""The embedded model's tokenizer: a byte-level BPE trained on the world's own text, so that each name is one token."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lare.embedded.world.concepts import KINDS
from lare.embedded.world.items import STYLES, ItemSampler
from lare.embedded.world.questions import FAMILIES
from lare.embedded.world.scene import sample_scene
from lare.model.processing_lare import IMAGE_TOKEN, LATENT_END, LATENT_START

BOS, EOS, PAD, USER, ASSISTANT = "<|begin|>", "<|end|>", "<|pad|>", "<|user|>", "<|assistant|>"
WORDS = (
    r"\nAnswer (?:with the letter|yes or no)\.|\nOptions: A:|,? [A-H]:|\n[A-H]\."
    r"| ?[a-d][1-4](?!\w)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
)
"""What may become one token: the formats' fixed phrases and option letters, a cell's name such as `c2`, a word, one
digit, signs, white space. Without the first, half of a multiple-choice prompt is scaffolding."""
CHAT_TEMPLATE = (
    "<|begin|>{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|end|>"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def corpus(scenes: int = 600) -> Iterator[str]:
    """Prompts, rationales and answers of training scenes."""
    sampler = ItemSampler(dict.fromkeys(FAMILIES, 1.0), dict.fromkeys(STYLES, 1.0), 17)
    for seed in range(scenes):
        for item in sampler.sample(sample_scene("train", 20_000_000 + seed), 16):
            letter = f" ({item.letter})" if item.letter else ""
            yield f"\n{item.prompt} {' '.join(item.question.rationale)} Answer: {item.final}{letter}"
    for name in KINDS:
        yield " ".join([name] * 50)


def build_tokenizer(vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """Train the tokenizer; deterministic, a few seconds for the first of a size in a process."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(vocab_size)),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens=[USER, ASSISTANT, IMAGE_TOKEN, LATENT_START, LATENT_END],
        padding_side="left",
        model_max_length=4096,
        chat_template=CHAT_TEMPLATE,
    )


@cache
def _trained(vocab_size: int) -> str:
    """The trained tokenizer as JSON, of which each caller gets an object of its own."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    special = [PAD, BOS, EOS, USER, ASSISTANT, IMAGE_TOKEN, LATENT_START, LATENT_END]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus(), trainer)
    return str(core.to_str())
