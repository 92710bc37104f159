"""Special tokens of a decoder that gets LaRe's: rows in its embedding tables, and what ends an answer.

The decoder's embedding tables grow by the special tokens, unless they have spare rows (Qwen2.5's have). New rows are
the mean of the rows that the tokenizer uses, which keeps their logits far below any likely token's. The input rows of
the two latent delimiters start as the mean of the embeddings of the assistant's header (what the chat template writes
before an answer, such as ``<|im_start|>assistant``), or of the end-of-text token where a template has none: they open
and close what the assistant says. A header of one token is averaged with the vocabulary's mean, since in tied tables a
copy of it would be as likely as the token itself.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from jinja2 import TemplateError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from lare.model.choosing import end_ids
from lare.model.processing_lare import LareProcessor

__all__ = ["add_end", "add_rows", "set_ends"]


def add_end(config: PreTrainedConfig, processor: LareProcessor) -> None:
    """Let the token that the chat template writes after an answer, which training teaches, end a generated one."""
    try:
        end = processor.tokenizer.get_vocab().get(processor.answer_end())
    except TemplateError:  # no template for conversations; prompts will say what is wrong with it
        return
    ends = end_ids(config)
    if end is not None and end not in ends:
        config.eos_token_id = [*ends, end] if ends else end


def set_ends(config: PreTrainedConfig, generation_config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let every token that ends an answer stand in the decoder's configuration, and too long prompts be refused.

    Args:
        config: The decoder's.
        generation_config: The model's.
        tokenizer: Its `model_max_length` becomes at most the decoder's number of positions.
    """
    ends = end_ids(config, generation_config, tokenizer)
    if ends:
        config.eos_token_id = ends[0] if len(ends) == 1 else ends
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, int(limit))


@torch.no_grad()
def add_rows(decoder: PreTrainedModel, processor: LareProcessor, used: int) -> None:
    """Give the special tokens rows in both tables (see the module's text); `used` rows belong to other tokens."""
    if processor.new_tokens == 0:
        return  # the decoder was trained with them
    rows, size = cast(nn.Embedding, decoder.get_input_embeddings()).num_embeddings, len(processor.tokenizer)
    # Some tokenizers hold tokens that the table has no row for; those are new as well.
    new = list(range(min(used, rows), size))
    if size > rows:
        decoder.resize_token_embeddings(size, mean_resizing=False)
    table = cast(nn.Embedding, decoder.get_input_embeddings()).weight
    outputs = cast(nn.Linear, decoder.get_output_embeddings())
    used = min(used, rows)
    mean = table[:used].mean(0)
    header = _header_ids(processor)
    start = table[header].mean(0) if header else mean
    if len(header) == 1:
        start = 0.5 * (start + mean)
    if outputs.weight is not table:
        outputs.weight[new] = outputs.weight[:used].mean(0)
    if outputs.bias is not None:
        outputs.bias[new] = outputs.bias[:used].mean(0)
    table[new] = mean
    table[[processor.latent_start_id, processor.latent_end_id]] = start


def _header_ids(processor: LareProcessor) -> list[int]:
    """Ids that the chat template writes before an answer, or the end-of-text token, or none."""
    tokenizer = processor.tokenizer
    question = [{"role": "user", "content": "?"}]
    with_header = processor.apply_chat_template(question, add_generation_prompt=True)
    without = processor.apply_chat_template(question)
    if with_header.startswith(without):
        ids = tokenizer(with_header[len(without) :], add_special_tokens=False)["input_ids"]
        if ids:
            return [int(one) for one in ids]
    return [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
