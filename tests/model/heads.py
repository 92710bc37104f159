"""Stop heads with random weights, wide enough that rows differ in when they stop."""

from __future__ import annotations

import torch

from lare.model import LareForConditionalGeneration
from lare.model.stop_head import KINDS, StopHead, StopHeads, inputs_of


def random_heads(model: LareForConditionalGeneration, seed: int = 0, threshold: float = 0.5) -> StopHeads:
    """One head of each kind for a model of 6 steps."""
    generator = torch.Generator().manual_seed(seed)
    heads = {}
    for kind in KINDS:
        inputs = inputs_of(kind, model.config.text_config.hidden_size)
        head = StopHead(kind, inputs, 6, 0 if kind == "confidence" else 8, threshold)
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.7)
        heads[kind] = head
    return StopHeads(heads, "agreement", 6, {"margin": 0.01})
