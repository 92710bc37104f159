"""How the next token is chosen and when an answer ends, by transformers' own logits processors and stopping criteria.

Shapes: B rows, V vocabulary, S prompt tokens and those generated so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    ExponentialDecayLengthPenalty,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    LogitsProcessorList,
    MaxTimeCriteria,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    StoppingCriteriaList,
    StopStringCriteria,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from lare.errors import LareError
from lare.model.generation_options import GenerationOptions

__all__ = ["choose_tokens", "end_ids", "penalties", "stopping_criteria", "warpers"]


def end_ids(*sources: Any) -> list[int]:
    """Ids that end an answer, each once: the `eos_token_id` of configurations and tokenizers, one id or several."""
    found = [getattr(source, "eos_token_id", None) for source in sources]
    each = [[] if ids is None else [ids] if isinstance(ids, int) else ids for ids in found]
    return list(dict.fromkeys(int(token) for ids in each for token in ids))


def choose_tokens(
    logits: Tensor, options: GenerationOptions, ids: Tensor | None = None, processors: Any | None = None
) -> Tensor:
    """Pick one token per row, the likeliest or by sampling.

    Args:
        logits: (B, V).
        options: Whether to sample, and the generator.
        ids: (B, S) tokens so far, for processors that read them.
        processors: Change the scores first; None takes the options' warpers (temperature, top-k, nucleus).

    Returns:
        (B,) token ids.
    """
    chosen: Any = warpers(options) if processors is None else processors
    if not options.do_sample and not chosen:
        return logits.argmax(-1)
    scores: Tensor = chosen(ids, logits.float())
    if not options.do_sample:
        return scores.argmax(-1)
    probs = scores.softmax(-1)
    generator = options.generator
    if generator is not None and generator.device != probs.device:
        return torch.multinomial(probs.to(generator.device), 1, generator=generator).squeeze(1).to(logits.device)
    return torch.multinomial(probs, 1, generator=generator).squeeze(1)


def warpers(options: GenerationOptions) -> LogitsProcessorList:
    """What narrows the choice when sampling, in transformers' order; none of them reads the tokens so far."""
    found = LogitsProcessorList()
    if not options.do_sample:
        return found
    asked = options.settings
    if options.temperature != 1:
        found.append(TemperatureLogitsWarper(float(options.temperature)))
    if options.top_k > 0:
        found.append(TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        found.append(TopPLogitsWarper(options.top_p))
    if asked.get("min_p") is not None:
        found.append(MinPLogitsWarper(asked["min_p"]))
    if (asked.get("typical_p") or 1.0) < 1:
        found.append(TypicalLogitsWarper(asked["typical_p"]))
    if asked.get("epsilon_cutoff"):
        found.append(EpsilonLogitsWarper(asked["epsilon_cutoff"]))
    if asked.get("eta_cutoff"):
        found.append(EtaLogitsWarper(asked["eta_cutoff"]))
    return found


def penalties(options: GenerationOptions, mask: Tensor, eos: Sequence[int]) -> LogitsProcessorList:
    """What reads the tokens so far, in transformers' order, and the caller's own processors last.

    Args:
        options: The call's.
        mask: (B, S) real tokens of the whole prompt; padding is not counted as said.
        eos: Ids that end an answer.

    Raises:
        LareError: If a value is impossible.
    """
    asked, prompt, device = options.settings, mask.shape[1], mask.device
    ends: Any = torch.tensor(list(eos), dtype=torch.long, device=device) if eos else None
    makers: dict[str, Any] = {
        "sequence_bias": SequenceBiasLogitsProcessor,
        "repetition_penalty": lambda value: RepetitionPenaltyLogitsProcessor(float(value), mask.int().argmax(1)),
        "no_repeat_ngram_size": NoRepeatNGramLogitsProcessor,
        "bad_words_ids": lambda value: NoBadWordsLogitsProcessor(value, ends),
        "min_new_tokens": lambda value: MinNewTokensLengthLogitsProcessor(prompt, value, ends, str(device)),
        "remove_invalid_values": lambda value: InfNanRemoveLogitsProcessor(),
        "exponential_decay_length_penalty": lambda value: ExponentialDecayLengthPenalty(tuple(value), ends, prompt),
        "suppress_tokens": lambda value: SuppressTokensLogitsProcessor(value, str(device)),
        "begin_suppress_tokens": lambda value: SuppressTokensAtBeginLogitsProcessor(value, prompt, str(device)),
    }
    needs_end = ("min_new_tokens", "exponential_decay_length_penalty")
    found = LogitsProcessorList()
    for name, make in makers.items():
        if not asked.get(name) or (name in needs_end and ends is None):
            continue
        try:
            found.append(make(asked[name]))
        except (TypeError, ValueError) as error:
            raise LareError(f"{name} is {asked[name]!r}; {error}") from None
    found.extend(options.logits_processor)
    return found


def processors(options: GenerationOptions, before: LogitsProcessorList) -> LogitsProcessorList:
    """All that changes the scores: `before`, the warpers, and the normalisation last."""
    last = [LogitNormalization()] if options.settings.get("renormalize_logits") else []
    return LogitsProcessorList([*before, *warpers(options), *last])


def stopping_criteria(options: GenerationOptions) -> StoppingCriteriaList:
    """What ends answers beside the end of sequence: time, texts, and the caller's own criteria."""
    found = StoppingCriteriaList()
    asked = options.settings
    if asked.get("max_time") is not None:
        found.append(MaxTimeCriteria(max_time=asked["max_time"]))
    if asked.get("stop_strings") is not None:
        found.append(StopStringCriteria(stop_strings=asked["stop_strings"], tokenizer=options.tokenizer))
    found.extend(options.stopping_criteria)
    return found
