"""Attention that can hand out its last row: the decoder's own SDPA plus, on request, one softmax row per layer.

LaRe needs the attention of the newest position to the visual tokens, in every layer, at every iteration. Full maps
(L x H x S x S) would cost more than the decoder itself, so a capture object travels down as a keyword argument and
each layer leaves its last row in it: one (B, H, 1, D) x (B, H, D, S) product. The function is registered with
transformers under the name "lare_sdpa"; nothing is patched, and without a capture it is transformers' own "sdpa".
Scores that torch's kernel can't cap (Gemma 2) and softmax sums with a sink (gpt-oss) are computed by plain products,
as transformers' "eager" does; "lare_eager" computes every layer so.

Shapes: B batch, T new positions, S positions in the cache with the new ones, H heads, G query heads per key head,
D head width, d model width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lare.errors import LareError

__all__ = [
    "ATTENTION_NAME",
    "ATTENTION_NAMES",
    "CAPTURE_KEYWORD",
    "LastQueryCapture",
    "attention_name",
    "lare_eager",
    "lare_sdpa",
    "layer_output_hook",
    "shares_by_kind",
]

ATTENTION_NAME = "lare_sdpa"
ATTENTION_NAMES = (ATTENTION_NAME, "lare_eager")
CAPTURE_KEYWORD = "lare_capture"
_WHY_NOT = {
    "flash_attention_2": "its kernels take no mask of single positions, which LaRe's padding needs",
    "flash_attention_3": "its kernels take no mask of single positions, which LaRe's padding needs",
    "flash_attention_4": "its kernels take no mask of single positions, which LaRe's padding needs",
    "flex_attention": "it takes block masks, and LaRe hands out additive ones",
}


def attention_name(asked: str | None) -> str:
    """The registered name of the attention that a caller asked for: "sdpa" (also None) or "eager".

    "sdpa" is torch's, which uses its own flash kernel wherever there is no padding.

    Raises:
        LareError: If LaRe can't capture attention with it.
    """
    name = ATTENTION_NAME if asked is None else asked if asked.startswith("lare_") else f"lare_{asked}"
    if name in ATTENTION_NAMES:
        return name
    reason = _WHY_NOT.get(str(asked), "it can't hand out the attention that LaRe looks by")
    raise LareError(
        f"attn_implementation {asked!r} can't be used: {reason}; give \"sdpa\" (torch's own kernels, flash among them) "
        'or "eager".'
    )


class LastQueryCapture:
    """Collects, layer by layer, what the last position of one decoder call did.

    Args:
        gradient: Keep the rows' gradient, for a loss on them.

    Attributes:
        rows: One (B, H, S) softmax row per layer.
        hidden: One (B, d) output of the last position per decoder layer, with its gradient.
    """

    def __init__(self, gradient: bool = False) -> None:
        self.gradient = gradient
        self.rows: list[Tensor] = []
        self.hidden: list[Tensor] = []

    def keywords(self) -> dict[str, LastQueryCapture]:
        """Keyword arguments for the decoder call that is to be captured."""
        return {CAPTURE_KEYWORD: self}

    def layer_hidden(self) -> Tensor:
        """Outputs of all decoder layers at the last position, (B, L, d)."""
        return torch.stack(self.hidden, dim=1)

    def layer_rows(self) -> Tensor:
        """Attention rows of all layers, (B, L, H, S)."""
        return torch.stack(self.rows, dim=1)

    def mean_row(self) -> Tensor:
        """The row averaged over heads and layers in float32, (B, S).

        Raises:
            LareError: If no layer left one.
        """
        if not self.rows:
            raise LareError("its layers do not attend through transformers' attention interface; use a Llama-like one.")
        total = self.rows[0].float().sum(1)
        for row in self.rows[1:]:
            total = total + row.float().sum(1)
        return total / (len(self.rows) * self.rows[0].shape[1])


def layer_output_hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
    """Forward hook of a decoder layer: leave the last position's output in the capture, if one came along.

    The capture arrives as a keyword argument of this very call, so the hook keeps no state of its own.
    """
    capture = kwargs.get(CAPTURE_KEYWORD)
    if capture is not None:
        hidden = output[0] if isinstance(output, tuple) else output
        capture.hidden.append(hidden[:, -1])


def shares_by_kind(rows: Tensor, kinds: Tensor, attention_mask: Tensor) -> Tensor:
    """Split attention rows (B, L, H, S) by the kinds (B, S), 0 to 3, of the real columns (B, S): (B, L, H, 4)."""
    one_hot = torch.nn.functional.one_hot(kinds, 4).to(torch.float32) * attention_mask[..., None]
    return torch.einsum("blhs,bsk->blhk", rows.float(), one_hot)


class _Scores(NamedTuple):
    """How a layer makes softmax rows of queries and keys.

    Attributes:
        scaling: Factor of the scores; None means D ** -0.5.
        softcap: Scores s become softcap * tanh(s / softcap).
        sinks: (H,) scores of a position that takes its share of the softmax and gives nothing.
        bias: Added to the scores, broadcasts to (B, H, T, S).
    """

    scaling: float | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    bias: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether torch's kernel can't make these rows."""
        return self.softcap is not None or self.sinks is not None


