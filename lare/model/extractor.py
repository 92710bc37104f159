"""The Extractor (paper eqs. 3-5, Appendix B): turns layer states and the window's visual tokens into latent tokens.

The query is the sequence, over decoder layers, of the last position's hidden states ("the evolution of internal
reasoning dynamics"). Each of N_e layers lets it attend to itself, then to the visual tokens of the window; a gated
linear unit and a feed-forward network follow, then mean-max pooling over the layer axis.

Trade-off: keys and values of the visual tokens are computed once per image and shared by all its questions and all
iterations; a window is then a mask over them. That gives the same numbers as gathering the window's tokens first,
costs one small masked product more, and saves their projection at every step.

Shapes: B rows, Q questions per image, I = B / Q images, L decoder layers, n visual tokens, m latents per iteration,
d decoder width, E Extractor width, A its heads.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers import initialization as init

from lare.model.configuration_lare import LareConfig

__all__ = ["Extractor", "VisualMemory", "build_extractor", "hybrid_pool"]

VisualMemory = list[tuple[Tensor, Tensor]]  # per Extractor layer: keys and values, each (I, A, n, E / A)
_FFN_RATIO = 2


def hybrid_pool(sequence: Tensor, tokens: int = 1) -> Tensor:
    """Mean-max pooling of (B, L, E) to (B, m, E): the mean of average and maximum over m contiguous parts of L."""
    parts = torch.tensor_split(sequence, tokens, dim=1)
    return torch.stack([0.5 * (part.mean(1) + part.amax(1)) for part in parts], dim=1)


class _Attention(nn.Module):
    """Multi-head attention of layer states, to themselves or to a projected visual memory."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.output = nn.Linear(dim, dim)

    def split(self, states: Tensor) -> Tensor:
        """(B, T, E) -> (B, A, T, E / A)."""
        batch, tokens, width = states.shape
        return states.reshape(batch, tokens, self.heads, width // self.heads).transpose(1, 2)


class _SelfAttention(_Attention):
    """Eq. 3: H <- H + SelfAttn(norm H), bidirectional over the decoder's layers."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads)
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, states: Tensor) -> Tensor:
        query, key, value = (self.split(part) for part in self.qkv(self.norm(states)).chunk(3, dim=-1))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = states + self.output(mixed.transpose(1, 2).flatten(2))
        return out


class _CrossAttention(_Attention):
    """Eq. 4: H <- H + CrossAttn(norm H, V_t)."""

    def __init__(self, dim: int, heads: int, visual_dim: int) -> None:
        super().__init__(dim, heads)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(visual_dim, 2 * dim)

    def remember(self, visual: Tensor) -> tuple[Tensor, Tensor]:
        key, value = (self.split(part) for part in self.key_value(visual).chunk(2, dim=-1))
        return key, value

    def forward(self, states: Tensor, memory: tuple[Tensor, Tensor], bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Attend; `bias` (I, 1, Q * L, n) is additive. Returns the states and the weights (B, n), mean over A, L."""
        key, value = memory
        batch, layers, width = states.shape
        images = key.shape[0]
        # All questions of an image attend to its one memory: fold them into the query axis instead of repeating it.
        query = self.split(self.query(self.norm(states)).reshape(images, -1, width))
        scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(2, 3))
        weights = (scores if bias is None else scores + bias).softmax(dim=-1)
        mixed = torch.matmul(weights.to(value.dtype), value).transpose(1, 2).reshape(batch, layers, width)
        shares = weights.detach().float().mean(1).reshape(batch, layers, -1).mean(1)
        return states + self.output(mixed), shares


