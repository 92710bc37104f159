"""Attention that can hand out its last row: the decoder's own SDPA plus, on request, one softmax row per layer.

LaRe needs the attention of the newest position to the visual tokens, in every layer, at every iteration. Full maps
(L x H x S x S) would cost more than the decoder itself, so a capture object travels down as a keyword argument and
each layer leaves its last row in it: one (B, H, 1, D) x (B, H, D, S) product. The function is registered with
transformers under the name "lare_sdpa"; nothing is patched, and without a capture it is transformers' own "sdpa".

Shapes: B batch, T new positions, S positions in the cache with the new ones, H heads, G query heads per key head,
D head width, d model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

__all__ = ["ATTENTION_NAME", "LastQueryCapture", "lare_sdpa", "layer_output_hook"]

ATTENTION_NAME = "lare_sdpa"
_KEYWORD = "lare_capture"


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
        return {_KEYWORD: self}

    def layer_hidden(self) -> Tensor:
        """Outputs of all decoder layers at the last position, (B, L, d)."""
        return torch.stack(self.hidden, dim=1)

    def layer_rows(self) -> Tensor:
        """Attention rows of all layers, (B, L, H, S)."""
        return torch.stack(self.rows, dim=1)

    def mean_row(self) -> Tensor:
        """The row averaged over heads and layers in float32, (B, S)."""
        total = self.rows[0].float().sum(1)
        for row in self.rows[1:]:
            total = total + row.float().sum(1)
        return total / (len(self.rows) * self.rows[0].shape[1])


def layer_output_hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
    """Forward hook of a decoder layer: leave the last position's output in the capture, if one came along.

    The capture arrives as a keyword argument of this very call, so the hook keeps no state of its own.
    """
    capture = kwargs.get(_KEYWORD)
    if capture is not None:
        hidden = output[0] if isinstance(output, tuple) else output
        capture.hidden.append(hidden[:, -1])


def lare_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention with last-row capture.

    Args:
        module: The decoder's attention module.
        query: (B, H, T, D).
        key: (B, H / G, S, D).
        value: (B, H / G, S, D).
        attention_mask: None, or a mask that broadcasts to (B, 1, T, S): additive, or boolean with True to attend.
        dropout: Dropout probability of the attention weights.
        scaling: Factor of the scores; None means D ** -0.5.
        **kwargs: May hold the capture; the rest goes to transformers' own "sdpa".

    Returns:
        The output (B, T, H, D), and None in place of the attention map.
    """
    capture = kwargs.pop(_KEYWORD, None)
    if capture is None and _slow_kernel(query, dropout):
        return _attend(_last_row(query, key, attention_mask, scaling), value), None
    if capture is None:
        out: tuple[Tensor, None] = ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return out
    if query.shape[2] == 1:
        probs_BNGS = _last_row(query, key, attention_mask, scaling)
        capture.rows.append((probs_BNGS if capture.gradient else probs_BNGS.detach()).flatten(1, 2))
        return _attend(nn.functional.dropout(probs_BNGS, dropout) if dropout else probs_BNGS, value), None
    with torch.set_grad_enabled(capture.gradient and torch.is_grad_enabled()):
        capture.rows.append(_last_row(query[:, :, -1:], key, attention_mask, scaling).flatten(1, 2))
    out = ALL_ATTENTION_FUNCTIONS["sdpa"](
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    return out


def _slow_kernel(query: Tensor, dropout: float) -> bool:
    """Whether this is a decode step for which torch's kernel is slower than two products.

    Its CPU kernel handles single queries of half precision by blocks meant for long ones: 3.6 times the time of the
    products at 16 rows and 356 positions (torch 2.14, AVX512-bf16). In float32 the kernel is as fast.
    """
    half = query.dtype in (torch.bfloat16, torch.float16)
    return half and query.shape[2] == 1 and not dropout and query.device.type == "cpu" and not torch.is_grad_enabled()


def _attend(probs: Tensor, value: Tensor) -> Tensor:
    """(B, N, G, S) softmax rows over (B, N, S, D) values, as (B, 1, H, D)."""
    return torch.matmul(probs.to(value.dtype), value).flatten(1, 2).unsqueeze(1)


def _last_row(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """Softmax row of one query (B, H, 1, D) over all keys (B, N, S, D), as (B, N, G, S) with H = N * G."""
    batch, heads, _, width = query.shape
    groups = query.reshape(batch, key.shape[1], heads // key.shape[1], width)
    scale = width**-0.5 if scaling is None else scaling
    # Keys on the left: with one query a head this is a matrix times a vector, and bf16 kernels stay fast.
    scores = torch.matmul(key, (groups * scale).transpose(2, 3)).transpose(2, 3)
    if mask is not None:
        last = mask[:, :, -1:, : key.shape[2]]
        scores = scores.masked_fill(~last, float("-inf")) if last.dtype == torch.bool else scores + last
    return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))


ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, lare_sdpa)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