def lare_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    eager: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention with last-row capture.

    Args:
        module: The decoder's attention module.
        query: (B, H, T, D).
        key: (B, H / G, S, D).
        value: (B, H / G, S, D).
        attention_mask: None, or a mask that broadcasts to (B, 1, T, S): additive, or boolean with True to attend.
        dropout: Dropout probability of the attention weights.
        scaling: Factor of the scores; None means D ** -0.5.
        eager: Use plain products instead of torch's kernel.
        **kwargs: May hold the capture, a softcap, sinks and a bias of the scores; the rest goes to transformers' own
            "sdpa".

    Returns:
        The output (B, T, H, D), and None in place of the attention map.
    """
    capture = kwargs.pop(CAPTURE_KEYWORD, None)
    scores = _Scores(scaling, kwargs.get("softcap"), kwargs.get("s_aux"), kwargs.get("position_bias"))
    single = query.shape[2] == 1
    if capture is None and single and (eager or scores.plain or _slow_kernel(query, dropout)):
        return _attend(_rows(query, key, attention_mask, scores), value, dropout), None
    if capture is not None and single:
        probs = _rows(query, key, attention_mask, scores)
        capture.rows.append((probs if capture.gradient else probs.detach()).flatten(1, 2).squeeze(2))
        return _attend(probs, value, dropout), None
    if capture is not None:
        with torch.set_grad_enabled(capture.gradient and torch.is_grad_enabled()):
            row = _rows(query[:, :, -1:], key, _last(attention_mask), scores._replace(bias=_last(scores.bias)))
            capture.rows.append(row.flatten(1, 2).squeeze(2))
    if eager or scores.plain:
        return _attend(_rows(query, key, _causal(query, key, attention_mask), scores), value, dropout), None
    sdpa: Callable[..., tuple[Tensor, None]] = ALL_ATTENTION_FUNCTIONS["sdpa"]
    kind = _kernel_dtype(query)
    if scores.bias is None and _slow_backward(query, kind):
        wide = (part.float() for part in (query, key, value))
        added = attention_mask is not None and attention_mask.dtype != torch.bool
        mask = attention_mask.float() if attention_mask is not None and added else attention_mask
        with torch.autocast(query.device.type, enabled=False):
            exact, _ = sdpa(module, *wide, mask, dropout=dropout, scaling=scaling, **kwargs)
        return exact.to(kind), None
    return sdpa(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)


lare_eager: Callable[..., tuple[Tensor, None]] = partial(lare_sdpa, eager=True)


def _slow_kernel(query: Tensor, dropout: float) -> bool:
    """Whether this is a decode step for which torch's kernel is slower than two products.

    Its CPU kernel handles single queries of half precision by blocks meant for long ones: 3.6 times the time of the
    products at 16 rows and 356 positions (torch 2.14, AVX512-bf16). In float32 the kernel is as fast.
    """
    half = query.dtype in (torch.bfloat16, torch.float16)
    return half and query.shape[2] == 1 and not dropout and query.device.type == "cpu" and not torch.is_grad_enabled()


_FEW = 128


def _kernel_dtype(query: Tensor) -> torch.dtype:
    """What torch's kernel computes in: under autocast not what it is given."""
    device = query.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else query.dtype