class Extractor(nn.Module):
    """Layer states (B, L, d) and visual tokens -> latent tokens (B, m, d), before residual and scaling.

    Args:
        hidden_dim: d, the decoder's width (of layer states, visual tokens and output).
        num_states: L, the decoder's layers.
        dim: E.
        layers: N_e.
        heads: A.
        latents: m.
        output_init: 0 starts the output projection at zero, x > 0 at x times the identity.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_states: int,
        dim: int = 1536,
        layers: int = 2,
        heads: int = 12,
        latents: int = 1,
        output_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.latents = latents
        self.output_init = output_init
        self.state_norm = nn.LayerNorm(hidden_dim)
        self.state_proj = nn.Linear(hidden_dim, dim)
        self.layer_embedding = nn.Parameter(torch.zeros(num_states, dim))
        self.visual_norm = nn.LayerNorm(hidden_dim)
        self.self_attention = nn.ModuleList(_SelfAttention(dim, heads) for _ in range(layers))
        self.cross_attention = nn.ModuleList(_CrossAttention(dim, heads, hidden_dim) for _ in range(layers))
        self.ffn_norm = nn.LayerNorm(dim)
        self.gate = nn.Linear(dim, 2 * dim)
        self.ffn = nn.Sequential(nn.Linear(dim, _FFN_RATIO * dim), nn.GELU(), nn.Linear(_FFN_RATIO * dim, dim))
        self.output_proj = nn.Linear(dim, hidden_dim)

    def init_output(self, std: float) -> None:
        """Give the layer embedding and the output projection their start values (zero, or x times the identity)."""
        init.normal_(self.layer_embedding, mean=0.0, std=std)
        weight = self.output_proj.weight
        start = torch.eye(*weight.shape, dtype=weight.dtype, device=weight.device) * self.output_init
        init.copy_(weight, start)
        init.zeros_(self.output_proj.bias)

    def remember(self, visual: Tensor) -> VisualMemory:
        """Project visual tokens (I, n, d) to the keys and values of every cross-attention layer."""
        normed = self.visual_norm(visual)
        return [cast(_CrossAttention, layer).remember(normed) for layer in self.cross_attention]

    def forward(
        self, states: Tensor, visual: Tensor | VisualMemory, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One refocus step (eqs. 3-5).

        Args:
            states: The last position's output of every decoder layer, (B, L, d).
            visual: Visual tokens (I, n, d), or what `remember` made of them; I divides B, row b belongs to image
                b // (B / I).
            mask: Optional (B, n), True where a row may look; or the logarithm of how far it may (a soft window).

        Returns:
            Latents (B, m, d), and the cross-attention (B, n) averaged over heads, decoder layers and Extractor layers.
        """
        memory = self.remember(visual) if isinstance(visual, Tensor) else visual
        hidden = self.state_proj(self.state_norm(states)) + self.layer_embedding
        bias = None if mask is None else _folded_bias(mask, states.shape[1], memory[0][0])
        shares = []
        for self_attention, cross_attention, entry in zip(
            self.self_attention, self.cross_attention, memory, strict=True
        ):
            hidden, share = cross_attention(self_attention(hidden), entry, bias)
            shares.append(share)
        hidden = hidden + self.ffn(nn.functional.glu(self.gate(self.ffn_norm(hidden)), dim=-1))
        return self.output_proj(hybrid_pool(hidden, self.latents)), torch.stack(shares).mean(0)


def build_extractor(config: LareConfig) -> Extractor:
    """The Extractor that a configuration describes, with fresh weights."""
    text = config.text_config
    return Extractor(
        int(text.hidden_size),
        int(text.num_hidden_layers),
        dim=config.extractor_dim,
        layers=config.extractor_layers,
        heads=config.extractor_heads,
        latents=config.latents_per_iteration,
        output_init=config.extractor_output_init,
    )


def _folded_bias(mask: Tensor, layers: int, key: Tensor) -> Tensor:
    """Additive mask for queries that are folded by image: (B, n) booleans or logarithms -> (I, 1, Q * L, n)."""
    images, tokens = key.shape[0], mask.shape[1]
    if mask.dtype == torch.bool:
        bias = torch.zeros(mask.shape, dtype=key.dtype, device=key.device).masked_fill_(~mask, float("-inf"))
    else:
        bias = mask.to(key.dtype)
    return bias.reshape(images, -1, 1, tokens).expand(-1, -1, layers, -1).reshape(images, 1, -1, tokens)
