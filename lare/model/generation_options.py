"""How to generate: LaRe's own options, and those of transformers' `GenerationConfig` that fit one token at a time.

What a call names comes before its `generation_config`, that before the model's own, and that before LaRe's defaults
(transformers' global defaults, such as top_k=50 when sampling, are not taken). What LaRe can't do is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from lare.errors import LareError
from lare.model.refocusing import LatentOverride

__all__ = ["GenerationOptions", "StopCheck", "read_options"]

StopCheck = Callable[[Tensor], Tensor]

PENALTIES = (
    "sequence_bias",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "min_new_tokens",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
)
WARPERS = ("min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "renormalize_logits")
ENDS = ("max_time", "stop_strings")
_OWN = ("max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "num_return_sequences")
_TOKENS = ("eos_token_id", "pad_token_id")
# Nothing to do for these: LaRe always has a cache, starts no decoder of its own, and compiles nothing.
_WITHOUT_EFFECT = ("bos_token_id", "decoder_start_token_id", "transformers_version", "disable_compile")
_KNOWN = {*PENALTIES, *WARPERS, *ENDS, *_OWN, *_TOKENS, *_WITHOUT_EFFECT, "return_dict_in_generate"}
# Values that ask for nothing, beside None and False.
_NEUTRAL: dict[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "penalty_alpha": 0,
    "length_penalty": 1,
    "diversity_penalty": 0,
    "encoder_repetition_penalty": 1,
    "encoder_no_repeat_ngram_size": 0,
    "guidance_scale": 1,
    "min_length": 0,
    "use_cache": True,
}
# Arguments of transformers' `generate` that are no field of its `GenerationConfig`.
_ARGUMENTS = (
    "assistant_model",
    "assistant_tokenizer",
    "custom_generate",
    "negative_prompt_attention_mask",
    "negative_prompt_ids",
    "prefix_allowed_tokens_fn",
    "synced_gpus",
    "use_model_defaults",
)


@dataclass(frozen=True)
class GenerationOptions:
    """How to generate: B answers of at most T tokens.

    Attributes:
        max_new_tokens: Most text tokens per answer, T.
        do_sample: Sample instead of taking the likeliest token.
        temperature: Divides the logits when sampling.
        top_p: Nucleus mass when sampling; 1 is off.
        top_k: Candidates when sampling; 0 is off.
        iterations: K; None takes the configuration's. 0 skips thinking (with delimiters: a causal control).
        stop: Stop rule of thinking, as in the configuration.
        window_mode: "saliency", or the controls "random" and "full".
        latent_override: None, or the controls "zeros", "noise", a tensor (B, K, m, d) or a function, see
            `lare.model.thinking.think`.
        generator: Source of sampling, random windows and noise.
        output_trace: Also return what happened while thinking, and attention shares.
        delimiters: False writes no latent tokens at all (plain LLaVA); needs iterations 0 or None.
        eos_token_ids: Ids that end an answer; None takes `eos_token_id`, else the text configuration's.
        stop_check: Called with the ids so far (B, t) after every token; rows for which it returns True end there.
        hide_image: Causal control: mask the image tokens after the last latent; booleans (B,) choose the rows.
        refocus: False makes latents without looking again: the last hidden state is fed back.
        branches: C, answers that share a prompt's prefill and make latents of their own. Answers b * C .. b * C + C - 1
            belong to prompt b; options by row (`latent_override`, `hide_image`, `step_limits`) have a row an answer.
        step_limits: (B,) latent iterations that each row takes at most.
        num_return_sequences: Answers drawn for each prompt; only when sampling.
        pad_token_id: Id that fills a row after its end; None takes the text configuration's.
        logits_processor: transformers' processors, called with (prompt and answer so far, scores).
        stopping_criteria: transformers' criteria, called with (prompt and answer so far, None); rows end as with
            `stop_check`.
        streamer: Receives prompt and tokens as they are written, for one prompt and one answer.
        tokenizer: Reads `stop_strings`.
        return_dict_in_generate: False returns the ids alone, (B, T).
        settings: The remaining fields of transformers' `GenerationConfig`.

    Raises:
        LareError: If a value is impossible.
    """

    max_new_tokens: int = 64
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    iterations: int | None = None
    stop: str | None = None
    window_mode: str = "saliency"
    latent_override: LatentOverride = None
    generator: torch.Generator | None = None
    output_trace: bool = False
    delimiters: bool = True
    eos_token_ids: Sequence[int] | None = None
    stop_check: StopCheck | None = None
    hide_image: bool | Tensor = False
    refocus: bool = True
    branches: int = 1
    step_limits: Tensor | None = None
    num_return_sequences: int = 1
    pad_token_id: int | None = None
    logits_processor: Sequence[Any] = ()
    stopping_criteria: Sequence[Any] = ()
    streamer: Any = None
    tokenizer: Any = None
    return_dict_in_generate: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise LareError(f"max_new_tokens is {self.max_new_tokens}; give at least 1.")
        if not self.temperature > 0:
            raise LareError(f"temperature is {self.temperature}; give a positive number, or do_sample=False.")
        if not 0 < self.top_p <= 1:
            raise LareError(f"top_p is {self.top_p}; give a number in (0, 1].")
        if self.top_k < 0:
            raise LareError(f"top_k is {self.top_k}; give 0 (off) or more.")
        if self.iterations and not self.delimiters:
            raise LareError(f"iterations={self.iterations} needs delimiters; set delimiters=True or iterations=0.")
        self._check_sequences()

    def _check_sequences(self) -> None:
        if self.branches < 1:
            raise LareError(f"branches is {self.branches}; give at least 1.")
        count = self.num_return_sequences
        if count < 1:
            raise LareError(f"num_return_sequences is {count}; give at least 1.")
        if count > 1 and not self.do_sample:
            raise LareError(f"num_return_sequences is {count}, but greedy answers are the same; set do_sample=True.")
        if self.settings.get("stop_strings") is not None and self.tokenizer is None:
            raise LareError("stop_strings needs the tokenizer that they are written with; pass tokenizer=.")


def read_options(
    own: GenerationConfig | None, config: GenerationConfig | None, arguments: Mapping[str, Any], text_config: Any = None
) -> GenerationOptions:
    """Options of one call.

    Args:
        own: The model's `generation_config`.
        config: The call's.
        arguments: The call's keyword arguments; None leaves a value to the configurations.
        text_config: The decoder's configuration, from which transformers fills `own` where there is no file.

    Raises:
        LareError: If a value is impossible, or asks for what LaRe can't do.
    """
    named = {key: value for key, value in arguments.items() if value is not None}
    given = {**_set_by_user(own, text_config), **_set_in(config), **named}
    names = {entry.name for entry in fields(GenerationOptions)} - {"settings"}
    options = {key: given[key] for key in names & given.keys()}
    settings = {key: value for key, value in given.items() if key not in names}
    _refuse(settings)
    eos = settings.pop("eos_token_id", None)
    if eos is not None and "eos_token_ids" not in options:
        options["eos_token_ids"] = list(eos) if isinstance(eos, (list, tuple)) else [eos]
    return GenerationOptions(**options, settings=settings)


def _set_in(config: GenerationConfig | None) -> dict[str, Any]:
    """Fields of a configuration that have a value."""
    if config is None:
        return {}
    if not isinstance(config, GenerationConfig):
        raise LareError(f"generation_config is a {type(config).__name__}; give a transformers.GenerationConfig.")
    return {key: value for key, value in vars(config).items() if value is not None and not key.startswith("_")}


def _set_by_user(own: GenerationConfig | None, text_config: Any) -> dict[str, Any]:
    """Fields of the model's own configuration, without those that transformers took from the decoder's."""
    found = _set_in(own)
    if not getattr(own, "_from_model_config", False):
        return found
    return {key: value for key, value in found.items() if getattr(text_config, key, None) != value}


def _refuse(settings: Mapping[str, Any]) -> None:
    """Raise for what LaRe can't do and for what nobody knows, all names at once."""
    fields_of_config = vars(GenerationConfig())
    asked = {key: value for key, value in settings.items() if key not in _KNOWN and not _is_neutral(key, value)}
    unknown = sorted(key for key in settings if key not in fields_of_config and key not in (*_ARGUMENTS, *_KNOWN))
    if unknown:
        raise LareError(f"generate got unknown arguments: {', '.join(unknown)}; see its documentation.")
    if not asked:
        return
    names = ", ".join(key if key in _ARGUMENTS else f"{key}={value!r}" for key, value in sorted(asked.items()))
    lengths = {"max_length", "min_length"} & asked.keys()
    mend = "; lengths are given as max_new_tokens and min_new_tokens" if lengths else ""
    raise LareError(
        f"generate can't do {names}: LaRe writes one token at a time after its latents, greedily or by sampling{mend}. "
        "Leave it out."
    )


def _is_neutral(name: str, value: Any) -> bool:
    if value is None or (value is False and name != "use_cache"):
        return True
    return name in _NEUTRAL and bool(value == _NEUTRAL[name])