def _slow_backward(query: Tensor, kind: torch.dtype) -> bool:
    """Whether gradient is kept of so few queries that torch's kernel is faster, and more exact, in float32.

    The backward pass of its CPU kernel works on half precision by blocks meant for long sequences: 64 queries over 64
    positions take it 3.7 times as long as in float32, over 388 positions 1.25 times, and 320 over 320 as long (32
    heads of width 64, torch 2.14, AVX512-bf16).
    """
    half = kind in (torch.bfloat16, torch.float16)
    return half and query.shape[2] <= _FEW and query.device.type == "cpu" and query.requires_grad


def _last(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask[:, :, -1:]


def _causal(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """The mask, or where there is none the causal one that torch's kernel would apply by itself."""
    if mask is not None:
        return mask
    new, total = query.shape[2], key.shape[2]
    return torch.ones(new, total, dtype=torch.bool, device=query.device).tril(total - new)[None, None]


def _attend(probs: Tensor, value: Tensor, dropout: float) -> Tensor:
    """(B, N, G, T, S) softmax rows over (B, N, S, D) values, as (B, T, H, D)."""
    weights = nn.functional.dropout(probs, dropout) if dropout else probs
    batch, heads, groups, size, length = probs.shape
    mixed = torch.matmul(weights.to(value.dtype).reshape(batch, heads, groups * size, length), value)
    return mixed.reshape(batch, heads * groups, size, -1).transpose(1, 2)


def _rows(query: Tensor, key: Tensor, mask: Tensor | None, how: _Scores) -> Tensor:
    """Softmax rows of queries (B, H, T, D) over all keys (B, N, S, D), as (B, N, G, T, S) with H = N * G."""
    batch, heads, size, width = query.shape
    keys = key.shape[1]
    folded = query.reshape(batch, keys, heads // keys * size, width)
    scale = width**-0.5 if how.scaling is None else how.scaling
    # Keys on the left: with one query a head this is a matrix times a vector, and bf16 kernels stay fast.
    scores = torch.matmul(key, (folded * scale).transpose(2, 3)).transpose(2, 3)
    scores = scores.reshape(batch, keys, heads // keys, size, -1)
    if how.softcap is not None:
        scores = how.softcap * torch.tanh(scores / how.softcap)
    if how.bias is not None:
        scores = scores + _grouped(how.bias, keys)[..., : scores.shape[-1]]
    if mask is not None:
        grouped = _grouped(mask, keys)[..., : scores.shape[-1]]
        scores = scores.masked_fill(~grouped, float("-inf")) if grouped.dtype == torch.bool else scores + grouped
    wide = torch.promote_types(scores.dtype, torch.float32)
    if how.sinks is None:
        return scores.softmax(dim=-1, dtype=wide)
    sinks = how.sinks.reshape(1, keys, -1, 1, 1).to(wide).expand(batch, -1, -1, size, 1)
    return torch.cat((scores.to(wide), sinks), dim=-1).softmax(dim=-1)[..., :-1]


def _grouped(mask: Tensor, keys: int) -> Tensor:
    """(B or 1, H or 1, T, S) -> (B or 1, N or 1, G or 1, T, S)."""
    return mask.unsqueeze(2) if mask.shape[1] == 1 else mask.unflatten(1, (keys, -1))


ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, lare_sdpa)
ALL_ATTENTION_FUNCTIONS.register("lare_eager", lare_eager)
for _name in ATTENTION_NAMES:
    ALL_MASK_ATTENTION_FUNCTIONS.register(_name, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
