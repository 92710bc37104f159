"""Does LaRe run a decoder family as the family runs itself? The two are compared on a tiny random model.

The truth is the family's own `forward` with its own eager attention, one unpadded row at a time. LaRe reads the same
rows as one padded batch in pieces over a cache, with padding on the left and inside a row, without and with gradients.
Logits, loss, the states of all layers and the attention of the last position must agree. Factors that a default leaves
at one, and windows that no short text reaches, are set to values that show.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, CLIPVisionConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lare.errors import LareError
from lare.model.configuration_lare import LareConfig
from lare.model.loading import quiet
from lare.model.loop import LoopState, extend, start
from lare.model.losses import cross_entropy_at
from lare.model.modeling_lare import LareForConditionalGeneration
from lare.model.vision import VisualTokens

__all__ = ["TOLERANCE", "compare", "tiny_config", "why_not", "write_table"]

_VOCABULARY, _WIDTH = 48, 32
_PROMPTS, _PIECES = (9, 5), ((1, 1, 1), (0, 1, 1))  # real prompt tokens of each row; real tokens of what follows
TOLERANCE = 2e-4  # largest relative difference that counts as rounding (float32)
_MOST_WEIGHTS = 2_000_000
_SMALL: dict[str, Any] = dict(
    vocab_size=_VOCABULARY,
    hidden_size=_WIDTH,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
    hidden_size_per_layer_input=8,
    vocab_size_per_layer_input=_VOCABULARY,
    # Mixtures of experts
    num_experts=4,
    num_local_experts=4,
    n_routed_experts=4,
    moe_num_experts=4,
    num_experts_per_tok=2,
    n_group=1,
    topk_group=1,
    moe_intermediate_size=16,
    shared_expert_intermediate_size=16,
    first_k_dense_replace=1,
    n_shared_experts=1,
    # Latent attention
    q_lora_rank=16,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=8,
    v_head_dim=8,
    # What shows only if it is set
    sliding_window=5,
    use_sliding_window=True,
    max_window_layers=1,
    logit_scale=0.5,
    logits_scaling=4.0,
    embedding_multiplier=3.0,
    residual_multiplier=0.5,
    attention_multiplier=0.2,
    final_logit_softcapping=2.0,
    attn_logit_softcapping=1.5,
    query_pre_attn_scalar=8,
    # Nothing random, no tokens beyond the vocabulary
    attention_dropout=0.0,
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    hidden_dropout=0.0,
    residual_dropout=0.0,
    embedding_dropout=0.0,
    dropout=0.0,
    activation_dropout=0.0,
    layerdrop=0.0,
    router_jitter_noise=0.0,
    input_jitter_noise=0.0,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)


def tiny_config(kind: type[PreTrainedConfig], **changes: Any) -> PreTrainedConfig:
    """A small configuration of a class, with every kind of layer that it can have; `changes` are laid over it."""
    default = kind()
    known = set(default.to_dict()) | set(getattr(kind, "attribute_map", {}))
    values = {name: value for name, value in _SMALL.items() if name in known}
    keys, heads = (getattr(default, name, None) for name in ("num_key_value_heads", "num_attention_heads"))
    if keys == heads:  # an own size of the keys is then no choice of the family
        values.pop("num_key_value_heads", None)
        values |= {"num_key_value_heads": _SMALL["num_attention_heads"]} if "num_key_value_heads" in known else {}
    layers = list(dict.fromkeys(getattr(default, "layer_types", None) or ("full_attention",)))
    if "use_sliding_window" in known and "sliding_attention" not in layers:
        layers = ["sliding_attention", *layers]
    if "layer_types" in known:
        values["layer_types"] = [layers[place % len(layers)] for place in range(_SMALL["num_hidden_layers"])]
    return kind(**(values | changes))


@dataclass
class _Run:
    """What one side computes for a row: logits (S, V), mean loss, and the last position's layer states and attention.

    An attention sink takes a part of the softmax. Some families divide the rest up again, so that a row sums to 1;
    others, and LaRe, do not. Rows are brought to a sum of 1 before they are compared.
    """

    logits: Tensor
    loss: Tensor
    layers: Tensor
    rows: Tensor


class _Unchecked(LareForConditionalGeneration):
    """The model that is being checked."""

    def _check_decoder(self, text: PreTrainedConfig) -> None:
        pass


def compare(text: PreTrainedConfig, seed: int = 0) -> dict[str, float]:
    """Largest difference of each quantity, as a share of its size, between LaRe and the family itself.

    Raises:
        LareError: If LaRe can't take such a decoder.
        Exception: Whatever else the family raises.
    """
    generator = torch.Generator().manual_seed(seed)
    _check_size(text)
    own: Any
    with quiet(), warnings.catch_warnings(), torch.device("cpu"), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        own = AutoModelForCausalLM.from_config(type(text)(**text.to_dict()), attn_implementation="eager").eval()
        _randomise(own, generator)
        lare = _lare(text).train(False)
        lare.language_model.load_state_dict(own.state_dict())
        lengths = [prompt + sum(rest) for prompt, rest in zip(_PROMPTS, _PIECES, strict=True)]
        rows = [torch.randint(3, _VOCABULARY, (length,), generator=generator) for length in lengths]
        worst = {"embedding": _embedding_error(lare)}
        for gradient in (False, True):
            with torch.set_grad_enabled(gradient):
                truths, found = [_own_run(own, row) for row in rows], _lare_runs(lare, rows)
            for truth, one in zip(truths, found, strict=True):
                for name, wanted in vars(truth).items():
                    size = float(wanted.abs().max().clamp_min(1e-3))
                    error = float((getattr(one, name) - wanted).abs().max()) / size
                    worst[name] = max(worst.get(name, 0.0), error)
    return worst


def _check_size(text: PreTrainedConfig) -> None:
    """Refuse what could not be made small, before anything is allocated."""
    with quiet(), torch.device("meta"):
        weights = AutoModelForCausalLM.from_config(type(text)(**text.to_dict())).num_parameters()
    if weights > _MOST_WEIGHTS:
        raise LareError(f"its smallest model has {weights:,} weights and can't be checked")


@torch.no_grad()
def _randomise(model: PreTrainedModel, generator: torch.Generator) -> None:
    """Weights so wide that every part shows in the logits."""
    for name, parameter in model.named_parameters():
        draw = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() >= 2:
            parameter.copy_(draw if "embed" in name else draw / parameter[0].numel() ** 0.5 * 1.2)
        else:
            parameter.copy_(1 + 0.2 * draw if name.endswith("weight") else 0.2 * draw)


def _lare(text: PreTrainedConfig) -> LareForConditionalGeneration:
    vision = CLIPVisionConfig(image_size=32, patch_size=16, hidden_size=4, intermediate_size=4, num_hidden_layers=1,
                              num_attention_heads=1)  # fmt: skip
    sizes: dict[str, Any] = dict(image_size=32, grid=2, window=1, extractor_dim=8, extractor_heads=2)
    return _Unchecked(LareConfig(text_config=text, vision_config=vision, **sizes))


def _own_run(own: PreTrainedModel, row: Tensor) -> _Run:
    out = own(input_ids=row[None], labels=row[None], output_hidden_states=True, output_attentions=True, use_cache=False)
    states = torch.stack([state[0, -1] for state in out.hidden_states[1:]])
    rows = torch.stack([one[0, :, -1] for one in out.attentions])
    return _Run(out.logits[0], out.loss, states, rows / rows.sum(-1, keepdim=True))


def _lare_runs(lare: LareForConditionalGeneration, rows: list[Tensor]) -> list[_Run]:
    """The rows as one padded batch: the prompts, then piece by piece."""
    widest, batch = max(_PROMPTS), len(rows)
    pairs = zip(_PROMPTS, _PIECES, strict=True)
    columns = [[0] * (widest - prompt) + [1] * prompt + list(rest) for prompt, rest in pairs]
    real = torch.tensor(columns, dtype=torch.bool)
    ids = torch.zeros(real.shape, dtype=torch.long).masked_scatter(real, torch.cat(rows))
    hidden, state, at = [], _empty(lare, batch), 0
    for size in (widest, real.shape[1] - widest - 1, 1):
        part = slice(at, at + size)
        states, state = extend(lare, state, lare.embed(ids[:, part]), real[:, part], capture=True, keep_rows=True)
        hidden.append(states)
        at += size
    found, whole = [], torch.cat(hidden, 1)
    assert state.rows is not None
    for number, row in enumerate(rows):
        mine = whole[number][real[number]]
        (total, count), logits, _ = cross_entropy_at(
            lare, mine[None, :-1], row[None, 1:], torch.ones(1, len(row) - 1, dtype=torch.bool)
        )
        logits = torch.cat((logits, lare.lm_head(mine[-1:])))
        layers = torch.cat((state.layer_hidden[number, :-1], state.last_hidden[number, None]))
        mine = state.rows[number][..., real[number]]
        found.append(_Run(logits, total / count, layers, mine / mine.sum(-1, keepdim=True)))
    return found


def _empty(lare: LareForConditionalGeneration, batch: int) -> LoopState:
    nothing = torch.zeros(batch, 0, _WIDTH)
    return start(lare, VisualTokens(nothing, nothing, (0, 0), (0, 0)), torch.zeros(batch, 0, dtype=torch.long), 8, 1)


def _embedding_error(lare: LareForConditionalGeneration) -> float:
    every = lare.embed(torch.arange(_VOCABULARY)).square().mean().sqrt()
    return float((lare.embedding_rms() / every - 1).abs())


def why_not(kind: type[PreTrainedConfig]) -> str:
    """Why LaRe can't use decoders of a configuration class, in a few words; "" if it can."""
    try:
        text = kind().get_text_config(decoder=True)
        if type(text) is not kind:
            return f"it is a model of several parts, of which {text.model_type!r} is the text half"
        worst = compare(tiny_config(kind))
    except LareError as error:
        return str(error).partition(";")[0]
    except Exception as error:  # noqa: BLE001 (a family may raise anything)
        first = (str(error).strip() or "no message").splitlines()[0]
        return f"its tiny model does not run as LaRe runs it ({type(error).__name__}: {first[:100]})"
    wrong = [name for name, error in worst.items() if not error <= TOLERANCE]
    return f"LaRe's {' and '.join(wrong)} differ from its own" if wrong else ""


def write_table(path: Path, progress: TextIO) -> None:
    """Check every causal family of the installed transformers and write what was found, in alphabetical order."""
    found = {}
    for name in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        found[name] = why_not(CONFIG_MAPPING[name])
        print(f"{name:28} {found[name] or 'ok'}", file=progress, flush=True)
    values = {"transformers": transformers.__version__, "families": found}
    path.write_text(json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
