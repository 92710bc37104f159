"""What decoder families do differently at their two ends and in their attention, in one place.

A causal language model is more than layers between two tables. Cohere multiplies its logits, Granite divides them,
Gemma caps them and scales its embeddings inside the table's module; some layers of Gemma, Mistral or gpt-oss look back
over a window only. LaRe feeds embeddings in and reads hidden states out, so each of these must reach it:

- logits come from the model's own `forward`, with its decoder replaced by the hidden states that it would return;
- the size of an embedding is that of what the table's module returns, not of its weights;
- windows of attention become masks of the layers that have them (`lare.model.loop`).

`families.json` tells for every causal family of transformers whether this holds: it is what `lare.model.family_check`
found when it compared the family with its own `forward`. Write it anew, after an update of transformers, with

    python -m lare.model.families
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from lare.errors import LareError
from lare.model.attention import attention_name
from lare.registry import family_check

__all__ = [
    "TABLE",
    "attention_of",
    "attention_window",
    "check_family",
    "embedding_scale",
    "families",
    "masks_by_kind",
    "own_logits",
]

TABLE = Path(__file__).with_name("families.json")

_FULL, _SLIDING = "full_attention", "sliding_attention"
_COMMON = "llama, mistral, qwen2, qwen3, gemma2, gemma3_text, phi3, granite, cohere"


# The head -----------------------------------------------------------------------------------------------------------


class _Output:
    """What a decoder returns, with hidden states alone; whatever else a family's head asks for is None."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, place: int) -> Tensor:
        return (self.last_hidden_state,)[place]

    def __getattr__(self, name: str) -> None:
        return None


class _Given:
    """Stands where the decoder stands: called with anything, it returns the hidden states that it was given."""

    def __init__(self, decoder: nn.Module, hidden: Tensor) -> None:
        self._decoder, self._hidden = decoder, hidden

    def __call__(self, *args: Any, **kwargs: Any) -> _Output:
        return _Output(self._hidden)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)


class _Around:
    """A module as it is, but for the part at `path` inside, in whose place stands another.

    A view and no copy, so that weights that were moved, sharded or replaced since are the ones that are used.
    """

    def __init__(self, module: nn.Module, path: Sequence[str], part: _Given) -> None:
        self._module, self._path, self._part = module, path, part

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return type(self._module).forward(cast(nn.Module, self), *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if name != self._path[0]:
            return found
        return self._part if len(self._path) == 1 else _Around(found, self._path[1:], self._part)


def own_logits(language_model: nn.Module, path: Sequence[str], hidden: Tensor) -> Tensor:
    """Logits (..., V) of decoder outputs (..., d), by the language model's own `forward`.

    Args:
        language_model: The causal language model.
        path: Names that lead from it to its decoder, such as ("model",).
        hidden: What the decoder returned, after its final norm.
    """
    decoder = language_model
    for name in path:
        decoder = getattr(decoder, name)
    flat = hidden.reshape(1, -1, hidden.shape[-1])
    output = _Around(language_model, path, _Given(decoder, flat))(inputs_embeds=flat, use_cache=False)
    logits: Tensor = output.logits
    return logits.reshape(*hidden.shape[:-1], logits.shape[-1])


# The embedding ------------------------------------------------------------------------------------------------------


def embedding_scale(table: nn.Module) -> Tensor | float:
    """Factor between a row of the table's weights and what the table's module returns for it (Gemma 3: sqrt(d)).

    It is measured on the table's largest of the first rows, where rounding weighs least.
    """
    if type(table).forward is nn.Embedding.forward:
        return 1.0
    weight = cast(nn.Embedding, table).weight.detach()
    sizes = weight[:16].float().norm(dim=-1)
    row = sizes.argmax()
    returned: Tensor = table(row[None]).detach()
    scale: Tensor = returned.float().norm() / sizes[row].clamp_min(torch.finfo(torch.float32).tiny)
    return scale


# Attention ----------------------------------------------------------------------------------------------------------


def attention_of(text: PreTrainedConfig, asked: str | None = None) -> str:
    """Registered name of the attention for a decoder; families that torch's kernel can't serve take plain products.

    Raises:
        LareError: If LaRe can't capture attention with what is asked for.
    """
    name = attention_name(asked)
    try:
        kind: Any = AutoModelForCausalLM._model_mapping[type(text)]
    except KeyError:  # no class for it: making the model will say so
        return name
    return name if getattr(kind, "_supports_sdpa", True) else attention_name("eager")


def _kinds(text: PreTrainedConfig) -> set[str]:
    return set(getattr(text, "layer_types", None) or ())


def attention_window(text: PreTrainedConfig) -> int | None:
    """Positions that a windowed layer sees, itself included; None if every layer sees all."""
    window, kinds = getattr(text, "sliding_window", None), _kinds(text)
    return int(window) if window and (not kinds or _SLIDING in kinds) else None


def masks_by_kind(text: PreTrainedConfig) -> bool:
    """Whether the decoder takes one mask for each kind of layer instead of one for all."""
    return _SLIDING in _kinds(text)


# The table ----------------------------------------------------------------------------------------------------------


@cache
def families() -> Mapping[str, str]:
    """Every causal family that was checked: why it can't be used, or "" if it can, by `model_type`."""
    values: dict[str, str] = json.loads(TABLE.read_text(encoding="utf-8"))["families"]
    return values


def check_family(text: PreTrainedConfig) -> None:
    """Refuse a decoder that LaRe would run wrongly.

    A family that is not in the table (transformers is newer, or the class is the caller's own) is checked on the spot.

    Raises:
        LareError: If the family failed its check, or this configuration has layers of a kind that LaRe can't run.
    """
    reason = families().get(text.model_type)
    if reason is None:
        reason = family_check().why_not(type(text))
    odd = sorted(_kinds(text) - {_FULL, _SLIDING})
    if not reason and odd:
        reason = f"it has layers of kind {odd[0]}"
    if not reason and getattr(text, "use_bidirectional_attention", False):
        reason = "use_bidirectional_attention is on, and LaRe's cache needs causal attention"
    if reason:
        raise LareError(
            f"text_config of type {text.model_type!r} can't be LaRe's decoder: {reason}; use a causal family that can, "
            f"such as {_COMMON} (lare/model/{TABLE.name} has all)."
        )


def main() -> None:
    """Check every causal family of the installed transformers and write the table."""
    family_check().write_table(TABLE, sys.stdout)


if __name__ == "__main__":
    main()
